//! The end of a connection, in two steps.

use super::{Agent, CLOSE_CODE};
use crate::oracle::End;
use bytes::Bytes;
use quiclane::CloseReason;
use quiclane::exec::{ConnectionRef, Drained};

impl Agent {
    /// From here on every callback is one too many.
    fn end(&mut self) {
        if let Some((id, _)) = self.streams.first_key_value() {
            self.complain(format_args!("stream {id} was not closed"));
        }
        self.is_closed = true;
    }

    /// Closes as planned; every second connection is told of it inline.
    pub(super) fn close(&mut self, c: &mut ConnectionRef<'_>) {
        self.shared.closing(self.number);
        let reason = Bytes::from_static(b"as planned");
        if self.rng.below(2) == 0 {
            return c.close(CLOSE_CODE, reason);
        }
        let was_closed = c.is_closed();
        match c.close_inline(CLOSE_CODE, reason) {
            Some(reason) => {
                // Its streams are still told of.
                self.told_inline = true;
                self.has_closed(reason);
            }
            None if was_closed => {}
            None => self.complain("closed inline, and told nothing"),
        }
    }

    fn has_closed(&mut self, reason: CloseReason) {
        self.told("closed", self.closed_streams, 0);
        self.closed_for = Some(reason.clone());
        self.shared.ended(self.number, End::Closed { reason, plan: Box::new(self.plan.clone()) });
    }

    pub(super) fn is_told_of_close(&mut self, reason: CloseReason) {
        if self.told_inline {
            self.complain("closed once more");
        }
        self.has_closed(reason);
        self.end();
    }

    pub(super) fn has_drained(&mut self, c: &ConnectionRef<'_>, drained: &Drained) {
        if self.told_inline {
            self.end();
        }
        let closed_for = self.closed_for.take();
        if closed_for.as_ref() != Some(&drained.reason) || !c.is_closed() {
            self.complain(format_args!("drained for {drained:?}, closed for {closed_for:?}"));
        }
        let completed = u64::from(drained.handshake_completed);
        let at = (self.plan.port, self.side);
        self.shared.told(at.0, at.1, "drained", completed, u64::from(drained.acknowledged));
        self.shared.drained(self.number, drained);
    }
}
