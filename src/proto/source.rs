//! The source of a datagram, for limits that count by source.

use core::net::IpAddr;

/// RFC 4291 §2.5.4: a subscriber has at least a /64, and can write any address of it.
pub(crate) const SUBSCRIBER_PREFIX_BITS: u8 = 64;

/// An IPv4 address or network, or a prefix of IPv6: what one party can be expected to own. A count by
/// address alone would see 2^64 sources for each subscriber of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Source {
    /// An address, or its upper bits with zeros below.
    V4(u32),
    /// The upper bits of an address, zeros below.
    V6(u64),
}

impl Source {
    /// Where `address` belongs to, if IPv6 is told apart by `prefix_bits` of it, 64 at most.
    #[must_use]
    pub(crate) fn of(address: IpAddr, prefix_bits: u8) -> Self {
        Self::network(address, u32::BITS as u8, prefix_bits)
    }

    /// The network that `address` is in: `v4_bits` of an IPv4 address, 32 at most, or `v6_bits` of an
    /// IPv6 address, 64 at most.
    #[must_use]
    pub(crate) fn network(address: IpAddr, v4_bits: u8, v6_bits: u8) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let below = u32::BITS - u32::from(v4_bits).min(u32::BITS);
                Self::V4(v4.to_bits().checked_shr(below).map_or(0, |kept| kept << below))
            }
            IpAddr::V6(v6) => {
                let upper = (v6.to_bits() >> 64) as u64;
                let below = 64 - u32::from(v6_bits.min(SUBSCRIBER_PREFIX_BITS));
                Self::V6(upper.checked_shr(below).map_or(0, |kept| kept << below))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, bits: u8) -> Source {
        Source::of(text.parse().unwrap(), bits)
    }

    #[test]
    fn a_network_has_so_many_bits_of_each_family() {
        let of = |text: &str, v4, v6| Source::network(text.parse().unwrap(), v4, v6);
        assert_eq!(of("192.0.2.1", 24, 56), of("192.0.2.255", 24, 56));
        assert_ne!(of("192.0.2.1", 24, 56), of("192.0.3.1", 24, 56));
        assert_eq!(of("192.0.2.1", 0, 56), of("10.0.0.1", 0, 56));
        assert_ne!(of("192.0.2.1", 200, 56), of("192.0.2.2", 200, 56));
        assert_eq!(of("2001:db8:0:1::1", 24, 56), of("2001:db8:0:ff::1", 24, 56));
        assert_ne!(of("2001:db8:0:1::1", 24, 56), of("2001:db8:0:100::1", 24, 56));
    }

    #[test]
    fn an_ipv6_source_is_a_prefix_and_an_ipv4_source_an_address() {
        assert_eq!(of("2001:db8:0:1::1", 64), of("2001:db8:0:1:ffff::9", 64));
        assert_ne!(of("2001:db8:0:1::1", 64), of("2001:db8:0:2::1", 64));
        assert_eq!(of("2001:db8:0:1::1", 48), of("2001:db8:0:2::1", 48));
        assert_eq!(of("2001:db8::1", 0), of("fe80::1", 0));
        assert_eq!(of("2001:db8:0:1::1", 200), of("2001:db8:0:1::2", 64));
        assert_ne!(of("192.0.2.1", 64), of("192.0.2.2", 64));
        assert_eq!(of("::ffff:192.0.2.1", 64), of("192.0.2.1", 64), "one host, written twice");
        assert_ne!(of("0.0.0.0", 64), of("::", 64));
    }
}
