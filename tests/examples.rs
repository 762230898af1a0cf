//! Runs the examples as a reader would: a server and a client, on the loopback device over kernel
//! UDP. `cargo test` builds them beside this test; a test that is run alone needs them built before
//! (`cargo build --examples --profile test`), and says so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

/// How often a test looks before it fails: longer than anything takes.
const STEPS: u32 = 6_000;
const STEP: Duration = Duration::from_millis(10);

/// The program of an example.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().with_file_name("examples").join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/{name}.rs"));
    let changed = |path: &Path| path.metadata().and_then(|found| found.modified()).ok();
    assert!(
        changed(&program) >= changed(&source),
        "{} is not there, or older than its source: cargo build --examples --profile test",
        program.display()
    );
    program
}

/// A directory with a certificate and its key.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("quiclane-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let identity = quiclane_testkit::Identity::new();
        fs::write(path.join("cert.pem"), identity.certificate_pem).unwrap();
        fs::write(path.join("key.pem"), identity.key_pem).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that is killed with its test.
struct Running(Child);

impl Running {
    /// Its output, once it has ended.
    fn ends(mut self) -> Output {
        drop(self.0.stdin.take());
        let ended = (0..STEPS).find_map(|_| {
            let status = self.0.try_wait().unwrap();
            status.is_none().then(|| thread::sleep(STEP));
            status
        });
        let Some(status) = ended else { panic!("it does not end") };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        if let Some(mut from) = self.0.stdout.take() {
            from.read_to_end(&mut stdout).unwrap();
        }
        self.0.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
        Output { status, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(name: &str, arguments: &[&OsStr]) -> Running {
    let mut command = Command::new(program(name));
    let command = command.args(arguments);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Running(command.spawn().unwrap())
}

/// A server, and the address that it says it listens on.
fn serve(name: &str, place: &Place) -> (Running, String) {
    let (certificate, key) = (place.file("cert.pem"), place.file("key.pem"));
    let mut server =
        start(name, &["127.0.0.1:0".as_ref(), certificate.as_os_str(), key.as_os_str()]);
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let Some(address) = line.trim().strip_prefix("listening on ") else {
        panic!("{name} says {line:?}: {:?}", server.ends())
    };
    (server, address.to_owned())
}

fn ask(address: &str, certificate: &Path, question: &str) -> Output {
    start("client", &[address.as_ref(), certificate.as_os_str(), question.as_ref()]).ends()
}

/// The output of a client that got an answer.
fn answer(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_a_client_asks_an_echo_server_comes_back() {
    let place = Place::new("echo");
    let (server, address) = serve("echo_server", &place);
    // One datagram, and more than the first window, which a pipe still holds.
    for question in ["hello".to_owned(), "0123456789".repeat(5_000)] {
        let said = answer(ask(&address, &place.file("cert.pem"), &question));
        assert_eq!(said.strip_suffix('\n'), Some(question.as_str()));
    }
    let ended = server.ends();
    assert!(ended.status.success(), "{ended:?}");
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(said.matches("127.0.0.1:").count(), 2, "a line for each connection: {said}");
}

#[test]
fn a_server_that_drives_its_own_loop_answers() {
    let place = Place::new("loop");
    let (server, address) = serve("own_loop", &place);
    let turns = || -> u64 {
        let said = answer(ask(&address, &place.file("cert.pem"), "how many?"));
        said.trim().strip_prefix("turn ").unwrap().parse().unwrap()
    };
    let (first, second) = (turns(), turns());
    assert!(0 < first && first < second, "{first} turns, then {second}");
    let ended = server.ends();
    assert!(ended.status.success(), "{ended:?}");
}

/// Runs an example that drives a worker in a loop of another kind: it checks its answers, and that the
/// loop slept. Returns what it says.
fn runs_in_its_loop(name: &str) -> String {
    let place = Place::new(name);
    let (certificate, key) = (place.file("cert.pem"), place.file("key.pem"));
    let said = answer(start(name, &[certificate.as_os_str(), key.as_os_str()]).ends());
    assert!(said.contains("20 answers in "), "{said}");
    said
}

#[test]
fn a_worker_runs_in_an_epoll_loop() {
    runs_in_its_loop("loop_epoll");
}

#[test]
fn a_worker_runs_in_a_tokio_runtime_of_one_thread() {
    let said = runs_in_its_loop("loop_tokio");
    assert!(said.contains("another task ran"), "{said}");
}

#[test]
fn a_worker_runs_in_a_loop_that_has_descriptors_and_timers_alone() {
    runs_in_its_loop("loop_foreign");
}

#[test]
fn a_client_believes_no_other_certificate() {
    let (place, other) = (Place::new("server"), Place::new("other"));
    let (_server, address) = serve("echo_server", &place);
    let output = ask(&address, &other.file("cert.pem"), "hello");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("Error: ") && output.stdout.is_empty(), "{said}");
}
