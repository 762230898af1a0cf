//! Which frames a device takes: those to its own MAC, without a tag or in VLANs that were allowed.

use super::{ETHERNET_BYTES, VLAN_BYTES, VLAN_TAGS_MAX, Verdict, is_vlan, read_u16};
use std::error::Error;
use std::fmt;

/// The largest VLAN id; 4095 is reserved (IEEE 802.1Q, table 9-2).
const VLAN_ID_MAX: u16 = 4094;
/// The id in a tag; the rest is priority.
const VLAN_ID_BITS: u16 = 0x0fff;

/// VLANs by id. Id 0 stands for tags that carry a priority and no VLAN.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VlanSet {
    /// Bit `id % 64` of word `id / 64`, as `vlans` in `bpf/steer.bpf.c`.
    bits: [u64; 64],
}

impl VlanSet {
    /// Untagged frames alone.
    pub const NONE: Self = Self { bits: [0; 64] };

    /// Adds a VLAN.
    ///
    /// # Errors
    /// [`BadVlan`] if there is no VLAN of that id.
    pub fn insert(&mut self, id: u16) -> Result<(), BadVlan> {
        if id > VLAN_ID_MAX {
            return Err(BadVlan(id));
        }
        self.bits[usize::from(id / 64)] |= 1 << (id % 64);
        Ok(())
    }

    /// True if a VLAN was added.
    #[must_use]
    pub const fn contains(&self, id: u16) -> bool {
        let id = id & VLAN_ID_BITS;
        self.bits[(id / 64) as usize] >> (id % 64) & 1 == 1
    }

    /// As the program reads it.
    pub(crate) const fn words(&self) -> &[u64; 64] {
        &self.bits
    }
}

impl Default for VlanSet {
    fn default() -> Self {
        Self::NONE
    }
}

impl fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries((0..=VLAN_ID_MAX).filter(|id| self.contains(*id))).finish()
    }
}

/// A number that is no VLAN's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadVlan(pub u16);

impl fmt::Display for BadVlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VLAN {}: ids are 0 (a priority alone) to {VLAN_ID_MAX}", self.0)
    }
}

impl Error for BadVlan {}

/// What a device takes frames for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkRules {
    /// The MAC of the device. A device that is promiscuous, or virtual, receives frames to other
    /// hosts too. An answer to such a frame would leave with the other host's MAC as its source.
    pub mac: [u8; 6],
    /// The VLANs whose frames are taken. Every tag of a frame has to be of one of them. The kernel
    /// separates VLANs by devices of their own, with their own addresses and firewall rules. The
    /// XDP program takes frames before the kernel, so it has to know which VLANs it may take.
    pub vlans: VlanSet,
}

impl LinkRules {
    /// Decides if a frame whose headers were read is taken; the error says why the kernel gets it.
    pub(super) fn admit(&self, frame: &[u8]) -> Result<(), Verdict> {
        if frame.get(..6) != Some(&self.mac) {
            return Err(Verdict::PassOtherHost);
        }
        let mut at = ETHERNET_BYTES;
        for _ in 0..VLAN_TAGS_MAX {
            if !read_u16(frame, at - 2).is_some_and(is_vlan) {
                break;
            }
            if !read_u16(frame, at).is_some_and(|tag| self.vlans.contains(tag)) {
                return Err(Verdict::PassVlan);
            }
            at += VLAN_BYTES;
        }
        Ok(())
    }
}
