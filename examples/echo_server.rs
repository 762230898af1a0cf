//! A server that sends back what it receives, over kernel UDP or AF_XDP.
//!
//! ```text
//! cargo run --example echo_server -- 127.0.0.1:4433 cert.pem key.pem [DEV]
//! ```
//!
//! With a device it needs root, or CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_IPC_LOCK. It prints
//! where it listens, and ends when its standard input does.

use bytes::Bytes;
use quiclane::exec::{
    ConnectionRef, Handler, NewConnection, Registration, RegistrationConfig, ServerConfig,
};
use quiclane::{CloseReason, ServerTls, StreamId};
use std::error::Error;
use std::io::Read;
use std::time::Duration;

/// How long closing the connections may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most bytes of a stream that wait for an acknowledgement. Beyond that nothing is taken from it.
const BUFFERED_MAX: u64 = 1 << 20;

/// The application of one connection. Its methods run on the thread of the worker that owns the
/// connection, one after another.
struct Echo;

impl Handler for Echo {
    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        // An end that comes alone has no bytes that could be left.
        if !data.is_empty() && connection.streams().buffered(stream) >= BUFFERED_MAX {
            // Data that is not taken stays with the library, and flow control stops the peer until
            // `resume_receive`.
            return 0;
        }
        // `data` is a slice of the receive buffer, so it has to be copied. Sending fails only if the
        // peer does not want an answer.
        let _ = connection.streams().send(stream, Bytes::copy_from_slice(data), fin);
        data.len()
    }

    fn acknowledged(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        _bytes: u64,
        fin: bool,
    ) {
        if !fin && connection.streams().buffered(stream) < BUFFERED_MAX {
            // Fails only if the peer has sent everything already.
            let _ = connection.streams().resume_receive(stream);
        }
    }

    fn closed(&mut self, connection: &mut ConnectionRef<'_>, reason: CloseReason) {
        eprintln!("{}: {reason}", connection.remote());
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [address, certificate, key, device @ ..] = &arguments[..] else {
        return Err("usage: echo_server ADDRESS:PORT CERT.pem KEY.pem [DEV]".into());
    };
    let tls = ServerTls::builder()
        .certificate_pem(&std::fs::read(certificate)?, &std::fs::read(key)?)?
        .alpn(["echo"])
        .build()?;
    let config = match device.first() {
        // A worker for each queue of the device, pinned beside it.
        Some(device) => RegistrationConfig::xdp(device),
        None => RegistrationConfig::udp(1),
    };
    let registration = Registration::open(config)?;
    // The acceptor runs on all workers, in parallel. It returns a handler for each connection, or
    // `None` to refuse the client.
    let accept = |_: &NewConnection<'_>| Some(Box::new(Echo) as Box<dyn Handler>);
    let listener = registration.listen(address.parse()?, &ServerConfig::new(tls), accept)?;
    println!("listening on {}", listener.local_addr());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    // Without the listener no more connections are accepted; `shutdown` closes the others.
    drop(listener);
    registration.shutdown(0, PATIENCE);
    Ok(())
}
