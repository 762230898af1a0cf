//! Loss and silence on the path of each connection: do they explain that it makes no progress?
//!
//! A connection that has work to do and makes no progress is stuck, unless the network was silent.
//! Then the connection waits for a probe, and the interval of probes doubles each time. So after a
//! silence of `s` the next probe may be another `s` away. The connection gets [`PATIENCE_NS`] on top,
//! for round trips, queues and single losses. A network is silent while it loses what the hosts send.
//! Hosts that send nothing do not count: two that wait for each other are stuck.

use crate::scenario::first_port;
use quiclane::datapath::sim::{TapEvent, TapKind};
use quiclane::time::{Instant, SECOND_NS};
use quiclane::wire::Side;
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;

/// How long a connection with work to do may make no progress while the network delivers.
pub(crate) const PATIENCE_NS: u64 = 20 * SECOND_NS;

/// What is known of one connection, by the port of its client.
#[derive(Debug)]
pub(crate) struct Line {
    /// The last callback that is progress, on either side.
    progress_at: Instant,
    /// When each side, client and server, last got an undamaged datagram that it could decrypt.
    heard_at: [Instant; 2],
    /// The sides of which a datagram arrived, and no datagram has come back since.
    asked: [bool; 2],
    /// When each side last got a datagram after one of its own had arrived: then its timer was
    /// restarted, whatever it waits for.
    answered_at: [Instant; 2],
    /// The last datagram that was lost or damaged.
    loss_at: Instant,
    /// The longest silence since the last progress.
    silence_ns: u64,
}

impl Line {
    fn new(now: Instant) -> Self {
        Self {
            progress_at: now,
            heard_at: [now; 2],
            asked: [false; 2],
            answered_at: [now; 2],
            loss_at: Instant::EPOCH,
            silence_ns: 0,
        }
    }

    /// A datagram arrived as it was sent; `opens`: the side has keys for some of it.
    fn arrived(&mut self, now: Instant, at: Side, opens: bool) {
        self.asked[at.peer() as usize] = true;
        if !opens {
            return;
        }
        self.heard_at[at as usize] = now;
        if std::mem::take(&mut self.asked[at as usize]) {
            self.answered_at[at as usize] = now;
        }
    }

    fn lost(&mut self, now: Instant) {
        self.loss_at = now;
        // Progress of the other side does not help the side whose answers are lost.
        let from = self.answered_at[0].min(self.answered_at[1]);
        self.silence_ns = self.silence_ns.max(now.ns_since(from));
    }
}

/// How long a pause may be in which the network was silent for `silence_ns`.
const fn allowed_ns(patience_ns: u64, silence_ns: u64) -> u64 {
    patience_ns + 2 * silence_ns
}

/// All connections of a run.
#[derive(Debug)]
pub(crate) struct Lines {
    /// The addresses of the server.
    servers: [SocketAddr; 2],
    by_port: BTreeMap<u16, Line>,
    /// Hashes of all sent datagrams: one that arrives and is not among them is damaged.
    sent: HashSet<u64>,
    /// Allowed on top of what the network explains.
    patience_ns: u64,
}

impl Lines {
    pub(crate) fn new(servers: [SocketAddr; 2], patience_ns: u64) -> Self {
        Self { servers, by_port: BTreeMap::new(), sent: HashSet::new(), patience_ns }
    }

    fn line(&mut self, port: u16, now: Instant) -> &mut Line {
        self.by_port.entry(port).or_insert_with(|| Line::new(now))
    }

    /// A datagram was sent, and its payload has this hash. False if it was sent before.
    pub(crate) fn sent(&mut self, hash: u64) -> bool {
        self.sent.insert(hash)
    }

    /// Whether a payload with this hash was sent. If not, what arrived is damaged.
    pub(crate) fn was_sent(&self, hash: u64) -> bool {
        self.sent.contains(&hash)
    }

    /// The port of the client at one end of a datagram, and the side that the datagram goes to.
    pub(crate) fn ends(&self, event: &TapEvent<'_>) -> (u16, Side) {
        match self.servers.contains(&event.source) {
            true => (first_port(event.destination.port()), Side::Client),
            false => (first_port(event.source.port()), Side::Server),
        }
    }

