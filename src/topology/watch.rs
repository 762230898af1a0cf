//! Changes of a device that we hear of while we run, and what a driver does to RSS when a program
//! comes or goes.
//!
//! A worker serves one queue. If the indirection table leads elsewhere than at the start, packets
//! arrive on other workers, or on queues that have none. [`Watch`] hears of it from the kernel
//! (ethtool netlink, group `monitor`); [`Steering`] compares two moments.

use super::live::{Monitor, Told};
use super::survey::device::{AttachMode, Attached, Feature};
use super::survey::rss::RssContext;
use super::{Reading, Source, list};
use std::collections::BTreeMap;
use std::fmt;

/// A change of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// RSS was set, or a context was made or removed.
    Rss {
        /// Slots of the main table that lead to another queue than before; 0 if the key, the hashed
        /// fields or another context were changed.
        moved: usize,
        /// Slots of the main table.
        slots: usize,
        /// The queues that it leads to now.
        queues: Vec<u32>,
    },
    /// The number of queues was set.
    Channels {
        /// How many receive queues there were.
        before: usize,
        /// How many there are.
        now: usize,
    },
    /// More was changed than the socket could hold.
    Missed,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rss { moved: 0, .. } => f.write_str(
                "RSS was changed, and not its table: the key, the hashed fields or another context",
            ),
            Self::Rss { moved, slots, queues } => write!(
                f,
                "the indirection table was changed: {moved} of {slots} slots lead to another queue, \
                 and all of it to queues {}",
                list::format(queues.iter().copied())
            ),
            Self::Channels { before, now } if before == now => {
                write!(f, "the number of queues was set: still {now} receive queues")
            }
            Self::Channels { before, now } => {
                write!(f, "the number of queues was set: {before} receive queues before, {now} now")
            }
            Self::Missed => f.write_str("more was changed than could be heard"),
        }
    }
}

/// What was heard since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// How often RSS was set.
    pub rss: u64,
    /// How often the number of queues was set.
    pub channels: u64,
    /// How often the kernel had no room for a message.
    pub missed: u64,
    /// What is different since the last look.
    pub changes: Vec<Change>,
}

/// Hears of changes of a device.
pub struct Watch {
    source: Source,
    monitor: Monitor,
    device: String,
    table: Vec<u32>,
    queues: usize,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("device", &self.device).finish_non_exhaustive()
    }
}

impl Watch {
    /// Hears from now on, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Says what the kernel lacks or refuses.
    pub fn open(device: &str) -> Result<Self, String> {
        let source = Source::live();
        let monitor = Monitor::new(source.kernel(), device).map_err(|error| error.to_string())?;
        let steering = Steering::of(&source, device);
        let (device, queues) = (device.to_owned(), steering.queues);
        Ok(Self { source, monitor, device, table: steering.table, queues })
    }

    /// True if the kernel tells that RSS was changed. Older ones tell of the number of queues alone.
    #[must_use]
    pub fn hears_rss(&self) -> bool {
        self.source.kernel().is_since(6, 17)
    }

    /// What was changed since the last call. Does not wait, and costs one system call if nothing was.
    pub fn heard(&mut self) -> Heard {
        let mut heard = Heard::default();
        self.monitor.drain(&mut |told| match told {
            Told::Rss => heard.rss += 1,
            Told::Channels => heard.channels += 1,
            Told::Missed => heard.missed += 1,
        });
        if heard == Heard::default() {
            return heard;
        }
        let now = Steering::of(&self.source, &self.device);
        heard.changes = changes((&self.table, self.queues), &now, &heard);
        (self.table, self.queues) = (now.table, now.queues);
        heard
    }
}

fn changes((table, queues): (&[u32], usize), now: &Steering, heard: &Heard) -> Vec<Change> {
    let mut changes = Vec::new();
    let moved = moved(table, &now.table);
    if heard.rss > 0 || moved > 0 {
        changes.push(Change::Rss { moved, slots: now.table.len(), queues: now.used() });
    }
    if queues != now.queues || heard.channels > 0 {
        changes.push(Change::Channels { before: queues, now: now.queues });
    }
    if heard.missed > 0 {
        changes.push(Change::Missed);
    }
    changes
}

/// Slots that lead to another queue; all of them if the size is another.
fn moved(before: &[u32], now: &[u32]) -> usize {
    if before.len() != now.len() {
        return now.len();
    }
    before.iter().zip(now).filter(|(before, now)| before != now).count()
}

/// How a device spreads packets over its queues, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steering {
    /// The queue of each slot of the main table; empty if there is none.
    table: Vec<u32>,
    /// Receive queues.
    queues: usize,
    /// The driver turns RSS off without saying so when a program comes or goes in native mode, and RSS
    /// is on.
    is_fragile: bool,
    /// A program is attached in the driver (native mode).
    has_native: bool,
}

impl Steering {
    /// What the kernel says of `device` now.
    #[must_use]
    pub fn read(device: &str) -> Self {
        Self::of(&Source::live(), device)
    }

