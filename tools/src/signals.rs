//! The end, as asked for from outside.

use crate::error::Failure;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// SIGINT, SIGTERM or SIGHUP, whichever comes first.
pub(crate) struct End(Signals);

impl End {
    /// From now on those signals no longer kill the process.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
            .map_err(|e| Failure::Failed(format!("signals cannot be caught: {e}")))?;
        Ok(Self(signals))
    }

    /// Waits for one of them.
    pub(crate) fn wait(&mut self) {
        let _which = self.0.forever().next();
    }
}
