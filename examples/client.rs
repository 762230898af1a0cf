//! A client that makes one request: it opens a stream, sends the words of its arguments, prints the
//! answer, and closes the connection.
//!
//! ```text
//! cargo run --example client -- 127.0.0.1:4433 cert.pem hello
//! ```
//!
//! `cert.pem` is the certificate of the server, and the only one that is trusted. The server has to
//! echo, as `echo_server` does.

use bytes::Bytes;
use quiclane::exec::{
    ClientConfig, ConnectFailure, ConnectionRef, Handler, Registration, RegistrationConfig,
    WorkerRef,
};
use quiclane::{ClientTls, CloseReason, Dir, StreamId};
use std::error::Error;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// How long closing may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The application of one connection. Its methods run on the thread of the worker.
struct Request {
    question: Bytes,
    answer: Vec<u8>,
    /// `main` waits at the other end for the answer, or for the reason why there is none.
    outcome: Sender<Result<Vec<u8>, String>>,
}

impl Request {
    fn tell(&self, outcome: Result<Vec<u8>, String>) {
        // Fails only if `main` does not wait any more.
        let _ = self.outcome.send(outcome);
    }
}

impl Handler for Request {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _resumed: bool) {
        // The stream holds the question until it is acknowledged: it is not copied here.
        let mut streams = connection.streams();
        let asked = match streams.open(Dir::Bi) {
            Ok(stream) => {
                streams.send(stream, self.question.clone(), true).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
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
            self.tell(Ok(answer));
            connection.close(0, Bytes::new());
        }
        data.len()
    }

    fn not_connected(&mut self, _worker: &mut WorkerRef<'_>, failure: ConnectFailure) {
        self.tell(Err(failure.to_string()));
    }

    fn closed(&mut self, _connection: &mut ConnectionRef<'_>, reason: CloseReason) {
        // After the answer `main` does not read this.
        self.tell(Err(reason.to_string()));
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(server), Some(certificate)) = (arguments.next(), arguments.next()) else {
        return Err("usage: client ADDRESS:PORT CERT.pem WORD...".into());
    };
    let question = arguments.collect::<Vec<_>>().join(" ");

    let tls = ClientTls::builder()
        .pinned_certificate_pem(&std::fs::read(certificate)?)?
        .alpn(["echo"])
        .build()?;
    // One worker on a kernel UDP socket. `RegistrationConfig::xdp("eth0")` is AF_XDP instead.
    let registration = Registration::open(RegistrationConfig::udp(1))?;
    let (outcome, told) = channel();
    let request = Request { question: question.into(), answer: Vec::new(), outcome };
    registration.connect(server.parse()?, "localhost", &ClientConfig::new(tls), request)?;
    let answer = told.recv()??;
    println!("{}", String::from_utf8_lossy(&answer));
    registration.shutdown(0, PATIENCE);
    Ok(())
}
