//! A turn that panicked: the lane's connections end, and the lane goes on.
//!
//! Panics in callbacks end their connection alone (`adapter.rs`). This is about the others: a fault
//! of ours, or of an observer, somewhere in a turn. It is not known what the turn left half done. So
//! every connection is closed with INTERNAL_ERROR, and its application and its peer are told; what
//! a turn keeps between its steps is made anew. The next turn serves new connections. Other lanes
//! share nothing with this one that a turn could leave broken.
//!
//! Closing is work too, and may panic again. So each connection is ended on its own, and writes its
//! CONNECTION_CLOSE at once: a later panic costs nobody else that. A connection in which it panics
//! leaves at once, and so does one that was closing already and has said so: it may be what the turn
//! panicked for. Each panic ends with fewer connections, or with none that has anything left to say.

use super::adapter::guarded;
use super::transmit::Outcome;
use super::{Lane, enlist};
use crate::datapath::Datapath;
use crate::time::Instant;

impl Lane {
    /// Ends all connections after a turn has panicked. Returns how many there were.
    #[cold]
    pub(in crate::exec) fn recover<D: Datapath>(
        &mut self,
        now: Instant,
        datapaths: &mut [D],
    ) -> usize {
        self.services.set_now(now);
        self.touched.clear();
        self.forget_ahead();
        let mut ended = 0;
        for slot in 0..self.table.slots() as u32 {
            let Some((key, entry)) = self.table.get_slot(slot) else { continue };
            ended += 1;
            entry.seat.touched = false;
            let stays = guarded(|| self.fail(slot, datapaths)).unwrap_or_else(|message| {
                tracing::error!(slot, message, "a connection panicked as it was ended");
                false
            });
            if !stays {
                self.remove(key);
            } else if let Some((_, entry)) = self.table.get_slot(slot) {
                // What follows, its timer for one, comes with the next transmission.
                enlist(&mut self.touched, &mut entry.seat);
            }
        }
        ended
    }

    /// Ends the connection in `slot`, and lets it say so. False if it has to leave.
    fn fail<D: Datapath>(&mut self, slot: u32, datapaths: &mut [D]) -> bool {
        let now = self.services.now();
        let Some((_, entry)) = self.table.get_slot(slot) else { return true };
        let was_closed = entry.connection.is_closed();
        let (connection, mut application) = entry.split(&mut self.services);
        connection.fail(now, "the worker failed");
        connection.deliver_events(&mut application);
        let (mut sent, outcome) = self.transmit_one(slot, datapaths);
        if outcome == Outcome::Blocked {
            // What others wrote has to leave first. A datapath that is lost says so in the next turn.
            datapaths.iter_mut().for_each(|datapath| drop(datapath.flush()));
            sent += self.transmit_one(slot, datapaths).0;
        }
        self.count_sent(sent);
        !was_closed || sent > 0
    }
}
