#define _GNU_SOURCE
#include "common.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* As ngtcp2's own client and server: with the library's default of GnuTLS it is not sure to be TLS 1.3. */
static const char PRIORITY[] = "%DISABLE_TLS13_COMPAT_MODE:NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:"
			       "+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305:-GROUP-ALL:"
			       "+GROUP-X25519:+GROUP-SECP256R1:+GROUP-SECP384R1";
/* The windows of ngtcp2's own client: those of the library are 0, and do not grow. */
#define CONNECTION_WINDOW 15000000
#define STREAM_WINDOW 6000000
#define MAX_CONNECTION_WINDOW 24000000
#define MAX_STREAM_WINDOW 16000000
/* Streams of the peer at once, and silence: as ngtcp2's own server. */
#define STREAMS 100
#define IDLE (30 * NGTCP2_SECONDS)
/* Ids that the peer may give, as ngtcp2's own programs. */
#define IDS 7

ngtcp2_tstamp now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (ngtcp2_tstamp)time.tv_sec * NGTCP2_SECONDS + (ngtcp2_tstamp)time.tv_nsec;
}

void say(char *said, size_t len, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	vsnprintf(said, len, format, list);
	va_end(list);
}

void fill_random(uint8_t *out, size_t len)
{
	if (gnutls_rnd(GNUTLS_RND_RANDOM, out, len) == 0)
		return;
	fprintf(stderr, "ngtcp2: GnuTLS has no random bytes\n");
	abort();
}

void new_id(ngtcp2_cid *id)
{
	id->datalen = ID_BYTES;
	fill_random(id->data, ID_BYTES);
}

ngtcp2_path path_of(struct addresses *addresses)
{
	return (ngtcp2_path){
		.local = {.addr = (struct sockaddr *)&addresses->local, .addrlen = addresses->local_len},
		.remote = {.addr = (struct sockaddr *)&addresses->remote, .addrlen = addresses->remote_len},
	};
}

static ngtcp2_conn *conn_of(ngtcp2_crypto_conn_ref *ref)
{
	return ((struct end *)ref->user_data)->conn;
}

bool end_tls(struct end *end, unsigned flags, const char *alpn, gnutls_certificate_credentials_t credentials)
{
	gnutls_datum_t protocol = {.data = (unsigned char *)alpn, .size = (unsigned)strlen(alpn)};

	end->ref = (ngtcp2_crypto_conn_ref){.get_conn = conn_of, .user_data = end};
	if (gnutls_init(&end->tls, flags) != 0)
		return false;
	gnutls_session_set_ptr(end->tls, &end->ref);
	return gnutls_priority_set_direct(end->tls, PRIORITY, NULL) == 0 &&
	       gnutls_credentials_set(end->tls, GNUTLS_CRD_CERTIFICATE, credentials) == 0 &&
	       gnutls_alpn_set_protocols(end->tls, &protocol, 1, GNUTLS_ALPN_MANDATORY) == 0;
}

void end_drop(struct end *end)
{
	ngtcp2_conn_del(end->conn);
	if (end->tls)
		gnutls_deinit(end->tls);
}

static void random_of_library(uint8_t *out, size_t len, const ngtcp2_rand_ctx *unused)
{
	(void)unused;
	fill_random(out, len);
}

static int give_id(ngtcp2_conn *conn, ngtcp2_cid *id, uint8_t *token, size_t len, void *data)
{
	struct end *end = data;

	(void)conn;
	id->datalen = len;
	fill_random(id->data, len);
	return ngtcp2_crypto_generate_stateless_reset_token(token, end->secret, SECRET_BYTES, id) == 0
		       ? 0
		       : NGTCP2_ERR_CALLBACK_FAILURE;
}

static int on_reset(ngtcp2_conn *conn, const ngtcp2_pkt_stateless_reset *reset, void *data)
{
	(void)conn;
	(void)reset;
	((struct end *)data)->was_reset = true;
	return 0;
}

