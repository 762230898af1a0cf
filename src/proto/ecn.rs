//! ECN towards the peer: send ECT(0), and believe only what the peer's reports confirm (RFC 9000
//! §13.4.2).

use super::observer::EcnState;
use crate::ecn::Ecn;
use crate::wire::frame::EcnCounts;

/// Packets sent with ECT(0) before the path has proved anything.
const TESTING_PACKETS: u32 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Testing,
    /// The first packets are out; no more leave with ECT(0) until one is confirmed.
    Unknown,
    Capable,
    Failed,
}

/// What is known of how the path treats our ECN codepoints.
#[derive(Debug)]
pub(super) struct EcnSender {
    phase: Phase,
    sent: u32,
    /// Counts of the newest report, of 1-RTT packets only.
    seen: EcnCounts,
}

/// What a report means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EcnVerdict {
    /// Nothing to do.
    Fine,
    /// A router marked packets: congestion.
    Congestion,
}

impl EcnSender {
    pub(super) fn new(enabled: bool) -> Self {
        let phase = if enabled { Phase::Testing } else { Phase::Failed };
        Self { phase, sent: 0, seen: EcnCounts::default() }
    }

    /// The peer counts the packets of all paths together: what it has told of those before this one
    /// is no news here.
    pub(super) fn count_from(&mut self, before: &Self) {
        self.seen = before.seen;
    }

    /// The ECN codepoint of the next packet.
    #[inline]
    pub(super) fn codepoint(&self) -> Ecn {
        match self.phase {
            Phase::Testing | Phase::Capable => Ecn::Ect0,
            Phase::Unknown | Phase::Failed => Ecn::NotEct,
        }
    }

    /// True if the next packet leaves with ECT(0).
    #[inline]
    pub(super) fn is_marking(&self) -> bool {
        self.codepoint() != Ecn::NotEct
    }

    /// What is known of the path.
    pub(super) fn state(&self) -> EcnState {
        match self.phase {
            Phase::Testing => EcnState::Testing,
            Phase::Unknown => EcnState::Unknown,
            Phase::Capable => EcnState::Capable,
            Phase::Failed => EcnState::Failed,
        }
    }

    /// True once the peer has confirmed that ECN codepoints arrive.
    #[cfg(test)]
    pub(super) fn is_capable(&self) -> bool {
        self.phase == Phase::Capable
    }

    /// A packet of ours has left with the ECN codepoint that [`codepoint`](Self::codepoint) gave.
    #[inline]
    pub(super) fn on_sent(&mut self) {
        if self.phase == Phase::Testing {
            self.sent += 1;
            if self.sent >= TESTING_PACKETS {
                self.phase = Phase::Unknown;
            }
        }
    }

    /// Reads the counts of an ACK frame that newly acknowledged `newly_marked` packets of those
    /// that left with ECT(0).
    pub(super) fn on_report(&mut self, counts: Option<EcnCounts>, newly_marked: u64) -> EcnVerdict {
        if self.phase == Phase::Failed || (counts.is_none() && newly_marked == 0) {
            return EcnVerdict::Fine;
        }
        let Some(counts) = counts else {
            // The peer does not report ECN, or the path clears it.
            self.phase = Phase::Failed;
            return EcnVerdict::Fine;
        };
        let (Some(ect0), Some(ce)) =
            (counts.ect0.checked_sub(self.seen.ect0), counts.ce.checked_sub(self.seen.ce))
        else {
            // Counts that fall come with reordered reports: nothing is learnt.
            return EcnVerdict::Fine;
        };
        if ect0 + ce < newly_marked || counts.ect1 > 0 {
            self.phase = Phase::Failed;
            return EcnVerdict::Fine;
        }
        self.seen = counts;
        if newly_marked > 0 {
            self.phase = Phase::Capable;
        }
        if ce > 0 { EcnVerdict::Congestion } else { EcnVerdict::Fine }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(ect0: u64, ce: u64) -> Option<EcnCounts> {
        Some(EcnCounts { ect0, ect1: 0, ce })
    }

    #[test]
    fn marks_go_on_only_when_the_path_keeps_them() {
        let mut e = EcnSender::new(true);
        for _ in 0..TESTING_PACKETS {
            assert_eq!(e.codepoint(), Ecn::Ect0);
            e.on_sent();
        }
        assert_eq!(e.codepoint(), Ecn::NotEct, "waits for proof");
        assert_eq!(e.on_report(counts(10, 0), 10), EcnVerdict::Fine);
        assert_eq!(e.codepoint(), Ecn::Ect0);
        assert_eq!(e.on_report(counts(11, 1), 2), EcnVerdict::Congestion);
        assert_eq!(e.on_report(counts(11, 1), 1), EcnVerdict::Fine, "a codepoint was cleared");
        assert_eq!(e.codepoint(), Ecn::NotEct);
    }

    #[test]
    fn a_peer_that_reports_nothing_ends_the_test() {
        let mut e = EcnSender::new(true);
        e.on_report(None, 3);
        assert_eq!(e.codepoint(), Ecn::NotEct);
    }
}
