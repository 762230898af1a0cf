//! One kernel socket beside a port that another datapath serves.
//!
//! AF_XDP takes a port's datagrams away from the kernel, but not all of them: fragments, IP
//! options, and whatever lands on a queue without a socket go the ordinary way. A
//! [`SideSocket`] holds the port, so that no other socket binds it; receives what XDP passed;
//! sends the first datagram to a neighbour that is not resolved yet; and reads the ICMP errors
//! of the port. It moves one datagram per call: it is the slow path.
//!
//! To drive it: poll [`fd`](SideSocket::fd) for reading (an ICMP error wakes the same poll),
//! then call [`receive`](SideSocket::receive) until it says `None`, and
//! [`drain_errors`](SideSocket::drain_errors).

use super::abi::Control;
use super::error::{SendError, UdpError, UdpErrorKind, is_icmp};
use super::socket::{DEFAULT_BUFFER_BYTES, Options, QUEUED_ERRORS_PER_CALL, Socket};
use super::syscall::{self, Outgoing, Slot};
use crate::datapath::{Checksum, Link, Path, RxMeta};
use crate::ecn::Ecn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::time::Duration;

/// How often, and after which pause, a port that is in use is claimed again. The kernel closes the
/// sockets of a process that was killed a little after the process is gone; and a process that
/// starts others lives on in each of them, with all its sockets, until the other program runs.
const CLAIM_ATTEMPTS: u32 = 100;
const CLAIM_PAUSE: Duration = Duration::from_millis(10);

/// A kernel UDP socket that sends and receives one datagram at a time.
#[derive(Debug)]
pub(crate) struct SideSocket {
    socket: Socket,
}

/// A datagram that [`SideSocket::receive`] put into the caller's buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    /// Where it came from and where it was sent to; its link is unknown.
    pub meta: RxMeta,
    /// How many bytes of the buffer it fills.
    pub len: usize,
    /// It was longer than the buffer, and its end is lost.
    pub truncated: bool,
}

/// What came back for a datagram sent earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PathError {
    /// Where the datagram was going.
    pub remote: SocketAddr,
    /// Who reported it; `None` when it was this machine.
    pub reporter: Option<SocketAddr>,
    /// The error number that the kernel made of it.
    pub errno: i32,
    /// ICMP or ICMPv6 type and code; `None` when it was this machine.
    pub icmp: Option<(u8, u8)>,
    /// The MTU that a "packet too big" names. Unverified: anyone can send an ICMP message.
    pub mtu_bytes: Option<u32>,
}

impl SideSocket {
    /// Binds `local`. With `reuse_port`, each worker can have its own beside the same port.
    ///
    /// # Errors
    /// Names the call, the address, the device and the remedy.
    pub(crate) fn bind(
        local: SocketAddr,
        device: Option<&str>,
        reuse_port: bool,
    ) -> Result<Self, UdpError> {
        let socket = Socket::open(&Options {
            local,
            device,
            reuse_port,
            error_queue: true,
            gso: false,
            gro: false,
            rcvbuf_bytes: DEFAULT_BUFFER_BYTES,
            sndbuf_bytes: DEFAULT_BUFFER_BYTES,
            busy_poll_us: None,
            incoming_cpu: None,
        })?;
        Ok(Self { socket })
    }

    /// Binds `local`, which no other socket may hold. From now on, sockets that are bound with
    /// `reuse_port` may join it. To ask first and to bind then would leave a moment in between.
    ///
    /// # Errors
    /// Names the call, the address, the device and the remedy.
    pub(crate) fn claim(local: SocketAddr, device: Option<&str>) -> Result<Self, UdpError> {
        let mut attempt = 0;
        let claimed = loop {
            match Self::bind(local, device, false) {
                Err(e) if e.kind == UdpErrorKind::PortInUse && attempt < CLAIM_ATTEMPTS => {
                    if attempt == 0 {
                        let pause = CLAIM_PAUSE * CLAIM_ATTEMPTS;
                        tracing::warn!("{local} is in use: waiting up to {pause:?} for it");
                    }
                    attempt += 1;
                    std::thread::sleep(CLAIM_PAUSE);
                }
                done => break done?,
            }
        };
        claimed.socket.let_join().map_err(|e| {
            UdpError::new("setsockopt SO_REUSEPORT", claimed.local_addr(), device, e)
        })?;
        Ok(claimed)
    }

