//! A path: everything that is known of one way between two addresses, and nothing else.
//!
//! Round trips, the window, the pacer, the size of datagrams and what becomes of ECN codepoints all
//! belong to the way that packets take (RFC 9000 §9.4). A connection holds its active path by value:
//! each packet touches it. The other paths of a connection, if there are any, are in
//! `connection/paths.rs`.

use super::congestion::{AckEnd, Algorithm, AnyController, Controller};
use super::ecn::EcnSender;
use super::mtu::Mtu;
use super::pacer::{Pacer, Rate};
use super::path_validation::Exchange;
use super::patience::Patience;
use super::recovery::{Resolved, SentInfo};
use super::rtt::Rtt;
use super::spurious::SpuriousCandidates;
use crate::time::Instant;
use std::net::SocketAddr;

/// RFC 9000 §8.1: bytes that may be sent for each byte that came from an address that is not
/// validated.
const AMPLIFICATION: u64 = 3;

/// Bytes that a datagram must have for a packet to be begun in it.
pub(super) const MIN_ROOM: usize = 64;

/// Names a path of one connection among those that it has.
///
/// Each packet remembers the path that it took in one byte: an acknowledgement that comes after the
/// connection has moved on says nothing of the new path. Numbers are used again after 256 paths; the
/// packets of a path are resolved or forgotten long before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathId(pub(super) u8);

#[cfg(test)]
impl PathId {
    /// The path with this number.
    pub(crate) const fn of(number: u8) -> Self {
        Self(number)
    }
}

/// The two ends of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Our address. Unspecified while the kernel has not chosen it.
    pub local: SocketAddr,
    /// The peer's address.
    pub remote: SocketAddr,
}

/// The two ends of a path, where a datagram's datapath has them: looked at for each packet, and copied
/// for few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends<'a> {
    /// Our address.
    pub local: &'a SocketAddr,
    /// The peer's address.
    pub remote: &'a SocketAddr,
}

impl Addresses {
    /// The same, borrowed.
    #[must_use]
    pub fn ends(&self) -> Ends<'_> {
        Ends { local: &self.local, remote: &self.remote }
    }
}

impl Ends<'_> {
    /// The same, of its own.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        Addresses { local: *self.local, remote: *self.remote }
    }
}

/// A path of a connection.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Path {
    /// Our address. A client that lets the kernel choose learns it from the first packet.
    pub(super) local: SocketAddr,
    /// The peer's address.
    pub(super) remote: SocketAddr,
    pub(super) bytes_in_flight: u64,
    /// Challenges of either side, while there are some: most paths never have one.
    pub(super) exchange: Option<Box<Exchange>>,
    /// What the peer waits for before it acknowledges.
    pub(super) patience: Patience,
    /// The pacer is asked.
    pub(super) paced: bool,
    pub(super) id: PathId,
    pub(super) rtt: Rtt,
    pub(super) pacer: Pacer,
    pub(super) mtu: Mtu,
    pub(super) ecn: EcnSender,
    pub(super) spurious: SpuriousCandidates,
    pub(super) congestion: AnyController,
    pub(super) validation: Validation,
}

/// How paths of a connection begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct PathConfig {
    pub(super) initial_rtt_ns: u64,
    pub(super) congestion: Algorithm,
    pub(super) paced: bool,
    pub(super) ecn: bool,
    pub(super) initial_mtu_bytes: u16,
    pub(super) max_mtu_bytes: u16,
}

impl Path {
    /// A new path, of which only the validation state is known.
    pub(super) fn new(
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        validated: bool,
        config: &PathConfig,
    ) -> Self {
        let mtu = config.initial_mtu_bytes;
        Self {
            local,
            remote,
            id: PathId::default(),
            validation: Validation::new(validated),
            rtt: Rtt::new(config.initial_rtt_ns),
            congestion: AnyController::new(config.congestion, mtu),
            spurious: SpuriousCandidates::default(),
            paced: config.paced,
            pacer: Pacer::new(now, mtu),
            bytes_in_flight: 0,
            ecn: EcnSender::new(config.ecn),
            mtu: Mtu::new(mtu, config.max_mtu_bytes.max(mtu)),
            patience: Patience::default(),
            exchange: None,
        }
    }

