//! Connection ids that name server, worker and slot: QUIC-LB (draft-ietf-quic-load-balancers).
//!
//! A server chooses the ids that its clients address packets to, so an id can say where its
//! connection lives. Three readers want to know: a load balancer in front (which host), the
//! host (which worker), and the worker (which slot of its table). An observer must learn nothing,
//! above all not that two ids belong to one connection. Seventeen bytes do all of it:
//!
//! ```text
//! byte 0              bytes 1..17: one AES-128 block
//! config 3 bits       server id      | nonce
//! length 5 bits       host 32 bits   | worker 10, slot 24, process 2, generation 30, random 30 bits
//! ```
//!
//! - To a balancer this is plain QUIC-LB with a server id of 4 bytes and a nonce of 12, which
//!   the draft encrypts in a single pass because they fill a block.
//! - Looking up a connection costs one AES block and no shared table. An attacker cannot make
//!   ids collide in a hash table, because there is none.
//! - The block has no seal, and needs none: an id that we did not issue decrypts to 128 random
//!   bits, of which 32 must be our host, and then worker, slot and generation must be in use.
//!   The generation counts how often the slot was used, so an id that outlived its connection
//!   is not taken for one of the connection that came after it.
//! - The random bits tell apart the ids of one connection. 30 of them collide for two of 16 ids
//!   once in nine million connections.
//!
//! Where the balancer has no key ([`Config::key`] is `None`) the host stands there in the clear, and
//! so would the rest; but nonces must not be linkable (draft, "Connection ID Entropy"), so worker,
//! slot and generation are masked with a block made of the random bits under a secret of this
//! host. An attacker who guesses a generation can alter such an id into another. This gains no more
//! than what any observer of packets can do: send some that fail to decrypt.
//!
//! ```
//! use quiclane::lb::{Codec, Config, Route};
//!
//! let config = Config { config_id: 0, server_id: 7, key: Some([1; 16]), secret: [2; 16] };
//! let codec = Codec::new(&config)?;
//! let route = Route { process: 0, worker: 3, slot: 41, generation: 9 };
//! let id = codec.encode(route, 0x5eed);
//! assert_eq!(codec.decode(id.as_slice()), Some(route));
//! # Ok::<(), quiclane::lb::ReservedConfigId>(())
//! ```

use crate::wire::ConnectionId;
use aes::Aes128;
use aes::cipher::{BlockDecrypt, BlockEncrypt, KeyInit};
use std::error::Error;
use std::fmt;

/// How many bytes an id has.
pub const CID_LEN: usize = 1 + BLOCK_LEN;

/// How many workers ids can name.
pub const MAX_WORKERS: usize = 1 << WORKER_BITS;

/// How many slots of a worker's table ids can name.
pub const MAX_SLOTS: usize = 1 << SLOT_BITS;

/// How many processes of one host ids can tell apart: so many can have connections at one time, each
/// having taken over from the one before.
pub const MAX_PROCESSES: usize = 1 << PROCESS_BITS;

/// How often a slot is used before its generation begins again at 0.
pub const MAX_GENERATIONS: u32 = 1 << GENERATION_BITS;

/// The config id that says: no balancer knows this id (draft, "Configuration Failover").
pub const RESERVED_CONFIG_ID: u8 = 0b111;

const BLOCK_LEN: usize = 16;

const WORKER_BITS: u32 = 10;
const SLOT_BITS: u32 = 24;
const PROCESS_BITS: u32 = 2;
const GENERATION_BITS: u32 = 30;
const RANDOM_BITS: u32 = 30;
const NONCE_BITS: u32 = WORKER_BITS + SLOT_BITS + PROCESS_BITS + GENERATION_BITS + RANDOM_BITS;

// Server id and nonce must fill the block: any other length takes four passes of AES.
const _: () = assert!(u32::BITS + NONCE_BITS == u128::BITS);

/// The random bits of a block.
const RANDOM_MASK: u128 = (1 << RANDOM_BITS) - 1;

/// All of the nonce but its random bits.
const ROUTE_MASK: u128 = ((1 << NONCE_BITS) - 1) ^ RANDOM_MASK;

/// What a host and the balancers in front of it agree on.
#[derive(Clone)]
pub struct Config {
    /// Which configuration this is, 0 to 6: it stands in the clear, so that keys can be changed
    /// while connections last.
    pub config_id: u8,
    /// The number of this host.
    pub server_id: u32,
    /// The key that the host shares with the balancers; `None` if the balancers have no key, or
    /// random if there are no balancers.
    pub key: Option<[u8; 16]>,
    /// Random, and known to this host alone: hides the nonce where there is no key.
    pub secret: [u8; 16],
}

