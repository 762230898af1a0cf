//! One queue of a simulated host, as a datapath.

use super::HostId;
use super::net::Core;
use crate::datapath::QueueStats;
use crate::datapath::memory::{Amount, Datagrams, Medium, MemoryDatapath};
use std::cell::RefCell;
use std::rc::Rc;

/// One queue of a host in a [`SimNet`](super::SimNet).
pub type SimDatapath = MemoryDatapath<SimMedium>;

/// The network, as one queue of a host sees it.
pub struct SimMedium {
    core: Rc<RefCell<Core>>,
    host: HostId,
    queue: usize,
}

pub(super) fn datapath(core: Rc<RefCell<Core>>, host: HostId, queue: usize) -> SimDatapath {
    let (max_datagram_bytes, tx_frames) = {
        let core = core.borrow();
        (core.config.max_datagram_bytes, core.config.tx_frames)
    };
    let medium = SimMedium { core, host, queue };
    MemoryDatapath::plugged(medium, queue as u32, max_datagram_bytes, tx_frames)
}

impl SimDatapath {
    /// The host that this is a queue of.
    #[must_use]
    pub fn host(&self) -> HostId {
        self.medium().host
    }
}

impl Medium for SimMedium {
    fn receive(&mut self, budget: usize, arrived: &mut Datagrams) {
        let mut core = self.core.borrow_mut();
        for _ in 0..budget {
            let Some((meta, frame)) = core.pop(self.host, self.queue) else { break };
            arrived.put(&meta, frame.payload());
            core.return_frame(frame);
        }
    }

    fn send(&mut self, sent: &mut Datagrams) -> Amount {
        let mut core = self.core.borrow_mut();
        let mut refused = Amount::default();
        while let Some(datagram) = sent.pop() {
            if !core.send(self.host, datagram.payload(), &datagram.meta.path, datagram.meta.ecn) {
                refused.add(datagram.payload().len());
            }
        }
        refused
    }

    fn has_arrived(&self) -> bool {
        self.core.borrow().has_arrived(self.host, self.queue)
    }

    fn add_drops(&self, stats: &mut QueueStats) {
        self.core.borrow().add_drops(self.host, self.queue, stats);
    }
}

impl Drop for SimMedium {
    fn drop(&mut self) {
        // A tap that panics leaves the network borrowed; a test that unwinds must not abort.
        if let Ok(mut core) = self.core.try_borrow_mut() {
            core.close(self.host, self.queue);
        }
    }
}
