//! What rtnetlink tells of the machine's own addresses: that some came or went, as it happens, whether an
//! address is one of them, and whether its device has lost its carrier.
//!
//! Of messages about addresses only the kinds are read. Which address it was is not taken from them: a
//! reader that comes too late for the socket's buffer loses messages, and asks again what it wants to know.
//! So it does the same in every case, and a flood of messages costs no more than to take them. Of messages
//! about links is kept which have no carrier any more, and all are asked for once messages were lost.
//!
//! A worker asks on its own thread, so no question may wait. RTM_GETLINK does, and RTM_GETADDR for all
//! families at once: for RTNL, which a program that removes 3,000 devices held for 3 s on Linux 6.18.
//! RTM_GETADDR for one family (since Linux 6.9), RTM_GETROUTE and the ioctls that are used here do not.
//! The numbers are those of `linux/rtnetlink.h` and `linux/if_addr.h`.

use super::carriers::{Carriers, Change};
use super::netlink::{Attributes, Messages, Netlink, Question, u32_at};
use super::refused::Refused;
use crate::time::Instant;
use crate::topology::sys::Ethtool;
use neli::consts::rtnl::Rtm;
use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

const WATCH: &str = "netlink RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR";
const ADDRESSES: &str = "netlink RTM_GETADDR";
const ROUTE: &str = "netlink RTM_GETROUTE";
/// The groups that tell of links, of IPv4 and of IPv6 addresses.
const GROUPS: [u32; 3] = [1, 5, 9];
/// Messages that are taken at one time: more are left for the next.
const MESSAGES_MAX: usize = 1_024;
/// Bytes of one message, or of several at once.
const MESSAGE_BYTES: usize = 8 * 1024;
/// What stands before the attributes of a route.
const ROUTE_BYTES: usize = 12;
/// What stands before the attributes of an address.
const ADDRESS_BYTES: usize = 8;
/// The attributes of an address that hold it. With a peer the first is the peer's, and the second ours.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// The kind of a route that leads to this machine itself.
const RTN_LOCAL: u8 = 2;
/// The attributes of a route that hold its destination, and the device to leave through.
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;

/// What happened to the machine's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AddressNews {
    /// Some went away, or more happened than could be heard.
    pub(crate) lost: bool,
    /// Some came, or were changed.
    pub(crate) came: bool,
    /// A device has lost its carrier.
    pub(crate) dark: bool,
}

/// Hears of changes of the machine's addresses, and of the carriers of their devices.
pub(crate) struct AddressWatch {
    monitor: NlSocket,
    questions: Netlink,
    links: Ethtool,
    carriers: Carriers,
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
        let (links, carriers) = (Ethtool::new()?, Carriers::default());
        let buffer = vec![0; MESSAGE_BYTES];
        let mut watch = Self { monitor, questions, links, carriers, buffer };
        watch.ask_carriers(Instant::EPOCH)?;
        Ok(watch)
    }

    /// To wait on for reading, level triggered.
    pub(crate) fn fd(&self) -> RawFd {
        self.monitor.as_raw_fd()
    }

    /// What has happened since the last call. Does not wait, and costs one system call if nothing has.
    pub(crate) fn heard(&mut self, now: Instant) -> AddressNews {
        let mut news = AddressNews::default();
        let mut missed = false;
        for _ in 0..MESSAGES_MAX {
            match self.monitor.recv(&mut self.buffer[..], Msg::DONTWAIT) {
                Ok((length, _)) => {
                    news.note(&self.buffer[..length], &mut self.carriers, now);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => missed = true,
                Err(_) => break,
            }
        }
        if missed {
            news.lost = true;
            match self.ask_carriers(now) {
                Ok((dark, _)) => news.dark |= dark,
                Err(refused) => {
                    tracing::debug!(%refused, "which links have a carrier is not known")
                }
            }
        }
        news
    }

    /// The addresses of this machine, each with the index of its device.
    fn all(&mut self) -> Result<Vec<(u32, IpAddr)>, Refused> {
        let mut all = Vec::new();
        // Both families at once would wait for RTNL.
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut body = [0; ADDRESS_BYTES];
            body[0] = family as u8;
            let note = &mut |answer: &[u8]| all.extend(address(answer));
            self.questions.ask(ADDRESSES, u16::from(Rtm::Getaddr), true, &body, note)?;
        }
        Ok(all)
    }

    /// Asks for the devices of all addresses, which it returns. True if one has lost its carrier meanwhile.
    fn ask_carriers(&mut self, now: Instant) -> Result<(bool, Vec<(u32, IpAddr)>), Refused> {
        let all = self.all()?;
        let devices: BTreeSet<u32> = all.iter().map(|&(index, _)| index).collect();
        let mut dark = false;
        for index in devices {
            match self.links.has_carrier(index) {
                Ok(has) => dark |= self.carriers.set(index, has, now) == Change::Lost,
                // It went away; its addresses did before.
                Err(refused) => tracing::debug!(index, %refused, "no answer about a device"),
            }
        }
        Ok((dark, all))
    }

    /// The addresses whose device, and every other that has them, lost its carrier at that time or before.
    /// Asks nothing if none did.
    pub(crate) fn dark(&mut self, now: Instant, since: Instant) -> Vec<IpAddr> {
        if !self.carriers.any_dark(since) {
            return Vec::new();
        }
        // The kernel may tell of a carrier that is back up to a second late.
        let all = match self.ask_carriers(now) {
            Ok((_, all)) => all,
            Err(refused) => {
                tracing::debug!(%refused, "which addresses have no carrier is not known");
                return Vec::new();
            }
        };
        let mut dark = HashMap::new();
        for (index, ip) in all {
            *dark.entry(ip).or_insert(true) &= self.carriers.is_dark(index, since);
        }
        dark.into_iter().filter_map(|(ip, is_dark)| is_dark.then_some(ip)).collect()
    }

    /// True if packets to `ip` stay on this machine: no device has to have the address, 127.0.0.2 is
    /// one as well. True also if the kernel does not say. Of sockets that are bound to a device, such as one
    /// that stands for a routing domain (VRF), its tables have a say too.
    pub(crate) fn is_own(&mut self, ip: IpAddr, device: Option<&str>) -> bool {
        if self.is_local(ip, None) {
            return true;
        }
        let Some(device) = device else { return false };
        match self.links.index(device) {
            Ok(index) => self.is_local(ip, Some(index)),
            Err(refused) => {
                tracing::debug!(device, %refused, "no answer about the device of the sockets");
                false
            }
        }
    }

    /// True if packets to `ip`, which leave through a device if one is named, stay here.
    fn is_local(&mut self, ip: IpAddr, through: Option<u32>) -> bool {
        let (family, octets) = match ip {
            IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
            IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
        };
        let mut body = vec![0; ROUTE_BYTES];
        body[0] = family as u8;
        body[1] = octets.len() as u8 * 8;
        let mut question = Question::default().bytes(RTA_DST, &octets);
        if let Some(index) = through {
            question = question.u32(RTA_OIF, index);
        }
        body.extend(question.as_bytes());
        let mut kind = None;
        let kind_of = &mut |answer: &[u8]| kind = answer.get(7).copied();
        match self.questions.ask(ROUTE, u16::from(Rtm::Getroute), false, &body, kind_of) {
            Ok(()) => kind.is_none_or(|kind| kind == RTN_LOCAL),
            Err(refused) => !is_nowhere(&refused),
        }
    }
}

