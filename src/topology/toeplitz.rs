//! Which queue a packet goes to: the hash that NICs compute, computed by us.
//!
//! A NIC that spreads its load over queues (receive-side scaling, RSS) does three things to
//! a packet. It strings the fields that it was told to hash into bytes:
//!
//! ```text
//! source address | destination address [| source port | destination port]     network order
//! ```
//!
//! It hashes them with the Toeplitz function over its secret key: for every input bit that is
//! one, the 32 bits of the key that begin at that bit's position are added (XOR) to the result.
//! And it takes the low bits of the hash as a slot of its indirection table, where a queue
//! number stands:
//!
//! ```text
//! fields --Toeplitz(key)--> hash --low bits--> slot --table--> queue
//! ```
//!
//! With the key and the table (`ethtool -x`) the queue of each flow is known. Two things are worth
//! knowing besides. Most drivers hash UDP by addresses alone until they are told otherwise
//! (`ethtool -N DEV rx-flow-hash udp4 sdfn`), so that all flows between two hosts meet on one
//! queue: that is [`HashFields::Addresses`]. And fragments carry no ports, so that they are
//! always hashed by addresses.
//!
//! Everything here is arithmetic on its arguments. The function and its known answers are
//! Microsoft's: "RSS Hashing Functions" and "Verifying the RSS Hash Calculation" in the Windows
//! driver documentation.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The longest input: two IPv6 addresses and two ports.
pub(crate) const MAX_INPUT_BYTES: usize = 36;

/// A key must reach 32 bits beyond the last input bit.
pub const MAX_KEY_BYTES_NEEDED: usize = MAX_INPUT_BYTES + 4;

/// The key of Microsoft's verification suite. Some drivers use it as their default.
pub const MICROSOFT_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// What a driver feeds into the hash for one kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HashFields {
    /// Source and destination address (`sd`): the default for UDP in most drivers.
    Addresses,
    /// Addresses and ports (`sdfn`).
    AddressesAndPorts,
}

/// How a NIC changes the fields before it hashes them, so that both directions of a flow meet
/// (`ethtool -X DEV xfrm`). The definitions are the kernel's ("Scaling in the Linux Networking
/// Stack", RSS: symmetric hash).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transform {
    /// Not at all.
    #[default]
    None,
    /// `symmetric-xor`: source XOR destination takes the place of both.
    SymmetricXor,
    /// `symmetric-or-xor`: source OR destination takes the place of the source, source XOR
    /// destination that of the destination.
    SymmetricOrXor,
}

/// Where a packet comes from and goes to, as the receiving NIC sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The sender.
    pub source: SocketAddr,
    /// The receiver.
    pub destination: SocketAddr,
}

/// Why no queue can be predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RssError {
    /// The key ends before the input does.
    KeyTooShort {
        /// Its length.
        key_bytes: usize,
        /// What this input needs.
        needed_bytes: usize,
    },
    /// An indirection table has a power of two of slots, else "the low bits" means nothing.
    TableSize {
        /// How many slots it has.
        slots: usize,
    },
    /// One address is IPv4 and the other IPv6.
    MixedFamilies,
}

impl fmt::Display for RssError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyTooShort { key_bytes, needed_bytes } => write!(
                f,
                "the RSS key has {key_bytes} bytes and this flow needs {needed_bytes}: \
                 read the whole key with `ethtool -x`"
            ),
            Self::TableSize { slots } => write!(
                f,
                "the indirection table has {slots} slots, which is not a power of two: \
                 read the whole table with `ethtool -x`"
            ),
            Self::MixedFamilies => f.write_str(
                "source and destination are of different address families: give two IPv4 or \
                 two IPv6 addresses",
            ),
        }
    }
}

impl std::error::Error for RssError {}

/// The bytes that a NIC hashes for a flow, in the order of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    bytes: [u8; MAX_INPUT_BYTES],
    len: usize,
}

impl Input {
    /// Strings together what `fields` names.
    ///
    /// # Errors
    /// The two addresses are of different families.
    pub fn new(flow: &Flow, fields: HashFields) -> Result<Self, RssError> {
        let mut input = Self { bytes: [0; MAX_INPUT_BYTES], len: 0 };
        match (flow.source.ip(), flow.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                input.push(&source.octets());
                input.push(&destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                input.push(&source.octets());
                input.push(&destination.octets());
            }
            _ => return Err(RssError::MixedFamilies),
        }
        if fields == HashFields::AddressesAndPorts {
            input.push(&flow.source.port().to_be_bytes());
            input.push(&flow.destination.port().to_be_bytes());
        }
        Ok(input)
    }

