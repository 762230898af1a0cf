//! Frames that no kernel would send: a packet socket, and headers written by hand.

use crate::netns::{Lab, Side, enter};
use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

const ETH_P_ALL: u16 = 3;

/// A socket that sends and receives whole frames on one end of the pair.
pub struct Raw {
    socket: OwnedFd,
    /// The address of this end.
    pub mac: [u8; 6],
    /// The address of the other end.
    pub peer_mac: [u8; 6],
}

impl Raw {
    /// Opens one.
    ///
    /// # Panics
    /// The kernel refuses.
    #[must_use]
    pub fn open(lab: &Lab, side: Side) -> Self {
        let (namespace, device) = (lab.namespace(side), lab.device(side));
        let socket = std::thread::spawn(move || {
            enter(&namespace);
            packet_socket(&device)
        });
        let other = if side == Side::Server { Side::Client } else { Side::Server };
        let mac = |side| {
            let line = format!("cat /sys/class/net/{}/address", lab.device(side));
            parse_mac(&lab.must_run(side, &["sh", "-c", &line]))
        };
        Self { socket: socket.join().unwrap(), mac: mac(side), peer_mac: mac(other) }
    }

    /// Sends a frame.
    ///
    /// # Panics
    /// The kernel refuses.
    pub fn send(&self, frame: &[u8]) {
        // SAFETY: `frame` is valid for reads of its length.
        let sent =
            unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next frame for which `wanted` holds; panics after ten seconds without one.
    pub fn receive(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut buffer = [0; 4096];
        // A bound on other traffic in between, such as router solicitations.
        for _ in 0..1_000 {
            // SAFETY: `buffer` is valid for writes of its length.
            let length = unsafe {
                libc::recv(self.socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0)
            };
            let error = io::Error::last_os_error();
            if length < 0 && error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            assert!(length > 0, "no such frame: {error}");
            let frame = &buffer[..length as usize];
            if wanted(frame) {
                return frame.to_vec();
            }
        }
        panic!("none of a thousand frames is the wanted one");
    }
}

fn packet_socket(device: &str) -> OwnedFd {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(ETH_P_ALL.to_be())) };
    assert!(fd >= 0, "socket(AF_PACKET): {}", io::Error::last_os_error());
    // SAFETY: `fd` was returned by socket() just now and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let name = std::ffi::CString::new(device).unwrap();
    // SAFETY: sockaddr_ll is a plain C structure, for which zeroes are valid; `name` is a C string.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ETH_P_ALL.to_be();
    // SAFETY: `name` is a valid C string.
    address.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) } as i32;
    let timeout = libc::timeval { tv_sec: Duration::from_secs(10).as_secs() as i64, tv_usec: 0 };
    // SAFETY: the addresses and lengths are those of live values of the right types.
    let result = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const timeout).cast(),
            mem::size_of_val(&timeout) as u32,
        ) | libc::bind(fd, (&raw const address).cast(), mem::size_of_val(&address) as u32)
    };
    assert_eq!(result, 0, "bind(AF_PACKET, {device}): {}", io::Error::last_os_error());
    socket
}

fn parse_mac(text: &str) -> [u8; 6] {
    let mut mac = [0; 6];
    for (byte, digits) in mac.iter_mut().zip(text.trim().split(':')) {
        *byte = u8::from_str_radix(digits, 16).unwrap();
    }
    mac
}

/// A UDP datagram in a frame, with right lengths and checksums.
#[derive(Clone)]
pub struct Frame {
    /// The destination MAC address.
    pub destination_mac: [u8; 6],
    /// The source MAC address.
    pub source_mac: [u8; 6],
    /// VLAN tags, the outer first.
    pub tags: Vec<[u8; 4]>,
    /// The source address and port.
    pub source: SocketAddr,
    /// The destination address and port.
    pub destination: SocketAddr,
    /// The payload.
    pub payload: Vec<u8>,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
}

impl Frame {
    /// A frame from the raw socket's side to the server's port.
    pub fn to_server(raw: &Raw, v6: bool, port: u16, payload: &[u8]) -> Self {
        Self {
            destination_mac: raw.peer_mac,
            source_mac: raw.mac,
            tags: Vec::new(),
            source: SocketAddr::new(Side::Client.ip(v6), 50_000),
            destination: SocketAddr::new(Side::Server.ip(v6), port),
            payload: payload.to_vec(),
            options: Vec::new(),
        }
    }

    /// Where the network header begins.
    pub fn network(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// The bytes, with right checksums.
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = [&self.destination_mac[..], &self.source_mac[..]].concat();
        self.tags.iter().for_each(|tag| frame.extend(tag));
        let udp = self.udp();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([0x08, 0x00, 0x45 + (self.options.len() / 4) as u8, 0]);
                let length = (20 + self.options.len() + udp.len()) as u16;
                frame.extend(length.to_be_bytes());
                frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                frame.extend(&self.options);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend((udp.len() as u16).to_be_bytes());
                frame.extend([17, 64]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            _ => panic!("one family"),
        }
        frame.extend(udp);
        repair_ip(&mut frame, self.network());
        frame
    }

    fn udp(&self) -> Vec<u8> {
        let length = (8 + self.payload.len()) as u16;
        let mut udp = self.source.port().to_be_bytes().to_vec();
        udp.extend(self.destination.port().to_be_bytes());
        udp.extend(length.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(&self.payload);
        let mut pseudo = Vec::new();
        for ip in [self.source.ip(), self.destination.ip()] {
            match ip {
                IpAddr::V4(ip) => pseudo.extend(ip.octets()),
                IpAddr::V6(ip) => pseudo.extend(ip.octets()),
            }
        }
        pseudo.extend([0, 17]);
        pseudo.extend(length.to_be_bytes());
        pseudo.extend(&udp);
        let checksum = match !sum(&pseudo) {
            0 => 0xffff,
            checksum => checksum,
        };
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
        udp
    }
}

/// Writes the IPv4 header checksum that the header at `at` should have.
pub fn repair_ip(frame: &mut [u8], at: usize) {
    if frame[at] >> 4 != 4 {
        return;
    }
    let end = at + 4 * usize::from(frame[at] & 15).max(5);
    frame[at + 10..at + 12].fill(0);
    let checksum = !sum(&frame[at..end]);
    frame[at + 10..at + 12].copy_from_slice(&checksum.to_be_bytes());
}

/// RFC 1071, implemented literally.
fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0u32;
    for word in bytes.chunks(2) {
        total += u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}
