//! `quiclane get`: the smallest client.

use crate::args::GetArgs;
use crate::error::Failure;
use crate::identity::client_tls;
use crate::{hq, io, perf};
use bytes::Bytes;
use quiclane::CloseReason;
use quiclane::exec::{ClientConfig, ConnectFailure, ConnectionRef, Handler, WorkerRef};
use quiclane::{Dir, StreamId};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Bytes gathered before they are handed to the writing thread.
const PIECE_BYTES: usize = 256 * 1024;

/// A client that waits for data has nothing to say, and who says nothing hears nothing of a server
/// that has forgotten the connection: so it asks after this silence.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// What the connection tells the writing thread.
enum News {
    Piece(Vec<u8>),
    Done,
    Failed(String),
}

/// Fetches one file.
pub(crate) fn run(args: &GetArgs) -> Result<(), Failure> {
    let mut config = ClientConfig::new(client_tls(&args.trust, hq::ALPN)?);
    let mut transport = perf::widened(io::transport(&args.io));
    transport.keep_alive = Some(KEEP_ALIVE);
    config.transport = Arc::new(transport);
    let mut out = output(args)?;
    let registration = io::open_client(&args.io)?;
    let (news, inbox) = channel();
    let client = Client { path: args.path.clone(), news, piece: Vec::new(), done: false };
    registration.connect(args.server, &args.trust.server_name, &config, client)?;
    let result = receive(&inbox, &mut out, Duration::from_secs(args.timeout));
    registration.shutdown(0, Duration::from_millis(200));
    result?;
    out.flush()?;
    Ok(())
}

fn output(args: &GetArgs) -> Result<Box<dyn Write>, Failure> {
    if args.output.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdout().lock()));
    }
    let file = File::create(&args.output).map_err(|e| Failure::file("write", &args.output, &e))?;
    Ok(Box::new(BufWriter::new(file)))
}

/// Writes what arrives. `patience` is for silence, not for the whole file.
fn receive(inbox: &Receiver<News>, out: &mut dyn Write, patience: Duration) -> Result<(), Failure> {
    loop {
        match inbox.recv_timeout(patience) {
            Ok(News::Piece(bytes)) => out.write_all(&bytes)?,
            Ok(News::Done) => return Ok(()),
            Ok(News::Failed(why)) => return Err(Failure::Failed(why)),
            Err(RecvTimeoutError::Timeout) => {
                let s = patience.as_secs();
                return Err(Failure::Failed(format!("nothing arrived for {s} s; see --timeout")));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::Failed("the connection ended without a word".to_owned()));
            }
        }
    }
}

struct Client {
    path: String,
    news: Sender<News>,
    piece: Vec<u8>,
    done: bool,
}

impl Client {
    fn tell(&self, news: News) {
        // Nobody listens any more once the file is complete or given up.
        let _nobody = self.news.send(news);
    }

    fn hand_over(&mut self) {
        if !self.piece.is_empty() {
            let piece = std::mem::take(&mut self.piece);
            self.tell(News::Piece(piece));
        }
    }

    fn fail(&self, why: String) {
        if !self.done {
            self.tell(News::Failed(why));
        }
    }
}

impl Handler for Client {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _resumed: bool) {
        let request = Bytes::from(format!("GET {}\r\n", self.path));
        let sent = connection
            .open(Dir::Bi)
            .map_err(|e| e.to_string())
            .and_then(|s| connection.send(s, request, true).map_err(|e| e.to_string()));
        if let Err(why) = sent {
            self.fail(format!("the request could not be sent: {why}"));
        }
    }

    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        _stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        self.piece.extend_from_slice(data);
        if fin || self.piece.len() >= PIECE_BYTES {
            self.hand_over();
        }
        if fin {
            self.done = true;
            self.tell(News::Done);
            connection.close(0, Bytes::new());
        }
        data.len()
    }

    fn stream_reset(&mut self, _: &mut ConnectionRef<'_>, _: StreamId, code: u64) {
        self.fail(format!("the server refused {} with code 0x{code:x}", self.path));
    }

    fn not_connected(&mut self, _: &mut WorkerRef<'_>, failure: ConnectFailure) {
        self.fail(failure.to_string());
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, reason: CloseReason) {
        self.fail(reason.to_string());
    }
}