    /// The same fields, changed as `transform` says.
    #[must_use]
    pub(crate) fn transformed(mut self, transform: Transform) -> Self {
        if transform == Transform::None {
            return self;
        }
        let (addresses, ports) = match self.len {
            8 | 12 => self.bytes.split_at_mut(8),
            _ => self.bytes.split_at_mut(32),
        };
        // Without ports these are zero bytes beyond the end, which stay zero.
        for pair in [addresses, &mut ports[..4]] {
            let (sources, destinations) = pair.split_at_mut(pair.len() / 2);
            for (source, destination) in sources.iter_mut().zip(destinations) {
                let both = *source ^ *destination;
                *source = match transform {
                    Transform::SymmetricOrXor => *source | *destination,
                    _ => both,
                };
                *destination = both;
            }
        }
        self
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, field: &[u8]) {
        self.bytes[self.len..self.len + field.len()].copy_from_slice(field);
        self.len += field.len();
    }
}

/// The Toeplitz hash of `input` under `key`.
///
/// # Errors
/// The key is not 4 bytes longer than the input.
pub fn hash(key: &[u8], input: &[u8]) -> Result<u32, RssError> {
    let needed_bytes = input.len() + 4;
    let Some((head, tail)) = key.split_first_chunk::<4>().filter(|_| key.len() >= needed_bytes)
    else {
        return Err(RssError::KeyTooShort { key_bytes: key.len(), needed_bytes });
    };
    // The upper half is the 32 bits of key at the current input bit; the lower half is what
    // moves in, a byte of key for a byte of input.
    let mut window = u64::from(u32::from_be_bytes(*head)) << 32;
    let mut result = 0_u32;
    for (&byte, &next) in input.iter().zip(tail) {
        window |= u64::from(next) << 24;
        for bit in (0..8).rev() {
            if byte >> bit & 1 == 1 {
                result ^= (window >> 32) as u32;
            }
            window <<= 1;
        }
    }
    Ok(result)
}

/// Where a flow ends up, with every step on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The Toeplitz hash.
    pub hash: u32,
    /// The slot of the indirection table.
    pub slot: usize,
    /// The queue that stands there.
    pub queue: u32,
}

/// What a NIC was told about spreading: its key and its indirection table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rss {
    key: Vec<u8>,
    table: Vec<u32>,
}

impl Rss {
    /// `table[slot]` is a queue number.
    ///
    /// # Errors
    /// The table's length is no power of two.
    pub fn new(key: Vec<u8>, table: Vec<u32>) -> Result<Self, RssError> {
        if !table.len().is_power_of_two() {
            return Err(RssError::TableSize { slots: table.len() });
        }
        Ok(Self { key, table })
    }

    /// The secret key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The queue of each slot.
    #[must_use]
    pub fn table(&self) -> &[u32] {
        &self.table
    }

    /// The queue that `flow` goes to, when no filter rule (ntuple) comes first.
    ///
    /// # Errors
    /// The key is too short for the flow, or the flow mixes address families.
    pub fn place(&self, flow: &Flow, fields: HashFields) -> Result<Placement, RssError> {
        self.place_input(&Input::new(flow, fields)?)
    }

