//! A datapath that is given datagrams by another process.
//!
//! A process that another one has taken over (`exec/takeover`) still has connections. Their datagrams
//! arrive at its successor, which reads the connection id and passes them on:
//!
//! ```text
//!   NIC queue, kernel socket --> successor --feed--> predecessor
//!                                                        |
//!   network <------------ kernel socket that both have --+
//! ```
//!
//! A *feed* is a pair of sockets in this host (`SOCK_SEQPACKET`), one for each worker of the predecessor.
//! Each message is a datagram with its path and its marks in front ([`Head`]). A feed that is full drops
//! what comes, as a network does. [`FedDatapath`] stands in the place of the worker's datapath: at first with
//! that inside, since the worker goes on to serve its queue until the successor asks for it; then with
//! kernel sockets, which only send.

use super::udp::{UdpDatapath, UdpStats};
use super::{
    Backlog, Capabilities, Checksum, Datapath, DatapathError, Link, Mode, Path, QueueStats, RxMeta,
};
use crate::ecn::Ecn;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// What a feed holds in bytes, with the kernel's overhead: about 1,500 full datagrams, 15 ms at 1 Gb/s.
const FEED_BYTES: usize = 4 << 20;
/// The longest datagram that a feed carries: what fits into UDP.
const LONGEST_BYTES: usize = 65_507;
const ADDRESS_BYTES: usize = 23;
const HEAD_BYTES: usize = 4 + 2 * ADDRESS_BYTES;

/// The two ends of a feed: for the successor, and for the predecessor's worker.
///
/// # Errors
/// The limits on open files.
pub(crate) fn feed() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (far, near) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    // Without the privilege it is what the machine allows: a feed that holds less drops sooner.
    let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&far, FEED_BYTES)
        .or_else(|_| rustix::net::sockopt::set_socket_send_buffer_size(&far, FEED_BYTES));
    Ok((far, near))
}

/// What became of a datagram for a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fed {
    /// It waits for the predecessor.
    Yes,
    /// The feed is full.
    Full,
    /// The predecessor has ended.
    Gone,
}

/// Passes a datagram on.
pub(crate) fn pass_on(feed: BorrowedFd<'_>, meta: &RxMeta, datagram: &[u8]) -> Fed {
    let head = write_head(meta);
    let parts = [IoSlice::new(&head), IoSlice::new(datagram)];
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        match rustix::net::sendmsg(feed, &parts, &mut Default::default(), flags) {
            Ok(_) => return Fed::Yes,
            Err(Errno::INTR) => {}
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Fed::Gone,
            Err(_) => return Fed::Full,
        }
    }
}

/// The checksum field is kept: a few datagrams are not authenticated by what follows.
fn write_head(meta: &RxMeta) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[0] = meta.ecn.bits();
    if let Checksum::Unverified(field) = meta.checksum {
        head[1] = 1;
        head[2..4].copy_from_slice(&field);
    }
    let (local, remote) = head[4..].split_at_mut(ADDRESS_BYTES);
    write_address(&meta.path.local, local);
    write_address(&meta.path.remote, remote);
    head
}

fn read_head(head: &[u8]) -> Option<RxMeta> {
    let (marks, addresses) = head.split_first_chunk::<4>()?;
    let (local, remote) = addresses.split_at_checked(ADDRESS_BYTES)?;
    let path =
        Path { local: read_address(local)?, remote: read_address(remote)?, link: Link::UNKNOWN };
    let [tos, unverified, a, b] = *marks;
    let checksum = if unverified == 0 { Checksum::Verified } else { Checksum::Unverified([a, b]) };
    Some(RxMeta { path, ecn: Ecn::from_tos(tos), checksum })
}

