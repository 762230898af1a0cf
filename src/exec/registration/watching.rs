//! Changes of the device that are heard while the workers run.
//!
//! No thread waits for them: they are taken from the socket when the application looks, which costs a
//! system call that does not wait. The packet path knows nothing of it.

use crate::topology::list;
use crate::topology::survey::server::DeviceChanges;
use crate::topology::watch::{Change, Heard, Watch};

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
                let total = DeviceChanges { rss, ..DeviceChanges::default() };
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
        add(&mut self.total, &heard);
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

fn add(total: &mut DeviceChanges, heard: &Heard) {
    let DeviceChanges { rss, channels, missed } = total;
    *rss = rss.map(|total| total + heard.rss);
    *channels += heard.channels;
    *missed += heard.missed;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_heard_adds_up() {
        let heard = Heard { rss: 2, channels: 1, missed: 3, changes: vec![Change::Missed] };
        let mut total = DeviceChanges { rss: Some(0), ..DeviceChanges::default() };
        add(&mut total, &heard);
        add(&mut total, &heard);
        assert_eq!(total, DeviceChanges { rss: Some(4), channels: 2, missed: 6 });
        // An older kernel does not tell of RSS: 0 would say that it was not changed.
        let mut total = DeviceChanges::default();
        add(&mut total, &heard);
        assert_eq!((total.rss, total.missed), (None, 3));
    }
}
