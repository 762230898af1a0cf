//! How many new connections a worker begins in a second: in all, and of each network.
//!
//! A network is a prefix of addresses ([`LaneLimits::network_v4_bits`], `network_v6_bits`): the addresses
//! of one holder are seldom far apart. What a forger begins in the name of a network must not keep
//! that network out, so proven addresses have buckets of their own. The rate of the worker is one for all:
//! it bounds what the worker spends, and a forger may take from it. Who sets it should ask for proof
//! ([`RetryPolicy`](crate::RetryPolicy)) long before.

use super::config::LaneLimits;
use crate::proto::limiter::Limiter;
use crate::proto::source::Source;
use crate::time::Instant;
use std::collections::HashMap;
use std::net::IpAddr;

/// Networks that are remembered at one time. A bucket that is full again says nothing, and goes first.
/// While more networks than these begin connections, the others are not limited.
const NETWORKS: usize = 1 << 14;

/// The rates of one worker.
pub(super) struct Rates {
    limits: LaneLimits,
    worker: Limiter,
    /// By network, and by whether the address is proven.
    networks: HashMap<(Source, bool), Limiter>,
}

impl Rates {
    pub(super) fn new(limits: LaneLimits) -> Self {
        let worker = Limiter::new(limits.new_per_second);
        Self { limits, worker, networks: HashMap::new() }
    }

    fn network(&self, remote: IpAddr) -> Source {
        Source::network(remote, self.limits.network_v4_bits, self.limits.network_v6_bits)
    }

    /// True if another connection may begin, from this address.
    pub(super) fn has_one(&self, now: Instant, remote: IpAddr, proven: bool) -> bool {
        let of_network = || {
            let bucket = self.networks.get(&(self.network(remote), proven));
            bucket.is_none_or(|bucket| bucket.has_one(now))
        };
        (self.limits.new_per_second == 0 || self.worker.has_one(now))
            && (self.limits.network_new_per_second == 0 || of_network())
    }

    /// A connection begins.
    pub(super) fn take(&mut self, now: Instant, remote: IpAddr, proven: bool) {
        if self.limits.new_per_second > 0 {
            self.worker.allow(now);
        }
        if self.limits.network_new_per_second == 0 {
            return;
        }
        let network = (self.network(remote), proven);
        if self.networks.len() >= NETWORKS && !self.networks.contains_key(&network) {
            self.networks.retain(|_, bucket| !bucket.is_full(now));
            if self.networks.len() >= NETWORKS {
                return;
            }
        }
        let made = || Limiter::new(self.limits.network_new_per_second);
        self.networks.entry(network).or_insert_with(made).allow(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{MILLISECOND_NS, SECOND_NS};

    fn rates(worker: u32, network: u32) -> Rates {
        Rates::new(LaneLimits {
            new_per_second: worker,
            network_new_per_second: network,
            ..LaneLimits::default()
        })
    }

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(SECOND_NS + ms * MILLISECOND_NS)
    }

    /// How many of `asked` begin.
    fn begin(rates: &mut Rates, now: Instant, from: &str, proven: bool, asked: usize) -> usize {
        let remote = from.parse().unwrap();
        let may = (0..asked).filter(|_| {
            let may = rates.has_one(now, remote, proven);
            if may {
                rates.take(now, remote, proven);
            }
            may
        });
        may.count()
    }

    #[test]
    fn a_network_has_its_rate_and_no_more() {
        let mut rates = rates(0, 100);
        assert_eq!(begin(&mut rates, at(0), "192.0.2.1", true, 50), 10, "a burst of 100 ms");
        assert_eq!(begin(&mut rates, at(0), "192.0.2.200", true, 50), 0, "the same /24");
        assert_eq!(begin(&mut rates, at(0), "192.0.3.1", true, 50), 10);
        assert_eq!(
            begin(&mut rates, at(0), "192.0.2.1", false, 50),
            10,
            "a forger takes from others"
        );
        assert_eq!(begin(&mut rates, at(50), "192.0.2.1", true, 50), 5);
        assert_eq!(begin(&mut rates, at(50), "2001:db8:0:1::1", true, 50), 10);
        assert_eq!(begin(&mut rates, at(50), "2001:db8:0:ff::1", true, 50), 0, "the same /56");
    }

    #[test]
    fn a_worker_has_its_rate_and_none_has_no_limit() {
        let mut of_worker = rates(100, 0);
        assert_eq!(begin(&mut of_worker, at(0), "192.0.2.1", true, 50), 10);
        assert_eq!(begin(&mut of_worker, at(0), "198.51.100.1", false, 50), 0);
        assert_eq!(begin(&mut rates(0, 0), at(0), "192.0.2.1", true, 50), 50);
    }

    #[test]
    fn networks_beyond_those_that_are_remembered_are_not_limited_and_old_ones_make_room() {
        let mut rates = rates(0, 1);
        let from = |n: u32| std::net::Ipv4Addr::from(n << 8).to_string();
        let all = |rates: &mut Rates, now| {
            (0..NETWORKS as u32 + 5).map(|n| begin(rates, now, &from(n), true, 2)).sum::<usize>()
        };
        assert_eq!(all(&mut rates, at(0)), NETWORKS + 10);
        assert_eq!(rates.networks.len(), NETWORKS);
        assert_eq!(begin(&mut rates, at(2_000), &from(77_777), true, 2), 1);
        assert_eq!(rates.networks.len(), 1, "the others have waited long enough");
    }
}
