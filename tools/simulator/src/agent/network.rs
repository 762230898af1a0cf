//! What is told of the network: to every third connection, and as seldom as it wishes.

use super::Agent;
use quiclane::exec::{ConnectionRef, IDEAL_SEND_MIN_BYTES, NetworkStatistics};
use quiclane::time::Instant;
use std::time::Duration;

/// What a connection has asked for, and was told.
#[derive(Clone, Copy, Default)]
pub(super) struct Watched {
    every: Option<Duration>,
    told_at: Option<Instant>,
    ideal: u64,
}

impl Agent {
    /// Asks for statistics. Nothing is drawn for it: what happens to seeds stays as it is.
    pub(super) fn watch_network(&mut self, c: &mut ConnectionRef<'_>) {
        if self.number.is_multiple_of(3) {
            let every = Duration::from_millis(self.number as u64 % 7 * 10);
            self.network =
                Watched { every: Some(every), told_at: None, ideal: IDEAL_SEND_MIN_BYTES };
            c.tell_network_statistics(Some(every));
        }
    }

    /// A report has come.
    pub(super) fn check_statistics(&mut self, c: &ConnectionRef<'_>, told: &NetworkStatistics) {
        let (now, Watched { every, told_at, .. }) = (c.now(), self.network);
        let early = every
            .zip(told_at)
            .is_some_and(|(every, at)| u128::from(now.ns_since(at)) < every.as_nanos());
        let wrong = told.ideal_send_bytes < IDEAL_SEND_MIN_BYTES || told.delivery_rate == Some(0);
        if every.is_none() || early || wrong || *told != c.network_statistics() {
            self.complain(format_args!("{told:?} is told at {now:?}, after {told_at:?}"));
        }
        self.network.told_at = Some(now);
    }

    /// The ideal send buffer has changed.
    pub(super) fn check_ideal(&mut self, c: &ConnectionRef<'_>, bytes: u64) {
        let is_new = bytes != self.network.ideal && bytes >= IDEAL_SEND_MIN_BYTES;
        if !is_new || self.network.every.is_none() || c.is_closed() {
            self.complain(format_args!("an ideal buffer of {bytes} after {}", self.network.ideal));
        }
        self.network.ideal = bytes;
    }
}
