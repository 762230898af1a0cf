//! Which link address a peer is reached at, for paths that no packet has told it yet.
//!
//! A server answers to the addresses that packets came from and never asks. A client's first packet
//! has nothing to go by: the kernel is asked for the route and for the neighbour on it. While the
//! kernel knows none, packets leave through its own socket, which makes it resolve the neighbour;
//! the next question finds it.
//!
//! What was found is used for [`FRESH_NS`]. Then one packet goes through the kernel again: AF_XDP
//! traffic does not pass the kernel's neighbour table, and without that packet the kernel would
//! never notice that a neighbour moved, and would forget it in the end.

use super::netlink::Netlink;
use super::sys::Failed;
use crate::datapath::Link;
use crate::datapath::headers::{ETHERNET_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use std::collections::HashMap;
use std::net::IpAddr;

/// How long a neighbour is used before it is asked for again. Linux itself holds one reachable for
/// 15 to 45 s.
const FRESH_NS: u64 = 15_000_000_000;
/// How long a neighbour that the kernel does not know yet is not asked for again: ARP on a local
/// network answers within this.
const RETRY_NS: u64 = 2_000_000;
/// How long a destination behind another device, or behind none, stays with the kernel.
const ELSEWHERE_NS: u64 = 5_000_000_000;
/// Destinations that are remembered. A flood of new ones evicts old ones, which costs a question
/// each and no memory.
const ENTRIES_MAX: usize = 1024;

/// Questions to the kernel in a second, of 10 to 20 us each. Who spoofs sources in fragments, which
/// come without a link address, costs two of them and one packet through the kernel for each
/// source; beyond this nothing is sent to a source that is new.
const ASKS_PER_SECOND: u32 = 1_000;
const SECOND_NS: u64 = 1_000_000_000;

/// How to reach a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Straight from the TX ring, with this source address.
    Link(Link, IpAddr),
    /// Through the kernel's socket, this time.
    Kernel,
    /// Not at all, this time: too many others had to be asked for.
    NotNow,
}

/// What is known of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    reach: Reach,
    ask_again_ns: u64,
}

/// The peers that one worker talks to first.
pub(super) struct Neighbours<Ask = Netlink> {
    ask: Ask,
    ifindex: u32,
    mac: [u8; 6],
    entries: HashMap<Ends, Entry>,
    /// When the second of the budget began, and what is used of it.
    asked_since_ns: u64,
    asked: u32,
    /// The entry used last: most packets in a row go to one peer.
    last: Option<(Ends, Entry)>,
}

type Ends = (IpAddr, IpAddr);

/// The question, so that tests can answer it.
pub(super) trait Resolve {
    /// The link address for packets from one address to another that leave through `ifindex`.
    fn resolve(&mut self, ifindex: u32, local: IpAddr, remote: IpAddr) -> Result<Found, Failed>;
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The neighbour's address, and the source that packets to it should have.
    Neighbour([u8; 6], IpAddr),
    /// On this device, and not resolved yet.
    Unresolved,
    /// On another device, on this machine, or nowhere.
    Elsewhere,
}

impl Resolve for Netlink {
    fn resolve(&mut self, ifindex: u32, local: IpAddr, remote: IpAddr) -> Result<Found, Failed> {
        let source = (!local.is_unspecified()).then_some(local);
        let route = self.route(remote, source)?;
        if !route.unicast || route.ifindex != ifindex {
            return Ok(Found::Elsewhere);
        }
        let Some(source) = source.or(route.source) else { return Ok(Found::Elsewhere) };
        let neighbour = self.neighbour(ifindex, route.next_hop)?;
        Ok(neighbour.map_or(Found::Unresolved, |mac| Found::Neighbour(mac, source)))
    }
}

impl<Ask: Resolve> Neighbours<Ask> {
    pub(super) fn new(ask: Ask, ifindex: u32, mac: [u8; 6]) -> Self {
        Self { ask, ifindex, mac, entries: HashMap::new(), asked_since_ns: 0, asked: 0, last: None }
    }

    /// How the next packet from `local` to `remote` gets there.
    pub(super) fn reach(&mut self, now_ns: u64, local: IpAddr, remote: IpAddr) -> Reach {
        let ends = (local, remote);
        if let Some((last, entry)) = self.last
            && last == ends
            && now_ns < entry.ask_again_ns
        {
            return entry.reach;
        }
        match self.entries.get(&ends) {
            Some(entry) if now_ns < entry.ask_again_ns => {
                self.last = Some((ends, *entry));
                entry.reach
            }
            known => {
                let is_new = known.is_none();
                // Without a budget, what was true until now is better than nothing.
                let stale = known.map_or(Reach::NotNow, |entry| entry.reach);
                if self.may_ask(now_ns) { self.look_up(now_ns, ends, is_new) } else { stale }
            }
        }
    }

    fn may_ask(&mut self, now_ns: u64) -> bool {
        if now_ns.saturating_sub(self.asked_since_ns) >= SECOND_NS {
            (self.asked_since_ns, self.asked) = (now_ns, 0);
        }
        self.asked += 1;
        self.asked <= ASKS_PER_SECOND
    }

    /// Asks. A known neighbour whose time is over gets this packet through the kernel, see above.
    fn look_up(&mut self, now_ns: u64, ends: Ends, is_new: bool) -> Reach {
        let (local, remote) = ends;
        let (reach, keep_ns) = match self.ask.resolve(self.ifindex, local, remote) {
            Ok(Found::Neighbour(mac, source)) => {
                (Reach::Link(self.link(mac, remote), source), FRESH_NS)
            }
            Ok(Found::Unresolved) => (Reach::Kernel, RETRY_NS),
            Ok(Found::Elsewhere) => (Reach::Kernel, ELSEWHERE_NS),
            Err(failed) => {
                let Failed { call, error } = failed;
                tracing::debug!(call, %error, %remote, "no answer about a neighbour");
                (Reach::Kernel, ELSEWHERE_NS)
            }
        };
        self.make_room(now_ns);
        let entry = Entry { reach, ask_again_ns: now_ns.saturating_add(keep_ns) };
        let was_link =
            self.entries.insert(ends, entry).is_some_and(|old| old.reach != Reach::Kernel);
        self.last = Some((ends, entry));
        if is_new || !was_link { reach } else { Reach::Kernel }
    }

