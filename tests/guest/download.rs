//! A client of 64 connections from 64 ports, each of which downloads a file and compares every byte.

use crate::Outcome;
use crate::lane::CONNECTIONS;
use crate::server::CERTIFICATE;
use bytes::Bytes;
use quiclane::exec::{
    ClientConfig, ConnectionRef, Handler, Pin, Polling, Registration, RegistrationConfig,
};
use quiclane::proto::crypto::ClientTls;
use quiclane::{CloseReason, Dir, StreamId};
use std::net::SocketAddr;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// Longer than an emulated machine takes.
const PATIENCE: Duration = Duration::from_secs(150);

/// The file that is served: each word differs, so that it changes if any parts are shifted or swapped.
pub(crate) fn contents(bytes: usize) -> Vec<u8> {
    let words = (0..bytes as u64 / 8).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_le_bytes).collect()
}

/// One download. It reports its end: what was wrong, if anything.
struct Download {
    expected: Bytes,
    received: usize,
    tell: Sender<Outcome>,
}

impl Handler for Download {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _: bool) {
        let mut streams = connection.streams();
        let sent = streams.open(Dir::Bi).map_err(|error| error.to_string()).and_then(|stream| {
            let request = Bytes::from_static(b"GET /file\r\n");
            streams.send(stream, request, true).map_err(|error| error.to_string())
        });
        if sent.is_err() {
            drop(self.tell.send(sent));
        }
    }

    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        _: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        let until = self.received + data.len();
        let local = connection.local();
        if self.expected.get(self.received..until) != Some(data) {
            let from = self.received;
            drop(self.tell.send(Err(format!("{local}: bytes {from} to {until} differ"))));
        }
        self.received = until;
        if fin && until == self.expected.len() {
            drop(self.tell.send(Ok(())));
        }
        data.len()
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, reason: CloseReason) {
        if self.received < self.expected.len() {
            let received = self.received;
            drop(self.tell.send(Err(format!("{reason}, after {received} bytes"))));
        }
    }
}

/// Starts this program again for it, in the namespace of the peers.
pub(crate) fn start(server: SocketAddr, bytes: usize) -> Result<Child, String> {
    let program = std::env::current_exe().map_err(|error| format!("own path: {error}"))?;
    Command::new("ip")
        .args(["netns", "exec", "peer"])
        .arg(program)
        .args(["download", &server.to_string(), &bytes.to_string()])
        .spawn()
        .map_err(|error| format!("ip netns exec: {error}"))
}

/// What [`start`] starts: `SERVER BYTES`.
pub(crate) fn role(arguments: &[String]) -> Outcome {
    let [server, bytes] = arguments else {
        return Err(format!("SERVER BYTES, not {arguments:?}"));
    };
    let server = server.parse().map_err(|error| format!("{server}: {error}"))?;
    let bytes = bytes.parse().map_err(|error| format!("{bytes}: {error}"))?;
    let expected = Bytes::from(contents(bytes));
    let pem = std::fs::read(CERTIFICATE).map_err(|error| format!("{CERTIFICATE}: {error}"))?;
    let tls = ClientTls::builder()
        .pinned_certificate_pem(&pem)
        .and_then(|tls| tls.alpn(["hq-interop"]).build())
        .map_err(|error| error.to_string())?;
    let mut config = ClientConfig::new(tls);
    let mut transport = (*config.transport).clone();
    // The handshakes of all at once, on a machine that is emulated.
    transport.handshake_timeout = PATIENCE;
    config.transport = transport.into();
    let udp = RegistrationConfig::udp(CONNECTIONS);
    let udp = RegistrationConfig { pin: Pin::Off, polling: Polling::Sleep, ..udp };
    let client = Registration::open(udp).map_err(|error| error.to_string())?;
    let (tell, told) = channel();
    for _ in 0..CONNECTIONS {
        let download = Download { expected: expected.clone(), received: 0, tell: tell.clone() };
        client
            .connect(server, "localhost", &config, download)
            .map_err(|error| error.to_string())?;
    }
    for done in 0..CONNECTIONS {
        let outcome = told.recv_timeout(PATIENCE);
        outcome.map_err(|_| format!("{done} downloads are done, the next is not"))??;
    }
    client.shutdown(0, Duration::from_secs(10));
    Ok(())
}
