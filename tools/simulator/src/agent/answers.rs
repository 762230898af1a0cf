//! What a receiver sends back.

use super::{Agent, STOP_CODE, pattern};
use quiclane::StreamId;
use quiclane::exec::ConnectionRef;

impl Agent {
    /// What a receiver does with what it took: echoes it, or stops the stream.
    pub(super) fn answer(
        &mut self,
        c: &mut ConnectionRef<'_>,
        id: StreamId,
        mut at: u64,
        taken: u64,
        fin: bool,
    ) {
        let s = self.stream(id);
        let end = at + taken;
        let mut refused = None;
        while !s.send_over && s.to_send.is_none() && (at < end || fin) {
            let data = pattern(&s.plan, at, end - at);
            at += data.len() as u64;
            s.sent = at;
            s.send_over = fin && at == end;
            if let Err(error) = s.send(c, id, data) {
                refused = Some(error);
                s.send_over = true;
            }
        }
        if let Some(error) = refused {
            self.complain(format_args!("echo on {id:?}: {error:?}"));
        }
        let s = self.stream(id);
        if !s.receive_over && s.plan.stop_at.is_some_and(|stop| s.received >= stop) {
            s.plan.stop_at = None;
            s.receive_over = true;
            if let Err(error) = c.streams().stop_sending(id, STOP_CODE) {
                self.complain(format_args!("stop of {id:?}: {error:?}"));
            }
            self.abandon(c, id);
        }
    }
}
