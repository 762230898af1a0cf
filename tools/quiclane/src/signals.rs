//! The end, as asked for from outside.

use crate::error::Failure;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// A shell says of a process that a signal ended: 128 and the number of the signal.
const ENDED_BY_SIGNAL: i32 = 128;

/// Which signals mean the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hangup {
    /// The terminal is gone: the command ends.
    Ends,
    /// Operators send it to have files read again, and a terminal that closes does: a server
    /// goes on.
    Ignored,
}

/// SIGINT or SIGTERM, whichever comes first. The second of them ends the process at once.
pub(crate) struct End {
    asked: Receiver<()>,
    handle: Handle,
}

impl End {
    /// For what talks to a terminal: SIGHUP ends it too. From now on those signals no longer
    /// kill the process.
    pub(crate) fn listen() -> Result<Self, Failure> {
        Self::start(Hangup::Ends)
    }

    /// For a server.
    pub(crate) fn listen_as_server() -> Result<Self, Failure> {
        Self::start(Hangup::Ignored)
    }

    fn start(hangup: Hangup) -> Result<Self, Failure> {
        let (tell, asked) = channel();
        let handle = catch(hangup, move |_signal| tell.send(()).is_ok())?;
        Ok(Self { asked, handle })
    }

    /// Waits for one of them, for `patience` at most. True if it is time to end.
    pub(crate) fn wait(&mut self, patience: Duration) -> bool {
        self.asked.recv_timeout(patience) != Err(RecvTimeoutError::Timeout)
    }
}

/// Calls `tell` with SIGINT, SIGTERM or SIGHUP as long as it returns true, which means that
/// a listener is there; after that, and the second time, the process ends at once.
///
/// # Errors
/// Signals cannot be caught.
pub(crate) fn forward(tell: impl Fn(i32) -> bool + Send + 'static) -> Result<(), Failure> {
    catch(Hangup::Ends, tell).map(drop)
}

fn catch(hangup: Hangup, tell: impl Fn(i32) -> bool + Send + 'static) -> Result<Handle, Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|e| Failure::Failed(format!("signals cannot be caught: {e}")))?;
    let handle = signals.handle();
    let hear = move || {
        let mut is_asked = false;
        for signal in signals.forever() {
            if signal == SIGHUP && hangup == Hangup::Ignored {
                tracing::info!("SIGHUP: there is nothing to read again");
            } else if std::mem::replace(&mut is_asked, true) || !tell(signal) {
                // The operator who asks twice does not want to wait for anything.
                low_level::exit(ENDED_BY_SIGNAL + signal);
            }
        }
    };
    let listener = std::thread::Builder::new().name("signals".to_owned()).spawn(hear);
    listener.map_err(|e| Failure::Failed(format!("signals cannot be waited for: {e}")))?;
    Ok(handle)
}

impl Drop for End {
    fn drop(&mut self) {
        self.handle.close();
    }
}