    /// The queue that packets with these fields go to, when no filter rule comes first.
    ///
    /// # Errors
    /// The key is too short for the input.
    pub(crate) fn place_input(&self, input: &Input) -> Result<Placement, RssError> {
        let hash = hash(&self.key, input.as_slice())?;
        // A power of two of slots (checked in `new`): the low bits are the slot.
        let slot = hash as usize & (self.table.len() - 1);
        Ok(Placement { hash, slot, queue: self.table[slot] })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Microsoft's "Verifying the RSS Hash Calculation": destination, source, hash of addresses,
    /// hash with ports.
    pub(in crate::topology) const KNOWN: [(&str, &str, u32, u32); 8] = [
        ("161.142.100.80:1766", "66.9.149.187:2794", 0x323e_8fc2, 0x51cc_c178),
        ("65.69.140.83:4739", "199.92.111.2:14230", 0xd718_262a, 0xc626_b0ea),
        ("12.22.207.184:38024", "24.19.198.95:12898", 0xd2d0_a5de, 0x5c2b_394a),
        ("209.142.163.6:2217", "38.27.205.30:48228", 0x8298_9176, 0xafc7_327f),
        ("202.188.127.2:1303", "153.39.163.191:44251", 0x5d18_09c5, 0x10e8_28a2),
        ("[3ffe:2501:200:3::1]:1766", "[3ffe:2501:200:1fff::7]:2794", 0x2cc1_8cd5, 0x4020_7d3d),
        ("[ff02::1]:4739", "[3ffe:501:8::260:97ff:fe40:efab]:14230", 0x0f0c_461c, 0xdde5_1bbf),
        (
            "[fe80::200:f8ff:fe21:67cf]:38024",
            "[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251",
            0x4b61_e985,
            0x02d1_feef,
        ),
    ];

    fn flow(source: &str, destination: &str) -> Flow {
        Flow { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    #[test]
    fn microsofts_known_answers() {
        for (destination, source, by_addresses, by_ports) in KNOWN {
            let flow = flow(source, destination);
            for (fields, expected) in
                [(HashFields::Addresses, by_addresses), (HashFields::AddressesAndPorts, by_ports)]
            {
                let input = Input::new(&flow, fields).unwrap();
                let got = hash(&MICROSOFT_KEY, input.as_slice()).unwrap();
                assert_eq!(got, expected, "{source} -> {destination} by {fields:?}");
            }
        }
    }

    #[test]
    fn the_slot_is_the_low_bits_and_the_queue_stands_in_it() {
        // 128 slots over 8 queues; 0x51ccc178 ends in 0x78 = 120.
        let rss = Rss::new(MICROSOFT_KEY.to_vec(), (0..128).map(|slot| slot % 8).collect());
        let (destination, source, ..) = KNOWN[0];
        let placement =
            rss.unwrap().place(&flow(source, destination), HashFields::AddressesAndPorts).unwrap();
        assert_eq!(placement, Placement { hash: 0x51cc_c178, slot: 120, queue: 0 });
    }

    #[test]
    fn a_table_of_one_slot_takes_everything() {
        let rss = Rss::new(MICROSOFT_KEY.to_vec(), vec![3]).unwrap();
        let flow = flow("192.0.2.1:1", "192.0.2.2:2");
        assert_eq!(rss.place(&flow, HashFields::Addresses).unwrap().queue, 3);
    }

    #[test]
    fn symmetric_inputs_are_the_kernels() {
        // "Scaling in the Linux Networking Stack": (S ^ D, S ^ D, SP ^ DP, SP ^ DP), and
        // (S | D, S ^ D, SP | DP, SP ^ DP).
        let input =
            Input::new(&flow("10.0.0.5:256", "10.0.0.6:770"), HashFields::AddressesAndPorts);
        let input = input.unwrap();
        let xor = [0, 0, 0, 3, 0, 0, 0, 3, 2, 2, 2, 2];
        assert_eq!(input.transformed(Transform::SymmetricXor).as_slice(), xor);
        let or_xor = [10, 0, 0, 7, 0, 0, 0, 3, 3, 2, 2, 2];
        // 256 | 770 = 0x0302, 256 ^ 770 = 0x0202.
        assert_eq!(input.transformed(Transform::SymmetricOrXor).as_slice(), or_xor);
        assert_eq!(input.transformed(Transform::None), input);
    }

    #[test]
    fn symmetric_inputs_are_the_same_in_both_directions() {
        for (there, back) in [
            (flow("192.0.2.1:7", "198.51.100.9:443"), flow("198.51.100.9:443", "192.0.2.1:7")),
            (flow("[2001:db8::1]:7", "[fe80::9]:443"), flow("[fe80::9]:443", "[2001:db8::1]:7")),
        ] {
            for fields in [HashFields::Addresses, HashFields::AddressesAndPorts] {
                for transform in [Transform::SymmetricXor, Transform::SymmetricOrXor] {
                    let of = |flow| Input::new(flow, fields).unwrap().transformed(transform);
                    assert_eq!(of(&there), of(&back), "{fields:?} {transform:?}");
                }
            }
        }
    }

    /// The definition, bit by bit and without a window: the other way to the same number.
    fn by_definition(key: &[u8], input: &[u8]) -> u32 {
        let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
        (0..input.len() * 8).filter(|&at| bit(input, at) == 1).fold(0, |sum, at| {
            sum ^ (at..at + 32).fold(0, |word, k| word << 1 | u32::from(bit(key, k)))
        })
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_the_definition(
            key in proptest::collection::vec(proptest::num::u8::ANY, 40..=52),
            input in proptest::collection::vec(proptest::num::u8::ANY, 0..=MAX_INPUT_BYTES),
        ) {
            proptest::prop_assert_eq!(hash(&key, &input).unwrap(), by_definition(&key, &input));
        }
    }

    #[test]
    fn a_key_that_ends_early_is_an_error_and_no_guess() {
        let flow = flow("[2001:db8::1]:1", "[2001:db8::2]:2");
        for key_bytes in [0, 3, 4, 39] {
            let rss = Rss::new(MICROSOFT_KEY[..key_bytes].to_vec(), vec![0, 1]).unwrap();
            assert_eq!(
                rss.place(&flow, HashFields::AddressesAndPorts),
                Err(RssError::KeyTooShort { key_bytes, needed_bytes: MAX_KEY_BYTES_NEEDED })
            );
        }
        let rss = Rss::new(MICROSOFT_KEY[..36].to_vec(), vec![0, 1]).unwrap();
        assert!(rss.place(&flow, HashFields::Addresses).is_ok(), "36 bytes do for 32 of input");
    }

    #[test]
    fn tables_without_a_power_of_two_and_mixed_flows_are_refused() {
        for slots in [0, 3, 127] {
            let refused = Rss::new(MICROSOFT_KEY.to_vec(), vec![0; slots]);
            assert_eq!(refused, Err(RssError::TableSize { slots }));
        }
        let mixed = flow("192.0.2.1:1", "[2001:db8::2]:2");
        assert_eq!(Input::new(&mixed, HashFields::Addresses), Err(RssError::MixedFamilies));
    }
}
