//! `quiclane serve` and what its clients meet: files that are none, that change, that are many;
//! signals; protocols that are not offered.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use quiclane::exec::{
    ClientConfig, ConnectionRef, Handle, Handler, Registration, RegistrationConfig,
};
use quiclane::{ClientTls, CloseReason, Dir, StreamId, TransportConfig};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

const BINARY: &str = env!("CARGO_BIN_EXE_quiclane");

fn quiclane(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).output().unwrap()
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A directory that goes with the test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let place = std::env::temp_dir().join(format!("quiclane-{name}-{}", std::process::id()));
        fs::create_dir_all(place.join("files")).unwrap();
        Self(place)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A server on its own port, with `files` of a place.
struct Server {
    child: Child,
    address: String,
    out: BufReader<std::process::ChildStdout>,
}

impl Server {
    fn start(place: &Place, more: &[&str]) -> Self {
        let status = place.text("status");
        let mut child = Command::new(BINARY)
            .args(["serve", "--listen", "127.0.0.1:0", "--json", "--files"])
            .arg(place.at("files"))
            .arg("--cert-out")
            .arg(place.at("cert.pem"))
            .args(["--status-dir", &status])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = ready["listen"].as_str().unwrap().to_owned();
        Self { child, address, out }
    }

    fn get(&self, place: &Place, path: &str) -> Output {
        quiclane(&["get", &self.address, path, "--pin", &place.text("cert.pem")])
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.child.id().to_string()).join(name)
    }

    /// Waits for the end: the exit code, the last line and what was logged.
    fn end(mut self) -> (Option<i32>, serde_json::Value, String) {
        let last = self.out.by_ref().lines().map(Result::unwrap).last().unwrap_or_default();
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        let code = self.child.wait().unwrap().code();
        (code, serde_json::from_str(&last).unwrap_or_default(), log)
    }

    fn stop(self) -> (serde_json::Value, String) {
        self.signal("-TERM");
        let (code, end, log) = self.end();
        assert_eq!(code, Some(0), "{log}");
        (end, log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a client of the library was told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Connected,
    Data(usize, bool),
    Reset(u64),
    Closed,
}

/// Asks for a path on so many streams, and takes nothing until it is woken.
struct Client {
    path: String,
    streams: usize,
    tell: Sender<Told>,
    taking: bool,
    waiting: Vec<StreamId>,
}

impl Client {
    fn tell(&self, told: Told) {
        let _ = self.tell.send(told);
    }
}

impl Handler for Client {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _resumed: bool) {
        for _ in 0..self.streams {
            let stream = connection.open(Dir::Bi).unwrap();
            let request = Bytes::from(format!("GET {}\r\n", self.path));
            connection.send(stream, request, true).unwrap();
        }
        self.tell(Told::Connected);
    }

    fn stream_data(
        &mut self,
        _: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        if !self.taking {
            self.waiting.push(stream);
            self.tell(Told::Data(0, false));
            return 0;
        }
        self.tell(Told::Data(data.len(), fin));
        data.len()
    }

    fn stream_reset(&mut self, _: &mut ConnectionRef<'_>, _: StreamId, code: u64) {
        self.tell(Told::Reset(code));
    }

    fn woken(&mut self, connection: &mut ConnectionRef<'_>, _token: u64) {
        self.taking = true;
        for stream in std::mem::take(&mut self.waiting) {
            let _ = connection.resume_receive(stream);
        }
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, _: CloseReason) {
        self.tell(Told::Closed);
    }
}

/// A client that has asked, and has the first bytes of an answer, or what came instead.
fn stalled(
    registration: &Registration,
    server: &Server,
    path: &str,
    streams: usize,
    window: u64,
) -> (Handle, Receiver<Told>) {
    let tls = ClientTls::builder().dangerous_insecure().alpn(["hq-interop"]).build().unwrap();
    let mut config = ClientConfig::new(tls);
    let transport = TransportConfig {
        stream_window_bytes: window,
        connection_window_bytes: 1 << 20,
        ..TransportConfig::default()
    };
    config.transport = Arc::new(transport);
    let (tell, told) = channel();
    let path = path.to_owned();
    let client = Client { path, streams, tell, taking: false, waiting: Vec::new() };
    let address: SocketAddr = server.address.parse().unwrap();
    let handle = registration.connect(address, "localhost", &config, client).unwrap();
    assert_eq!(told.recv().unwrap(), Told::Connected);
    (handle, told)
}

fn client_side() -> Registration {
    let config = RegistrationConfig { pin: false, ..RegistrationConfig::udp(1) };
    Registration::open(config).unwrap()
}

fn sparse(path: &Path, bytes: u64) {
    fs::File::create(path).unwrap().set_len(bytes).unwrap();
}

