//! quiche as a client and as a server.
//!
//! It is a state machine: this module has the sockets and the loops, after its examples and its own
//! programs (`quiche-client`, `quiche-server`), with their settings where its own would let nothing through.

use std::collections::HashMap;
use std::fs::File as SyncFile;
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use quiche::{Config, Connection, ConnectionId, Header, RecvInfo, Shutdown, Type};
use quiclane_testkit::server::Scratch;
use tokio::net::UdpSocket;

use crate::{Failure, GetArgs, ServeArgs, announce, hq, identity, secret};

/// Bytes of our connection ids.
const ID_BYTES: usize = 16;
/// Bytes of a stateless reset's token (RFC 9000 §10.3).
const TOKEN_BYTES: usize = 16;
/// The shortest datagram that a reset answers, so that resets do not answer each other for ever.
const SMALLEST_ANSWERED_BYTES: usize = 43;
/// The only stream of the client.
const STREAM: u64 = 0;
/// The largest UDP payload, both ways: as quiche-client and quiche-server.
const DATAGRAM_BYTES: usize = 1350;
/// The windows of quiche-client and quiche-server: those of the library are 0.
const CONNECTION_WINDOW_BYTES: u64 = 10_000_000;
const STREAM_WINDOW_BYTES: u64 = 1_000_000;
/// Streams of the peer at once, as quiche-server.
const STREAMS: u64 = 100;
/// Milliseconds of silence, as quiche-client and quiche-server.
const IDLE_MS: u64 = 30_000;
/// Ids that the peer may give, and also how many paths of a connection quiche keeps: on one more it hears
/// nothing, so that with its default of 2 it follows one change of address.
const IDS: u64 = 8;

/// Downloads the file of the arguments; returns its length.
pub(crate) async fn get(args: &GetArgs) -> Result<u64, Failure> {
    let mut config = config(&args.alpn)?;
    if let (Some(ca), false) = (&args.ca, args.insecure) {
        config.load_verify_locations_from_file(&ca.to_string_lossy())?;
        config.verify_peer(true);
    } else {
        config.verify_peer(false);
    }
    let any: IpAddr = match args.server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(args.server).await?;
    let (local, id) = (socket.local_addr()?, new_id());
    let name = Some(args.server_name.as_str());
    let mut connection = quiche::connect(name, &id, local, args.server, &mut config)?;
    let mut download = Download::new(args)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let done = download.go_on(&mut connection, &mut buffer)?;
        if done {
            // Fails only if the server was first.
            let _ = connection.close(true, 0, b"done");
        }
        while let Ok((len, _)) = connection.send(&mut buffer) {
            // Refused while nothing listens: the next flight may arrive.
            let _ = socket.send(&buffer[..len]).await;
        }
        if done {
            return Ok(download.total);
        }
        if connection.is_closed() {
            return Err(end_of(&connection).into());
        }
        wait(&socket, [&mut connection]).await?;
        while let Ok((len, from)) = socket.try_recv_from(&mut buffer) {
            let _ = connection.recv(&mut buffer[..len], RecvInfo { from, to: local });
        }
    }
}

/// The client's stream.
struct Download {
    request: Option<String>,
    file: Option<SyncFile>,
    total: u64,
}

impl Download {
    fn new(args: &GetArgs) -> Result<Self, Failure> {
        let file = args.output.as_ref().map(SyncFile::create).transpose()?;
        Ok(Self { request: Some(hq::request(&args.path)), file, total: 0 })
    }

