//! How a connection ended, for threads that wait for it.

use crate::proto::connection::Drained;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is known of a connection's end.
#[derive(Clone, Debug, Default)]
enum Ending {
    /// It has not ended.
    #[default]
    None,
    /// It ended, and its worker told how.
    Known(Box<Drained>),
    /// It ended, and nobody can tell how: it never began, or its worker ended first.
    Unknown,
}

/// The end of one connection. Its worker writes it once; packets never touch it.
#[derive(Debug, Default)]
pub(super) struct Fate {
    ending: Mutex<Ending>,
    told: Condvar,
}

impl Fate {
    fn lock(&self) -> MutexGuard<'_, Ending> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection has left its place.
    pub(super) fn tell(&self, drained: &Drained) {
        self.set(Ending::Known(Box::new(drained.clone())));
    }

    /// Nobody will tell how the connection ended, if nobody has.
    pub(super) fn lose(&self) {
        self.set(Ending::Unknown);
    }

    fn set(&self, ending: Ending) {
        let mut known = self.lock();
        if matches!(*known, Ending::None) {
            *known = ending;
            self.told.notify_all();
        }
    }

    /// Waits for the end. `None` if it did not come in time; within it `None` if nobody can tell how the
    /// connection ended.
    pub(super) fn wait(&self, patience: Duration) -> Option<Option<Drained>> {
        let open = |ending: &mut Ending| matches!(*ending, Ending::None);
        let waited = self.told.wait_timeout_while(self.lock(), patience, open);
        let (ending, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match &*ending {
            Ending::None => None,
            Ending::Known(drained) => Some(Some(Drained::clone(drained))),
            Ending::Unknown => Some(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_stands_and_those_who_wait_hear_it() {
        let fate = Fate::default();
        assert_eq!(fate.wait(Duration::ZERO), None);
        std::thread::scope(|threads| {
            let waits = threads.spawn(|| fate.wait(Duration::MAX));
            fate.lose();
            assert_eq!(waits.join().unwrap(), Some(None));
        });
        fate.lose();
        assert_eq!(fate.wait(Duration::ZERO), Some(None));
    }
}