impl fmt::Debug for Config {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("config_id", &self.config_id)
            .field("server_id", &self.server_id)
            .field("encrypted", &self.key.is_some())
            .finish_non_exhaustive()
    }
}

/// A config id that cannot name a configuration: 7, which is reserved, or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservedConfigId(pub u8);

impl fmt::Display for ReservedConfigId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the QUIC-LB config id must be 0 to 6, not {}", self.0)
    }
}

impl Error for ReservedConfigId {}

/// What the first byte of an id says to everybody (draft, "First CID octet").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstOctet {
    /// The configuration, 0 to 6; [`RESERVED_CONFIG_ID`] stands for no configuration.
    pub config_id: u8,
    /// How many bytes follow, if the configuration says so; else random bits.
    pub length: u8,
}

/// What can be read from an id without a key; `None` if the id is empty.
#[must_use]
pub fn first_octet(id: &[u8]) -> Option<FirstOctet> {
    let first = *id.first()?;
    Some(FirstOctet { config_id: first >> 5, length: first & 0x1f })
}

/// Where on its host a connection lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The process, below [`MAX_PROCESSES`].
    pub process: u8,
    /// The worker, below [`MAX_WORKERS`].
    pub worker: u16,
    /// The slot of the worker's table, below [`MAX_SLOTS`].
    pub slot: u32,
    /// How often the slot had been used before, below [`MAX_GENERATIONS`].
    pub generation: u32,
}

/// Makes and reads the ids of one configuration.
#[derive(Clone)]
pub struct Codec {
    /// Config id and length: the same for all ids.
    first: u8,
    server_id: u32,
    encrypted: bool,
    /// Under the shared key, or under the host's secret. Which instructions to use was found out
    /// when it was made.
    cipher: Aes128,
}

impl fmt::Debug for Codec {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Codec")
            .field("first", &self.first)
            .field("server_id", &self.server_id)
            .field("encrypted", &self.encrypted)
            .finish_non_exhaustive()
    }
}

impl Codec {
    /// Prepares the keys.
    ///
    /// # Errors
    /// [`ReservedConfigId`] if the config id is not one of 0 to 6.
    pub fn new(config: &Config) -> Result<Self, ReservedConfigId> {
        if config.config_id >= RESERVED_CONFIG_ID {
            return Err(ReservedConfigId(config.config_id));
        }
        let key = config.key.as_ref().unwrap_or(&config.secret);
        Ok(Self {
            // Draft, "First CID octet": config rotation, then the length of what follows.
            first: config.config_id << 5 | BLOCK_LEN as u8,
            server_id: config.server_id,
            encrypted: config.key.is_some(),
            cipher: Aes128::new(key.into()),
        })
    }

    /// An id for the connection at `route`; the low 30 bits of `random` tell it from other ids
    /// for the same connection.
    #[must_use]
    pub fn encode(&self, route: Route, random: u64) -> ConnectionId {
        let plain = u128::from(self.server_id) << NONCE_BITS
            | pack(route)
            | u128::from(random) & RANDOM_MASK;
        let block = if self.encrypted {
            let mut block = plain.to_be_bytes().into();
            self.cipher.encrypt_block(&mut block);
            block.into()
        } else {
            (plain ^ self.mask(plain)).to_be_bytes()
        };
        let mut id = [self.first; CID_LEN];
        id[1..].copy_from_slice(&block);
        ConnectionId::new(&id).unwrap_or(ConnectionId::EMPTY)
    }

    /// Where the connection of this id lives. `None` if the id is not of this configuration and
    /// host, such as an id that a client chose for its first packets. The table checks that the slot
    /// is in use, and by the same generation.
    #[inline]
    #[must_use]
    pub fn decode(&self, id: &[u8]) -> Option<Route> {
        let (server_id, route) = self.open(id)?;
        (server_id == self.server_id).then_some(route)
    }

    /// The host that this id names, ours or another, and the place on it; `None` if the id has
    /// another configuration or length. An id that no host issued names something too, so only a
    /// reader that knows the hosts can tell whether it means anything.
    #[inline(always)] // Each datagram asks, at one place.
    #[must_use]
    pub fn open(&self, id: &[u8]) -> Option<(u32, Route)> {
        let id: &[u8; CID_LEN] = id.try_into().ok()?;
        let block = *id.last_chunk::<BLOCK_LEN>()?;
        if id[0] != self.first {
            return None;
        }
        let plain = if self.encrypted {
            let mut block = block.into();
            self.cipher.decrypt_block(&mut block);
            u128::from_be_bytes(block.into())
        } else {
            let hidden = u128::from_be_bytes(block);
            hidden ^ self.mask(hidden)
        };
        Some(((plain >> NONCE_BITS) as u32, unpack(plain)))
    }

