#include "common.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* A download. */
struct client {
	struct end end; /* first: what the library's callbacks are given is one or the other */
	const struct peer_get *args;
	gnutls_certificate_credentials_t credentials;
	struct addresses addresses;
	uint8_t secret[SECRET_BYTES];
	uint8_t datagram[DATAGRAM_BYTES];
	struct sending request;
	int64_t total;
	bool has_ended;
	const char *failure; /* what went wrong here, if something did */
	char *said;
	size_t said_len;
};

static int fails(struct client *client, const char *why)
{
	client->failure = why;
	return NGTCP2_ERR_CALLBACK_FAILURE;
}

static int on_data(ngtcp2_conn *conn, uint32_t flags, int64_t stream, uint64_t offset, const uint8_t *data,
		   size_t len, void *user, void *of_stream)
{
	struct client *client = user;
	size_t written = 0;

	(void)offset;
	(void)of_stream;
	while (client->args->out >= 0 && written < len) {
		ssize_t done = write(client->args->out, data + written, len - written);

		if (done < 0 && errno != EINTR)
			return fails(client, strerror(errno));
		written += done > 0 ? (size_t)done : 0;
	}
	client->total += (int64_t)len;
	client->has_ended |= (flags & NGTCP2_STREAM_DATA_FLAG_FIN) != 0;
	ngtcp2_conn_extend_max_offset(conn, len);
	return ngtcp2_conn_extend_max_stream_offset(conn, stream, len) == 0 ? 0 : NGTCP2_ERR_CALLBACK_FAILURE;
}

static int on_stream_reset(ngtcp2_conn *conn, int64_t stream, uint64_t size, uint64_t code, void *user,
			   void *of_stream)
{
	(void)conn;
	(void)stream;
	(void)size;
	(void)code;
	(void)of_stream;
	return fails(user, "the server refused the request");
}

static struct sending *request_of(void *from)
{
	struct client *client = from;
	struct sending *request = &client->request;

	if (request->stream < 0 &&
	    ngtcp2_conn_open_bidi_stream(client->end.conn, &request->stream, NULL) != 0)
		request->stream = -1; /* before the handshake, when the server's limits are not known */
	return request->stream < 0 || request->ended || request->blocked ? NULL : request;
}

/* TLS of the client. */
static bool trusts(struct client *client)
{
	const struct peer_get *args = client->args;
	struct end *end = &client->end;
	unsigned flags = GNUTLS_CLIENT | GNUTLS_ENABLE_EARLY_DATA | GNUTLS_NO_END_OF_EARLY_DATA;

	if (gnutls_certificate_allocate_credentials(&client->credentials) != 0 ||
	    (args->ca &&
	     gnutls_certificate_set_x509_trust_file(client->credentials, args->ca, GNUTLS_X509_FMT_PEM) <= 0) ||
	    !end_tls(end, flags, args->alpn, client->credentials) ||
	    ngtcp2_crypto_gnutls_configure_client_session(end->tls) != 0 ||
	    gnutls_server_name_set(end->tls, GNUTLS_NAME_DNS, args->server_name, strlen(args->server_name)) != 0)
		return false;
	if (args->ca)
		gnutls_session_set_verify_cert(end->tls, args->server_name, 0);
	return true;
}

static bool begins(struct client *client)
{
	struct addresses *addresses = &client->addresses;
	ngtcp2_callbacks callbacks;
	ngtcp2_settings settings;
	ngtcp2_transport_params params;
	ngtcp2_cid theirs, ours;
	ngtcp2_path path;

	addresses->remote_len = sizeof(addresses->remote);
	if (!own_address(client->args->socket, addresses) ||
	    getpeername(client->args->socket, (struct sockaddr *)&addresses->remote, &addresses->remote_len) != 0)
		return false;
	path = path_of(addresses);
	callbacks_of_both(&callbacks);
	callbacks.client_initial = ngtcp2_crypto_client_initial_cb;
	callbacks.recv_retry = ngtcp2_crypto_recv_retry_cb;
	callbacks.recv_stream_data = on_data;
	callbacks.stream_reset = on_stream_reset;
	settings_of_both(&settings, &params);
	new_id(&theirs);
	new_id(&ours);
	if (ngtcp2_conn_client_new(&client->end.conn, &theirs, &ours, &path, NGTCP2_PROTO_VER_V1, &callbacks,
				   &settings, &params, NULL, &client->end) != 0)
		return false;
	ngtcp2_conn_set_tls_native_handle(client->end.conn, client->end.tls);
	return true;
}

/* Takes what has arrived. False at the end of the connection. */
static bool takes(struct client *client)
{
	size_t len;

	while (!client->has_ended &&
	       receive(client->args->socket, &client->addresses, client->datagram, &len)) {
		if (!end_take(&client->end, client->args->socket, &client->addresses, client->datagram, len,
			      client->said, client->said_len))
			return false;
	}
	return true;
}

static bool downloads(struct client *client)
{
	struct end *end = &client->end;
	int socket = client->args->socket;

	while (!client->has_ended) {
		client->request.blocked = false;
		if (!end_send(end, socket, request_of, client, client->said, client->said_len))
			return false;
		if (!wait_for(socket, ngtcp2_conn_get_expiry(end->conn)))
			return false;
		if (!takes(client) || !end_expire(end, socket, client->said, client->said_len))
			return false;
	}
	end_close(end, socket, NULL);
	return true;
}

int64_t ngtcp2_peer_get(const struct peer_get *args, char *said, size_t said_len)
{
	struct client client = {.args = args, .said = said, .said_len = said_len};
	int64_t total = -1;

	client.request = (struct sending){
		.stream = -1,
		.data = (const uint8_t *)args->request,
		.len = strlen(args->request),
	};
	client.end.secret = client.secret;
	fill_random(client.secret, sizeof(client.secret));
	say(said, said_len, "no connection could be made");
	if (trusts(&client) && begins(&client) && downloads(&client))
		total = client.total;
	if (client.failure)
		say(said, said_len, "%s", client.failure);
	if (client.end.conn)
		end_drop(&client.end);
	if (client.credentials)
		gnutls_certificate_free_credentials(client.credentials);
	return total;
}