    /// A datagram arrived or was lost; `hash` is that of its payload. `opens`: the side that it goes
    /// to has keys for some of it.
    pub(crate) fn see(&mut self, event: &TapEvent<'_>, hash: u64, opens: bool) {
        let (port, to) = self.ends(event);
        let intact = self.was_sent(hash);
        let line = self.line(port, event.at);
        match event.kind {
            TapKind::Delivered { .. } if intact => line.arrived(event.at, to, opens),
            TapKind::Delivered { .. } | TapKind::Dropped(_) => line.lost(event.at),
            TapKind::Sent | TapKind::Injected | TapKind::Copied => {}
        }
    }

    /// A connection begins.
    pub(crate) fn begins(&mut self, port: u16, now: Instant) {
        self.line(port, now);
    }

    /// A connection made progress. Returns how long it had made none, if that was longer than the
    /// network explains.
    pub(crate) fn progress(&mut self, port: u16, now: Instant) -> Option<Pause> {
        let pause = self.pause(port, now);
        let line = self.line(port, now);
        line.progress_at = now;
        line.silence_ns = 0;
        pause
    }

    /// How long a connection has made no progress, if that is longer than the network explains.
    pub(crate) fn pause(&self, port: u16, now: Instant) -> Option<Pause> {
        let line = self.by_port.get(&port)?;
        let length_ns = now.ns_since(line.progress_at);
        let silence_ns = line.silence_ns;
        (length_ns > allowed_ns(self.patience_ns, silence_ns))
            .then_some(Pause { length_ns, silence_ns })
    }

    /// Whether the network delivered nothing of the peer to `side` for so long that giving up is
    /// right.
    pub(crate) fn kept_silent(&self, port: u16, side: Side, now: Instant) -> bool {
        self.by_port.get(&port).is_none_or(|line| {
            let heard_at = line.heard_at[side as usize];
            let silence_ns = line.loss_at.ns_since(heard_at);
            now.ns_since(heard_at) <= allowed_ns(self.patience_ns, silence_ns)
        })
    }

    /// The longest silence since the last progress.
    pub(crate) fn silence_ns(&self, port: u16) -> u64 {
        self.by_port.get(&port).map_or(0, |line| line.silence_ns)
    }
}

/// Time without progress that the network does not explain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) length_ns: u64,
    pub(crate) silence_ns: u64,
}

