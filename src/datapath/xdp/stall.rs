//! Completions that stop coming.
//!
//! A driver that loses a wake-up, or a queue that hangs, keeps the frames it was given. No
//! call reports it: the rings just stand still. So this module measures for how long frames were
//! out and none came back.

/// How long completions may stand still before the socket is replaced. Drivers complete within
/// microseconds; copying modes complete when the receiver lets go of the packet, which a stopped
/// reader on the same machine can hold up for a scheduling delay.
const STALL_NS: u64 = 1_000_000_000;

/// For how long no frame came back.
#[derive(Debug, Default)]
pub(super) struct Stall {
    since_ns: Option<u64>,
}

impl Stall {
    /// Something came back, or nothing is out.
    pub(super) fn progress(&mut self) {
        self.since_ns = None;
    }

    /// Frames are out, and none came back since the last call. True once that lasts too long; then
    /// the time starts anew.
    pub(super) fn stands_still(&mut self, now_ns: u64) -> bool {
        let since_ns = *self.since_ns.get_or_insert(now_ns);
        let stalled = now_ns.saturating_sub(since_ns) >= STALL_NS;
        if stalled {
            self.since_ns = None;
        }
        stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_standstill_without_a_break_is_a_stall() {
        let mut stall = Stall::default();
        assert!(!stall.stands_still(5));
        assert!(!stall.stands_still(5 + STALL_NS - 1));
        stall.progress();
        assert!(!stall.stands_still(5 + STALL_NS));
        assert!(!stall.stands_still(4 + 2 * STALL_NS));
        assert!(stall.stands_still(5 + 2 * STALL_NS));
        assert!(!stall.stands_still(6 + 2 * STALL_NS), "the time starts anew");
    }
}