#[test]
fn a_fifo_stops_no_worker() {
    let place = Place::new("fifo");
    let made = Command::new("mkfifo").arg(place.at("files/fifo")).status().unwrap();
    assert!(made.success());
    fs::write(place.at("files/data"), "data").unwrap();
    let server = Server::start(&place, &[]);
    for _ in 0..2 {
        let refused = server.get(&place, "/fifo");
        assert_eq!(refused.status.code(), Some(1));
        assert!(said(&refused).contains("no such file"), "{}", said(&refused));
        assert_eq!(server.get(&place, "/data").stdout, b"data");
    }
    let (end, _) = server.stop();
    assert_eq!(end["files"]["not_found"], 2);
    assert_eq!(end["files"]["open_now"], 0);
}

#[test]
fn a_file_that_becomes_shorter_ends_its_own_transfer_alone() {
    let place = Place::new("short");
    let huge = place.at("files/huge");
    sparse(&huge, 400 << 20);
    fs::write(place.at("files/data"), "data").unwrap();
    let server = Server::start(&place, &[]);
    let registration = client_side();
    let (handle, told) = stalled(&registration, &server, "/huge", 1, 64 << 10);
    assert_eq!(told.recv().unwrap(), Told::Data(0, false));
    fs::File::create(&huge).unwrap();
    handle.wake(0).unwrap();
    let reset = loop {
        match told.recv().unwrap() {
            Told::Data(..) => {}
            other => break other,
        }
    };
    assert_eq!(reset, Told::Reset(0x500));
    assert_eq!(server.get(&place, "/data").stdout, b"data");
    let (end, log) = server.stop();
    assert_eq!(end["files"]["truncated"], 1);
    assert!(log.contains("huge") && log.contains("shorter"), "{log}");
}

#[test]
fn a_file_that_is_replaced_is_served_as_it_was() {
    let place = Place::new("replaced");
    let file = place.at("files/file");
    fs::write(&file, vec![b'a'; 3 << 20]).unwrap();
    let server = Server::start(&place, &[]);
    let registration = client_side();
    let (handle, told) = stalled(&registration, &server, "/file", 1, 64 << 10);
    assert_eq!(told.recv().unwrap(), Told::Data(0, false));
    fs::write(place.at("new"), vec![b'b'; 10]).unwrap();
    fs::rename(place.at("new"), &file).unwrap();
    handle.wake(0).unwrap();
    let mut bytes = 0;
    while let Told::Data(more, fin) = told.recv().unwrap() {
        bytes += more;
        if fin {
            break;
        }
    }
    assert_eq!(bytes, 3 << 20);
    assert_eq!(server.get(&place, "/file").stdout, vec![b'b'; 10]);
    server.stop();
}

/// M6: 70 connections of 1,000 requests each took every mapping of the process.
#[test]
fn requests_that_nobody_reads_the_answers_of_cost_little() {
    const CONNECTIONS: usize = 12;
    const STREAMS: usize = 90;
    let place = Place::new("many");
    sparse(&place.at("files/huge"), 400 << 20);
    fs::write(place.at("files/data"), "data").unwrap();
    let server = Server::start(&place, &[]);
    let registration = client_side();
    let clients: Vec<_> =
        (0..CONNECTIONS).map(|_| stalled(&registration, &server, "/huge", STREAMS, 1)).collect();
    // An honest client gets its file, and the answer comes after the requests before it.
    assert_eq!(server.get(&place, "/data").stdout, b"data");
    let maps = fs::read_to_string(server.proc("maps")).unwrap().lines().count();
    let open = fs::read_dir(server.proc("fd")).unwrap().count();
    assert!(maps < 400, "{maps} mappings");
    assert!(open < CONNECTIONS * 64 + 100, "{open} descriptors");
    drop(clients);
    let (end, _) = server.stop();
    let files = &end["files"];
    assert!(files["requests"].as_u64().unwrap() >= (CONNECTIONS * STREAMS) as u64, "{files}");
    // A piece for each open file at most, and what the window of a connection holds.
    let held = files["bytes_now"].as_u64().unwrap();
    assert!(held <= CONNECTIONS as u64 * ((64 * 16) + 1024) * 1024, "{held} bytes held");
}

#[test]
fn measurements_are_offered_only_when_asked_for() {
    let place = Place::new("noperf");
    let server = Server::start(&place, &[]);
    let pin = place.text("cert.pem");
    let run = ["perf", "run", &server.address, "--pin", &pin, "--seconds", "0.2"];
    let refused = quiclane(&run);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("ALPN"), "{}", said(&refused));
    server.stop();
    let server = Server::start(&place, &["--perf"]);
    let run = ["perf", "run", &server.address, "--pin", &pin, "--seconds", "0.2"];
    let out = quiclane(&run);
    assert!(out.status.success(), "{}", said(&out));
    server.stop();
}

