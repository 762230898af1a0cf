//! `quiclane get`: the smallest client.

use crate::args::GetArgs;
use crate::error::Failure;
use crate::identity::{client_tls, explained};
use crate::output::Output;
use crate::reach::{self, Watch};
use crate::signals;
use crate::{hq, io, perf};
use bytes::Bytes;
use quiclane::CloseReason;
use quiclane::exec::{
    ClientConfig, ConnectFailure, ConnectionRef, Handle, HandleError, Handler, Registration,
    WorkerRef,
};
use quiclane::{Dir, StreamId};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Bytes gathered before they are handed to the writing thread.
const PIECE_BYTES: usize = 256 * 1024;
/// Bytes that may wait for the writing thread. Beyond that nothing is taken from the stream, and
/// flow control stops the server: a slow disk or reader costs time, not memory.
const UNWRITTEN_MAX_BYTES: usize = 8 << 20;
/// The longest time that a handshake gets, whatever --timeout says.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Longer than the connection's own limit: the connection reports a slow handshake first.
const HANDSHAKE_SLACK: Duration = Duration::from_secs(1);
/// A client that waits for data sends nothing, and so would not learn that the server has forgotten
/// the connection. It sends a PING after this silence.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// What the connection tells the writing thread.
enum Message {
    Connected,
    Piece(Vec<u8>),
    Done,
    Failed(String),
    /// ICMP says that no server is there.
    Unreachable(String),
    Interrupted,
}

/// With the address that it is about; `None` for all. A message of an address that was given up
/// may still arrive.
type Told = (Option<SocketAddr>, Message);

/// How an address ended.
enum Outcome {
    Fetched(u64),
    /// No connection was made: another address may do better.
    NotReached(Failure),
    Failed(Failure),
}

/// Fetches one file.
pub(crate) fn run(args: &GetArgs) -> Result<(), Failure> {
    let fetch = Fetch::prepare(args)?;
    let addresses = args.server.resolve()?;
    let mut out = Output::new(&args.output)?;
    let registration = io::open_client(&args.io)?;
    let (messages, inbox) = channel();
    let interrupted = messages.clone();
    signals::forward(move |_signal| interrupted.send((None, Message::Interrupted)).is_ok())?;
    let result = fetch.any(&registration, &addresses, &messages, &inbox, &mut out);
    // This waits for the turn in which a closing connection sends its CONNECTION_CLOSE, and not
    // until the server has it.
    registration.shutdown(0, Duration::ZERO);
    result?;
    out.finish()
}

/// The time that is shown to the user; the library reads no clock here.
#[expect(clippy::disallowed_methods, reason = "a client tells how long it took")]
fn clock() -> Instant {
    Instant::now()
}

struct Fetch<'a> {
    args: &'a GetArgs,
    config: ClientConfig,
    server_name: String,
    patience: Duration,
    /// The part of it for the handshake.
    handshake: Duration,
}

/// A connection that `get` waits for.
struct Attempt {
    address: SocketAddr,
    handle: Handle,
    /// Bytes that were handed over and are not written yet.
    unwritten: Arc<AtomicUsize>,
    /// Asks for ICMP errors until it is connected.
    watch: Option<Watch>,
}

impl<'a> Fetch<'a> {
    fn prepare(args: &'a GetArgs) -> Result<Self, Failure> {
        let server_name = args.trust.server_name(&args.server)?;
        if !args.path.starts_with('/') {
            let path = &args.path;
            let text = format!("the path \"{path}\" has to begin with /, such as /{path}");
            return Err(Failure::Usage(text));
        }
        let patience = Duration::try_from_secs_f64(args.timeout)
            .map_err(|error| Failure::Usage(format!("--timeout {}: {error}", args.timeout)))?;
        let handshake = patience.min(HANDSHAKE_MAX);
        let mut config = ClientConfig::new(client_tls(&args.trust, hq::ALPN)?);
        let mut transport = perf::widened(io::transport(&args.io)?);
        transport.handshake_timeout = handshake;
        transport.keep_alive = Some(KEEP_ALIVE);
        config.transport = Arc::new(transport);
        Ok(Self { args, config, server_name, patience, handshake })
    }

