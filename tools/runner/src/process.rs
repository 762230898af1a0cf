//! Processes of a run: started with their output in files, waited for with a limit, and ended when
//! their value is dropped.

use crate::failure::Failure;
use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

/// The interval of looks while waiting.
const LOOK: Duration = Duration::from_millis(20);
/// How long a program may take to say that it is ready.
const READY: Duration = Duration::from_secs(10);
/// How long a program may take to end after it was asked to.
const END: Duration = Duration::from_secs(10);

/// The signal that ends the run, if one came.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// From now on SIGINT, SIGTERM and SIGHUP do not kill this process: waits end with
    /// [`Failure::Interrupted`].
    pub(crate) fn listen() -> Result<Self, Failure> {
        let came = Arc::new(AtomicUsize::new(0));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_usize(signal, came.clone(), signal as usize)
                .map_err(|e| Failure::of(format!("signal {signal} cannot be caught"), e))?;
        }
        Ok(Self(came))
    }

    /// Fails if the signal came.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            signal => Err(Failure::Interrupted(signal as u8)),
        }
    }

    /// Looks until `done` returns a value, for `limit` at most; `None` if it never did.
    pub(crate) fn wait<T>(
        &self,
        limit: Duration,
        mut done: impl FnMut() -> Result<Option<T>, Failure>,
    ) -> Result<Option<T>, Failure> {
        let mut waited = Duration::ZERO;
        loop {
            self.check()?;
            if let Some(value) = done()? {
                return Ok(Some(value));
            }
            if waited >= limit {
                return Ok(None);
            }
            sleep(LOOK);
            waited += LOOK;
        }
    }
}

/// A process that was started. Dropping it ends it: with SIGTERM, then with SIGKILL.
pub(crate) struct Process {
    child: Child,
    name: String,
    out: PathBuf,
    log: PathBuf,
    ended: Option<ExitStatus>,
    interrupt: Interrupt,
}

impl Process {
    /// Starts a command: standard output goes to the file `out`, standard error to `log`.
    pub(crate) fn start(
        name: &str,
        command: &mut Command,
        [out, log]: [PathBuf; 2],
        interrupt: &Interrupt,
    ) -> Result<Self, Failure> {
        let file = |path: &PathBuf| File::create(path).map_err(|e| Failure::of(path.display(), e));
        let (stdout, stderr) = (file(&out)?, file(&log)?);
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn();
        let child = child.map_err(|e| Failure::of(format!("{command:?}"), e))?;
        let (name, interrupt) = (name.to_owned(), interrupt.clone());
        Ok(Self { child, name, out, log, ended: None, interrupt })
    }

    /// What it has printed so far.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// What it has said on standard error so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last line that it printed, as JSON.
    pub(crate) fn last_line(&self) -> Result<Value, Failure> {
        let output = self.output();
        let last = output.lines().last().unwrap_or_default();
        serde_json::from_str(last).map_err(|e| {
            Failure::of(format!("{}: its last line {last:?} is no JSON", self.name), e)
        })
    }

    /// Waits until it has printed `text`.
    pub(crate) fn wait_for(&mut self, text: &str) -> Result<(), Failure> {
        let interrupt = self.interrupt.clone();
        let ready = interrupt.wait(READY, || {
            // In this order: what it printed before it ended counts.
            let ended = self.try_wait()?;
            let said = self.output().contains(text);
            Ok((said || ended.is_some()).then_some(said))
        })?;
        let what = match ready {
            Some(true) => return Ok(()),
            Some(false) => "it ended",
            None => "10 seconds passed",
        };
        let name = &self.name;
        Err(Failure::of(format!("{name}: {what} before it said {text:?}"), self.log().trim()))
    }

    fn try_wait(&mut self) -> Result<Option<ExitStatus>, Failure> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().map_err(|e| Failure::of(&self.name, e))?;
        }
        Ok(self.ended)
    }

    /// Waits for its end, for `limit` at most; `None` if it goes on.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>, Failure> {
        let interrupt = self.interrupt.clone();
        interrupt.wait(limit, || self.try_wait())
    }

    /// Waits for its end, which has to be a success.
    pub(crate) fn succeed(&mut self, limit: Duration) -> Result<(), Failure> {
        let what = match self.wait(limit)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => status.to_string(),
            None => format!("no end after {} s", limit.as_secs()),
        };
        Err(Failure::of(&self.name, format!("{what}: {}", self.log().trim())))
    }

    /// Sends it a signal. Nothing happens if it has ended: its number may be another process's.
    pub(crate) fn signal(&mut self, signal: libc::c_int) {
        if matches!(self.try_wait(), Ok(None)) {
            // SAFETY: no pointers are passed. The process has not been waited for: the number is
            // still its own.
            unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        }
    }

    /// Ends it as an operator would, and waits for its end.
    pub(crate) fn stop(mut self) -> Self {
        self.end();
        self
    }

    fn end(&mut self) {
        // A stopped process takes no other signal.
        for signal in [libc::SIGTERM, libc::SIGCONT] {
            self.signal(signal);
        }
        let mut waited = Duration::ZERO;
        while waited < END && matches!(self.try_wait(), Ok(None)) {
            sleep(LOOK);
            waited += LOOK;
        }
        if matches!(self.try_wait(), Ok(None)) {
            drop(self.child.kill());
            self.ended = self.child.wait().ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