    fn make_room(&mut self, now_ns: u64) {
        if self.entries.len() < ENTRIES_MAX {
            return;
        }
        self.entries.retain(|_, entry| now_ns < entry.ask_again_ns);
        while self.entries.len() >= ENTRIES_MAX {
            // The entry that the map names first: its order is secret, so an attacker cannot aim at
            // one.
            let Some(victim) = self.entries.keys().next().copied() else { return };
            self.entries.remove(&victim);
        }
    }

    fn link(&self, mac: [u8; 6], remote: IpAddr) -> Link {
        let ethertype = if remote.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        let mut header = [0; 22];
        header[..6].copy_from_slice(&mac);
        header[6..12].copy_from_slice(&self.mac);
        header[12..ETHERNET_BYTES].copy_from_slice(&ethertype.to_be_bytes());
        Link { header, len: ETHERNET_BYTES as u8 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// Answers what it is told to, and counts.
    struct Answers {
        found: Found,
        asked: usize,
    }

    impl Resolve for Answers {
        fn resolve(&mut self, _: u32, _: IpAddr, _: IpAddr) -> Result<Found, Failed> {
            self.asked += 1;
            Ok(self.found)
        }
    }

    const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    fn peer(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))
    }

    fn neighbours(found: Found) -> Neighbours<Answers> {
        Neighbours::new(Answers { found, asked: 0 }, 3, [2, 0, 0, 0, 0, 1])
    }

    #[test]
    fn a_neighbour_is_asked_for_once_while_it_is_fresh() {
        let mut table = neighbours(Found::Neighbour(PEER_MAC, LOCAL));
        let first = table.reach(0, LOCAL, peer(1));
        let Reach::Link(link, source) = first else { panic!("not resolved") };
        assert_eq!(source, LOCAL);
        assert_eq!(link.header[..14], [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0]);
        assert_eq!(table.reach(FRESH_NS - 1, LOCAL, peer(1)), first);
        assert!(matches!(table.reach(5, LOCAL, peer(2)), Reach::Link(..)));
        assert_eq!(table.reach(6, LOCAL, peer(1)), first);
        assert_eq!(table.ask.asked, 2);
    }

    #[test]
    fn one_packet_goes_through_the_kernel_when_freshness_ends() {
        let mut table = neighbours(Found::Neighbour(PEER_MAC, LOCAL));
        let link = table.reach(0, LOCAL, peer(1));
        assert_eq!(table.reach(FRESH_NS, LOCAL, peer(1)), Reach::Kernel);
        assert_eq!(table.reach(FRESH_NS, LOCAL, peer(1)), link);
        assert_eq!(table.ask.asked, 2);
    }

    #[test]
    fn an_unresolved_neighbour_is_asked_for_again_and_then_used() {
        let mut table = neighbours(Found::Unresolved);
        assert_eq!(table.reach(0, LOCAL, peer(1)), Reach::Kernel);
        assert_eq!(table.reach(RETRY_NS - 1, LOCAL, peer(1)), Reach::Kernel);
        assert_eq!(table.ask.asked, 1);
        table.ask.found = Found::Neighbour(PEER_MAC, LOCAL);
        assert!(matches!(table.reach(RETRY_NS, LOCAL, peer(1)), Reach::Link(..)));
        table.ask.found = Found::Elsewhere;
        assert_eq!(table.reach(RETRY_NS, LOCAL, peer(2)), Reach::Kernel);
        assert_eq!(table.reach(RETRY_NS + ELSEWHERE_NS - 1, LOCAL, peer(2)), Reach::Kernel);
        assert_eq!(table.ask.asked, 3);
    }

    #[test]
    fn attack_56_a_flood_of_destinations_is_bounded() {
        let mut table = neighbours(Found::Neighbour(PEER_MAC, LOCAL));
        let mut now_ns = 1;
        for number in 0..5 * ENTRIES_MAX as u32 {
            now_ns += 2 * SECOND_NS / u64::from(ASKS_PER_SECOND);
            table.reach(now_ns, LOCAL, peer(number));
            assert!(table.entries.len() <= ENTRIES_MAX);
        }
        assert!(matches!(table.reach(now_ns, LOCAL, peer(0)), Reach::Link(..)));
    }

    #[test]
    fn attack_56_spoofed_sources_cost_a_bounded_number_of_questions() {
        let mut table = neighbours(Found::Neighbour(PEER_MAC, LOCAL));
        let honest = table.reach(0, LOCAL, peer(0));
        let mut left_out = 0;
        for number in 1..100_000 {
            let now_ns = u64::from(number) * 10_000; // 100,000 in a second.
            left_out += u32::from(table.reach(now_ns, LOCAL, peer(number)) == Reach::NotNow);
        }
        assert_eq!(table.ask.asked, ASKS_PER_SECOND as usize);
        assert_eq!(left_out, 100_000 - ASKS_PER_SECOND);
        // Whom we know is reached all the same, also when it is time to ask again.
        assert_eq!(table.reach(SECOND_NS - 1, LOCAL, peer(0)), honest);
        assert!(matches!(table.reach(SECOND_NS, LOCAL, peer(9_999)), Reach::Link(..)));
    }
}