    /// What hides the route in a block whose host and random bits are in the clear.
    fn mask(&self, block: u128) -> u128 {
        let mut mask = (block & !ROUTE_MASK).to_be_bytes().into();
        self.cipher.encrypt_block(&mut mask);
        u128::from_be_bytes(mask.into()) & ROUTE_MASK
    }
}

/// A route in its place of the block.
fn pack(route: Route) -> u128 {
    debug_assert!(usize::from(route.worker) < MAX_WORKERS, "worker {} has no id", route.worker);
    debug_assert!((route.slot as usize) < MAX_SLOTS, "slot {} has no id", route.slot);
    let worker = u128::from(route.worker) % MAX_WORKERS as u128;
    let slot = u128::from(route.slot) % MAX_SLOTS as u128;
    let process = u128::from(route.process) % MAX_PROCESSES as u128;
    let generation = u128::from(route.generation % MAX_GENERATIONS);
    let place = (worker << SLOT_BITS | slot) << PROCESS_BITS | process;
    (place << GENERATION_BITS | generation) << RANDOM_BITS
}

/// The route of a block.
#[inline]
fn unpack(plain: u128) -> Route {
    // All but two bits of the worker fit into a word.
    let route = (plain >> RANDOM_BITS) as u64;
    Route {
        process: (route >> GENERATION_BITS) as u8 % MAX_PROCESSES as u8,
        worker: (plain >> (NONCE_BITS - WORKER_BITS)) as u16 % MAX_WORKERS as u16,
        slot: (route >> (GENERATION_BITS + PROCESS_BITS)) as u32 % MAX_SLOTS as u32,
        generation: route as u32 % MAX_GENERATIONS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 16] = [
        0x8f, 0x95, 0xf0, 0x92, 0x45, 0x76, 0x5f, 0x80, 0x25, 0x69, 0x34, 0xe5, 0x0c, 0x66, 0x20,
        0x7f,
    ];

    fn codec(key: Option<[u8; 16]>) -> Codec {
        Codec::new(&Config { config_id: 2, server_id: 0xed79_3a51, key, secret: [9; 16] }).unwrap()
    }

    /// Both modes.
    fn codecs() -> [Codec; 2] {
        [codec(Some(KEY)), codec(None)]
    }

    const ROUTE: Route =
        Route { process: 1, worker: 700, slot: 0xab_cdef, generation: 0x1234_5678 };

    /// The single-pass example of the draft's appendix "Encrypted CIDs": its server id has 8
    /// bytes, of which the last four are the beginning of our nonce.
    #[test]
    fn the_single_pass_vector_of_the_draft() {
        let cid = [
            0x50, 0x4d, 0xd2, 0xd0, 0x5a, 0x7b, 0x0d, 0xe9, 0xb2, 0xb9, 0x90, 0x7a, 0xfb, 0x5e,
            0xcf, 0x8c, 0xc3,
        ];
        let nonce = 0xd49b_8f5f_ee08_0dbf_48c0_d1e5_u128;
        let route = codec(Some(KEY)).decode(&cid).unwrap();
        assert_eq!(u128::from(route.worker), nonce >> 86);
        assert_eq!(u128::from(route.slot), nonce >> 62 & 0xff_ffff);
        assert_eq!(u128::from(route.process), nonce >> 60 & 3);
        assert_eq!(u128::from(route.generation), nonce >> 30 & 0x3fff_ffff);
        let random = (nonce & 0x3fff_ffff) as u64;
        assert_eq!(codec(Some(KEY)).encode(route, random).as_slice(), cid);
    }

    #[test]
    fn the_first_octet_names_configuration_and_length() {
        for config_id in 0..7 {
            let config = Config { config_id, server_id: 1, key: None, secret: [0; 16] };
            let id = Codec::new(&config).unwrap().encode(ROUTE, 0);
            assert_eq!(id.as_slice()[0], config_id << 5 | 16);
            assert_eq!(id.len(), CID_LEN);
        }
        for config_id in [7, 8, 255] {
            let config = Config { config_id, server_id: 1, key: None, secret: [0; 16] };
            assert_eq!(Codec::new(&config).err(), Some(ReservedConfigId(config_id)));
        }
    }

    #[test]
    fn without_a_key_the_host_is_in_the_clear_and_the_nonce_is_not() {
        let plain = codec(None);
        let [a, b] = [1, 2].map(|random| plain.encode(ROUTE, random));
        assert_eq!(a.as_slice()[1..5], [0xed, 0x79, 0x3a, 0x51]);
        // Two ids of one connection share no more than chance would have it.
        let differing: u32 = a.as_slice()[5..]
            .iter()
            .zip(&b.as_slice()[5..])
            .map(|(a, b)| (a ^ b).count_ones())
            .sum();
        assert!((15..55).contains(&differing), "{differing} of 66 masked bits differ");
        // Nor does another host's secret unmask it.
        let config = Config { config_id: 2, server_id: 0xed79_3a51, key: None, secret: [8; 16] };
        assert_ne!(Codec::new(&config).unwrap().decode(a.as_slice()), Some(ROUTE));
    }

    #[test]
    fn an_id_of_another_host_is_opened_but_not_taken() {
        let (key, secret) = (Some(KEY), [9; 16]);
        let other = Config { config_id: 2, server_id: 0xed79_3a50, key, secret };
        let id = Codec::new(&other).unwrap().encode(ROUTE, 77);
        assert_eq!(codec(key).open(id.as_slice()), Some((0xed79_3a50, ROUTE)));
        assert_eq!(codec(key).decode(id.as_slice()), None);
        assert_eq!(first_octet(id.as_slice()), Some(FirstOctet { config_id: 2, length: 16 }));
        assert_eq!(first_octet(&[]), None);
    }

    #[test]
    fn ids_of_others_are_refused() {
        for codec in codecs() {
            let id = codec.encode(ROUTE, 77);
            let bytes = id.as_slice();
            assert_eq!(codec.decode(&bytes[..16]), None);
            assert_eq!(codec.decode(&[bytes, &[0]].concat()), None);
            assert_eq!(codec.decode(&[]), None);
            for bit in 0..8 {
                let mut other = bytes.to_vec();
                other[0] ^= 1 << bit;
                assert_eq!(codec.decode(&other), None, "another configuration or length");
            }
        }
        let (key, secret) = (Some(KEY), [9; 16]);
        for other in [
            Config { config_id: 2, server_id: 0xed79_3a50, key, secret },
            Config { config_id: 3, server_id: 0xed79_3a51, key, secret },
            Config { config_id: 2, server_id: 0xed79_3a51, key: Some([1; 16]), secret },
        ] {
            let id = Codec::new(&other).unwrap().encode(ROUTE, 77);
            assert_eq!(codec(key).decode(id.as_slice()), None, "{other:?}");
        }
    }

    /// ATTACKS row 9: an id cannot be made to name a place of the attacker's choice.
    #[test]
    fn attack_09_an_altered_id_names_nothing() {
        let codec = codec(Some(KEY));
        let id = codec.encode(ROUTE, 77);
        for bit in 0..128 {
            let mut altered = id.as_slice().to_vec();
            altered[1 + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(codec.decode(&altered), None, "bit {bit}");
        }
    }

    #[test]
    fn debugging_shows_no_key() {
        let config =
            Config { config_id: 2, server_id: 5, key: Some([0xa5; 16]), secret: [0xa5; 16] };
        let shown = format!("{config:?} {:?}", Codec::new(&config).unwrap());
        assert!(shown.contains("server_id: 5") && !shown.contains("165"), "{shown}");
    }

    proptest! {
        #[test]
        fn routes_come_back(
            worker in 0..MAX_WORKERS as u16, slot in 0..MAX_SLOTS as u32, generation in 0..MAX_GENERATIONS,
            process in 0..MAX_PROCESSES as u8, random in any::<u64>(), server_id in any::<u32>(), config_id in 0..7u8,
            key in prop::option::of(any::<[u8; 16]>()), secret in any::<[u8; 16]>(),
        ) {
            let codec = Codec::new(&Config { config_id, server_id, key, secret }).unwrap();
            let route = Route { process, worker, slot, generation };
            let id = codec.encode(route, random);
            prop_assert_eq!(codec.decode(id.as_slice()), Some(route));
            prop_assert_ne!(codec.encode(route, random ^ 1), id);
        }

        #[test]
        fn random_ids_name_nothing(mut bytes in any::<[u8; CID_LEN]>()) {
            bytes[0] = 2 << 5 | 16;
            prop_assert_eq!(codec(Some(KEY)).decode(&bytes), None);
        }
    }
}
