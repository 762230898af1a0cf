//! Whether a server is at a UDP port: ICMP errors, received by a socket of the kernel.
//!
//! Datapaths do not listen to ICMP: AF_XDP cannot, and a forged message could disturb every peer of
//! a shared socket. A socket of its own, connected to the server, receives only errors of this
//! server, and they end only a connection that is not yet established.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Too short for any QUIC packet: every server ignores it, and a closed port answers.
const PROBE: [u8; 1] = [0];
/// How long a server may take to answer before its port is probed: longer than most handshakes, so
/// that nearly none costs a further datagram.
pub(crate) const AFTER: Duration = Duration::from_millis(100);

/// While it exists, the port will be probed. Dropping it stops that.
#[derive(Debug)]
#[must_use]
pub(crate) struct Watch {
    _over: Sender<()>,
}

/// After `pause`, unless the server has answered and the [`Watch`] was dropped, sends a datagram to
/// the port, and calls `tell` with the reason if an ICMP error comes back. Gives up silently after
/// `patience`: no ICMP error means nothing.
pub(crate) fn watch(
    remote: SocketAddr,
    pause: Duration,
    patience: Duration,
    tell: impl FnOnce(String) + Send + 'static,
) -> Watch {
    let (over, is_over) = channel();
    let watcher = std::thread::Builder::new().name("reach".to_owned());
    let watching = watcher.spawn(move || {
        if is_over.recv_timeout(pause) == Err(RecvTimeoutError::Timeout)
            && let Err(error) = ask(remote, patience)
            && let Some(why) = meaning(remote, &error)
        {
            tell(why);
        }
    });
    if let Err(error) = watching {
        tracing::debug!(%error, "ICMP errors are not watched");
    }
    Watch { _over: over }
}

fn ask(remote: SocketAddr, patience: Duration) -> io::Result<()> {
    let any: SocketAddr = match remote {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(remote)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(&PROBE)?;
    // No server answers such a datagram: this ends by an error, or by the timeout.
    socket.recv(&mut [0; 16]).map(drop)
}

fn meaning(remote: SocketAddr, error: &io::Error) -> Option<String> {
    let what = match error.raw_os_error()? {
        libc::ECONNREFUSED => "no socket listens on this UDP port (ICMP port unreachable)",
        libc::EHOSTUNREACH => "the host cannot be reached (ICMP host unreachable)",
        libc::ENETUNREACH => "there is no route to it",
        libc::EACCES | libc::EPERM => "a firewall refuses it",
        _ => return None,
    };
    Some(format!("{remote}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_port_is_heard() {
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (tell, told) = channel();
        let patience = Duration::from_secs(60);
        let _watch = watch(closed, Duration::ZERO, patience, move |why| tell.send(why).unwrap());
        assert!(told.recv().unwrap().contains("port unreachable"));
    }

    #[test]
    fn an_open_port_says_nothing() {
        let open = UdpSocket::bind("[::1]:0").unwrap();
        let (tell, told) = channel::<String>();
        let patience = Duration::from_millis(50);
        let _watch = watch(open.local_addr().unwrap(), Duration::ZERO, patience, move |why| {
            tell.send(why).unwrap();
        });
        // The sender is dropped, and has sent nothing.
        assert!(told.recv().is_err());
        assert_eq!(open.recv(&mut [0; 16]).unwrap(), PROBE.len());
    }

    #[test]
    fn a_server_that_has_answered_is_not_asked() {
        let open = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (tell, told) = channel::<String>();
        let pause = Duration::from_secs(3600);
        let watch = watch(open.local_addr().unwrap(), pause, pause, move |why| {
            tell.send(why).unwrap();
        });
        drop(watch);
        assert!(told.recv().is_err());
        open.set_nonblocking(true).unwrap();
        assert_eq!(open.recv(&mut [0; 16]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