void callbacks_of_both(ngtcp2_callbacks *callbacks)
{
	*callbacks = (ngtcp2_callbacks){
		.recv_crypto_data = ngtcp2_crypto_recv_crypto_data_cb,
		.encrypt = ngtcp2_crypto_encrypt_cb,
		.decrypt = ngtcp2_crypto_decrypt_cb,
		.hp_mask = ngtcp2_crypto_hp_mask_cb,
		.update_key = ngtcp2_crypto_update_key_cb,
		.delete_crypto_aead_ctx = ngtcp2_crypto_delete_crypto_aead_ctx_cb,
		.delete_crypto_cipher_ctx = ngtcp2_crypto_delete_crypto_cipher_ctx_cb,
		.get_path_challenge_data = ngtcp2_crypto_get_path_challenge_data_cb,
		.version_negotiation = ngtcp2_crypto_version_negotiation_cb,
		.rand = random_of_library,
		.get_new_connection_id = give_id,
		.recv_stateless_reset = on_reset,
	};
}

void settings_of_both(ngtcp2_settings *settings, ngtcp2_transport_params *params)
{
	ngtcp2_settings_default(settings);
	settings->initial_ts = now();
	settings->max_tx_udp_payload_size = SENT_BYTES;
	settings->max_window = MAX_CONNECTION_WINDOW;
	settings->max_stream_window = MAX_STREAM_WINDOW;
	ngtcp2_transport_params_default(params);
	params->initial_max_data = CONNECTION_WINDOW;
	params->initial_max_stream_data_bidi_local = STREAM_WINDOW;
	params->initial_max_stream_data_bidi_remote = STREAM_WINDOW;
	params->initial_max_streams_bidi = STREAMS;
	params->max_idle_timeout = IDLE;
	params->active_connection_id_limit = IDS;
}

static void transmit(int socket, const ngtcp2_path *path, const uint8_t *datagram, size_t len)
{
	ssize_t sent;

	do {
		/* A path that is gone refuses, and so does a full socket: loss, both. */
		sent = sendto(socket, datagram, len, 0, path->remote.addr, path->remote.addrlen);
	} while (sent < 0 && errno == EINTR);
}

void end_close(struct end *end, int socket, const int *liberr)
{
	ngtcp2_connection_close_error error;
	ngtcp2_path_storage path;
	uint8_t datagram[SENT_BYTES];
	ngtcp2_ssize len;

	ngtcp2_connection_close_error_default(&error);
	if (!liberr)
		ngtcp2_connection_close_error_set_application_error(&error, 0, NULL, 0);
	else if (*liberr == NGTCP2_ERR_CRYPTO)
		ngtcp2_connection_close_error_set_transport_error_tls_alert(
			&error, ngtcp2_conn_get_tls_alert(end->conn), NULL, 0);
	else
		ngtcp2_connection_close_error_set_transport_error_liberr(&error, *liberr, NULL, 0);
	ngtcp2_path_storage_zero(&path);
	len = ngtcp2_conn_write_connection_close(end->conn, &path.path, NULL, datagram, sizeof(datagram), &error,
						 now());
	if (len > 0)
		transmit(socket, &path.path, datagram, (size_t)len);
}

/* What ended a connection, in words. */
static void tell_end(struct end *end, int liberr, char *said, size_t len)
{
	ngtcp2_connection_close_error error;
	bool is_application;

	if (end->was_reset) {
		say(said, len, "ended by a stateless reset");
		return;
	}
	if (liberr != NGTCP2_ERR_DRAINING) {
		say(said, len, "%s (TLS alert %d)", ngtcp2_strerror(liberr),
		    ngtcp2_conn_get_tls_alert(end->conn));
		return;
	}
	ngtcp2_conn_get_connection_close_error(end->conn, &error);
	is_application = error.type == NGTCP2_CONNECTION_CLOSE_ERROR_CODE_TYPE_APPLICATION;
	say(said, len, "closed by the peer: %s error %#llx \"%.*s\"", is_application ? "application" : "transport",
	    (unsigned long long)error.error_code, (int)error.reasonlen, error.reason ? (char *)error.reason : "");
}

/* Ends a connection for an error of the library. False, for its callers to return. */
static bool end_with(struct end *end, int socket, int liberr, char *said, size_t said_len)
{
	bool is_told = liberr == NGTCP2_ERR_DRAINING || liberr == NGTCP2_ERR_DROP_CONN ||
		       liberr == NGTCP2_ERR_IDLE_CLOSE || liberr == NGTCP2_ERR_CLOSING;

	tell_end(end, liberr, said, said_len);
	if (!is_told)
		end_close(end, socket, &liberr);
	return false;
}