/// Family, address, port, scope.
fn write_address(address: &SocketAddr, to: &mut [u8]) {
    let (family, scope) = match address {
        SocketAddr::V4(_) => (4, 0),
        SocketAddr::V6(v6) => (6, v6.scope_id()),
    };
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    to[0] = family;
    to[1..17].copy_from_slice(&ip.octets());
    to[17..19].copy_from_slice(&address.port().to_be_bytes());
    to[19..23].copy_from_slice(&scope.to_be_bytes());
}

fn read_address(from: &[u8]) -> Option<SocketAddr> {
    let (family, from) = from.split_first()?;
    let (ip, from) = from.split_first_chunk::<16>()?;
    let (port, from) = from.split_first_chunk::<2>()?;
    let (ip, port) = (Ipv6Addr::from(*ip), u16::from_be_bytes(*port));
    match family {
        4 => Some(SocketAddr::V4(SocketAddrV4::new(ip.to_ipv4_mapped()?, port))),
        6 => {
            let scope = u32::from_be_bytes(from.try_into().ok()?);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)))
        }
        _ => None,
    }
}

/// What a worker has besides the feed.
pub(crate) enum Inner<D> {
    /// All that it had before: its queue, its sockets.
    Serving(D),
    /// Kernel sockets to send from; the successor reads them.
    Sending(Box<UdpDatapath>),
    /// Nothing: it had opened no address.
    Nothing(Capabilities),
}

/// See the top of `datapath/fed.rs`.
pub(crate) struct FedDatapath<D> {
    inner: Inner<D>,
    feed: OwnedFd,
    /// The successor has closed the feed: its process is over.
    over: bool,
    /// The successor serves in this one's place.
    done: bool,
    buffer: Box<[u8]>,
    fds: Vec<RawFd>,
    /// What came through the feed.
    fed: QueueStats,
}

impl<D: Datapath> FedDatapath<D> {
    /// The worker's datapath, with a feed beside.
    pub(crate) fn new(inner: Inner<D>, feed: OwnedFd) -> Self {
        let buffer = vec![0; HEAD_BYTES + LONGEST_BYTES].into_boxed_slice();
        let fed = QueueStats::default();
        let (over, done, fds) = (false, false, Vec::new());
        let mut datapath = Self { inner, feed, over, done, buffer, fds, fed };
        datapath.gather_fds();
        datapath
    }

    /// Puts something else in the place of what there is besides the feed.
    pub(crate) fn replace(self, change: impl FnOnce(Inner<D>) -> Inner<D>) -> Self {
        let mut replaced = Self { inner: change(self.inner), ..self };
        replaced.gather_fds();
        replaced
    }

    /// What there is besides the feed, which ends.
    pub(crate) fn into_inner(self) -> Inner<D> {
        self.inner
    }

    pub(crate) fn inner_mut(&mut self) -> &mut Inner<D> {
        &mut self.inner
    }

    /// True once all was read that the successor had passed on before its end.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// The successor serves from now on.
    pub(crate) fn complete(&mut self) {
        self.done = true;
    }

    /// True once a successor that served has ended: nobody reads the kernel sockets.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.over && self.done
    }

    fn gather_fds(&mut self) {
        self.fds = vec![self.feed.as_raw_fd()];
        if let Inner::Serving(inner) = &self.inner {
            self.fds.extend_from_slice(inner.poll_fds());
        }
    }

    /// Datagrams that the successor has passed on.
    fn receive_fed(&mut self, budget: usize, sink: &mut dyn FnMut(&RxMeta, &mut [u8])) -> usize {
        let mut handed = 0;
        for _ in 0..budget {
            if self.over {
                break;
            }
            self.fed.rx_calls += 1;
            let len = match rustix::net::recv(&self.feed, &mut self.buffer[..], RecvFlags::DONTWAIT)
            {
                // No message is empty: each has a head.
                Ok((0, _)) | Err(Errno::CONNRESET) => {
                    self.over = true;
                    break;
                }
                Ok((len, _)) => len,
                Err(Errno::INTR) => continue,
                Err(_) => break,
            };
            let (head, rest) = self.buffer.split_at_mut(HEAD_BYTES);
            let payload = len.checked_sub(HEAD_BYTES).and_then(|len| rest.get_mut(..len));
            let Some((meta, payload)) = read_head(head).zip(payload) else {
                self.fed.drop_malformed += 1;
                continue;
            };
            self.fed.rx_packets += 1;
            self.fed.rx_bytes += payload.len() as u64;
            handed += 1;
            sink(&meta, payload);
        }
        handed
    }
}

