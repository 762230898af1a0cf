//! Path validation: does the peer get what is sent there (RFC 9000 §8.2)?
//!
//! Either side may ask, with PATH_CHALLENGE, and the other answers on the same path, with the same
//! eight bytes. An answer proves that the path carries packets in both directions, and that no third
//! party made the address up. A challenge that leaves in a datagram of full size proves besides that
//! the path carries 1,200 bytes, as QUIC needs (§8.2.1): where the limit of §8.1 makes the first one
//! smaller, its answer lifts the limit, and a second challenge follows.
//!
//! A challenge that is lost is followed by another, with other bytes, as an Initial would be: after
//! a probe timeout, and then twice that. One probe timeout later the path is given up: §8.2.4
//! recommends three, which would be over when the third challenge leaves.

use crate::time::Instant;

/// PATH_CHALLENGE frames that wait for their answer at most (ATTACKS rows 34 and 71). A peer that
/// probes an old and a new path twice each needs four; what comes beyond is counted and not
/// answered, and the peer asks again (RFC 9000 §8.2.1).
pub(super) const PATH_RESPONSES_MAX: usize = 8;

/// PATH_CHALLENGE frames that one validation sends: at 0, 1 and 3 probe timeouts.
const CHALLENGES_MAX: usize = 3;
/// Probe timeouts until a path is given up.
const PROBE_TIMEOUTS: u64 = 4;

/// Challenges of both sides on one path.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// What the peer asked, oldest first.
    responses: [[u8; 8]; PATH_RESPONSES_MAX],
    responses_len: u8,
    ours: Option<Challenge>,
}

/// A validation of ours that is under way.
#[derive(Debug)]
struct Challenge {
    sent: [Sent; CHALLENGES_MAX],
    sent_len: u8,
    next_at: Instant,
    interval_ns: u64,
    /// The path is given up then.
    expires: Instant,
}

/// A PATH_CHALLENGE that has left.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    data: [u8; 8],
    /// Its datagram had 1,200 bytes.
    full_size: bool,
}

/// What an answer to a challenge of ours proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// The peer is there.
    Address,
    /// The peer is there, and the path carries 1,200 bytes.
    Path,
}

impl Exchange {
    /// PATH_CHALLENGE arrived. False if too many wait already.
    pub(super) fn on_challenge(&mut self, data: [u8; 8]) -> bool {
        let Some(free) = self.responses.get_mut(usize::from(self.responses_len)) else {
            return false;
        };
        *free = data;
        self.responses_len += 1;
        true
    }

    /// The data of the next PATH_RESPONSE.
    pub(super) fn next_response(&self) -> Option<[u8; 8]> {
        (self.responses_len > 0).then(|| self.responses[0])
    }

    /// The next PATH_RESPONSE was written.
    pub(super) fn response_sent(&mut self) {
        if self.responses_len > 0 {
            self.responses.rotate_left(1);
            self.responses_len -= 1;
        }
    }

    /// Begins to ask, unless that is under way.
    pub(super) fn begin(&mut self, now: Instant, pto_ns: u64) {
        if self.ours.is_none() {
            self.ours = Some(Challenge {
                sent: [Sent::default(); CHALLENGES_MAX],
                sent_len: 0,
                next_at: now,
                interval_ns: pto_ns,
                expires: now.plus_ns(pto_ns.saturating_mul(PROBE_TIMEOUTS)),
            });
        }
    }

    /// True while we wait for an answer.
    pub(super) fn is_challenged(&self) -> bool {
        self.ours.is_some()
    }

    /// True if a PATH_CHALLENGE is to leave now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.ours.as_ref().is_some_and(|c| c.next_at <= now)
    }

    /// When the next one is to leave, and when the path is given up.
    pub(super) fn deadlines(&self) -> Option<(Instant, Instant)> {
        self.ours.as_ref().map(|c| (c.next_at, c.expires))
    }

    /// A PATH_CHALLENGE with `data` has left.
    pub(super) fn challenge_sent(&mut self, now: Instant, data: [u8; 8], full_size: bool) {
        let Some(c) = &mut self.ours else { return };
        let Some(free) = c.sent.get_mut(usize::from(c.sent_len)) else { return };
        *free = Sent { data, full_size };
        c.sent_len += 1;
        let more = usize::from(c.sent_len) < CHALLENGES_MAX;
        c.next_at = if more { now.plus_ns(c.interval_ns) } else { Instant::NEVER };
        c.interval_ns = c.interval_ns.saturating_mul(2);
    }

    /// PATH_RESPONSE arrived, on whatever path; what it proves of this one. The validation is over
    /// then. RFC 9000 §8.2.3: it is the path of the challenge that counts.
    pub(super) fn on_response(&mut self, data: [u8; 8]) -> Option<Proof> {
        let c = self.ours.as_ref()?;
        let sent = c.sent.get(..usize::from(c.sent_len))?;
        let full_size = sent.iter().find(|sent| sent.data == data)?.full_size;
        self.ours = None;
        Some(if full_size { Proof::Path } else { Proof::Address })
    }

    /// No more is asked.
    pub(super) fn end(&mut self) {
        self.ours = None;
    }

    /// True if neither side waits for anything.
    pub(super) fn is_over(&self) -> bool {
        self.responses_len == 0 && self.ours.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn an_answer_to_any_challenge_of_ours_ends_the_validation() {
        for (n, full_size, proof) in [(0, true, Proof::Path), (1, false, Proof::Address)] {
            let mut e = Exchange::default();
            e.begin(at(0), 100_000_000);
            for (n, ms) in [(0, 0), (1, 100)] {
                assert!(e.is_due(at(ms)) && (ms == 0 || !e.is_due(at(ms - 1))));
                e.challenge_sent(at(ms), [n; 8], full_size);
            }
            assert_eq!(e.on_response([9; 8]), None, "not ours");
            assert_eq!(e.on_response([n; 8]), Some(proof));
            assert_eq!((e.on_response([n; 8]), e.is_over()), (None, true), "only once");
        }
    }

    #[test]
    fn challenges_are_repeated_twice_and_given_up_after_four_probe_timeouts() {
        let mut e = Exchange::default();
        e.begin(at(0), 100_000_000);
        for (n, ms) in [(0, 0), (1, 100), (2, 300)] {
            assert_eq!(e.deadlines(), Some((at(ms), at(400))));
            // It is not begun anew.
            e.begin(at(ms), 100_000_000);
            e.challenge_sent(at(ms), [n; 8], true);
        }
        assert_eq!(e.deadlines(), Some((Instant::NEVER, at(400))));
        e.challenge_sent(at(401), [9; 8], true);
        assert_eq!(e.on_response([9; 8]), None, "a bound holds whatever the caller does");
        e.end();
        assert!(e.is_over());
    }
}
