//! An address translator in front of a host, which forgets.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// The first port that is given out.
const FIRST_PORT: u16 = 40_000;

/// Maps the host's addresses to public ones.
///
/// A mapping lasts until [`rebind`](Nat::rebind): then the host's next datagram gets another
/// port, and the next public address of the list; what arrives for the old one is lost.
#[derive(Debug)]
pub(super) struct Nat {
    /// Not empty.
    addresses: Vec<IpAddr>,
    address: usize,
    next_port: u16,
    /// Ports are the private ones, and so much more for each time that it forgot.
    shift: Option<u16>,
    /// How often it forgot.
    rebinds: u16,
    outward: BTreeMap<SocketAddr, SocketAddr>,
    inward: BTreeMap<SocketAddr, SocketAddr>,
}

impl Nat {
    pub(super) fn new(addresses: Vec<IpAddr>, shift: Option<u16>) -> Self {
        Self {
            addresses,
            address: 0,
            next_port: FIRST_PORT,
            shift,
            rebinds: 0,
            outward: BTreeMap::new(),
            inward: BTreeMap::new(),
        }
    }

    /// What the network sees in place of `private`.
    pub(super) fn outward(&mut self, private: SocketAddr) -> SocketAddr {
        if let Some(public) = self.outward.get(&private) {
            return *public;
        }
        let port = match self.shift {
            Some(shift) => private.port().wrapping_add(shift.wrapping_mul(self.rebinds)),
            None => {
                let next = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
                std::mem::replace(&mut self.next_port, next)
            }
        };
        let public = SocketAddr::new(self.addresses[self.address], port);
        // Ports go round after 25,536 mappings: the oldest is forgotten for the newest.
        if let Some(old) = self.inward.insert(public, private) {
            self.outward.remove(&old);
        }
        self.outward.insert(private, public);
        public
    }

    /// Whom a datagram to `public` is for.
    pub(super) fn inward(&self, public: &SocketAddr) -> Option<SocketAddr> {
        self.inward.get(public).copied()
    }

    pub(super) fn rebind(&mut self) {
        self.outward.clear();
        self.inward.clear();
        self.address = (self.address + 1) % self.addresses.len();
        self.rebinds = self.rebinds.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_mapping_lasts_until_the_translator_forgets() {
        let mut nat = Nat::new(vec![socket("192.0.2.1:0").ip(), socket("192.0.2.2:0").ip()], None);
        let (one, two) = (socket("10.0.0.1:5"), socket("10.0.0.1:6"));
        let public = nat.outward(one);
        assert_eq!(public, socket("192.0.2.1:40000"));
        assert_eq!(nat.outward(two), socket("192.0.2.1:40001"));
        assert_eq!(nat.outward(one), public);
        assert_eq!(nat.inward(&public), Some(one));
        assert_eq!(nat.inward(&socket("192.0.2.1:40002")), None);
        nat.rebind();
        assert_eq!(nat.inward(&public), None);
        assert_eq!(nat.outward(one), socket("192.0.2.2:40002"));
        assert_eq!(nat.inward(&socket("192.0.2.2:40002")), Some(one));
    }

    #[test]
    fn ports_may_tell_who_is_behind_them() {
        let mut nat = Nat::new(vec![socket("192.0.2.1:0").ip()], Some(1_000));
        let (one, two) = (socket("10.0.0.1:5"), socket("10.0.0.1:6"));
        let ports = |nat: &mut Nat| [one, two].map(|private| nat.outward(private).port());
        assert_eq!(ports(&mut nat), [5, 6]);
        nat.rebind();
        nat.rebind();
        assert_eq!(ports(&mut nat), [2_005, 2_006]);
    }

    #[test]
    fn ports_go_round_without_ever_mapping_two_to_one() {
        let mut nat = Nat::new(vec![socket("192.0.2.1:0").ip()], None);
        for i in 0..60_000u32 {
            let private = SocketAddr::new(IpAddr::V4((0x0a00_0000 + i).into()), 1);
            let public = nat.outward(private);
            assert!(public.port() >= FIRST_PORT);
            assert_eq!(nat.inward(&public), Some(private));
        }
        assert_eq!(nat.outward.len(), usize::from(u16::MAX - FIRST_PORT) + 1);
        assert_eq!(nat.inward.len(), nat.outward.len());
    }
}