#[test]
fn a_hangup_does_not_end_a_server() {
    let place = Place::new("hangup");
    fs::write(place.at("files/data"), "data").unwrap();
    let server = Server::start(&place, &["-v"]);
    server.signal("-HUP");
    server.signal("-HUP");
    assert_eq!(server.get(&place, "/data").stdout, b"data");
    let (_, log) = server.stop();
    assert!(log.contains("SIGHUP"), "{log}");
}

#[test]
fn running_downloads_end_and_new_ones_are_refused() {
    let place = Place::new("drain");
    fs::write(place.at("files/file"), vec![7; 3 << 20]).unwrap();
    let server = Server::start(&place, &["--grace", "600"]);
    let registration = client_side();
    let (handle, told) = stalled(&registration, &server, "/file", 1, 64 << 10);
    assert_eq!(told.recv().unwrap(), Told::Data(0, false));
    server.signal("-TERM");
    // The server still has the download to end; nobody gets in any more.
    let address = server.address.clone();
    let pin = place.text("cert.pem");
    let late = quiclane(&["get", &address, "/file", "--pin", &pin, "--timeout", "2"]);
    assert_eq!(late.status.code(), Some(1), "{}", said(&late));
    handle.wake(0).unwrap();
    let mut bytes = 0;
    while let Told::Data(more, fin) = told.recv().unwrap() {
        bytes += more;
        if fin {
            break;
        }
    }
    assert_eq!(bytes, 3 << 20);
    let (code, end, log) = server.end();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(end["files"]["requests_now"], 0);
}

#[test]
fn a_second_signal_ends_it_now() {
    let place = Place::new("second");
    sparse(&place.at("files/huge"), 400 << 20);
    let server = Server::start(&place, &["--grace", "3600"]);
    let registration = client_side();
    let (_handle, told) = stalled(&registration, &server, "/huge", 1, 64 << 10);
    assert_eq!(told.recv().unwrap(), Told::Data(0, false));
    server.signal("-TERM");
    // Two signals at once may be heard as one.
    let pause = std::time::Duration::from_millis(300);
    std::thread::sleep(pause);
    server.signal("-TERM");
    let (code, end, _) = server.end();
    assert_eq!(code, Some(128 + 15));
    assert!(end.is_null(), "{end}");
}

#[test]
fn grace_is_bounded() {
    let place = Place::new("grace");
    sparse(&place.at("files/huge"), 400 << 20);
    let server = Server::start(&place, &["--grace", "0.1"]);
    let registration = client_side();
    let (_handle, told) = stalled(&registration, &server, "/huge", 1, 64 << 10);
    assert_eq!(told.recv().unwrap(), Told::Data(0, false));
    let (_, log) = server.stop();
    assert!(log.contains("1 download cut short"), "{log}");
    while told.recv().unwrap() != Told::Closed {}
}

#[test]
fn a_server_describes_itself_where_it_may() {
    let place = Place::new("status");
    let server = Server::start(&place, &[]);
    let file = place.at("status").join(format!("{}.json", server.child.id()));
    let text = fs::read_to_string(&file).unwrap();
    let described: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(described["listen"], server.address.as_str());
    server.stop();
    assert!(!file.exists());
    let out = quiclane(&["serve", "--perf", "--listen", "127.0.0.1:0", "--status-dir", "/proc/x"]);
    assert_eq!(out.status.code(), Some(2), "{}", said(&out));
    assert!(said(&out).contains("/proc/x"), "{}", said(&out));
}

#[test]
fn a_certificate_is_not_written_through_a_link() {
    let place = Place::new("link");
    fs::write(place.at("precious"), "precious").unwrap();
    std::os::unix::fs::symlink(place.at("precious"), place.at("cert.pem")).unwrap();
    let cert = place.text("cert.pem");
    let out = quiclane(&["serve", "--perf", "--listen", "127.0.0.1:0", "--cert-out", &cert]);
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    assert!(said(&out).contains("link"), "{}", said(&out));
    assert_eq!(fs::read_to_string(place.at("precious")).unwrap(), "precious");
}

/// D13: a mistake in the arguments must not attach anything to the device.
#[test]
fn a_queue_that_is_not_there_is_said_before_the_device_is_touched() {
    let cases: [&[&str]; 2] = [&["--queues", "9"], &["--cpus", "4095"]];
    for more in cases {
        let mut args = vec!["--net", BINARY, "-v", "serve", "--perf", "--dev", "lo"];
        args.extend(more);
        let out = Command::new("unshare").args(&args).output().unwrap();
        if said(&out).contains("unshare failed") {
            eprintln!("skipped: network namespaces need root");
            return;
        }
        assert_eq!(out.status.code(), Some(2), "{more:?}: {}", said(&out));
        assert!(said(&out).contains(more[0]), "{more:?}: {}", said(&out));
        assert!(!said(&out).contains("attached"), "{more:?}: {}", said(&out));
    }
}