impl std::fmt::Display for Pause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [length, silence] = [self.length_ns, self.silence_ns].map(|ns| ns as f64 / 1e9);
        write!(f, "no progress for {length:.3} s, with the network silent for {silence:.3} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quiclane::datapath::sim::DropReason;
    use quiclane::ecn::Ecn;

    const CLIENT: u16 = 10_000;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * SECOND_NS)
    }

    fn lines() -> Lines {
        let mut lines = Lines::new(["10.0.0.2:4433".parse().unwrap(); 2], PATIENCE_NS);
        lines.sent(1);
        lines.begins(CLIENT, at(0));
        lines
    }

    fn see(lines: &mut Lines, seconds: u64, to: Side, kind: TapKind, hash: u64) {
        see_that_opens(lines, seconds, to, kind, hash, true);
    }

    fn see_that_opens(
        lines: &mut Lines,
        seconds: u64,
        to: Side,
        kind: TapKind,
        hash: u64,
        opens: bool,
    ) {
        let ends = ["10.0.0.1:10000", "10.0.0.2:4433"].map(|end| end.parse().unwrap());
        let [source, destination] = if to == Side::Server { ends } else { [ends[1], ends[0]] };
        let ecn = Ecn::NotEct;
        let event =
            TapEvent { at: at(seconds), kind, id: 0, source, destination, ecn, payload: b"" };
        lines.see(&event, hash, opens);
    }

    fn arrives(lines: &mut Lines, seconds: u64, to: Side) {
        see(lines, seconds, to, TapKind::Delivered { queue: 0 }, 1);
    }

    fn is_lost(lines: &mut Lines, seconds: u64, to: Side) {
        see(lines, seconds, to, TapKind::Dropped(DropReason::Loss), 1);
    }

    #[test]
    fn a_pause_in_which_nobody_sends_has_no_excuse() {
        let mut lines = lines();
        assert_eq!(lines.pause(CLIENT, at(20)), None);
        assert!(lines.pause(CLIENT, at(21)).is_some());
        assert_eq!(lines.progress(CLIENT, at(19)), None);
        assert_eq!(lines.pause(CLIENT, at(39)), None);
        let pause = lines.progress(CLIENT, at(40)).unwrap();
        assert!(pause.to_string().contains("no progress for 21.000 s"), "{pause}");
        assert!(!lines.kept_silent(CLIENT, Side::Client, at(40)));
    }

    #[test]
    fn probes_that_are_lost_are_an_excuse_for_twice_as_long() {
        let mut lines = lines();
        for seconds in [1, 3, 7, 15] {
            is_lost(&mut lines, seconds, Side::Server);
        }
        assert_eq!(lines.pause(CLIENT, at(50)), None);
        assert!(lines.pause(CLIENT, at(51)).is_some());
        assert!(lines.kept_silent(CLIENT, Side::Client, at(50)));
        assert!(!lines.kept_silent(CLIENT, Side::Client, at(51)));
    }

    #[test]
    fn a_network_that_carries_both_ways_is_not_silent() {
        let mut lines = lines();
        for seconds in (0..30).step_by(3) {
            arrives(&mut lines, seconds, Side::Server);
            is_lost(&mut lines, seconds + 1, Side::Server);
            arrives(&mut lines, seconds + 2, Side::Client);
        }
        assert!(lines.pause(CLIENT, at(30)).is_some());
        // One direction is not enough: what the other side sends is lost.
        let mut lines = self::lines();
        for seconds in (0..30).step_by(3) {
            arrives(&mut lines, seconds, Side::Server);
            is_lost(&mut lines, seconds + 1, Side::Client);
        }
        assert_eq!(lines.pause(CLIENT, at(30)), None);
    }

    #[test]
    fn a_lost_answer_is_an_excuse_for_the_side_that_waits_for_it() {
        // The client's probes are lost for 20 s. The next one arrives, and the server makes progress.
        // Its answer is lost, and the client's timer is at 40 s.
        let mut lines = lines();
        arrives(&mut lines, 0, Side::Client);
        for seconds in [1, 3, 9, 19] {
            is_lost(&mut lines, seconds, Side::Server);
        }
        arrives(&mut lines, 20, Side::Server);
        assert_eq!(lines.progress(CLIENT, at(20)), None);
        is_lost(&mut lines, 20, Side::Client);
        assert_eq!(lines.pause(CLIENT, at(60)), None);
        assert!(lines.pause(CLIENT, at(81)).is_some());
        // With the answer delivered there is no excuse.
        let mut lines = self::lines();
        arrives(&mut lines, 20, Side::Server);
        arrives(&mut lines, 20, Side::Client);
        arrives(&mut lines, 20, Side::Server);
        assert_eq!(lines.progress(CLIENT, at(20)), None);
        is_lost(&mut lines, 20, Side::Client);
        assert!(lines.pause(CLIENT, at(41)).is_some());
    }

    #[test]
    fn what_a_side_has_no_keys_for_is_not_heard() {
        // The server's answers are lost for 30 s. What arrives from the client is its Finished
        // over and over, for which the server has dropped the keys (RFC 9001 §4.9.2).
        let repeats = |opens| {
            let mut lines = lines();
            arrives(&mut lines, 1, Side::Server);
            for seconds in [2, 3, 5, 9, 17, 29] {
                let kind = TapKind::Delivered { queue: 0 };
                is_lost(&mut lines, seconds, Side::Client);
                see_that_opens(&mut lines, seconds, Side::Server, kind, 1, opens);
            }
            lines
        };
        assert!(repeats(false).kept_silent(CLIENT, Side::Server, at(52)));
        assert!(!repeats(false).kept_silent(CLIENT, Side::Server, at(80)));
        assert!(!repeats(true).kept_silent(CLIENT, Side::Server, at(52)));
    }

    #[test]
    fn what_arrives_damaged_is_lost() {
        let mut lines = lines();
        for seconds in 0..15 {
            see(&mut lines, seconds, Side::Server, TapKind::Delivered { queue: 0 }, 2);
            arrives(&mut lines, seconds, Side::Client);
        }
        assert_eq!(lines.silence_ns(CLIENT), 14 * SECOND_NS);
        assert_eq!(lines.pause(CLIENT, at(48)), None);
    }

    #[test]
    fn nothing_is_sent_twice() {
        let mut lines = lines();
        assert!(lines.sent(2));
        assert!(!lines.sent(2));
    }
}
