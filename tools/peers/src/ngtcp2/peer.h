/*
 * ngtcp2 as a client and as a server: what the Rust side calls, and is called by.
 */
#ifndef NGTCP2_PEER_H
#define NGTCP2_PEER_H

#include <stddef.h>
#include <stdint.h>

/* A download. `ca` is NULL if any certificate will do, `out` is negative if nobody wants the file. */
struct peer_get {
	int socket; /* connected, does not block */
	int out;
	const char *server_name;
	const char *alpn;
	const char *ca; /* the path of a PEM file */
	const char *request;
};

/* Opens the file that a request asks for: a descriptor, or -1. */
typedef int (*peer_open)(void *root, const uint8_t *request, size_t len);

/* A server. */
struct peer_serve {
	int socket; /* bound, does not block */
	const char *alpn;
	const char *chain; /* PEM */
	const char *key;   /* PEM */
	const uint64_t *secret; /* NULL if it resets nothing */
	size_t max_request;
	uint64_t refused; /* the code of RESET_STREAM */
	peer_open open;
	void *root;
};

/* Returns the length of the file; -1 if it failed, with the reason in `said`. */
int64_t ngtcp2_peer_get(const struct peer_get *args, char *said, size_t said_len);

/* Returns only if it failed, with the reason in `said`. */
void ngtcp2_peer_serve(const struct peer_serve *args, char *said, size_t said_len);

#endif