/// An address of ours, and the index of its device.
fn address(answer: &[u8]) -> Option<(u32, IpAddr)> {
    let attributes = Attributes(answer.get(ADDRESS_BYTES..)?);
    let octets = attributes.get(IFA_LOCAL).or_else(|| attributes.get(IFA_ADDRESS))?;
    let ip = match *octets {
        [a, b, c, d] => IpAddr::from([a, b, c, d]),
        _ => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
    };
    Some((u32_at(answer, 4)?, ip))
}

/// The kernel says that there is no route.
fn is_nowhere(refused: &Refused) -> bool {
    matches!(refused.errno(), libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL | libc::EACCES)
}

impl AddressNews {
    fn note(&mut self, messages: &[u8], carriers: &mut Carriers, now: Instant) {
        for (kind, body) in Messages(messages) {
            if kind == u16::from(Rtm::Newlink) {
                let change = carriers.note(body, now);
                self.dark |= change == Change::Lost;
                self.came |= change == Change::Back;
            } else if kind == u16::from(Rtm::Dellink) {
                carriers.forget(body);
            }
            self.lost |= kind == u16::from(Rtm::Deladdr);
            self.came |= kind == u16::from(Rtm::Newaddr);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::carriers::tests::link;
    use super::*;
    use quiclane_testkit::netns::{Lab, LabConfig, Side, host_ip, privileged};
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

    #[test]
    fn an_address_is_ours_if_packets_to_it_stay_here() {
        let mut watch = AddressWatch::open().unwrap();
        assert_eq!(watch.heard(Instant::EPOCH), AddressNews::default());
        for own in ["127.0.0.1", "127.9.8.7", "::1"] {
            assert!(watch.is_own(own.parse().unwrap(), Some("lo")), "{own}");
        }
        // Documentation prefixes (RFC 5737, RFC 3849).
        for other in ["192.0.2.77", "2001:db8::77"] {
            assert!(!watch.is_own(other.parse().unwrap(), Some("lo")), "{other}");
        }
    }

    /// As of a device that stands for a routing domain (VRF), which not every kernel has.
    #[test]
    fn the_tables_of_a_device_have_a_say() {
        if !privileged("the_tables_of_a_device_have_a_say") {
            return;
        }
        let lab = Lab::new(LabConfig { queues: 1 });
        lab.enter(Side::Client);
        let device = lab.device(Side::Client);
        for (family, ip) in [("-4", "10.78.0.9"), ("-6", "fd78::9")] {
            let run = |line: String| {
                lab.must_run(Side::Client, &line.split_whitespace().collect::<Vec<_>>());
            };
            run(format!("ip {family} rule add oif {device} lookup 1000 pref 5"));
            run(format!("ip {family} route add local {ip} dev {device} table 1000"));
            let (own, other) = (ip.parse().unwrap(), host_ip(99, family == "-6"));
            let mut watch = AddressWatch::open().unwrap();
            let mut of = |ip, device| watch.is_own(ip, device);
            assert!(!of(own, None) && !of(own, Some("lo")) && !of(own, Some("none-such")), "{ip}");
            assert!(of(own, Some(&device)), "{ip}");
            assert!(!of(other, Some(&device)), "{other}");
            assert!(of(Side::Client.ip(family == "-6"), Some("lo")), "it is another device's");
        }
    }

    /// Devices that are removed at once hold RTNL meanwhile.
    #[test]
    fn no_question_waits_while_devices_are_removed() {
        if !privileged("no_question_waits_while_devices_are_removed") {
            return;
        }
        let lab = Lab::new(LabConfig { queues: 1 });
        lab.enter(Side::Client);
        let line =
            "for i in $(seq 600); do echo link add many$i group 7 type veth; done | ip -batch -";
        lab.must_run(Side::Client, &["sh", "-c", line]);
        let mut removal = lab.command(Side::Client, &["ip", "link", "del", "group", "7"]);
        let mut removal = removal.spawn().unwrap();
        let (own, other) = (Side::Client.ip(false), "192.0.2.77".parse().unwrap());
        let (waits, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        // Rounds that were answered while one question for all links had to wait.
        let (mut longest, mut are_right) = (0, true);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut links = Netlink::new(NlFamily::Route).unwrap();
                while !is_over.load(SeqCst) {
                    let kind = u16::from(Rtm::Getlink);
                    links.ask("RTM_GETLINK", kind, true, &[0; 16], &mut |_| {}).unwrap();
                    waits.fetch_add(1, SeqCst);
                }
            });
            let (mut at, mut rounds) = (0, 0);
            while removal.try_wait().unwrap().is_none() {
                let mut watch = AddressWatch::open().unwrap();
                // A device that nobody has: what may have no carrier is asked for.
                watch.carriers.set(u32::MAX, true, Instant::EPOCH);
                watch.carriers.set(u32::MAX, false, Instant::EPOCH);
                let dark = watch.dark(Instant::EPOCH, Instant::EPOCH);
                let (mine, not_mine) = (watch.is_own(own, Some("lo")), watch.is_own(other, None));
                are_right &= dark.is_empty() && mine && !not_mine;
                let before = std::mem::replace(&mut at, waits.load(SeqCst));
                rounds = if at == before { rounds + 1 } else { 0 };
                longest = longest.max(rounds);
            }
            is_over.store(true, SeqCst);
        });
        assert!(longest > 150 && are_right, "{longest} {are_right}");
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
            news.note(&all, &mut Carriers::default(), Instant::EPOCH);
            (news.lost, news.came)
        };
        // RTM_NEWADDR, RTM_DELADDR; RTM_NEWROUTE says nothing here, and RTM_NEWLINK only what it holds.
        assert_eq!(of(&[20]), (false, true));
        assert_eq!(of(&[21]), (true, false));
        assert_eq!(of(&[16, 24]), (false, false));
        assert_eq!(of(&[16, 21, 20]), (true, true));
    }

    #[test]
    fn a_link_that_loses_its_carrier_is_told_and_so_is_one_that_gets_it_back() {
        let message = |kind: u16, body: &[u8]| {
            let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(body);
            bytes
        };
        let mut carriers = Carriers::default();
        let mut of = |has_carrier| {
            let mut news = AddressNews::default();
            news.note(&message(16, &link(0, 7, has_carrier)), &mut carriers, Instant::EPOCH);
            (news.lost, news.came, news.dark)
        };
        assert_eq!(of(true), (false, false, false));
        assert_eq!(of(false), (false, false, true));
        assert_eq!(of(false), (false, false, false));
        assert_eq!(of(true), (false, true, false));
    }

    #[test]
    fn an_address_is_read_with_its_device() {
        let of = |family: i32, attributes: Question| {
            let mut answer = vec![family as u8, 24, 0, 0, 7, 0, 0, 0];
            answer[4..8].copy_from_slice(&7u32.to_ne_bytes());
            answer.extend(attributes.as_bytes());
            address(&answer)
        };
        let (ours, peer) = ([192, 0, 2, 1], [192, 0, 2, 9]);
        let both = Question::default().bytes(IFA_ADDRESS, &peer).bytes(IFA_LOCAL, &ours);
        assert_eq!(of(libc::AF_INET, both), Some((7, ours.into())));
        let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let only = Question::default().bytes(IFA_ADDRESS, &v6);
        assert_eq!(of(libc::AF_INET6, only), Some((7, v6.into())));
        let short = Question::default().bytes(IFA_ADDRESS, &v6[..7]);
        assert_eq!(of(libc::AF_INET6, short), None);
        assert_eq!(address(&[0; 7]), None);
    }
}