bool end_take(struct end *end, int socket, struct addresses *from, const uint8_t *datagram, size_t len,
	      char *said, size_t said_len)
{
	ngtcp2_path path = path_of(from);
	ngtcp2_pkt_info info = {0};
	int error = ngtcp2_conn_read_pkt(end->conn, &path, &info, datagram, len, now());

	return error == 0 || end_with(end, socket, error, said, said_len);
}

bool end_expire(struct end *end, int socket, char *said, size_t said_len)
{
	ngtcp2_tstamp time = now();
	int error;

	if (ngtcp2_conn_get_expiry(end->conn) > time)
		return true;
	error = ngtcp2_conn_handle_expiry(end->conn, time);
	return error == 0 || end_with(end, socket, error, said, said_len);
}

bool wait_for(int socket, ngtcp2_tstamp expiry)
{
	struct pollfd wanted = {.fd = socket, .events = POLLIN};
	ngtcp2_tstamp time = now(), left = expiry > time ? expiry - time : 0;
	struct timespec timeout = {
		.tv_sec = (time_t)(left / NGTCP2_SECONDS),
		.tv_nsec = (long)(left % NGTCP2_SECONDS),
	};

	return ppoll(&wanted, 1, expiry == UINT64_MAX ? NULL : &timeout, NULL) >= 0 || errno == EINTR;
}

bool receive(int socket, struct addresses *from, uint8_t *datagram, size_t *len)
{
	ssize_t got;

	do {
		from->remote_len = sizeof(from->remote);
		got = recvfrom(socket, datagram, DATAGRAM_BYTES, 0, (struct sockaddr *)&from->remote,
			       &from->remote_len);
		/* Refused: nothing listened yet, or no more. */
	} while (got < 0 && (errno == EINTR || errno == ECONNREFUSED));
	*len = got < 0 ? 0 : (size_t)got;
	return got >= 0;
}

bool own_address(int socket, struct addresses *addresses)
{
	addresses->local_len = sizeof(addresses->local);
	return getsockname(socket, (struct sockaddr *)&addresses->local, &addresses->local_len) == 0;
}

/* Writes one datagram, with what a stream has if there is one: its length, 0 or an error. */
static ngtcp2_ssize write_datagram(struct end *end, ngtcp2_path *path, uint8_t *out, struct sending *sending)
{
	ngtcp2_vec data = {0};
	ngtcp2_ssize len, taken = -1;

	if (sending) {
		data.base = (uint8_t *)sending->data + sending->taken;
		data.len = sending->len - sending->taken;
	}
	/* The FIN goes with the last bytes: what is left is all that there is. */
	len = ngtcp2_conn_writev_stream(end->conn, path, NULL, out, SENT_BYTES, &taken,
					sending ? NGTCP2_WRITE_STREAM_FLAG_FIN : NGTCP2_WRITE_STREAM_FLAG_NONE,
					sending ? sending->stream : -1, &data, sending ? 1 : 0, now());
	if (sending && taken >= 0) {
		sending->taken += (size_t)taken;
		sending->ended = sending->taken == sending->len;
	}
	return len;
}

bool end_send(struct end *end, int socket, next_sending next, void *from, char *said, size_t said_len)
{
	size_t quantum = ngtcp2_conn_get_send_quantum(end->conn), sent = 0;
	uint8_t datagram[SENT_BYTES];
	ngtcp2_path_storage path;
	bool more = true;

	while (more && sent < quantum) {
		struct sending *sending = next(from);
		ngtcp2_ssize len;

		ngtcp2_path_storage_zero(&path);
		len = write_datagram(end, &path.path, datagram, sending);
		if (len > 0) {
			transmit(socket, &path.path, datagram, (size_t)len);
			sent += (size_t)len;
		} else if (len == 0) {
			more = false;
		} else if (len == NGTCP2_ERR_STREAM_DATA_BLOCKED) {
			sending->blocked = true;
		} else if (len == NGTCP2_ERR_STREAM_SHUT_WR || len == NGTCP2_ERR_STREAM_NOT_FOUND) {
			sending->ended = true;
		} else {
			return end_with(end, socket, (int)len, said, said_len);
		}
	}
	ngtcp2_conn_update_pkt_tx_time(end->conn, now());
	return true;
}
