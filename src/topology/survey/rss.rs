//! How a device spreads packets over its queues: keys, tables, hashed fields, rules.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One RSS context: a key and a table. Context 0 is for what no rule sends elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RssContext {
    /// Its number.
    pub id: u32,
    /// The hash function as ethtool calls it: `toeplitz`, `xor`, `crc32`; `None` if not told.
    pub hash_function: Option<String>,
    /// How the input is changed first: `symmetric-xor`, `symmetric-or-xor`; `None` as a rule.
    pub input_transform: Option<String>,
    /// The key, byte by byte; empty if the device does not show it.
    pub key: Vec<u8>,
    /// The indirection table: slot -> queue. Empty if there is none.
    pub table: Vec<u32>,
}

/// A kind of traffic that has hash fields of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowType {
    /// TCP over IPv4.
    Tcp4,
    /// UDP over IPv4.
    Udp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv6.
    Udp6,
}

impl FlowType {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tcp4, Self::Udp4, Self::Tcp6, Self::Udp6];

    /// As ethtool names it: `udp4`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp4 => "tcp4",
            Self::Udp4 => "udp4",
            Self::Tcp6 => "tcp6",
            Self::Udp6 => "udp6",
        }
    }
}

impl fmt::Display for FlowType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The hashed fields of one flow type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowHash {
    /// Which traffic.
    pub flow: FlowType,
    /// ethtool's letters, in this order: `m` destination MAC, `v` VLAN, `t` protocol, `s` source
    /// and `d` destination address, `f` source and `n` destination port, `r` discard, `e` GTP
    /// TEID. `sdfn` hashes addresses and ports. Empty: not hashed.
    pub letters: String,
    /// The context that the fields are of.
    pub context: u32,
}

impl FlowHash {
    /// True if both ports are hashed.
    #[must_use]
    pub fn has_ports(&self) -> bool {
        self.letters.contains('f') && self.letters.contains('n')
    }
}

/// A classification rule (`ethtool -n`), which goes before the hash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NtupleRule {
    /// Its place: rules with low numbers go first.
    pub location: u32,
    /// What it looks at: `tcp4`, `udp4`, `sctp4`, `ip4`, `tcp6`, `udp6`, `ip6`, `ether`, or the
    /// kernel's number.
    pub flow: String,
    /// Source address and mask, as text; `None` for any.
    pub source: Option<(String, String)>,
    /// Destination address and mask, as text; `None` for any.
    pub destination: Option<(String, String)>,
    /// Source port and mask; a set bit of the mask counts. `None` for any.
    pub source_port: Option<(u16, u16)>,
    /// Destination port and mask; `None` for any.
    pub destination_port: Option<(u16, u16)>,
    /// VLAN TCI and mask; `None` for any.
    pub vlan: Option<(u16, u16)>,
    /// What becomes of a packet that matches.
    pub action: RuleAction,
    /// Fields that the rule looks at and that are not above, as text: a verdict on it is unsure.
    pub others: Vec<String>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleAction {
    /// Throws the packet away.
    #[default]
    Drop,
    /// Gives it to a queue.
    Queue(u32),
    /// Hashes it with the table of an RSS context; the first number is added to what stands there.
    Context {
        /// Added to the table's queue number.
        queue_offset: u32,
        /// The context.
        context: u32,
    },
    /// Gives it to a queue of a virtual function.
    VirtualFunction {
        /// Which one, from 0.
        function: u32,
        /// Its queue.
        queue: u32,
    },
}
