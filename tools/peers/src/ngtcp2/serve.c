#include "common.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* The shortest datagram that a reset answers, so that resets do not answer each other for ever. */
#define SMALLEST_ANSWERED 43
/* Why a connection ended: one line. */
#define SAID_BYTES 256

/* A stream of a client: its request, then the file, which stays mapped until all of it has arrived. */
struct stream {
	struct stream *next;
	struct sending sending;
	uint8_t *request;
	size_t request_len;
	void *file;
};

/* A connection of the server. */
struct slot {
	struct end end; /* first: what the library's callbacks are given is one or the other */
	struct slot *next;
	const struct peer_serve *args;
	ngtcp2_cid first_id; /* that the client chose for us */
	struct stream *streams;
};

struct server {
	const struct peer_serve *args;
	gnutls_certificate_credentials_t credentials;
	struct addresses addresses;
	uint8_t secret[SECRET_BYTES];
	uint8_t datagram[DATAGRAM_BYTES];
	struct slot *slots;
};

/* Maps the file of a descriptor. An empty one has nothing to map. */
static bool maps(struct stream *stream, int file)
{
	struct stat about;
	bool done = fstat(file, &about) == 0;

	if (done && about.st_size > 0) {
		stream->file = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_SHARED, file, 0);
		done = stream->file != MAP_FAILED;
	}
	close(file);
	if (!done) {
		stream->file = NULL;
		return false;
	}
	stream->sending.data = stream->file;
	stream->sending.len = (size_t)about.st_size;
	stream->sending.ended = false;
	return true;
}

static struct stream *stream_of(struct slot *slot, int64_t number)
{
	struct stream *stream = slot->streams;

	while (stream && stream->sending.stream != number)
		stream = stream->next;
	return stream;
}

static int on_open(ngtcp2_conn *conn, int64_t number, void *user)
{
	struct slot *slot = user;
	struct stream *stream = calloc(1, sizeof(*stream));

	(void)conn;
	if (!stream)
		return NGTCP2_ERR_CALLBACK_FAILURE;
	stream->request = malloc(slot->args->max_request);
	/* It has nothing to send until its request is complete. */
	stream->sending = (struct sending){.stream = number, .ended = true};
	stream->next = slot->streams;
	slot->streams = stream;
	return stream->request ? 0 : NGTCP2_ERR_CALLBACK_FAILURE;
}

static int on_data(ngtcp2_conn *conn, uint32_t flags, int64_t number, uint64_t offset, const uint8_t *data,
		   size_t len, void *user, void *of_stream)
{
	struct slot *slot = user;
	struct stream *stream = stream_of(slot, number);
	const struct peer_serve *args = slot->args;
	int file = -1;

	(void)offset;
	(void)of_stream;
	if (!stream)
		return NGTCP2_ERR_CALLBACK_FAILURE;
	ngtcp2_conn_extend_max_offset(conn, len);
	if (len <= args->max_request - stream->request_len) {
		if (len > 0)
			memcpy(stream->request + stream->request_len, data, len);
		stream->request_len += len;
		if (!(flags & NGTCP2_STREAM_DATA_FLAG_FIN))
			return 0;
		file = args->open(args->root, stream->request, stream->request_len);
	}
	if (file >= 0 && maps(stream, file))
		return 0;
	return ngtcp2_conn_shutdown_stream(conn, number, args->refused) == 0 ? 0 : NGTCP2_ERR_CALLBACK_FAILURE;
}

static void stream_drop(struct stream *stream)
{
	if (stream->file)
		munmap(stream->file, stream->sending.len);
	free(stream->request);
	free(stream);
}

static int on_close(ngtcp2_conn *conn, uint32_t flags, int64_t number, uint64_t code, void *user, void *of_stream)
{
	struct stream **at = &((struct slot *)user)->streams;

	(void)flags;
	(void)code;
	(void)of_stream;
	while (*at && (*at)->sending.stream != number)
		at = &(*at)->next;
	if (*at) {
		struct stream *closed = *at;

		*at = closed->next;
		stream_drop(closed);
	}
	ngtcp2_conn_extend_max_streams_bidi(conn, 1);
	return 0;
}

