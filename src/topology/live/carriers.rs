//! Which devices have lost their carrier, by what rtnetlink tells of links.
//!
//! A device that never had one is left out: an address on a bridge without ports serves as well as any,
//! and packets from it leave elsewhere. The numbers are those of `linux/if.h`.

use super::netlink::u32_at;
use crate::time::Instant;
use std::collections::HashMap;

/// `IFF_LOWER_UP`: the device is up, and its driver sees a link.
const HAS_CARRIER: u32 = 1 << 16;

/// What a message changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    Lost,
    Back,
}

/// Devices, by their index, that have or had a carrier, and when they lost it.
#[derive(Debug, Default)]
pub(super) struct Carriers(HashMap<u32, Option<Instant>>);

impl Carriers {
    /// The body of RTM_NEWLINK, which came now. It comes for other reasons too.
    pub(super) fn note(&mut self, body: &[u8], now: Instant) -> Change {
        let (Some(index), Some(flags)) = (u32_at(body, 4), u32_at(body, 8)) else {
            return Change::Nothing;
        };
        self.set(index, flags & HAS_CARRIER != 0, now)
    }

    /// What is known of a device now.
    pub(super) fn set(&mut self, index: u32, has_carrier: bool, now: Instant) -> Change {
        if has_carrier {
            let before = self.0.insert(index, None);
            return if before.flatten().is_some() { Change::Back } else { Change::Nothing };
        }
        match self.0.get_mut(&index) {
            Some(lost_at @ None) => {
                *lost_at = Some(now);
                Change::Lost
            }
            _ => Change::Nothing,
        }
    }

    /// The body of RTM_DELLINK. Of a bridge's family it says that a device is no port any more.
    pub(super) fn forget(&mut self, body: &[u8]) {
        if body.first() == Some(&(libc::AF_UNSPEC as u8))
            && let Some(index) = u32_at(body, 4)
        {
            self.0.remove(&index);
        }
    }

    /// A device has been without its carrier since then.
    pub(super) fn is_dark(&self, index: u32, since: Instant) -> bool {
        self.0.get(&index).is_some_and(|lost_at| lost_at.is_some_and(|at| at <= since))
    }

    /// Some device has.
    pub(super) fn any_dark(&self, since: Instant) -> bool {
        self.0.keys().any(|&index| self.is_dark(index, since))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The body of a message about a device.
    pub(in super::super) fn link(family: i32, index: u32, has_carrier: bool) -> Vec<u8> {
        // Up, broadcast, multicast: what stays when the carrier goes.
        let flags = 0x1003 | if has_carrier { HAS_CARRIER } else { 0 };
        let mut body = vec![family as u8, 0, 1, 0];
        body.extend([index, flags, 0].iter().flat_map(|number| number.to_ne_bytes()));
        body
    }

    #[test]
    fn a_device_is_dark_from_when_it_loses_a_carrier_that_it_had() {
        let at = |ns| Instant::EPOCH.plus_ns(ns);
        let mut carriers = Carriers::default();
        let mut note = |index, has_carrier, ns| {
            let change = carriers.note(&link(0, index, has_carrier), at(ns));
            (change, carriers.is_dark(index, at(100)))
        };
        assert_eq!(note(7, true, 1), (Change::Nothing, false));
        assert_eq!(note(8, false, 2), (Change::Nothing, false), "it never had one");
        assert_eq!(note(7, false, 100), (Change::Lost, true));
        assert_eq!(note(7, false, 130), (Change::Nothing, true), "told for another reason");
        assert_eq!(note(7, true, 140), (Change::Back, false));
        assert_eq!(note(7, false, 150), (Change::Lost, false), "not since then");
        assert_eq!(note(8, true, 160), (Change::Nothing, false));
        assert!(!carriers.any_dark(at(149)) && carriers.any_dark(at(150)));
        carriers.forget(&link(libc::AF_BRIDGE, 7, false));
        assert!(carriers.is_dark(7, at(150)), "it has only left its bridge");
        carriers.forget(&link(0, 7, false));
        assert!(!carriers.any_dark(at(1_000)));
        for cut in 0..12 {
            assert_eq!(carriers.note(&link(0, 9, true)[..cut], at(0)), Change::Nothing);
            carriers.forget(&link(0, 8, true)[..cut.min(7)]);
        }
        assert_eq!(carriers.note(&link(0, 8, false), at(0)), Change::Lost, "it is still known");
    }
}