impl<D: Datapath> Datapath for FedDatapath<D> {
    fn capabilities(&self) -> &Capabilities {
        match &self.inner {
            Inner::Serving(inner) => inner.capabilities(),
            Inner::Sending(sockets) => sockets.capabilities(),
            Inner::Nothing(capabilities) => capabilities,
        }
    }

    fn preview(&mut self, budget: usize, look: &mut dyn FnMut(&[u8])) {
        if let Inner::Serving(inner) = &mut self.inner {
            inner.preview(budget, look);
        }
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&RxMeta, &mut [u8])) -> usize {
        let received = match &mut self.inner {
            Inner::Serving(inner) => inner.receive(budget, sink),
            // What it had fetched before the successor began to read.
            Inner::Sending(sockets) => sockets.receive_held(budget, sink),
            Inner::Nothing(_) => 0,
        };
        received + self.receive_fed(budget.saturating_sub(received), sink)
    }

    fn backlog(&mut self) -> Backlog {
        match &mut self.inner {
            Inner::Serving(inner) => inner.backlog(),
            Inner::Sending(_) | Inner::Nothing(_) => Backlog::default(),
        }
    }

    fn recover(&mut self) {
        if let Inner::Serving(inner) = &mut self.inner {
            inner.recover();
        }
    }

    fn tx_buffer(&mut self, path: &Path) -> Option<&mut [u8]> {
        match &mut self.inner {
            Inner::Serving(inner) => inner.tx_buffer(path),
            Inner::Sending(sockets) => sockets.tx_buffer(path),
            Inner::Nothing(_) => None,
        }
    }

    fn tx_commit(&mut self, len: usize, path: &Path, ecn: Ecn) {
        match &mut self.inner {
            Inner::Serving(inner) => inner.tx_commit(len, path, ecn),
            Inner::Sending(sockets) => sockets.tx_commit(len, path, ecn),
            Inner::Nothing(_) => {}
        }
    }

    fn flush(&mut self) -> Result<(), DatapathError> {
        match &mut self.inner {
            Inner::Serving(inner) => inner.flush(),
            Inner::Sending(sockets) => sockets.flush(),
            Inner::Nothing(_) => Ok(()),
        }
    }

    fn prepare_sleep(&mut self) -> bool {
        match &mut self.inner {
            Inner::Serving(inner) => inner.prepare_sleep(),
            Inner::Sending(sockets) => sockets.prepare_sleep(),
            Inner::Nothing(_) => true,
        }
    }

    fn poll_fds(&self) -> &[RawFd] {
        &self.fds
    }

    fn stats(&self) -> QueueStats {
        let inner = match &self.inner {
            Inner::Serving(inner) => inner.stats(),
            Inner::Sending(sockets) => sockets.stats(),
            Inner::Nothing(_) => QueueStats::default(),
        };
        QueueStats {
            rx_packets: inner.rx_packets + self.fed.rx_packets,
            rx_bytes: inner.rx_bytes + self.fed.rx_bytes,
            rx_calls: inner.rx_calls + self.fed.rx_calls,
            drop_malformed: inner.drop_malformed + self.fed.drop_malformed,
            ..inner
        }
    }

    fn udp_stats(&self) -> UdpStats {
        match &self.inner {
            Inner::Serving(inner) => inner.udp_stats(),
            Inner::Sending(sockets) => sockets.udp_stats(),
            Inner::Nothing(_) => UdpStats::default(),
        }
    }
}

