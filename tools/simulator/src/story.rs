//! The last events of each connection. A seed that fails is run once more to collect them: from the
//! observers of both ends, from the network (losses), and from the applications (callbacks).

use quiclane::time::Instant;
use std::collections::{BTreeMap, VecDeque};

/// The most events of a connection.
pub(crate) const EVENTS: usize = 100;

/// A ring of events for each connection, by the port of its client, and one for all of them.
#[derive(Debug, Default)]
pub(crate) struct Story {
    by_port: BTreeMap<u16, VecDeque<String>>,
    all: VecDeque<String>,
}

fn keep(ring: &mut VecDeque<String>, event: String) {
    if ring.len() == EVENTS {
        ring.pop_front();
    }
    ring.push_back(event);
}

impl Story {
    pub(crate) fn tell(&mut self, now: Instant, port: u16, what: &str) {
        let event = format!("{:>12.6} s  {port}  {what}", now.as_nanos() as f64 / 1e9);
        keep(&mut self.all, event.clone());
        keep(self.by_port.entry(port).or_default(), event);
    }

    /// The last events of the connection of `port`; without a port, of all connections.
    pub(crate) fn take(&mut self, port: Option<u16>) -> Vec<String> {
        let ring = port.and_then(|port| self.by_port.remove(&port));
        ring.unwrap_or_else(|| std::mem::take(&mut self.all)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_events_are_those_of_the_connection_asked_for() {
        let mut story = Story::default();
        story.tell(Instant::from_nanos(1_500_000), 7, "begins");
        for number in 0..200 {
            story.tell(Instant::EPOCH, 8, &format!("event {number}"));
        }
        assert_eq!(story.take(Some(7)), ["    0.001500 s  7  begins"]);
        let of_eight = story.take(Some(8));
        assert_eq!(of_eight.len(), EVENTS);
        assert!(of_eight[EVENTS - 1].ends_with("event 199"), "{of_eight:?}");
        assert_eq!(story.take(None).len(), EVENTS);
    }
}
