//! What rtnetlink tells of the machine's own addresses: that some came or went, as it happens, and
//! whether an address is one of them.
//!
//! Only the kinds of messages are read. Which address it was is not taken from them: a reader that comes
//! too late for the socket's buffer loses messages, and asks again what it wants to know. So it does the
//! same in every case, and a flood of messages costs no more than to take them. The numbers are those of
//! `linux/rtnetlink.h`.

use super::netlink::{Messages, Netlink, Question};
use super::refused::Refused;
use neli::consts::rtnl::Rtm;
use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

const WATCH: &str = "netlink RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR";
const ROUTE: &str = "netlink RTM_GETROUTE";
/// The groups that tell of IPv4 and of IPv6 addresses.
const GROUPS: [u32; 2] = [5, 9];
/// Messages that are taken at one time: more are left for the next.
const MESSAGES_MAX: usize = 1_024;
/// Bytes of one message, or of several at once.
const MESSAGE_BYTES: usize = 8 * 1024;
/// What stands before the attributes of a route.
const ROUTE_BYTES: usize = 12;
/// The kind of a route that leads to this machine itself.
const RTN_LOCAL: u8 = 2;
/// The attribute of a route that holds its destination.
const RTA_DST: u16 = 1;

/// What happened to the machine's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AddressNews {
    /// Some went away, or more happened than could be heard.
    pub(crate) lost: bool,
    /// Some came, or were changed.
    pub(crate) came: bool,
}

/// Hears of changes of the machine's addresses.
pub(crate) struct AddressWatch {
    monitor: NlSocket,
    questions: Netlink,
    buffer: Vec<u8>,
}

impl AddressWatch {
    /// Hears from now on, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Says what the kernel refuses.
    pub(crate) fn open() -> Result<Self, String> {
        Self::try_open().map_err(|refused| refused.to_string())
    }

    fn try_open() -> Result<Self, Refused> {
        let failed = |error| Refused::failed(WATCH, error);
        let monitor = NlSocket::connect(NlFamily::Route, None, Groups::empty()).map_err(failed)?;
        monitor.add_mcast_membership(Groups::new_groups(&GROUPS)).map_err(failed)?;
        let questions = Netlink::new(NlFamily::Route)?;
        Ok(Self { monitor, questions, buffer: vec![0; MESSAGE_BYTES] })
    }

    /// To wait on for reading, level triggered.
    pub(crate) fn fd(&self) -> RawFd {
        self.monitor.as_raw_fd()
    }

    /// What has happened since the last call. Does not wait, and costs one system call if nothing has.
    pub(crate) fn heard(&mut self) -> AddressNews {
        let mut news = AddressNews::default();
        for _ in 0..MESSAGES_MAX {
            match self.monitor.recv(&mut self.buffer[..], Msg::DONTWAIT) {
                Ok((length, _)) => news.note(&self.buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => news.lost = true,
                Err(_) => break,
            }
        }
        news
    }

    /// True if packets to `ip` stay on this machine: no device has to have the address, 127.0.0.2 is
    /// one as well. True also if the kernel does not say.
    pub(crate) fn is_own(&mut self, ip: IpAddr) -> bool {
        let (family, octets) = match ip {
            IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
            IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
        };
        let mut body = vec![0; ROUTE_BYTES];
        body[0] = family as u8;
        body[1] = octets.len() as u8 * 8;
        body.extend(Question::default().bytes(RTA_DST, &octets).as_bytes());
        let mut kind = None;
        let kind_of = &mut |answer: &[u8]| kind = answer.get(7).copied();
        match self.questions.ask(ROUTE, u16::from(Rtm::Getroute), false, &body, kind_of) {
            Ok(()) => kind.is_none_or(|kind| kind == RTN_LOCAL),
            Err(refused) => !is_nowhere(&refused),
        }
    }
}

/// The kernel says that there is no route.
fn is_nowhere(refused: &Refused) -> bool {
    matches!(refused.errno(), libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL | libc::EACCES)
}

impl AddressNews {
    fn note(&mut self, messages: &[u8]) {
        for (kind, _) in Messages(messages) {
            self.lost |= kind == u16::from(Rtm::Deladdr);
            self.came |= kind == u16::from(Rtm::Newaddr);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_ours_if_packets_to_it_stay_here() {
        let mut watch = AddressWatch::open().unwrap();
        assert_eq!(watch.heard(), AddressNews::default());
        for own in ["127.0.0.1", "127.9.8.7", "::1"] {
            assert!(watch.is_own(own.parse().unwrap()), "{own}");
        }
        // Documentation prefixes (RFC 5737, RFC 3849).
        for other in ["192.0.2.77", "2001:db8::77"] {
            assert!(!watch.is_own(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn messages_are_told_apart_by_their_kind() {
        let message = |kind: u16| {
            let mut bytes = vec![0; 24];
            bytes[..4].copy_from_slice(&24u32.to_ne_bytes());
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes
        };
        let of = |kinds: &[u16]| {
            let all: Vec<u8> = kinds.iter().flat_map(|&kind| message(kind)).collect();
            let mut news = AddressNews::default();
            news.note(&all);
            (news.lost, news.came)
        };
        // RTM_NEWADDR, RTM_DELADDR; RTM_NEWLINK and RTM_NEWROUTE say nothing here.
        assert_eq!(of(&[20]), (false, true));
        assert_eq!(of(&[21]), (true, false));
        assert_eq!(of(&[16, 24]), (false, false));
        assert_eq!(of(&[16, 21, 20]), (true, true));
    }
}