    /// Fetches from the first address that answers.
    fn any(
        &self,
        registration: &Registration,
        addresses: &[SocketAddr],
        messages: &Sender<Told>,
        inbox: &Receiver<Told>,
        out: &mut Output,
    ) -> Result<(), Failure> {
        let mut last = None;
        for &address in addresses {
            let started = clock();
            match self.one(registration, address, messages, inbox, out)? {
                Outcome::Fetched(bytes) => {
                    let seconds = started.elapsed().as_secs_f64();
                    tracing::info!("{bytes} bytes from {address} in {seconds:.3} s");
                    return Ok(());
                }
                Outcome::NotReached(failure) => {
                    tracing::info!("{failure}");
                    last = Some(failure);
                }
                Outcome::Failed(failure) => return Err(failure),
            }
        }
        Err(last.unwrap_or_else(|| Failure::Failed("there is no address to try".to_owned())))
    }

    fn one(
        &self,
        registration: &Registration,
        address: SocketAddr,
        messages: &Sender<Told>,
        inbox: &Receiver<Told>,
        out: &mut Output,
    ) -> Result<Outcome, Failure> {
        tracing::info!("connecting to {address} as {}", self.server_name);
        let unwritten: Arc<AtomicUsize> = Arc::default();
        let client = Client {
            path: self.args.path.clone(),
            address,
            handshake: self.handshake,
            messages: messages.clone(),
            piece: Vec::new(),
            unwritten: Arc::clone(&unwritten),
            paused: None,
            done: false,
        };
        let handle = registration.connect(address, &self.server_name, &self.config, client)?;
        let tell = messages.clone();
        let watch = reach::watch(address, reach::AFTER, self.handshake, move |why| {
            // The receiver is gone once the file is complete or given up.
            let _unheard = tell.send((Some(address), Message::Unreachable(why)));
        });
        let mut attempt = Attempt { address, handle, unwritten, watch: Some(watch) };
        let outcome = self.receive(&mut attempt, inbox, out);
        if let Ok(Outcome::NotReached(_)) = outcome {
            // Fails only if it is closed.
            let _ = attempt.handle.close(0, Bytes::new());
        }
        outcome
    }

    /// Writes what arrives. The timeout is for silence, not for the whole file.
    fn receive(
        &self,
        attempt: &mut Attempt,
        inbox: &Receiver<Told>,
        out: &mut Output,
    ) -> Result<Outcome, Failure> {
        let (address, mut is_connected, mut bytes) = (attempt.address, false, 0);
        let started = clock();
        let failed = |why: String, is_connected: bool| {
            let failure = Failure::Failed(why);
            if is_connected { Outcome::Failed(failure) } else { Outcome::NotReached(failure) }
        };
        loop {
            let patience =
                if is_connected { self.patience } else { self.handshake + HANDSHAKE_SLACK };
            let told = match inbox.recv_timeout(patience) {
                Ok((Some(other), _)) if other != address => continue,
                told => told.map(|(_, message)| message),
            };
            match told {
                Ok(Message::Connected) => {
                    is_connected = true;
                    attempt.watch = None;
                    let took = started.elapsed().as_secs_f64() * 1e3;
                    tracing::info!("connected to {address} in {took:.1} ms");
                }
                Ok(Message::Piece(piece)) => {
                    bytes += piece.len() as u64;
                    out.write(&piece)?;
                    attempt.written(piece.len());
                }
                Ok(Message::Done) => return Ok(Outcome::Fetched(bytes)),
                Ok(Message::Failed(why)) => return Ok(failed(why, is_connected)),
                Ok(Message::Unreachable(why)) if !is_connected => return Ok(failed(why, false)),
                Ok(Message::Unreachable(_)) => {}
                Ok(Message::Interrupted) => {
                    return Err(Failure::Failed("interrupted".to_owned()));
                }
                Err(RecvTimeoutError::Timeout) => {
                    let s = self.patience.as_secs_f64();
                    let why = if is_connected {
                        format!("nothing arrived from {address} for {s} s; see --timeout")
                    } else {
                        no_answer(address, self.handshake)
                    };
                    return Ok(failed(why, is_connected));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Ok(failed("the connection ended without a reason".to_owned(), true));
                }
            }
        }
    }
}