    /// The path on which the peer appears after this one. What is known of this one may hold for
    /// that as well if only the port changed, as it does when a NAT forgets (RFC 9000 §9.4).
    pub(super) fn successor(
        &self,
        now: Instant,
        id: PathId,
        at: &Addresses,
        validated: bool,
        config: &PathConfig,
    ) -> Self {
        let mut path = Self::new(now, at.local, at.remote, validated, config);
        path.id = id;
        path.patience = self.patience;
        path.ecn.count_from(&self.ecn);
        if self.local.ip() == at.local.ip() && self.remote.ip() == at.remote.ip() {
            path.rtt = self.rtt;
            path.congestion = self.congestion.clone();
            path.pacer = self.pacer.clone();
            path.mtu = self.mtu.clone();
            path.mtu.forget_probe();
        }
        path
    }

    /// Its ends.
    pub(super) fn addresses(&self) -> Addresses {
        Addresses { local: self.local, remote: self.remote }
    }

    /// True if packets between these ends take the path.
    #[inline]
    pub(super) fn is_between(&self, at: Ends<'_>) -> bool {
        same(&self.remote, at.remote) && same(&self.local, at.local)
    }

    /// Bytes of heap held.
    pub(super) fn memory_bytes(&self) -> usize {
        self.spurious.memory_bytes() + self.exchange.as_ref().map_or(0, |_| size_of::<Exchange>())
    }

    /// PATH_CHALLENGE arrived on the path, and is answered there (RFC 9000 §8.2.2). False if too
    /// many wait already: a flood of them costs no memory.
    pub(super) fn on_challenge(&mut self, data: [u8; 8]) -> bool {
        self.exchange.get_or_insert_default().on_challenge(data)
    }

    /// True if there is a challenge to answer.
    #[inline]
    pub(super) fn has_response(&self) -> bool {
        self.exchange.as_ref().is_some_and(|e| e.next_response().is_some())
    }

    /// The data of the next PATH_RESPONSE.
    pub(super) fn next_response(&self) -> Option<[u8; 8]> {
        self.exchange.as_ref().and_then(|e| e.next_response())
    }

    /// The next PATH_RESPONSE was written. RFC 9000 §13.3: it is sent once; the peer asks again.
    pub(super) fn response_sent(&mut self) {
        if let Some(e) = &mut self.exchange {
            e.response_sent();
        }
        self.release_exchange();
    }

    /// Begins to validate the path, unless that is under way.
    pub(super) fn challenge(&mut self, now: Instant, pto_ns: u64) {
        self.exchange.get_or_insert_default().begin(now, pto_ns);
    }

    /// True while a validation of ours is under way.
    pub(super) fn is_challenged(&self) -> bool {
        self.exchange.as_ref().is_some_and(|e| e.is_challenged())
    }

    /// True if a PATH_CHALLENGE is to leave now.
    pub(super) fn challenge_is_due(&self, now: Instant) -> bool {
        self.exchange.as_ref().is_some_and(|e| e.is_due(now))
    }

    /// Ends a validation, well or badly.
    pub(super) fn end_challenge(&mut self) {
        if let Some(e) = &mut self.exchange {
            e.end();
        }
        self.release_exchange();
    }

    /// When a challenge is to leave, or the path is given up. A challenge for which the limit of RFC
    /// 9000 §8.1 leaves no bytes waits for the peer, not for a time.
    pub(super) fn exchange_deadline(&self) -> Instant {
        match self.exchange.as_ref().and_then(|e| e.deadlines()) {
            Some((next_at, expires)) if self.has_budget() => next_at.min(expires),
            Some((_, expires)) => expires,
            None => Instant::NEVER,
        }
    }

    /// When the path is given up.
    pub(super) fn exchange_end(&self) -> Instant {
        let deadlines = self.exchange.as_ref().and_then(|e| e.deadlines());
        deadlines.map_or(Instant::NEVER, |(_, expires)| expires)
    }

    /// True if the validation has taken too long.
    pub(super) fn has_failed(&self, now: Instant) -> bool {
        self.exchange_end() <= now
    }