    /// Asks, then writes what has come; true at the end of the file.
    fn go_on(&mut self, connection: &mut Connection, buffer: &mut [u8]) -> Result<bool, Failure> {
        give_ids(connection, None);
        if connection.is_established()
            && let Some(request) = self.request.take()
        {
            connection.stream_send(STREAM, request.as_bytes(), true)?;
        }
        loop {
            match connection.stream_recv(STREAM, buffer) {
                Ok((len, end)) => {
                    self.total += len as u64;
                    if let Some(file) = &mut self.file {
                        file.write_all(&buffer[..len])?;
                    }
                    if end {
                        return Ok(true);
                    }
                }
                // No stream yet, or nothing to read.
                Err(quiche::Error::Done | quiche::Error::InvalidStreamState(_)) => {
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Serves files until the future is dropped.
pub(crate) async fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let mut config = config(&args.alpn)?;
    let (chain, key) = identity::pem(args)?;
    // It reads certificates and keys from files alone.
    let files = Scratch::new("quiche-serve");
    config.load_cert_chain_from_pem_file(&files.write("cert.pem", chain))?;
    config.load_priv_key_from_pem_file(&files.write("key.pem", key))?;
    drop(files);
    let socket = UdpSocket::bind(args.listen).await?;
    let local = socket.local_addr()?;
    announce("quiche-serve", local)?;
    let mut server = Server { config, secret: args.secret, local, slots: Vec::new() };
    let mut buffer = vec![0; 1 << 16];
    loop {
        wait(&socket, server.slots.iter_mut().map(|slot| &mut slot.connection)).await?;
        while let Ok((len, from)) = socket.try_recv_from(&mut buffer) {
            if let Some(answer) = server.take(&mut buffer[..len], from) {
                socket.send_to(&answer, from).await?;
            }
        }
        for slot in &mut server.slots {
            slot.serve(&args.files, args.secret).await?;
            while let Ok((len, to)) = slot.connection.send(&mut buffer) {
                // A path that is gone refuses.
                let _ = socket.send_to(&buffer[..len], to.to).await;
            }
        }
        server.slots.retain(|slot| {
            let closed = slot.connection.is_closed();
            if closed {
                eprintln!("quiche-serve: {}", end_of(&slot.connection));
            }
            !closed
        });
    }
}

struct Server {
    config: Config,
    secret: Option<u64>,
    local: SocketAddr,
    slots: Vec<Slot>,
}

/// A connection of the server.
struct Slot {
    connection: Connection,
    /// The id that the client chose for us.
    first_id: Vec<u8>,
    requests: HashMap<u64, Vec<u8>>,
    responses: HashMap<u64, Response>,
}

/// A file on its way: what of it was read and not taken yet.
struct Response {
    file: SyncFile,
    chunk: Vec<u8>,
    taken: usize,
}

impl Server {
    /// Gives a datagram to its connection. Returns what else answers it: a reset.
    fn take(&mut self, datagram: &mut [u8], from: SocketAddr) -> Option<Vec<u8>> {
        let header = Header::from_slice(datagram, ID_BYTES).ok()?;
        let to = &header.dcid;
        let known = |slot: &Slot| {
            slot.first_id == to[..] || slot.connection.source_ids().any(|id| id == to)
        };
        let at = match self.slots.iter().position(known) {
            Some(at) => at,
            None if header.ty == Type::Initial => self.accept(to, from)?,
            None if header.ty == Type::Short && datagram.len() >= SMALLEST_ANSWERED_BYTES => {
                return Some(reset(token(self.secret?, to)));
            }
            None => return None,
        };
        let info = RecvInfo { from, to: self.local };
        // An error closes the connection, which its owner sees.
        let _ = self.slots[at].connection.recv(datagram, info);
        None
    }

    fn accept(&mut self, first_id: &ConnectionId<'_>, from: SocketAddr) -> Option<usize> {
        let id = new_id();
        self.config.set_stateless_reset_token(self.secret.map(|secret| token(secret, &id)));
        let made = quiche::accept(&id, None, self.local, from, &mut self.config);
        let connection = made.inspect_err(|e| eprintln!("quiche-serve: {e}")).ok()?;
        self.slots.push(Slot {
            connection,
            first_id: first_id.to_vec(),
            requests: HashMap::new(),
            responses: HashMap::new(),
        });
        Some(self.slots.len() - 1)
    }
}

impl Slot {
    /// Reads requests and goes on with responses.
    async fn serve(&mut self, root: &Path, secret: Option<u64>) -> Result<(), Failure> {
        let connection = &mut self.connection;
        give_ids(connection, secret);
        // Nobody asks which paths there are.
        while connection.path_event_next().is_some() {}
        let mut buffer = [0; hq::MAX_REQUEST_BYTES];
        for stream in connection.readable() {
            let request = self.requests.entry(stream).or_default();
            let mut ended = false;
            while let Ok((len, end)) = connection.stream_recv(stream, &mut buffer) {
                request.extend_from_slice(&buffer[..len]);
                ended |= end;
            }
            if ended || request.len() > hq::MAX_REQUEST_BYTES {
                let request = self.requests.remove(&stream).unwrap_or_default();
                match hq::open(root, &request).await {
                    Some(file) if ended => {
                        let file = file.into_std().await;
                        let response = Response { file, chunk: Vec::new(), taken: 0 };
                        self.responses.insert(stream, response);
                    }
                    _ => connection.stream_shutdown(
                        stream,
                        Shutdown::Write,
                        hq::RESET_CODE.into(),
                    )?,
                }
            }
        }
        self.responses.retain(|stream, response| {
            let more = response.go_on(connection, *stream);
            more.inspect_err(|e| eprintln!("quiche-serve: {e}")).unwrap_or(false)
        });
        Ok(())
    }
}

impl Response {
    /// Hands over what the stream takes. False at the end of the file.
    fn go_on(&mut self, connection: &mut Connection, stream: u64) -> Result<bool, Failure> {
        loop {
            if self.taken == self.chunk.len() {
                self.taken = 0;
                self.chunk.resize(hq::CHUNK_BYTES, 0);
                let len = self.file.read(&mut self.chunk)?;
                self.chunk.truncate(len);
            }
            let rest = &self.chunk[self.taken..];
            match connection.stream_send(stream, rest, rest.is_empty()) {
                Ok(_) if rest.is_empty() => return Ok(false),
                Ok(0) | Err(quiche::Error::Done) => return Ok(true),
                Ok(len) => self.taken += len,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Waits until something arrived, or the first timer of the connections went off, and lets them see to it.
async fn wait(
    socket: &UdpSocket,
    connections: impl IntoIterator<Item = &mut Connection>,
) -> Result<(), Failure> {
    let mut connections: Vec<_> = connections.into_iter().collect();
    let Some(timeout) = connections.iter().filter_map(|c| c.timeout()).min() else {
        return Ok(socket.readable().await?);
    };
    tokio::select! {
        ready = socket.readable() => ready?,
        () = tokio::time::sleep(timeout) => {}
    }
    // It looks itself whether its timer went off.
    connections.iter_mut().for_each(|connection| connection.on_timeout());
    Ok(())
}

/// What all connections share: the library's own settings, but for those without which nothing is received.
fn config(alpn: &str) -> Result<Config, Failure> {
    let mut config = Config::new(quiche::PROTOCOL_VERSION)?;
    config.set_application_protos(&[alpn.as_bytes()])?;
    config.set_max_recv_udp_payload_size(DATAGRAM_BYTES);
    config.set_max_send_udp_payload_size(DATAGRAM_BYTES);
    config.set_initial_max_data(CONNECTION_WINDOW_BYTES);
    config.set_initial_max_stream_data_bidi_local(STREAM_WINDOW_BYTES);
    config.set_initial_max_stream_data_bidi_remote(STREAM_WINDOW_BYTES);
    config.set_initial_max_streams_bidi(STREAMS);
    config.set_max_idle_timeout(IDLE_MS);
    config.set_active_connection_id_limit(IDS);
    Ok(config)
}

/// Gives the peer the ids that it has room for: it needs them for new paths. Of a server with a secret,
/// their tokens follow from it.
fn give_ids(connection: &mut Connection, secret: Option<u64>) {
    while connection.is_established() && connection.scids_left() > 0 {
        let id = new_id();
        let token = token(secret.unwrap_or_else(random), &id);
        if connection.new_scid(&id, token, false).is_err() {
            break;
        }
    }
}

fn random() -> u64 {
    RandomState::new().hash_one(0)
}

fn new_id() -> ConnectionId<'static> {
    let halves = [random().to_be_bytes(), random().to_be_bytes()];
    ConnectionId::from_vec(halves.as_flattened()[..ID_BYTES].to_vec())
}

/// The reset token of an id.
fn token(secret: u64, id: &[u8]) -> u128 {
    let mut token = [0; TOKEN_BYTES];
    secret::sign(secret, id, &mut token);
    u128::from_be_bytes(token)
}

/// A stateless reset: a short header's first byte, something, and the token (RFC 9000 §10.3).
fn reset(token: u128) -> Vec<u8> {
    let mut datagram = new_id().to_vec();
    datagram[0] = datagram[0] & 0x3f | 0x40;
    datagram.extend_from_slice(&token.to_be_bytes());
    datagram
}

/// Why a connection ended, in words.
fn end_of(connection: &Connection) -> String {
    let said = |error: &quiche::ConnectionError| {
        let kind = if error.is_app { "application" } else { "transport" };
        let reason = String::from_utf8_lossy(&error.reason);
        format!("{kind} error {:#x} {reason:?}", error.error_code)
    };
    match (connection.peer_error(), connection.local_error()) {
        (Some(error), _) => format!("closed by the peer: {}", said(error)),
        (None, Some(error)) => format!("closed here: {}", said(error)),
        (None, None) if connection.is_timed_out() => "timed out".to_owned(),
        // quiche has no name for it: nothing else ends a connection so.
        (None, None) => "ended by a stateless reset".to_owned(),
    }
}
