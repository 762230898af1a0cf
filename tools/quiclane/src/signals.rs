//! Signals that end a command.

use crate::error::Failure;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// The exit code for an end by a signal, as in a shell: 128 and the number of the signal.
const ENDED_BY_SIGNAL: i32 = 128;

/// Which signals mean the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hangup {
    /// SIGHUP ends the command: its terminal is gone.
    Ends,
    /// SIGHUP is ignored: operators send it to have files read again, and a closing terminal sends it
    /// too, and a server goes on.
    Ignored,
}

/// Waits for SIGINT or SIGTERM. The second of them ends the process at once.
pub(crate) struct End {
    asked: Receiver<()>,
    handle: Handle,
}

impl End {
    /// For commands with a terminal: SIGHUP ends them too. From now on these signals no longer kill
    /// the process.
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

    /// Waits for a signal, for `patience` at most. True if one came.
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
                tracing::info!("SIGHUP: ignored, no configuration is read again");
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
