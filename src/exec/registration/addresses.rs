//! A worker hears that addresses of this machine went away, or that a device lost its carrier, and has its
//! lane look whether a connection of this side had such an address.
//!
//! The kernel tells of it through a descriptor that wakes the worker. A worker that does not sleep asks
//! now and then. Neither is in the way of packets: without news a turn costs two comparisons.
//!
//! # When the lane looks
//!
//! At once, of a carrier after [`CARRIER_PATIENCE_NS`], and again after pauses that double. The first pauses are short: of an IPv4 address the
//! kernel tells before it has removed it. If a connection had lost its address the looks go on for
//! 40 s: the way to its server may come later than the address that it is to use (DHCP adds the one
//! after the other), the server may have to give a connection id first, and a connection whose new path
//! turns out to be none returns to the old one, and has to move again. Once no look finds one, only what
//! goes away begins new looks; while one cannot move, what comes does so too.

use super::super::lane::{OwnAddresses, Standing, Sweep};
use super::super::source::Source;
use super::super::worker::Worker;
use crate::datapath::Datapath;
use crate::time::{Instant, MILLISECOND_NS, SECOND_NS};
use crate::topology::{AddressNews, AddressWatch};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// How often a worker that does not sleep asks for news: a system call of half a microsecond.
const ASK_NS: u64 = 10 * MILLISECOND_NS;
/// The pause before the second look, and the shortest between any two.
const FIRST_PAUSE_NS: u64 = 10 * MILLISECOND_NS;
/// The longest pause if no connection had lost its address: about when the kernel has done what it told.
const QUIET_PAUSE_NS: u64 = 160 * MILLISECOND_NS;
/// The longest pause if one had: beyond the idle timeout, by default, nothing is left to move.
const LOST_PAUSE_NS: u64 = 30 * SECOND_NS;
/// How long a device may be without its carrier before its addresses count as lost. A link that was pulled,
/// or negotiates anew, is away for seconds; a shorter gap costs a probe timeout or two, and a move costs the
/// path's round trips and its congestion window.
const CARRIER_PATIENCE_NS: u64 = 200 * MILLISECOND_NS;

// One that is lost while an earlier loss is waited for is found by the looks that follow.
const _: () = assert!(CARRIER_PATIENCE_NS + FIRST_PAUSE_NS < 2 * QUIET_PAUSE_NS);
const _: () = assert!(FIRST_PAUSE_NS <= QUIET_PAUSE_NS && QUIET_PAUSE_NS < LOST_PAUSE_NS);

/// When the lane looks. Numbers in, times out.
#[derive(Clone, Copy, Debug)]
struct Looks {
    /// The next look; `NEVER` if none is to come.
    next: Instant,
    /// The look for a carrier that was lost; `NEVER` if there is none.
    dark_at: Instant,
    pause_ns: u64,
    /// The last look began then.
    last: Instant,
    /// A look since the last news found a connection that had lost its address.
    has_found: bool,
    /// The last look left some where they were.
    stay: bool,
}

impl Looks {
    fn new() -> Self {
        Self {
            next: Instant::NEVER,
            dark_at: Instant::NEVER,
            pause_ns: FIRST_PAUSE_NS,
            last: Instant::EPOCH,
            has_found: false,
            stay: false,
        }
    }

    fn note(&mut self, now: Instant, news: AddressNews) {
        if news.lost || (news.came && self.stay) {
            // A flood of news is looked into one by one, with pauses.
            self.next = now.max(self.last.plus_ns(FIRST_PAUSE_NS));
            self.pause_ns = FIRST_PAUSE_NS;
            self.has_found = self.stay;
        }
        if news.dark {
            self.dark_at = self.dark_at.min(now.plus_ns(CARRIER_PATIENCE_NS));
        }
    }

    /// When the lane is to look.
    fn due(&self) -> Instant {
        self.next.min(self.dark_at)
    }

    fn begin(&mut self, now: Instant) {
        if self.dark_at <= now {
            self.dark_at = Instant::NEVER;
            self.pause_ns = FIRST_PAUSE_NS;
            self.has_found = self.stay;
        }
        (self.last, self.next) = (now, Instant::NEVER);
    }

