//! One queue of a simulated host, as a datapath.

use super::HostId;
use super::net::{Core, Frame};
use crate::datapath::{Capabilities, Datapath, DatapathError, Mode, Path, QueueStats, RxMeta};
use crate::ecn::Ecn;
use std::cell::RefCell;
use std::os::fd::RawFd;
use std::rc::Rc;

/// A datagram that is committed and waits for the flush.
struct Committed {
    frame: Frame,
    path: Path,
    ecn: Ecn,
}

/// One queue of a host in a [`SimNet`](super::SimNet).
pub struct SimDatapath {
    core: Rc<RefCell<Core>>,
    host: HostId,
    queue: usize,
    capabilities: Capabilities,
    lent: Option<Frame>,
    committed: Vec<Committed>,
    tx_frames: usize,
    stats: QueueStats,
}

impl SimDatapath {
    pub(super) fn new(core: Rc<RefCell<Core>>, host: HostId, queue: usize) -> Self {
        let (max_datagram_bytes, tx_frames) = {
            let core = core.borrow();
            (core.config.max_datagram_bytes, core.config.tx_frames)
        };
        let capabilities = Capabilities {
            mode: Mode::Simulated,
            queue: queue as u32,
            device: None,
            max_datagram_bytes,
            ecn: true,
            segmentation_offload: false,
        };
        Self {
            core,
            host,
            queue,
            capabilities,
            lent: None,
            committed: Vec::with_capacity(tx_frames),
            tx_frames,
            stats: QueueStats::default(),
        }
    }

    /// The host that this is a queue of.
    #[must_use]
    pub fn host(&self) -> HostId {
        self.host
    }
}

impl Datapath for SimDatapath {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&RxMeta, &mut [u8])) -> usize {
        let mut handed = 0;
        for _ in 0..budget {
            // The network is not borrowed while the sink runs: it may look at it.
            let Some(mut arrived) = self.core.borrow_mut().pop(self.host, self.queue) else {
                break;
            };
            let len = arrived.frame.len;
            if len == 0 {
                self.stats.drop_empty += 1;
            } else {
                self.stats.rx_packets += 1;
                self.stats.rx_bytes += len as u64;
                handed += 1;
                sink(&arrived.meta, &mut arrived.frame.bytes[..len]);
            }
            self.core.borrow_mut().return_frame(arrived.frame);
        }
        self.stats.rx_calls += 1;
        handed
    }

    fn tx_buffer(&mut self, _path: &Path) -> Option<&mut [u8]> {
        if self.committed.len() >= self.tx_frames {
            self.stats.tx_no_buffer += 1;
            return None;
        }
        let core = &self.core;
        let frame = self.lent.get_or_insert_with(|| core.borrow_mut().take_frame());
        Some(&mut frame.bytes)
    }

    fn tx_commit(&mut self, len: usize, path: &Path, ecn: Ecn) {
        if let Some(mut frame) = self.lent.take() {
            debug_assert!(len <= frame.bytes.len(), "{len} bytes in a smaller buffer");
            frame.len = len.min(frame.bytes.len());
            self.committed.push(Committed { frame, path: *path, ecn });
        }
    }

    fn flush(&mut self) -> Result<(), DatapathError> {
        let mut core = self.core.borrow_mut();
        self.stats.tx_kicks += u64::from(!self.committed.is_empty());
        for Committed { frame, path, ecn } in self.committed.drain(..) {
            let bytes = frame.len as u64;
            if core.send(self.host, frame, &path, ecn) {
                self.stats.tx_packets += 1;
                self.stats.tx_bytes += bytes;
            } else {
                self.stats.tx_errors += 1;
            }
        }
        Ok(())
    }

    fn prepare_sleep(&mut self) -> bool {
        self.committed.is_empty() && !self.core.borrow().has_arrived(self.host, self.queue)
    }

    fn poll_fds(&self) -> &[RawFd] {
        &[]
    }

    fn stats(&self) -> QueueStats {
        let mut stats = self.stats;
        self.core.borrow().add_drops(self.host, self.queue, &mut stats);
        stats
    }
}

impl Drop for SimDatapath {
    fn drop(&mut self) {
        // A tap that panics leaves the network borrowed; a test that unwinds must not abort.
        if let Ok(mut core) = self.core.try_borrow_mut() {
            core.close(self.host, self.queue);
            let committed = self.committed.drain(..).map(|committed| committed.frame);
            for frame in committed.chain(self.lent.take()) {
                core.return_frame(frame);
            }
        }
    }
}