static struct sending *next_of(void *from)
{
	struct stream *stream = ((struct slot *)from)->streams;

	while (stream && (stream->sending.ended || stream->sending.blocked))
		stream = stream->next;
	return stream ? &stream->sending : NULL;
}

static void slot_drop(struct slot *slot)
{
	/* The library reads what is mapped until then. */
	end_drop(&slot->end);
	while (slot->streams) {
		struct stream *first = slot->streams;

		slot->streams = first->next;
		stream_drop(first);
	}
	free(slot);
}

/* Makes a connection of a client's first datagram. */
static bool makes(struct server *server, struct slot *slot, const ngtcp2_pkt_hd *header)
{
	struct end *end = &slot->end;
	ngtcp2_path path = path_of(&server->addresses);
	ngtcp2_callbacks callbacks;
	ngtcp2_settings settings;
	ngtcp2_transport_params params;
	ngtcp2_cid id;

	if (!end_tls(end, GNUTLS_SERVER | GNUTLS_NO_TICKETS | GNUTLS_NO_END_OF_EARLY_DATA, server->args->alpn,
		     server->credentials) ||
	    ngtcp2_crypto_gnutls_configure_server_session(end->tls) != 0)
		return false;
	callbacks_of_both(&callbacks);
	callbacks.recv_client_initial = ngtcp2_crypto_recv_client_initial_cb;
	callbacks.stream_open = on_open;
	callbacks.recv_stream_data = on_data;
	callbacks.stream_close = on_close;
	settings_of_both(&settings, &params);
	new_id(&id);
	params.original_dcid = header->dcid;
	params.stateless_reset_token_present = 1;
	if (ngtcp2_crypto_generate_stateless_reset_token(params.stateless_reset_token, server->secret,
							 SECRET_BYTES, &id) != 0 ||
	    ngtcp2_conn_server_new(&end->conn, &header->scid, &id, &path, header->version, &callbacks, &settings,
				   &params, NULL, end) != 0)
		return false;
	ngtcp2_conn_set_tls_native_handle(end->conn, end->tls);
	return true;
}

static struct slot *accepts(struct server *server, const uint8_t *datagram, size_t len)
{
	ngtcp2_pkt_hd header;
	struct slot *slot;

	if (ngtcp2_accept(&header, datagram, len) != 0)
		return NULL;
	slot = calloc(1, sizeof(*slot));
	if (!slot)
		return NULL;
	slot->args = server->args;
	slot->end.secret = server->secret;
	slot->first_id = header.dcid;
	if (!makes(server, slot, &header)) {
		fprintf(stderr, "ngtcp2-serve: no connection could be made\n");
		slot_drop(slot);
		return NULL;
	}
	slot->next = server->slots;
	server->slots = slot;
	return slot;
}

/* True if a connection is known by this id. */
static bool is_known_by(struct slot *slot, const ngtcp2_cid *id)
{
	size_t count = ngtcp2_conn_get_num_scid(slot->end.conn);
	ngtcp2_cid *own = calloc(count, sizeof(*own));
	bool found = ngtcp2_cid_eq(&slot->first_id, id);

	if (own) {
		count = ngtcp2_conn_get_scid(slot->end.conn, own);
		for (size_t at = 0; at < count && !found; at++)
			found = ngtcp2_cid_eq(&own[at], id);
	}
	free(own);
	return found;
}

/* Tells a client that this server does not know its connection, if it may. */
static void resets(struct server *server, const ngtcp2_cid *id, const struct addresses *to)
{
	uint8_t token[NGTCP2_STATELESS_RESET_TOKENLEN], noise[NGTCP2_MIN_STATELESS_RESET_RANDLEN];
	uint8_t reset[sizeof(token) + sizeof(noise)];
	ngtcp2_ssize len;

	if (ngtcp2_crypto_generate_stateless_reset_token(token, server->secret, SECRET_BYTES, id) != 0)
		return;
	fill_random(noise, sizeof(noise));
	len = ngtcp2_pkt_write_stateless_reset(reset, sizeof(reset), token, noise, sizeof(noise));
	/* If it is lost, the client's next datagram gets another. */
	if (len > 0)
		(void)!sendto(server->args->socket, reset, (size_t)len, 0, (const struct sockaddr *)&to->remote,
			      to->remote_len);
}