    /// Of the connections that had lost their address, so many moved and so many stay.
    fn end(&mut self, now: Instant, (moved, stay): (u64, u64)) {
        self.stay = stay > 0;
        self.has_found |= moved + stay > 0;
        let longest = if self.has_found { LOST_PAUSE_NS } else { QUIET_PAUSE_NS };
        if self.pause_ns <= longest {
            self.next = self.next.min(now.plus_ns(self.pause_ns));
            self.pause_ns *= 2;
        }
    }
}

/// Has a worker's connections leave addresses that are lost.
pub(super) struct Leaving {
    watch: AddressWatch,
    looks: Looks,
    asked_at: Instant,
    /// The look that is under way.
    sweep: Option<Sweep>,
    /// What was asked in it.
    known: Known,
}

/// Answers of the kernel that hold for one look.
#[derive(Default)]
struct Known {
    own: HashMap<IpAddr, bool>,
    /// Addresses whose device has lost its carrier.
    dark: Vec<IpAddr>,
    /// The last: connections of one server often stand together.
    towards: Option<(SocketAddr, Option<SocketAddr>)>,
}

impl Leaving {
    /// `None`, and a line in the log, if nothing can be heard.
    pub(super) fn open<D: Datapath>(worker: &mut Worker<D>) -> Option<Self> {
        let opened = AddressWatch::open().and_then(|watch| {
            worker.watch_addresses(watch.fd()).map_err(|error| error.to_string())?;
            Ok(watch)
        });
        match opened {
            Ok(watch) => Some(Self {
                watch,
                looks: Looks::new(),
                asked_at: Instant::EPOCH,
                sweep: None,
                known: Known::default(),
            }),
            Err(reason) => {
                let worker = worker.lane().number();
                tracing::info!(
                    worker,
                    reason,
                    "connections will not leave addresses that are lost"
                );
                None
            }
        }
    }

    /// After a turn. Returns when the worker has to turn again for it.
    pub(super) fn turn<D: Datapath>(
        &mut self,
        now: Instant,
        worker: &mut Worker<D>,
        source: &Source,
    ) -> Instant {
        if worker.take_address_news() || now.ns_since(self.asked_at) >= ASK_NS {
            self.asked_at = now;
            self.looks.note(now, self.watch.heard(now));
        }
        if self.sweep.is_none() && self.looks.due() <= now {
            self.looks.begin(now);
            let since = now.as_nanos().saturating_sub(CARRIER_PATIENCE_NS);
            let dark = self.watch.dark(now, Instant::from_nanos(since));
            self.known = Known { dark, ..Known::default() };
            self.sweep = Some(Sweep::default());
        }
        let Some(sweep) = &mut self.sweep else { return self.looks.due() };
        let mut addresses = Asking { watch: &mut self.watch, source, known: &mut self.known };
        if worker.lane().leave_lost(sweep, &mut addresses) {
            let Sweep { moved, stay, .. } = *sweep;
            if moved > 0 {
                let worker = worker.lane().number();
                tracing::info!(worker, moved, stay, "connections left an address that is lost");
            }
            self.looks.end(now, (moved, stay));
            self.sweep = None;
        }
        // What has moved has something to send.
        now
    }
}

/// Asks the kernel, each question once in a look.
struct Asking<'a> {
    watch: &'a mut AddressWatch,
    source: &'a Source,
    known: &'a mut Known,
}

