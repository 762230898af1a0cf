//! `top` in a real terminal: it ends when it is asked to, and when its terminal goes away.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_quiclane");

/// How many looks, and how far apart, before something counts as not happening.
const LOOKS: u32 = 1_500;
const PAUSE: Duration = Duration::from_millis(20);

/// A terminal of tmux, with a server of its own, and `top` in it.
struct Terminal {
    socket: PathBuf,
    pid: u32,
    _machine: quiclane_fixtures::Written,
    _directory: Directory,
}

struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

impl Terminal {
    /// `before` is what a shell does before it becomes `top`.
    fn new(name: &str, before: &str) -> Self {
        let directory =
            std::env::temp_dir().join(format!("quiclane-top-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let directory = Directory(directory);
        let machine = quiclane_fixtures::two_node_ice().written();
        let (socket, file) = (directory.0.join("tmux"), directory.0.join("pid"));
        let inner = format!(
            "echo $$ > {}; exec {BINARY} top eth0 --root {}",
            file.display(),
            machine.path().display()
        );
        let line = format!("{before} sh -c '{inner}'");
        let made = tmux(&socket, &["-f", "/dev/null", "new-session", "-d", "-x80", "-y24", &line]);
        assert!(made.status.success(), "{made:?}");
        let pid = || std::fs::read_to_string(&file).ok()?.trim().parse().ok();
        wait(|| pid().is_some(), "the process");
        let terminal =
            Self { socket, pid: pid().unwrap(), _machine: machine, _directory: directory };
        wait(|| terminal.shows("lb-a1  eth0 ice"), "the screen");
        terminal
    }

    fn shows(&self, text: &str) -> bool {
        let out = tmux(&self.socket, &["capture-pane", "-p"]);
        String::from_utf8_lossy(&out.stdout).contains(text)
    }

    fn press(&self, key: &str) {
        assert!(tmux(&self.socket, &["send-keys", key]).status.success());
    }

    fn kill_server(&self) {
        tmux(&self.socket, &["kill-server"]);
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.pid.to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn is_running(&self) -> bool {
        is_running(self.pid)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Fails as a rule: both have ended.
        drop(Command::new("kill").args(["-KILL", &self.pid.to_string()]).output());
        drop(Command::new("tmux").arg("-S").arg(&self.socket).arg("kill-server").output());
    }
}

/// True for a process that has not ended; one without a `wait` by its parent yet has.
fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn tmux(socket: &Path, args: &[&str]) -> Output {
    Command::new("tmux")
        .arg("-S")
        .arg(socket)
        .args(args)
        .env("TERM", "xterm-256color")
        .env_remove("TMUX")
        .output()
        .unwrap()
}

fn wait(mut is_so: impl FnMut() -> bool, what: &str) {
    let came = (0..LOOKS).any(|_| {
        let came = is_so();
        if !came {
            std::thread::sleep(PAUSE);
        }
        came
    });
    assert!(came, "{what} did not come");
}

/// False, with a message, where there is no tmux.
fn has_tmux(test: &str) -> bool {
    if Command::new("tmux").arg("-V").output().is_ok() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{test}: tmux is missing");
    eprintln!("SKIPPED {test}: tmux is missing");
    false
}

#[test]
fn a_terminal_that_is_closed_ends_it() {
    if !has_tmux("a_terminal_that_is_closed_ends_it") {
        return;
    }
    // Out of the terminal's session it hears no SIGHUP: only the terminal itself tells.
    for (name, before) in [("session", "exec"), ("foreign", "exec setsid --wait")] {
        let terminal = Terminal::new(name, before);
        assert!(terminal.is_running());
        terminal.kill_server();
        wait(|| !terminal.is_running(), "the end");
    }
}

#[test]
fn signals_end_it() {
    if !has_tmux("signals_end_it") {
        return;
    }
    for signal in ["-TERM", "-HUP", "-INT"] {
        let terminal = Terminal::new(signal, "exec");
        terminal.signal(signal);
        wait(|| !terminal.is_running(), "the end");
    }
}

#[test]
fn keys_reach_it() {
    if !has_tmux("keys_reach_it") {
        return;
    }
    let terminal = Terminal::new("keys", "exec");
    terminal.press("?");
    wait(|| terminal.shows("Heat map: a row is a queue"), "the help");
    terminal.press("Up");
    wait(|| !terminal.shows("Heat map: a row is a queue"), "the help's end");
    terminal.press("p");
    wait(|| terminal.shows("PAUSED"), "the pause");
    terminal.press("q");
    wait(|| !terminal.is_running(), "the end");
}
