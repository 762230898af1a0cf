//! Changes of the device that are heard while the workers run.
//!
//! No thread waits for them: they are taken from the socket when the application looks, which costs a
//! system call that does not wait. The packet path knows nothing of it.

use crate::topology::list;
use crate::topology::watch::{Change, Watch};

/// How often a device was changed since its registration was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceChanges {
    /// RSS was set: the indirection table, the key, the hashed fields or another context. `None` if
    /// the kernel does not tell (before Linux 6.17).
    pub rss: Option<u64>,
    /// The number of queues was set.
    pub channels: u64,
}

/// Hears of changes, and counts and logs them.
#[derive(Debug)]
pub(super) struct Watching {
    watch: Watch,
    device: String,
    served: Vec<u32>,
    total: DeviceChanges,
}

impl Watching {
    /// `None`, and a line in the log, if nothing can be heard.
    pub(super) fn open(device: &str, served: Vec<u32>) -> Option<Self> {
        match Watch::open(device) {
            Ok(watch) => {
                let rss = watch.hears_rss().then_some(0);
                let total = DeviceChanges { rss, channels: 0 };
                Some(Self { watch, device: device.to_owned(), served, total })
            }
            Err(reason) => {
                tracing::info!(device, reason, "changes of the device will not be heard");
                None
            }
        }
    }

    pub(super) fn hear(&mut self) -> DeviceChanges {
        let heard = self.watch.heard();
        self.total.rss = self.total.rss.map(|total| total + heard.rss);
        self.total.channels += heard.channels;
        for change in &heard.changes {
            let unserved = self.unserved(change);
            match unserved.is_empty() {
                true => tracing::warn!(device = self.device, "{change}"),
                false => tracing::warn!(
                    device = self.device,
                    "{change}; queues {} have no worker here: what arrives there goes to the kernel",
                    list::format(unserved)
                ),
            }
        }
        self.total
    }

    /// The queues that the table leads to and no worker serves.
    fn unserved(&self, change: &Change) -> Vec<u32> {
        match change {
            Change::Rss { queues, .. } => {
                queues.iter().copied().filter(|queue| !self.served.contains(queue)).collect()
            }
            Change::Channels { .. } | Change::Missed => Vec::new(),
        }
    }
}
