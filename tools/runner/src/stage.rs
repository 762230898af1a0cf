//! Where a run happens: the namespaces, a directory, and the programs that were built.

use crate::failure::Failure;
use crate::process::{Interrupt, Process};
use quiclane_testkit::netns::{Lab, LabConfig, Side};
use quiclane_testkit::server::Scratch;
use regex::Regex;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The port of servers.
pub(crate) const PORT: u16 = 4433;

/// Everything that a run needs; dropped at its end.
pub(crate) struct Stage {
    // Dropped in this order: by then no process of ours is left in the namespaces.
    /// The namespaces and the pair.
    pub(crate) lab: Lab,
    /// The directory.
    pub(crate) scratch: Scratch,
    /// Waits.
    pub(crate) interrupt: Interrupt,
    name: &'static str,
    built: PathBuf,
}

impl Stage {
    /// Builds packages, with these of their features, and makes the namespaces. Needs root.
    pub(crate) fn new(
        name: &'static str,
        packages: &[&str],
        features: &[&str],
    ) -> Result<Self, Failure> {
        // SAFETY: geteuid() has no preconditions.
        let user = unsafe { libc::geteuid() };
        if user != 0 {
            let text = "namespaces and AF_XDP need root, and this is user";
            return Err(Failure::NeedsRoot(format!("{text} {user}: use sudo")));
        }
        let interrupt = Interrupt::listen()?;
        say(name, "building");
        let built = build(packages, features);
        // Ctrl-C ends the build too; that is not a failed build.
        interrupt.check()?;
        let built = built?;
        let lab =
            Lab::build(LabConfig::default()).map_err(|e| Failure::of("network namespaces", e))?;
        Ok(Self { lab, scratch: Scratch::new("run"), interrupt, name, built })
    }

    /// Tells the operator.
    pub(crate) fn say(&self, text: &str) {
        say(self.name, text);
    }

    /// The path of a program that was built.
    pub(crate) fn program(&self, name: &str) -> String {
        self.built.join(name).display().to_string()
    }

    /// The address of a side with a port.
    pub(crate) fn address(&self, side: Side, port: u16) -> SocketAddr {
        SocketAddr::new(side.ip(false), port)
    }

    /// Starts a program of ours in a side's namespace. Its output is kept under `name`.
    pub(crate) fn start(
        &self,
        side: Side,
        name: &str,
        line: &[String],
    ) -> Result<Process, Failure> {
        let files = ["out", "err"].map(|kind| self.scratch.at(&format!("{name}.{kind}")));
        self.start_with(side, name, line, files)
    }

    /// As [`start`](Self::start), with files of the caller's for standard output and error.
    pub(crate) fn start_with(
        &self,
        side: Side,
        name: &str,
        line: &[String],
        files: [PathBuf; 2],
    ) -> Result<Process, Failure> {
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        Process::start(name, &mut self.lab.command(side, &line), files, &self.interrupt)
    }
}

fn say(name: &str, text: &str) {
    eprintln!("{name}: {text}");
}

/// Builds packages as this program was built, in release or not, and returns the directory of the
/// programs: the one that this program lies in.
fn build(packages: &[&str], features: &[&str]) -> Result<PathBuf, Failure> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet"]).stdin(Stdio::null());
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    for package in packages {
        cargo.args(["--package", package]);
    }
    for feature in features {
        cargo.args(["--features", feature]);
    }
    let status = cargo.status().map_err(|e| Failure::of(format!("{cargo:?}"), e))?;
    if !status.success() {
        return Err(Failure::of(format!("{cargo:?}"), status));
    }
    let own = std::env::current_exe().map_err(|e| Failure::of("this program's own path", e))?;
    Ok(own.parent().map(Path::to_owned).unwrap_or_default())
}

/// The cases whose name matches the pattern of `--only`.
pub(crate) fn only<C>(
    mut cases: Vec<C>,
    pattern: &Regex,
    name: impl Fn(&C) -> String,
) -> Result<Vec<C>, Failure> {
    let example = cases.first().map(&name).unwrap_or_default();
    cases.retain(|case| pattern.is_match(&name(case)));
    if cases.is_empty() {
        let text = format!("no case matches --only {pattern}: names of cases are like {example}");
        return Err(Failure::Usage(text));
    }
    Ok(cases)
}

/// Words as a command line.
pub(crate) fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    words.into_iter().map(str::to_owned).collect()
}