    /// True if the limit of RFC 9000 §8.1 leaves enough bytes for a datagram.
    pub(super) fn has_budget(&self) -> bool {
        self.validation.budget() >= MIN_ROOM as u64
    }

    /// True if a datagram with nothing but challenges and responses is to leave now.
    pub(super) fn speaks(&self, now: Instant) -> bool {
        self.has_budget() && (self.has_response() || self.challenge_is_due(now))
    }

    fn release_exchange(&mut self) {
        if self.exchange.as_ref().is_some_and(|e| e.is_over()) {
            self.exchange = None;
        }
    }

    /// RFC 9002 §6.2.1: the base of the probe timeout of 1-RTT packets, without the backoff.
    #[inline]
    pub(super) fn pto_ns(&self, peer_max_ack_delay_ns: u64) -> u64 {
        self.rtt.pto_base_ns(peer_max_ack_delay_ns)
    }

    /// True if so many bytes more do not fit the window.
    #[inline]
    pub(super) fn is_full(&self, bytes: usize) -> bool {
        self.bytes_in_flight + bytes as u64 > self.congestion.window()
    }

    /// Bytes left flight with the space that they belonged to, and tell nothing of the path.
    pub(super) fn on_discarded(&mut self, bytes: u64) {
        self.bytes_in_flight = self.bytes_in_flight.saturating_sub(bytes);
    }

    /// A packet has left on the path.
    #[inline]
    pub(super) fn on_sent(&mut self, now: Instant, info: SentInfo) {
        if !info.in_flight {
            return;
        }
        let bytes = u64::from(info.bytes);
        let before = self.bytes_in_flight;
        self.bytes_in_flight = before + bytes;
        if !info.ack_eliciting {
            return;
        }
        self.congestion.on_sent(now, bytes, before);
        if self.paced {
            self.pacer.on_sent(bytes);
        }
    }

    /// A packet that took the path was acknowledged or lost.
    #[inline]
    pub(super) fn on_resolved(&mut self, p: &Resolved) {
        if p.info.in_flight {
            self.bytes_in_flight = self.bytes_in_flight.saturating_sub(u64::from(p.info.bytes));
        }
    }

    /// An ACK frame has been read; no 1-RTT packet that was sent before `oldest_sent_at` is
    /// outstanding.
    #[inline]
    pub(super) fn on_ack_end(&mut self, now: Instant, oldest_sent_at: Instant) {
        let (in_flight_bytes, rtt) = (self.bytes_in_flight, &self.rtt);
        self.congestion.on_ack_end(now, &AckEnd { in_flight_bytes, oldest_sent_at, rtt });
    }

    /// The window allows more, and there is no data to send.
    #[inline]
    pub(super) fn on_app_limited(&mut self) {
        self.congestion.on_app_limited(self.bytes_in_flight);
    }

    /// When a packet of so many bytes may leave, as the pacer has it.
    #[inline(always)]
    pub(super) fn pace(&mut self, now: Instant, bytes: usize) -> Result<(), Instant> {
        if !self.paced {
            return Ok(());
        }
        let (congestion, rtt) = (&self.congestion, &self.rtt);
        self.pacer.can_send(now, bytes as u64, || match congestion.pacing_rate() {
            Some(bytes) => Rate::per_second(bytes),
            None => Rate::of_window(congestion.window(), rtt.smoothed_ns()),
        })
    }

    /// Datagrams have another size from now on.
    pub(super) fn set_mtu(&mut self, mtu: u16) {
        self.congestion.on_mtu(mtu);
        self.pacer.on_mtu(mtu);
    }
}

/// True if two addresses are the same, IPv4 first and in few steps: each datagram asks it twice.
#[inline]
fn same(a: &SocketAddr, b: &SocketAddr) -> bool {
    match (a, b) {
        (SocketAddr::V4(a), SocketAddr::V4(b)) => {
            (a.ip().to_bits() == b.ip().to_bits()) & (a.port() == b.port())
        }
        (SocketAddr::V6(a), SocketAddr::V6(b)) => a == b,
        (SocketAddr::V4(_), SocketAddr::V6(_)) | (SocketAddr::V6(_), SocketAddr::V4(_)) => false,
    }
}