/// What a worker can do that had nothing open.
pub(crate) fn nothing() -> Capabilities {
    Capabilities {
        mode: Mode::Udp,
        queue: 0,
        device: None,
        max_datagram_bytes: 0,
        ecn: false,
        segmentation_offload: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::memory::MemoryDatapath;
    use std::os::fd::AsFd;

    fn meta(local: &str, remote: &str, ecn: Ecn, checksum: Checksum) -> RxMeta {
        let path = Path {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            link: Link::UNKNOWN,
        };
        RxMeta { path, ecn, checksum }
    }

    fn fed(feed: OwnedFd) -> FedDatapath<MemoryDatapath> {
        FedDatapath::new(Inner::Nothing(nothing()), feed)
    }

    #[test]
    fn a_datagram_comes_out_of_the_feed_with_path_and_marks() {
        let (far, near) = feed().unwrap();
        let mut datapath = fed(near);
        let all = [
            meta("10.0.0.1:443", "10.0.0.2:5000", Ecn::Ce, Checksum::Verified),
            meta("[fe80::1%7]:443", "[fe80::2%7]:1", Ecn::Ect0, Checksum::Unverified([1, 2])),
            meta("[2001:db8::1]:443", "[::ffff:1.2.3.4]:9", Ecn::NotEct, Checksum::Verified),
        ];
        for (n, meta) in all.iter().enumerate() {
            assert_eq!(pass_on(far.as_fd(), meta, &vec![n as u8; 1 + n * 30_000]), Fed::Yes);
        }
        let mut seen = Vec::new();
        let handed =
            datapath.receive(64, &mut |meta, bytes| seen.push((*meta, bytes.len(), bytes[0])));
        assert_eq!((handed, datapath.stats().rx_packets), (3, 3));
        for (n, (got, len, first)) in seen.iter().enumerate() {
            assert_eq!((got.path, got.ecn), (all[n].path, all[n].ecn));
            assert_eq!((got.checksum, *len, *first), (all[n].checksum, 1 + n * 30_000, n as u8));
        }
    }

    #[test]
    fn a_full_feed_drops_and_an_ended_one_says_so() {
        let (far, near) = feed().unwrap();
        let mut datapath = fed(near);
        let meta = meta("10.0.0.1:443", "10.0.0.2:5000", Ecn::Ect0, Checksum::Verified);
        let sent = (0..100_000).take_while(|_| pass_on(far.as_fd(), &meta, &[7; 1200]) == Fed::Yes);
        let sent = sent.count();
        assert!((100..100_000).contains(&sent), "{sent}");
        assert_eq!(pass_on(far.as_fd(), &meta, &[7; 1200]), Fed::Full);
        let mut got = 0;
        while datapath.receive(64, &mut |_, _| ()) > 0 {
            got += 64;
        }
        assert!(got >= sent && got < sent + 64, "{got} of {sent}");
        assert_eq!(pass_on(far.as_fd(), &meta, &[7; 1200]), Fed::Yes);
        drop(datapath);
        assert_eq!(pass_on(far.as_fd(), &meta, &[7; 1200]), Fed::Gone);
    }

    #[test]
    fn what_is_no_datagram_is_counted_and_an_end_is_the_end() {
        let (far, near) = feed().unwrap();
        let mut datapath = fed(near);
        for bytes in [&[1][..], &[0; HEAD_BYTES], &[0xff; HEAD_BYTES + 9]] {
            rustix::net::send(&far, bytes, SendFlags::empty()).unwrap();
        }
        assert_eq!(datapath.receive(64, &mut |_, _| panic!("handed out")), 0);
        assert_eq!(datapath.stats().drop_malformed, 3);
        drop(far);
        assert_eq!(datapath.receive(64, &mut |_, _| panic!("handed out")), 0);
        assert!(datapath.over);
    }
}
