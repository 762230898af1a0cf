/*
 * What both sides have: the loop over a socket, TLS by GnuTLS, and the settings.
 */
#ifndef NGTCP2_COMMON_H
#define NGTCP2_COMMON_H

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <ngtcp2/ngtcp2.h>
#include <ngtcp2/ngtcp2_crypto.h>
#include <ngtcp2/ngtcp2_crypto_gnutls.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "peer.h"

/* The names of 1.0 differ. Debian 12 has 0.12. */
#if NGTCP2_VERSION_NUM < 0x000c00 || NGTCP2_VERSION_NUM >= 0x000d00
#error "the peer is written for ngtcp2 0.12 (libngtcp2-dev of Debian 12): see NGTCP2_VERSION for what is here"
#endif

/* Bytes of our connection ids: as ngtcp2's own server. */
#define ID_BYTES 18
/* The largest datagram that may arrive. */
#define DATAGRAM_BYTES 65536
/* The largest that leaves: the library raises it by path MTU discovery, up to what a veth pair takes. */
#define SENT_BYTES 1452
/* Bytes of the secret that reset tokens follow from. */
#define SECRET_BYTES 32

/* One end of a connection. */
struct end {
	ngtcp2_conn *conn;
	gnutls_session_t tls;
	ngtcp2_crypto_conn_ref ref;
	const uint8_t *secret; /* of reset tokens: SECRET_BYTES */
	bool was_reset;
};

/* A datagram's two ends. */
struct addresses {
	struct sockaddr_storage local, remote;
	socklen_t local_len, remote_len;
};

ngtcp2_tstamp now(void);
void say(char *said, size_t len, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Random bytes of the TLS library; ends the program if there are none. */
void fill_random(uint8_t *out, size_t len);
void new_id(ngtcp2_cid *id);
ngtcp2_path path_of(struct addresses *addresses);
/* The socket's own address. */
bool own_address(int socket, struct addresses *addresses);

/* TLS of one end, without credentials. False if it failed. */
bool end_tls(struct end *end, unsigned flags, const char *alpn, gnutls_certificate_credentials_t credentials);
void end_drop(struct end *end);
void callbacks_of_both(ngtcp2_callbacks *callbacks);
void settings_of_both(ngtcp2_settings *settings, ngtcp2_transport_params *params);

/* Gives it a datagram. Returns false at the end of the connection, with why in `said`. */
bool end_take(struct end *end, int socket, struct addresses *from, const uint8_t *datagram, size_t len,
	      char *said, size_t said_len);
/* Sees to its timers. As end_take(). */
bool end_expire(struct end *end, int socket, char *said, size_t said_len);
/* Waits until something arrived, or a timer goes off: `expiry`, UINT64_MAX if none does. */
bool wait_for(int socket, ngtcp2_tstamp expiry);
/* Receives a datagram; false if there is none. */
bool receive(int socket, struct addresses *from, uint8_t *datagram, size_t *len);
/* Closes the connection with what ended it: a library's error, or NULL and an application's 0. */
void end_close(struct end *end, int socket, const int *liberr);

/* What a stream has to send. */
struct sending {
	int64_t stream; /* negative: none */
	const uint8_t *data;
	size_t len, taken;
	bool ended; /* the library has taken the FIN too */
	bool blocked;
};

/* The next stream with something to send, or NULL. */
typedef struct sending *(*next_sending)(void *from);

/* Sends what there is. As end_take(). */
bool end_send(struct end *end, int socket, next_sending next, void *from, char *said, size_t said_len);

#endif
