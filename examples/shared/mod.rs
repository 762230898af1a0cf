//! What the examples with a loop of their own have in common: a server and a client on one worker,
//! which the loop turns. The client makes some requests, with pauses, and the application ends.

use bytes::Bytes;
use quiclane::exec::{
    ClientConfig, ConnectFailure, ConnectionRef, Handler, Listener, Polling, Registration,
    RegistrationConfig, ServerConfig, WorkerLoop, WorkerRef,
};
use quiclane::{ClientTls, CloseReason, Dir, ServerTls, StreamId};
use std::error::Error;
use std::slice;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// What the client asks for, one after the other.
const REQUESTS: u64 = 20;
/// The client waits so long before each request. A loop that does not sleep turns many thousand times
/// meanwhile.
const PAUSE: Duration = Duration::from_millis(10);
/// Turns of a loop that sleeps: for each request a few datagrams and timers, and the handshake. Ten
/// times what was seen (126 to 145 turns); a loop that does not sleep made 128,000.
const MOST_TURNS: u64 = 1_500;
/// How long closing may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The server's application: sends back what it receives.
struct Echo;

impl Handler for Echo {
    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        // Fails only if the client wants no answer.
        let _ = connection.streams().send(stream, Bytes::copy_from_slice(data), fin);
        data.len()
    }
}

/// The client's application. Its timer asks, and its token says how much was asked before.
struct Asker {
    answer: Vec<u8>,
    answered: u64,
    outcome: Sender<Result<u64, String>>,
}

impl Asker {
    fn question(number: u64) -> String {
        format!("request {number}")
    }

    fn tell(&self, outcome: Result<u64, String>) {
        // Fails only if nobody waits any more.
        let _ = self.outcome.send(outcome);
    }
}

impl Handler for Asker {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _resumed: bool) {
        connection.set_timer(PAUSE, 0);
    }

    fn timer(&mut self, connection: &mut ConnectionRef<'_>, number: u64) {
        let mut streams = connection.streams();
        let asked = streams.open(Dir::Bi).map_err(|error| error.to_string()).and_then(|stream| {
            let question = Bytes::from(Self::question(number));
            streams.send(stream, question, true).map_err(|error| error.to_string())
        });
        if let Err(error) = asked {
            self.tell(Err(error));
        }
    }

    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        _stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        self.answer.extend_from_slice(data);
        if fin {
            let answer = std::mem::take(&mut self.answer);
            if answer != Self::question(self.answered).as_bytes() {
                let answer = String::from_utf8_lossy(&answer);
                self.tell(Err(format!("{answer:?} is no answer to request {}", self.answered)));
            }
            self.answered += 1;
            if self.answered < REQUESTS {
                connection.set_timer(PAUSE, self.answered);
            } else {
                self.tell(Ok(self.answered));
                connection.close(0, Bytes::new());
            }
        }
        data.len()
    }

    fn not_connected(&mut self, _worker: &mut WorkerRef<'_>, failure: ConnectFailure) {
        self.tell(Err(failure.to_string()));
    }

    fn closed(&mut self, _connection: &mut ConnectionRef<'_>, reason: CloseReason) {
        // Nobody reads this after the last answer.
        self.tell(Err(reason.to_string()));
    }
}

/// What the application does beside its worker.
pub(crate) struct Application {
    registration: Option<Registration>,
    _listener: Listener,
    told: Receiver<Result<u64, String>>,
    outcome: Option<Result<u64, String>>,
    turns: u64,
}

impl Application {
    /// Listens, and connects to itself. The arguments of the program are the certificate of the server
    /// and its key, in PEM.
    ///
    /// # Errors
    /// A file cannot be read, or the worker cannot start.
    pub(crate) fn start() -> Result<(Self, WorkerLoop), Box<dyn Error>> {
        let arguments: Vec<_> = std::env::args().skip(1).collect();
        let [certificate, key] = &arguments[..] else {
            return Err("the arguments are CERT.pem KEY.pem".into());
        };
        let (certificate, key) = (std::fs::read(certificate)?, std::fs::read(key)?);
        let server_tls =
            ServerTls::builder().certificate_pem(&certificate, &key)?.alpn(["echo"]).build()?;
        let client_tls =
            ClientTls::builder().pinned_certificate_pem(&certificate)?.alpn(["echo"]).build()?;

        // A worker that spins would have the loop spin: `Next::Turn` every time.
        let config = RegistrationConfig { polling: Polling::Sleep, ..RegistrationConfig::udp(1) };
        let (registration, seeds) = Registration::open_without_threads(config)?;
        let seed = seeds.into_iter().next().ok_or("a registration has a worker")?;
        let mut worker = seed.start()?;
        // It is this thread that turns the worker, and the worker has to answer.
        let listener = registration.listen_turning(
            slice::from_mut(&mut worker),
            "127.0.0.1:0".parse()?,
            &ServerConfig::new(server_tls),
            |_new| Some(Box::new(Echo) as Box<dyn Handler>),
        )?;
        let (outcome, told) = channel();
        let asker = Asker { answer: Vec::new(), answered: 0, outcome };
        let (server, client) = (listener.local_addr(), ClientConfig::new(client_tls));
        registration.connect(server, "localhost", &client, asker)?;
        let registration = Some(registration);
        Ok((Self { registration, _listener: listener, told, outcome: None, turns: 0 }, worker))
    }

    /// To be called after each turn. Begins the shutdown when the client has what it wants.
    pub(crate) fn turned(&mut self) {
        self.turns += 1;
        if self.outcome.is_none()
            && let Ok(outcome) = self.told.try_recv()
        {
            self.outcome = Some(outcome);
            // It does not wait here: the loop turns the worker, until that has ended.
            if let Some(registration) = self.registration.take() {
                registration.shutdown(0, PATIENCE);
            }
        }
    }

    /// Says how it went.
    ///
    /// # Errors
    /// There was an answer too few, or the loop did not sleep.
    pub(crate) fn finish(self) -> Result<(), Box<dyn Error>> {
        let answered = self.outcome.ok_or("the worker ended before the client")??;
        if self.turns > MOST_TURNS {
            return Err(format!("{} turns for {answered} requests: it spins", self.turns).into());
        }
        println!("{answered} answers in {} turns", self.turns);
        Ok(())
    }
}