    /// A socket that another process has bound.
    ///
    /// # Errors
    /// It is no UDP socket.
    pub(crate) fn adopt(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: Socket::adopt(fd, false, false)? })
    }

    /// One more descriptor of it, for another process.
    ///
    /// # Errors
    /// The limit on open files.
    pub(crate) fn share(&self) -> io::Result<OwnedFd> {
        self.socket.fd().try_clone_to_owned()
    }

    pub(super) fn from_socket(socket: Socket) -> Self {
        Self { socket }
    }

    pub(super) fn into_socket(self) -> Socket {
        self.socket
    }

    /// The bound address, with the port that the kernel chose if none was asked for.
    #[must_use]
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.socket.local
    }

    /// To wait on for reading, level triggered.
    #[must_use]
    pub(crate) fn fd(&self) -> RawFd {
        self.socket.raw_fd()
    }

    /// Datagrams that the kernel dropped because this socket's buffer was full.
    #[must_use]
    pub(crate) fn kernel_drops(&self) -> u64 {
        self.socket.kernel_drops()
    }

    /// Sends one datagram, from the path's local address if the socket is bound to all.
    ///
    /// # Errors
    /// It was not sent; see [`SendError`].
    pub(crate) fn send(&self, path: &Path, ecn: Ecn, datagram: &[u8]) -> Result<(), SendError> {
        let name = super::abi::Name::new(&path.remote);
        let mut control = Control::EMPTY;
        self.socket.write_control(&mut control, &path.local, ecn);
        let message = Outgoing { payload: datagram, name: &name, control: &control };
        match syscall::send_one(self.socket.fd(), &message) {
            // An ICMP error of an earlier datagram is reported once, in place of this send.
            Err(error) if is_icmp(&error) => {
                syscall::send_one(self.socket.fd(), &message).map_err(SendError::of)
            }
            sent => sent.map_err(SendError::of),
        }
    }

    /// Receives one datagram into `buffer`; `None` when there is none.
    ///
    /// # Errors
    /// The socket is lost.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        let mut slot = Slot::EMPTY;
        for _ in 0..QUEUED_ERRORS_PER_CALL {
            match syscall::receive_one(self.socket.fd(), &mut slot, buffer, 0) {
                Ok(()) => return Ok(self.received(&slot)),
                Err(error) if is_icmp(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn received(&self, slot: &Slot) -> Option<Received> {
        let remote = slot.name.get()?;
        let arrival = slot.control.arrival();
        let local = self.socket.arrived_at(arrival.local);
        let path = Path { local, remote, link: Link::UNKNOWN };
        let meta = RxMeta { path, ecn: arrival.ecn, checksum: Checksum::Verified };
        Some(Received { meta, len: slot.len, truncated: slot.truncated })
    }

    /// Hands the ICMP errors that wait to `sink`, at most 64 a call; returns how many.
    pub(crate) fn drain_errors(&self, sink: &mut dyn FnMut(&PathError)) -> usize {
        let mut slot = Slot::EMPTY;
        for count in 0..QUEUED_ERRORS_PER_CALL {
            // The payload is that of our own datagram. It is not needed, so it is cut to nothing.
            let flags = libc::MSG_ERRQUEUE;
            if syscall::receive_one(self.socket.fd(), &mut slot, &mut [], flags).is_err() {
                return count;
            }
            if let Some(error) = path_error(&slot) {
                sink(&error);
            }
        }
        QUEUED_ERRORS_PER_CALL
    }
}

fn path_error(slot: &Slot) -> Option<PathError> {
    let remote = slot.name.get()?;
    let error = slot.control.extended_error()?;
    let from_network = matches!(error.origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6);
    Some(PathError {
        remote,
        reporter: error.offender.filter(|_| from_network),
        errno: error.errno,
        icmp: from_network.then_some((error.kind, error.code)),
        mtu_bytes: (error.errno == libc::EMSGSIZE).then_some(error.info),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(address: &str) -> SideSocket {
        SideSocket::bind(address.parse().unwrap(), None, false).unwrap()
    }

    fn path(from: &SideSocket, to: SocketAddr) -> Path {
        Path { local: from.local_addr(), remote: to, link: Link::UNKNOWN }
    }

    /// Waits for the socket to become readable: loopback delivers at once, but ICMP errors and
    /// a busy machine may need a moment. Gives up (and lets the test fail) after many polls.
    fn receive(socket: &SideSocket, buffer: &mut [u8]) -> Received {
        for _ in 0..100_000 {
            if let Some(received) = socket.receive(buffer).unwrap() {
                return received;
            }
            std::thread::yield_now();
        }
        panic!("nothing arrived");
    }

    #[test]
    fn a_datagram_arrives_with_its_bytes_its_ends_and_its_mark() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let (a, b) = (bind(host), bind(host));
            assert!(b.receive(&mut [0; 64]).unwrap().is_none(), "nothing yet");
            for ecn in [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce] {
                a.send(&path(&a, b.local_addr()), ecn, b"hello").unwrap();
                let mut buffer = [0; 64];
                let got = receive(&b, &mut buffer);
                assert_eq!(&buffer[..got.len], b"hello");
                assert_eq!(got.meta.ecn, ecn, "{host}");
                assert_eq!(got.meta.path.remote, a.local_addr());
                assert_eq!(got.meta.path.local, b.local_addr());
                assert!(!got.truncated);
            }
        }
    }

    #[test]
    fn a_claimed_port_is_joined_and_not_shared_with_those_who_were_there() {
        let claimed = SideSocket::claim("127.0.0.1:0".parse().unwrap(), None).unwrap();
        let address = claimed.local_addr();
        let joined = SideSocket::bind(address, None, true).unwrap();
        let alone = SideSocket::bind(address, None, false).unwrap_err();
        assert_eq!(alone.kind, UdpErrorKind::PortInUse);
        // The socket that joined keeps the port after the one that claimed it is closed.
        drop(claimed);
        let taken = SideSocket::claim(address, None).unwrap_err();
        assert_eq!(taken.kind, UdpErrorKind::PortInUse);
        drop(joined);
        SideSocket::claim(address, None).unwrap();
    }

    #[test]
    fn a_socket_on_all_addresses_answers_from_the_one_that_was_asked() {
        let server = bind("0.0.0.0:0");
        let client = bind("127.0.0.1:0");
        let asked = SocketAddr::new("127.0.0.2".parse().unwrap(), server.local_addr().port());
        client.send(&path(&client, asked), Ecn::NotEct, b"?").unwrap();
        let mut buffer = [0; 16];
        let got = receive(&server, &mut buffer);
        assert_eq!(got.meta.path.local, asked);
        server.send(&got.meta.path, Ecn::NotEct, b"!").unwrap();
        assert_eq!(receive(&client, &mut buffer).meta.path.remote, asked);
    }

    #[test]
    fn what_does_not_fit_is_marked_as_cut() {
        let (a, b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
        a.send(&path(&a, b.local_addr()), Ecn::NotEct, &[7; 100]).unwrap();
        let got = receive(&b, &mut [0; 99]);
        assert!(got.truncated);
        assert_eq!(got.len, 99);
    }

    #[test]
    fn a_closed_port_is_told_as_an_error_and_harms_nothing() {
        let a = bind("127.0.0.1:0");
        let gone = bind("127.0.0.1:0").local_addr();
        a.send(&path(&a, gone), Ecn::NotEct, b"anyone?").unwrap();
        let mut seen = Vec::new();
        for _ in 0..100_000 {
            if a.drain_errors(&mut |e| seen.push(*e)) > 0 {
                break;
            }
            std::thread::yield_now();
        }
        let [error] = seen[..] else { panic!("{seen:?}") };
        assert_eq!((error.remote, error.errno), (gone, libc::ECONNREFUSED));
        // RFC 792: destination unreachable, port unreachable.
        assert_eq!(error.icmp, Some((3, 3)));
        let b = bind("127.0.0.1:0");
        a.send(&path(&a, b.local_addr()), Ecn::NotEct, b"still here").unwrap();
        assert_eq!(receive(&b, &mut [0; 16]).len, 10);
        assert!(a.receive(&mut [0; 16]).unwrap().is_none());
    }

    #[test]
    fn a_datagram_beyond_the_mtu_is_refused_not_fragmented() {
        let (a, b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
        // Loopback's MTU of 65,536 is above any UDP payload but for its headers.
        let sent = a.send(&path(&a, b.local_addr()), Ecn::NotEct, &vec![0; 65_508]);
        assert!(matches!(sent, Err(SendError::TooBig)), "{sent:?}");
    }

    #[test]
    fn a_port_in_use_is_named_and_shared_only_when_all_agree() {
        let a = bind("127.0.0.1:0");
        let error = SideSocket::bind(a.local_addr(), None, true).unwrap_err();
        assert_eq!(error.kind, super::super::UdpErrorKind::PortInUse);
        let text = error.to_string();
        assert!(text.contains(&format!("port {} is in use", a.local_addr().port())), "{text}");

        let a = SideSocket::bind("127.0.0.1:0".parse().unwrap(), None, true).unwrap();
        SideSocket::bind(a.local_addr(), None, true).unwrap();
    }
}