static void ends(struct server *server, struct slot *slot, const char *said)
{
	struct slot **at = &server->slots;

	fprintf(stderr, "ngtcp2-serve: %s\n", said);
	while (*at != slot)
		at = &(*at)->next;
	*at = slot->next;
	slot_drop(slot);
}

/* Gives a datagram to its connection. */
static void takes(struct server *server, size_t len)
{
	const uint8_t *datagram = server->datagram;
	struct slot *slot = server->slots;
	ngtcp2_version_cid version;
	char said[SAID_BYTES];
	ngtcp2_cid id;

	if (ngtcp2_pkt_decode_version_cid(&version, datagram, len, ID_BYTES) != 0 ||
	    version.dcidlen > NGTCP2_MAX_CIDLEN)
		return;
	ngtcp2_cid_init(&id, version.dcid, version.dcidlen);
	while (slot && !is_known_by(slot, &id))
		slot = slot->next;
	if (!slot && version.version != 0) {
		slot = accepts(server, datagram, len);
	} else if (!slot && server->args->secret && len >= SMALLEST_ANSWERED) {
		resets(server, &id, &server->addresses);
	}
	if (slot && !end_take(&slot->end, server->args->socket, &server->addresses, datagram, len, said,
			      sizeof(said)))
		ends(server, slot, said);
}

/* Sends what the connections have to send. Returns when the first timer goes off. */
static ngtcp2_tstamp turns(struct server *server)
{
	ngtcp2_tstamp first = UINT64_MAX;
	char said[SAID_BYTES];

	for (struct slot *slot = server->slots, *next; slot; slot = next) {
		ngtcp2_tstamp expiry;

		next = slot->next;
		for (struct stream *stream = slot->streams; stream; stream = stream->next)
			stream->sending.blocked = false;
		if (!end_expire(&slot->end, server->args->socket, said, sizeof(said)) ||
		    !end_send(&slot->end, server->args->socket, next_of, slot, said, sizeof(said))) {
			ends(server, slot, said);
			continue;
		}
		expiry = ngtcp2_conn_get_expiry(slot->end.conn);
		first = expiry < first ? expiry : first;
	}
	return first;
}

static bool presents(struct server *server)
{
	gnutls_datum_t chain = {(unsigned char *)server->args->chain, (unsigned)strlen(server->args->chain)};
	gnutls_datum_t key = {(unsigned char *)server->args->key, (unsigned)strlen(server->args->key)};

	return gnutls_certificate_allocate_credentials(&server->credentials) == 0 &&
	       gnutls_certificate_set_x509_key_mem(server->credentials, &chain, &key, GNUTLS_X509_FMT_PEM) == 0;
}

void ngtcp2_peer_serve(const struct peer_serve *args, char *said, size_t said_len)
{
	struct server *server = calloc(1, sizeof(*server));
	size_t len;

	say(said, said_len, "the certificate, the key or the socket is no good");
	if (!server)
		return;
	server->args = args;
	fill_random(server->secret, sizeof(server->secret));
	if (args->secret) {
		memset(server->secret, 0, sizeof(server->secret));
		memcpy(server->secret, args->secret, sizeof(*args->secret));
	}
	if (presents(server) && own_address(args->socket, &server->addresses)) {
		while (wait_for(args->socket, turns(server))) {
			while (receive(args->socket, &server->addresses, server->datagram, &len))
				takes(server, len);
		}
		say(said, said_len, "the socket cannot be waited for");
	}
	while (server->slots)
		ends(server, server->slots, "stopped");
	if (server->credentials)
		gnutls_certificate_free_credentials(server->credentials);
	free(server);
}
