//! The source of a datagram, for limits that count by source.

use core::net::IpAddr;

/// RFC 4291 §2.5.4: a subscriber has at least a /64, and can write any address of it.
pub(crate) const SUBSCRIBER_PREFIX_BITS: u8 = 64;

/// An IPv4 address, or a prefix of IPv6: what one party can be expected to own. A count by
/// address alone would see 2^64 sources for each subscriber of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Source {
    /// An address.
    V4(u32),
    /// The upper bits of an address, zeros below.
    V6(u64),
}

impl Source {
    /// Where `address` belongs to, if IPv6 is told apart by `prefix_bits` of it, 64 at most.
    #[must_use]
    pub(crate) fn of(address: IpAddr, prefix_bits: u8) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => {
                let upper = (v6.to_bits() >> 64) as u64;
                let below = 64 - u32::from(prefix_bits.min(SUBSCRIBER_PREFIX_BITS));
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