impl Attempt {
    /// Bytes are written: a connection that waited for that goes on.
    fn written(&self, bytes: usize) {
        let before = self.unwritten.fetch_sub(bytes, Ordering::Relaxed);
        let is_room_again = before >= UNWRITTEN_MAX_BYTES && before - bytes < UNWRITTEN_MAX_BYTES;
        if is_room_again {
            while self.handle.wake(0) == Err(HandleError::Full) {
                std::thread::yield_now();
            }
        }
    }
}

/// The reason if neither a packet nor an ICMP message came back.
fn no_answer(address: SocketAddr, patience: Duration) -> String {
    let s = patience.as_secs_f64();
    format!(
        "no answer from {address} in {s} s: no such host, no QUIC server on this UDP port, or a \
         firewall on the way"
    )
}

struct Client {
    path: String,
    address: SocketAddr,
    handshake: Duration,
    messages: Sender<Told>,
    piece: Vec<u8>,
    /// Bytes that were handed over and are not written yet.
    unwritten: Arc<AtomicUsize>,
    /// The stream from which nothing is taken until they are.
    paused: Option<StreamId>,
    done: bool,
}

impl Client {
    fn tell(&self, message: Message) {
        // The receiver is gone once the file is complete or given up.
        let _unheard = self.messages.send((Some(self.address), message));
    }

    fn hand_over(&mut self) {
        if !self.piece.is_empty() {
            let piece = std::mem::take(&mut self.piece);
            self.unwritten.fetch_add(piece.len(), Ordering::Relaxed);
            self.tell(Message::Piece(piece));
        }
    }

    fn fail(&self, why: String) {
        if !self.done {
            self.tell(Message::Failed(why));
        }
    }
}

impl Handler for Client {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _resumed: bool) {
        self.tell(Message::Connected);
        let request = Bytes::from(format!("GET {}\r\n", self.path));
        let mut streams = connection.streams();
        let sent = streams
            .open(Dir::Bi)
            .map_err(|e| e.to_string())
            .and_then(|s| streams.send(s, request, true).map_err(|e| e.to_string()));
        if let Err(why) = sent {
            self.fail(format!("the request could not be sent: {why}"));
        }
    }

    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        // An empty piece means the end of the file; the end itself follows.
        if !data.is_empty() && self.unwritten.load(Ordering::Relaxed) >= UNWRITTEN_MAX_BYTES {
            self.paused = Some(stream);
            return 0;
        }
        self.piece.extend_from_slice(data);
        if fin || self.piece.len() >= PIECE_BYTES {
            self.hand_over();
        }
        if fin {
            self.done = true;
            self.tell(Message::Done);
            connection.close(0, Bytes::new());
        }
        data.len()
    }

    fn woken(&mut self, connection: &mut ConnectionRef<'_>, _token: u64) {
        if let Some(stream) = self.paused.take() {
            // Fails only if the stream is gone, which another callback reports.
            let _ = connection.streams().resume_receive(stream);
        }
    }

    fn stream_reset(&mut self, _: &mut ConnectionRef<'_>, _: StreamId, code: u64) {
        self.fail(format!("the server refused {}: {}", self.path, hq::meaning(code)));
    }

    fn not_connected(&mut self, _: &mut WorkerRef<'_>, failure: ConnectFailure) {
        self.fail(failure.to_string());
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, reason: CloseReason) {
        self.fail(match reason {
            CloseReason::HandshakeTimeout => no_answer(self.address, self.handshake),
            reason => format!("{}: {}", self.address, explained(&reason)),
        });
    }
}
