//! Sends packets of the flow for the check.

use crate::error::Failure;
use crate::sys;
use quiclane::topology::explain::{Protocol, Question};
use quiclane::topology::toeplitz::Flow;
use std::fs::File;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// Emulated devices have no backpressure: 16 packets, then a pause, is below 8,000 a second.
const BURST_PACKETS: u32 = 16;
const PAUSE: Duration = Duration::from_millis(2);

/// Sends datagrams of the flow from a namespace. A new thread enters it, and ends there.
pub(super) fn send(namespace: &str, question: &Question, packets: u32) -> Result<(), Failure> {
    if question.protocol != Protocol::Udp {
        return Err(Failure::Usage(
            "--send-from-netns sends only UDP; for TCP leave it out, and let the flow arrive"
                .to_owned(),
        ));
    }
    let path = PathBuf::from("/run/netns").join(namespace);
    let file = File::open(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::Usage(format!(
            "--send-from-netns {namespace}: there is no {}; `ip netns` lists them",
            path.display()
        )),
        _ => Failure::file("open", &path, &error),
    })?;
    let flow = question.flow;
    let sender = thread::spawn(move || -> Result<(), Failure> {
        sys::enter_netns(&file).map_err(|error| {
            Failure::Permission(format!(
                "cannot enter the network namespace: {error}; that needs CAP_SYS_ADMIN (sudo)"
            ))
        })?;
        send_here(&flow, packets).map_err(|error| {
            Failure::Failed(format!("{} -> {}: {error}", flow.source, flow.destination))
        })
    });
    sender.join().unwrap_or_else(|_| Err(Failure::Failed("the sender panicked".to_owned())))
}

fn send_here(flow: &Flow, packets: u32) -> std::io::Result<()> {
    // Not connected: the socket ignores an ICMP answer that the UDP port is closed.
    let socket = UdpSocket::bind(flow.source)?;
    for packet in 0..packets {
        socket.send_to(b"quiclane flow explain --verify", flow.destination)?;
        if packet % BURST_PACKETS == BURST_PACKETS - 1 {
            thread::sleep(PAUSE);
        }
    }
    Ok(())
}