    fn of(source: &Source, device: &str) -> Self {
        let rss = source.rss(device);
        let main = |contexts: &Vec<RssContext>| contexts.first().map(|rss| rss.table.clone());
        let driver = source.identity(device);
        let is_virtio = driver.known().is_some_and(|identity| identity.driver == "virtio_net");
        let features = if is_virtio { source.features(device) } else { Reading::unknown("") };
        let is_hashing = |features: &BTreeMap<String, Feature>| {
            features.get("rx-hashing").is_some_and(|hashing| hashing.active)
        };
        let is_native = |attached: &Vec<Attached>| {
            attached.iter().any(|attached| attached.mode == AttachMode::Native)
        };
        Self {
            table: rss.known().and_then(main).unwrap_or_default(),
            queues: source.numbered(format!("/sys/class/net/{device}/queues"), "rx-").len(),
            is_fragile: features.known().is_some_and(is_hashing),
            has_native: source.attached(device).known().is_some_and(is_native),
        }
    }

    /// The queues that the table leads to.
    fn used(&self) -> Vec<u32> {
        let mut used = self.table.clone();
        used.sort_unstable();
        used.dedup();
        used
    }

    /// What a driver has taken away between this moment and `after`, in which a program came or
    /// went; `None` if nothing.
    #[must_use]
    pub fn lost(&self, after: &Self) -> Option<String> {
        let (had, has) = (self.used(), after.used());
        let named = |queues: &[u32]| list::format(queues.iter().copied());
        if had.len() > 1 && has.len() <= 1 {
            let to = if has.is_empty() {
                "is gone".to_owned()
            } else {
                format!("leads to queue {} alone", named(&has))
            };
            return Some(format!("the indirection table led to queues {}, and {to}", named(&had)));
        }
        // With one queue there is nothing to spread, and in generic mode the driver hears of no program.
        if self.is_fragile && self.queues > 1 && self.has_native != after.has_native {
            return Some(
                "virtio_net turns RSS off without a message when a program comes or goes, and shows the \
                 table as before"
                    .to_owned(),
            );
        }
        let moved = moved(&self.table, &after.table);
        if !self.table.is_empty() && moved > 0 {
            let (slots, has) = (after.table.len(), named(&has));
            return Some(format!(
                "{moved} of {slots} slots of the indirection table lead to another queue; it leads to \
                 queues {has}"
            ));
        }
        (self.queues != after.queues).then(|| {
            format!("the device had {} receive queues, and has {}", self.queues, after.queues)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steering(table: &[u32], queues: usize) -> Steering {
        Steering { table: table.to_vec(), queues, ..Steering::default() }
    }

    #[test]
    fn what_was_changed_is_said() {
        let heard = |rss, channels| Heard { rss, channels, ..Heard::default() };
        let before = ([0, 1, 0, 1], 2);
        let of = |now: &Steering, heard: &Heard| changes((&before.0, before.1), now, heard);
        let moved = of(&steering(&[0, 0, 0, 0], 2), &heard(1, 0));
        assert_eq!(moved, [Change::Rss { moved: 2, slots: 4, queues: vec![0] }]);
        let text = moved[0].to_string();
        assert!(text.contains("2 of 4 slots") && text.contains("queues 0"), "{text}");
        let key = of(&steering(&before.0, 2), &heard(2, 0));
        assert_eq!(key, [Change::Rss { moved: 0, slots: 4, queues: vec![0, 1] }]);
        assert!(key[0].to_string().contains("not its table"), "{}", key[0]);
        let channels = of(&steering(&[0, 1, 2, 3], 4), &Heard { missed: 2, ..heard(0, 1) });
        let expected = [
            Change::Rss { moved: 2, slots: 4, queues: vec![0, 1, 2, 3] },
            Change::Channels { before: 2, now: 4 },
            Change::Missed,
        ];
        assert_eq!(channels, expected);
    }

    #[test]
    fn what_a_program_takes_away_is_said() {
        let spread = steering(&[0, 1, 2, 3], 4);
        assert_eq!(spread.lost(&spread), None);
        let lost = |after: &Steering| spread.lost(after).unwrap();
        assert!(
            lost(&steering(&[0, 0, 0, 0], 4)).contains("led to queues 0-3, and leads to queue 0")
        );
        assert!(lost(&steering(&[], 4)).contains("is gone"));
        assert!(lost(&steering(&[0, 1, 0, 1], 4)).contains("2 of 4 slots"));
        assert!(lost(&steering(&[0, 1, 2, 3], 2)).contains("had 4 receive queues, and has 2"));
        let virtio = Steering { is_fragile: true, ..spread.clone() };
        let native = Steering { has_native: true, ..virtio.clone() };
        for (before, after) in [(&virtio, &native), (&native, &virtio)] {
            assert!(before.lost(after).unwrap().contains("without a message"));
        }
        // Generic mode, a program that is still there, one queue, and another driver.
        assert_eq!(virtio.lost(&virtio), None);
        assert_eq!(native.lost(&native), None);
        let one = Steering { queues: 1, table: vec![0], ..virtio };
        assert_eq!(one.lost(&Steering { has_native: true, ..one.clone() }), None);
        assert_eq!(spread.lost(&Steering { has_native: true, ..spread.clone() }), None);
        assert_eq!(steering(&[], 1).lost(&steering(&[], 1)), None);
    }

    #[test]
    fn a_device_that_is_not_there_cannot_be_watched() {
        let error = Watch::open("nodevice0").unwrap_err();
        assert!(error.contains("no device") || error.contains("No such device"), "{error}");
    }
}
