//! The end, as asked for from outside.

use crate::error::Failure;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// SIGINT, SIGTERM or SIGHUP, whichever comes first.
pub(crate) struct End {
    asked: Receiver<()>,
    handle: Handle,
}

impl End {
    /// From now on those signals no longer kill the process.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
            .map_err(|e| Failure::Failed(format!("signals cannot be caught: {e}")))?;
        let handle = signals.handle();
        let (tell, asked) = channel();
        let listener = std::thread::Builder::new().name("signals".to_owned());
        listener
            .spawn(move || {
                if signals.forever().next().is_some() {
                    // Nobody listens any more: then it ends anyway.
                    let _ = tell.send(());
                }
            })
            .map_err(|e| Failure::Failed(format!("signals cannot be waited for: {e}")))?;
        Ok(Self { asked, handle })
    }

    /// Waits for one of them, for `patience` at most. True if it is time to end.
    pub(crate) fn wait(&mut self, patience: Duration) -> bool {
        self.asked.recv_timeout(patience) != Err(RecvTimeoutError::Timeout)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.handle.close();
    }
}