/// Whether the peer is where its packets say that they come from, and what may be sent until that
/// is known (RFC 9000 §8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validation {
    validated: bool,
    /// What is to be sent next does not fit what may be sent.
    blocked: bool,
    received_bytes: u64,
    sent_bytes: u64,
}

impl Validation {
    pub(super) const fn new(validated: bool) -> Self {
        Self { validated, blocked: false, received_bytes: 0, sent_bytes: 0 }
    }

    pub(super) const fn is_validated(&self) -> bool {
        self.validated
    }

    /// The peer has shown that it gets what is sent there.
    pub(super) const fn validate(&mut self) {
        self.validated = true;
    }

    /// So many bytes came from the address.
    pub(super) const fn on_received(&mut self, bytes: usize) {
        self.received_bytes += bytes as u64;
        self.blocked = false;
    }

    /// What is to be sent next does not fit: it waits for the peer.
    pub(super) const fn block(&mut self) {
        self.blocked = true;
    }

    /// True if it does.
    pub(super) const fn is_blocked(&self) -> bool {
        self.blocked && !self.validated
    }

    /// So many bytes were sent to it.
    pub(super) const fn on_sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }

    /// Bytes that may still be sent.
    pub(super) const fn budget(&self) -> u64 {
        match self.validated {
            true => u64::MAX,
            false => (AMPLIFICATION * self.received_bytes).saturating_sub(self.sent_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::path_validation::PATH_RESPONSES_MAX;
    use super::*;

    #[test]
    fn an_address_that_is_not_validated_gets_three_times_what_came_from_it() {
        let mut v = Validation::new(false);
        assert_eq!(v.budget(), 0, "nothing came");
        v.on_received(1_200);
        v.on_sent(3_000);
        assert_eq!(v.budget(), 600);
        v.on_sent(700);
        assert_eq!(v.budget(), 0, "a datagram may be a little longer");
        v.validate();
        assert!(v.is_validated() && v.budget() == u64::MAX);
    }

    fn path() -> Path {
        let config = PathConfig {
            initial_rtt_ns: 100_000_000,
            congestion: Algorithm::NewReno,
            paced: true,
            ecn: true,
            initial_mtu_bytes: 1_200,
            max_mtu_bytes: 1_472,
        };
        let [local, remote] =
            ["[::1]:1000", "[::1]:443"].map(|address| address.parse().expect("an address"));
        Path::new(Instant::EPOCH, local, remote, true, &config)
    }

    #[test]
    fn what_asks_counts_for_the_pacer_and_padding_as_in_flight() {
        let (now, mut path) = (Instant::EPOCH, path());
        let acknowledges = SentInfo { bytes: 1_200, ..SentInfo::default() };
        let padded = SentInfo { in_flight: true, ..acknowledges };
        let asks = SentInfo { ack_eliciting: true, ..padded };
        for (info, in_flight) in [(acknowledges, 0), (padded, 1_200), (asks, 2_400)] {
            path.on_sent(now, info);
            assert_eq!(path.bytes_in_flight, in_flight);
        }
        // One of the ten packets that the pacer lets go at once has left.
        assert_eq!(path.pace(now, 9 * 1_200), Ok(()));
        assert!(path.pace(now, 9 * 1_200 + 1).is_err());
        path.paced = false;
        assert_eq!(path.pace(now, 9 * 1_200 + 1), Ok(()));
    }

    #[test]
    fn challenges_are_answered_in_order_and_leave_no_memory_behind() {
        let mut path = path();
        let idle = path.memory_bytes();
        for round in 0..2 {
            assert_eq!((path.has_response(), path.next_response()), (false, None), "{round}");
            for n in 0..PATH_RESPONSES_MAX as u8 {
                assert!(path.on_challenge([n; 8]), "{round}: {n}");
            }
            assert!(!path.on_challenge([99; 8]), "one too many");
            assert!(path.memory_bytes() > idle);
            for n in 0..PATH_RESPONSES_MAX as u8 {
                assert_eq!((path.has_response(), path.next_response()), (true, Some([n; 8])));
                path.response_sent();
            }
        }
        path.response_sent();
        assert_eq!((path.has_response(), path.memory_bytes()), (false, idle));
    }
}