impl OwnAddresses for Asking<'_> {
    fn standing(&mut self, ip: IpAddr) -> Standing {
        match *self
            .known
            .own
            .entry(ip)
            .or_insert_with(|| self.watch.is_own(ip, self.source.bound_device()))
        {
            true if self.known.dark.contains(&ip) => Standing::Dark,
            true => Standing::Own,
            false => Standing::Gone,
        }
    }

    fn towards(&mut self, remote: SocketAddr) -> Option<SocketAddr> {
        if let Some((known, way)) = self.known.towards
            && known == remote
        {
            return way;
        }
        let way = self.source.way_towards(remote);
        let way = way.inspect_err(|error| tracing::debug!(%remote, %error, "no way leads there"));
        let way = way.ok().filter(|way| !way.ip().is_unspecified());
        self.known.towards = Some((remote, way));
        way
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The times, in milliseconds after the news, of the looks that follow it.
    fn times(
        looks: &mut Looks,
        news: AddressNews,
        mut found: impl FnMut(u64) -> (u64, u64),
    ) -> Vec<u64> {
        let began = looks.last.plus_ns(SECOND_NS);
        looks.note(began, news);
        let mut times = Vec::new();
        while looks.due() != Instant::NEVER {
            let now = looks.due();
            times.push(now.ns_since(began) / MILLISECOND_NS);
            looks.begin(now);
            looks.end(now, found(times.len() as u64));
        }
        times
    }

    const LOST: AddressNews = AddressNews { lost: true, came: false, dark: false };
    const CAME: AddressNews = AddressNews { lost: false, came: true, dark: false };
    const DARK: AddressNews = AddressNews { lost: false, came: false, dark: true };

    #[test]
    fn looks_follow_news_and_go_on_while_a_connection_may_have_to_move() {
        let mut looks = Looks::new();
        assert!(times(&mut looks, AddressNews::default(), |_| unreachable!()).is_empty());
        assert!(times(&mut looks, CAME, |_| unreachable!()).is_empty(), "nothing waits for it");
        let quiet = times(&mut looks, LOST, |_| (0, 0));
        assert_eq!(quiet, [0, 10, 30, 70, 150, 310]);
        // The kernel had not removed it yet when it was looked for first.
        let moved = times(&mut looks, LOST, |look| (u64::from(look == 2), 0));
        assert_eq!((&moved[..4], moved.len()), (&[0, 10, 30, 70][..], 13));
        assert!((30_000..60_000).contains(moved.last().unwrap()), "{moved:?}");
        assert!(times(&mut looks, CAME, |_| unreachable!()).is_empty(), "all have moved");
        // One that finds no address waits for one.
        times(&mut looks, LOST, |_| (0, 1));
        let waited = times(&mut looks, CAME, |_| (0, 0));
        assert_eq!((waited[0], waited.len()), (0, 13));
        assert!(times(&mut looks, CAME, |_| unreachable!()).is_empty());
    }

    #[test]
    fn a_carrier_is_looked_for_after_a_while() {
        let mut looks = Looks::new();
        assert_eq!(times(&mut looks, DARK, |_| (0, 0)), [200, 210, 230, 270, 350, 510]);
        // An address that goes away is not waited for, and does not forget the carrier.
        let both = AddressNews { dark: true, ..LOST };
        assert_eq!(times(&mut looks, both, |_| (0, 0))[..7], [0, 10, 30, 70, 150, 200, 210]);
        let moved = times(&mut looks, DARK, |look| (u64::from(look == 1), 0));
        assert_eq!((&moved[..2], moved.len()), (&[200, 210][..], 13));
        // One link goes up and down all the time: what is looked for is not put off.
        let begin = looks.last.plus_ns(SECOND_NS);
        for milliseconds in 0..200 {
            let now = begin.plus_ns(milliseconds * MILLISECOND_NS);
            looks.note(now, DARK);
            assert_eq!(looks.due(), begin.plus_ns(CARRIER_PATIENCE_NS));
        }
    }

    #[test]
    fn a_flood_of_news_is_looked_into_with_pauses() {
        let mut looks = Looks::new();
        let begin = Instant::EPOCH.plus_ns(SECOND_NS);
        let mut count = 0;
        for microseconds in 0..100_000 {
            let now = begin.plus_ns(microseconds * 1_000);
            looks.note(now, LOST);
            if looks.next <= now {
                count += 1;
                looks.begin(now);
                looks.end(now, (0, 0));
            }
        }
        assert_eq!(count, 10, "in a tenth of a second");
    }
}
