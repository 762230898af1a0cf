//! `quiclane serve` and its clients: paths that are not files, files that change, many files; signals;
//! protocols that are not offered.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use quiclane::exec::{
    ClientConfig, ConnectionRef, Handle, Handler, Pin, Registration, RegistrationConfig,
};
use quiclane::{ClientTls, CloseReason, Dir, StreamId, TransportConfig};
use quiclane_testkit::server::{Ended, Scratch, Server};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

const BINARY: &str = env!("CARGO_BIN_EXE_quiclane");

fn quiclane(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).output().unwrap()
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A place with an empty directory to serve.
fn place(name: &str) -> Scratch {
    let place = Scratch::new(name);
    fs::create_dir(place.at("files")).unwrap();
    place
}

fn serve(place: &Scratch, more: &[&str]) -> Server {
    let files = place.text("files");
    Server::on_loopback(BINARY, place, &[&["serve", "--files", &files], more].concat())
}

fn get(server: &Server, place: &Scratch, path: &str) -> Output {
    quiclane(&["get", server.address(), path, "--pin", &place.text("cert.pem")])
}

/// What a client of the library was told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Connected,
    Data(usize, bool),
    Reset(u64),
    Closed,
}

/// Asks for a path on this many streams, and takes nothing until it is woken.
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
            let stream = connection.streams().open(Dir::Bi).unwrap();
            let request = Bytes::from(format!("GET {}\r\n", self.path));
            connection.streams().send(stream, request, true).unwrap();
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
            let _ = connection.streams().resume_receive(stream);
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
    let address: SocketAddr = server.address().parse().unwrap();
    let handle = registration.connect(address, "localhost", &config, client).unwrap();
    assert_eq!(told.recv().unwrap(), Told::Connected);
    (handle, told)
}

fn client_side() -> Registration {
    let config = RegistrationConfig { pin: Pin::Off, ..RegistrationConfig::udp(1) };
    Registration::open(config).unwrap()
}

#[test]
fn a_fifo_stops_no_worker() {
    let place = place("fifo");
    let made = Command::new("mkfifo").arg(place.at("files/fifo")).status().unwrap();
    assert!(made.success());
    fs::write(place.at("files/data"), "data").unwrap();
    let server = serve(&place, &[]);
    for _ in 0..2 {
        let refused = get(&server, &place, "/fifo");
        assert_eq!(refused.status.code(), Some(1));
        assert!(said(&refused).contains("no such file"), "{}", said(&refused));
        assert_eq!(get(&server, &place, "/data").stdout, b"data");
    }
    let end = server.stop().last;
    assert_eq!(end["files"]["not_found"], 2);
    assert_eq!(end["files"]["open_now"], 0);
}

#[test]
fn a_file_that_becomes_shorter_ends_its_own_transfer_alone() {
    let place = place("short");
    let huge = place.zeros("files/huge", 400 << 20);
    fs::write(place.at("files/data"), "data").unwrap();
    let server = serve(&place, &[]);
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
    assert_eq!(get(&server, &place, "/data").stdout, b"data");
    let Ended { last: end, log, .. } = server.stop();
    assert_eq!(end["files"]["truncated"], 1);
    assert!(log.contains("huge") && log.contains("shorter"), "{log}");
}

#[test]
fn a_file_that_is_replaced_is_served_as_it_was() {
    let place = place("replaced");
    let file = place.at("files/file");
    fs::write(&file, vec![b'a'; 3 << 20]).unwrap();
    let server = serve(&place, &[]);
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
    assert_eq!(get(&server, &place, "/file").stdout, vec![b'b'; 10]);
    server.stop();
}

/// 70 connections of 1,000 requests each once took every mapping of the process.
#[test]
fn requests_that_nobody_reads_the_answers_of_cost_little() {
    const CONNECTIONS: usize = 12;
    const STREAMS: usize = 90;
    let place = place("many");
    place.zeros("files/huge", 400 << 20);
    fs::write(place.at("files/data"), "data").unwrap();
    let server = serve(&place, &[]);
    let registration = client_side();
    let clients: Vec<_> =
        (0..CONNECTIONS).map(|_| stalled(&registration, &server, "/huge", STREAMS, 1)).collect();
    // An honest client gets its file, and the answer comes after the requests before it.
    assert_eq!(get(&server, &place, "/data").stdout, b"data");
    let maps = fs::read_to_string(server.proc("maps")).unwrap().lines().count();
    let open = fs::read_dir(server.proc("fd")).unwrap().count();
    assert!(maps < 400, "{maps} mappings");
    assert!(open < CONNECTIONS * 64 + 100, "{open} descriptors");
    drop(clients);
    let end = server.stop().last;
    let files = &end["files"];
    assert!(files["requests"].as_u64().unwrap() >= (CONNECTIONS * STREAMS) as u64, "{files}");
    // A piece for each open file at most, and what the window of a connection holds.
    let held = files["bytes_now"].as_u64().unwrap();
    assert!(held <= CONNECTIONS as u64 * ((64 * 16) + 1024) * 1024, "{held} bytes held");
}

#[test]
fn measurements_are_offered_only_when_asked_for() {
    let place = place("noperf");
    let server = serve(&place, &[]);
    let pin = place.text("cert.pem");
    let run = ["perf", "run", server.address(), "--pin", &pin, "--seconds", "0.2"];
    let refused = quiclane(&run);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("ALPN"), "{}", said(&refused));
    server.stop();
    let server = serve(&place, &["--perf"]);
    let run = ["perf", "run", server.address(), "--pin", &pin, "--seconds", "0.2"];
    let out = quiclane(&run);
    assert!(out.status.success(), "{}", said(&out));
    server.stop();
}

/// The scheduling policies of the threads of a process, by their names.
fn policies(pid: u32) -> Vec<(String, u32)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let policy = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap();
        // The name may have spaces. After it come the fields from the third on; 41 is the policy.
        let (name, fields) = stat.rsplit_once(')').unwrap();
        let policy = fields.split_whitespace().nth(41 - 3).unwrap().parse().unwrap();
        (name.split_once('(').unwrap().1.to_owned(), policy)
    };
    tasks.map(|task| policy(task.unwrap())).collect()
}

#[test]
fn workers_have_the_profile_that_was_asked_for() {
    let place = place("profile");
    fs::write(place.at("files/file"), "data").unwrap();
    // SCHED_OTHER, SCHED_FIFO, SCHED_IDLE. The second needs a right.
    let profiles = [("low-latency", 0), ("real-time", 1), ("scavenger", 5), ("max-throughput", 0)];
    for (profile, policy) in profiles {
        if policy == 1 && !quiclane_testkit::netns::privileged("SCHED_FIFO") {
            continue;
        }
        let server = serve(&place, &["--profile", profile]);
        assert!(get(&server, &place, "/file").status.success(), "{profile}");
        let policies = policies(server.pid());
        let of_workers = policies.iter().filter(|(name, _)| name.starts_with("quiclane-"));
        let of_workers: Vec<u32> = of_workers.map(|(_, policy)| *policy).collect();
        assert!(!of_workers.is_empty() && of_workers.iter().all(|p| *p == policy), "{policies:?}");
        server.stop();
    }
}

#[test]
fn quic_has_threads_of_its_own_where_that_is_asked_for() {
    let place = place("apart");
    fs::write(place.at("files/file"), vec![7; 300_000]).unwrap();
    let apart = ["--profile", "max-throughput"];
    let server = serve(&place, &[&apart[..], &["--workers", "2", "--quic-threads", "3"]].concat());
    let client = [&apart[..], &["--quic-threads", "1"]].concat();
    let address = server.address().to_owned();
    let line = ["get", &address, "/file", "--pin", &place.text("cert.pem")];
    let out = quiclane(&[&line[..], &client].concat());
    assert!(out.status.success() && out.stdout == [7; 300_000], "{}", said(&out));
    let mut names: Vec<_> = policies(server.pid()).into_iter().map(|(name, _)| name).collect();
    names.retain(|name| name.starts_with("quiclane-"));
    names.sort();
    let workers = (0..6).map(|number| format!("quiclane-{number}"));
    let queues = (0..2).map(|number| format!("quiclane-d{number}"));
    assert_eq!(names, workers.chain(queues).collect::<Vec<_>>());
    server.stop();
}

#[test]
fn a_hangup_does_not_end_a_server() {
    let place = place("hangup");
    fs::write(place.at("files/data"), "data").unwrap();
    let server = serve(&place, &["-v"]);
    server.signal("-HUP");
    server.signal("-HUP");
    assert_eq!(get(&server, &place, "/data").stdout, b"data");
    let log = server.stop().log;
    assert!(log.contains("SIGHUP"), "{log}");
}

#[test]
fn running_downloads_end_and_new_ones_are_refused() {
    let place = place("drain");
    fs::write(place.at("files/file"), vec![7; 3 << 20]).unwrap();
    let server = serve(&place, &["--grace", "600"]);
    let registration = client_side();
    let (handle, told) = stalled(&registration, &server, "/file", 1, 64 << 10);
    assert_eq!(told.recv().unwrap(), Told::Data(0, false));
    server.signal("-TERM");
    // The server still has the download to end; no new client gets in.
    let address = server.address().to_owned();
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
    let Ended { code, last: end, log } = server.end();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(end["files"]["requests_now"], 0);
}

#[test]
fn a_second_signal_ends_it_now() {
    let place = place("second");
    place.zeros("files/huge", 400 << 20);
    let server = serve(&place, &["--grace", "3600"]);
    let registration = client_side();
    let (_handle, told) = stalled(&registration, &server, "/huge", 1, 64 << 10);
    assert_eq!(told.recv().unwrap(), Told::Data(0, false));
    server.signal("-TERM");
    // Two signals at once may be heard as one.
    let pause = std::time::Duration::from_millis(300);
    std::thread::sleep(pause);
    server.signal("-TERM");
    let Ended { code, last: end, .. } = server.end();
    assert_eq!(code, Some(128 + 15));
    assert!(end.is_null(), "{end}");
}

#[test]
fn grace_is_bounded() {
    let place = place("grace");
    place.zeros("files/huge", 400 << 20);
    let server = serve(&place, &["--grace", "0.1"]);
    let registration = client_side();
    let (_handle, told) = stalled(&registration, &server, "/huge", 1, 64 << 10);
    assert_eq!(told.recv().unwrap(), Told::Data(0, false));
    let log = server.stop().log;
    assert!(log.contains("1 download cut short"), "{log}");
    while told.recv().unwrap() != Told::Closed {}
}

#[test]
fn a_server_describes_itself_where_it_may() {
    let place = place("status");
    let server = serve(&place, &[]);
    let file = place.at("status").join(format!("{}.json", server.pid()));
    let text = fs::read_to_string(&file).unwrap();
    let described: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(described["listen"], server.address());
    server.stop();
    assert!(!file.exists());
    let out = quiclane(&["serve", "--perf", "--listen", "127.0.0.1:0", "--status-dir", "/proc/x"]);
    assert_eq!(out.status.code(), Some(2), "{}", said(&out));
    assert!(said(&out).contains("/proc/x"), "{}", said(&out));
}

#[test]
fn a_certificate_is_not_written_through_a_link() {
    let place = place("link");
    fs::write(place.at("precious"), "precious").unwrap();
    std::os::unix::fs::symlink(place.at("precious"), place.at("cert.pem")).unwrap();
    let cert = place.text("cert.pem");
    let out = quiclane(&["serve", "--perf", "--listen", "127.0.0.1:0", "--cert-out", &cert]);
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    assert!(said(&out).contains("link"), "{}", said(&out));
    assert_eq!(fs::read_to_string(place.at("precious")).unwrap(), "precious");
}

#[test]
fn a_key_that_others_may_read_is_warned_of() {
    let place = place("key");
    // The key is looked at before it is used; that it is none ends the start.
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| place.text(name));
    fs::write(&cert, "no PEM").unwrap();
    fs::write(&key, "no PEM").unwrap();
    for (mode, warned) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let listen = ["serve", "--perf", "--listen", "127.0.0.1:0"];
        let out = quiclane(&[&listen[..], &["--cert", &cert, "--key", &key]].concat());
        assert_eq!(out.status.code(), Some(2), "{}", said(&out));
        let warning = format!("has mode {mode:04o}: others may read this key");
        assert_eq!(said(&out).contains(&warning), warned, "{mode:o}: {}", said(&out));
    }
}

/// Clients of a server that runs pin what stands there.
#[test]
fn a_server_that_does_not_start_writes_no_certificate() {
    let place = place("published");
    fs::write(place.at("files/data"), "data").unwrap();
    let server = serve(&place, &[]);
    let cert = place.text("cert.pem");
    let before = fs::read(&cert).unwrap();
    let names = || fs::read_dir(place.path()).unwrap().count();
    let many = names();
    // A port in use, and a mistake: the second is said before anything is tried.
    for more in [&["--listen", server.address(), "--perf"][..], &["--files", "/nowhere/at/all"]] {
        let out = quiclane(&[&["serve", "--cert-out", &cert], more].concat());
        assert!(matches!(out.status.code(), Some(1 | 2)), "{more:?}: {}", said(&out));
        assert!(!said(&out).contains("self-signed"), "{more:?}: {}", said(&out));
        assert_eq!(fs::read(&cert).unwrap(), before, "{more:?}");
        assert_eq!(names(), many, "{more:?}: a draft was left");
    }
    assert_eq!(get(&server, &place, "/data").stdout, b"data");
    // What is no file is written to as it is.
    let mut other = Command::new(BINARY);
    other.args(["serve", "--perf", "--json", "--listen", "127.0.0.1:0", "--cert-out", "/dev/null"]);
    Server::start(&mut other).stop();
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

/// A server serves its clients when its output has no reader.
#[test]
fn a_server_whose_words_nobody_reads_serves() {
    let place = place("unread");
    fs::write(place.at("files/data"), "data").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut server = Command::new(BINARY);
    server.args(["serve", "--listen", "127.0.0.1:0", "--files", &place.text("files")]);
    server.args(["--cert-out", &place.text("cert.pem"), "--status-dir", &place.text("status")]);
    let mut server = server.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let file = place.at("status").join(format!("{}.json", server.id()));
    let address = loop {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let described: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        match described["listen"].as_str() {
            Some(address) if !address.is_empty() => break address.to_owned(),
            _ => assert!(server.try_wait().unwrap().is_none(), "it has ended"),
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    let out = quiclane(&["get", &address, "/data", "--pin", &place.text("cert.pem")]);
    assert_eq!(out.stdout, b"data", "{}", said(&out));
    quiclane_testkit::server::signal(&server, "-TERM");
    let out = server.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    assert!(said(&out).contains("standard output has no reader any more"), "{}", said(&out));
}

/// A mistake in the arguments must not attach anything to the device.
#[test]
fn a_mistake_is_said_before_the_device_is_touched() {
    // A namespace of its own, in which another process has the UDP port.
    let script = r#"
        mount -t sysfs none /sys || exit 77
        ip link set lo up mtu 1500 && ip address add 127.0.0.1/8 dev lo 2>/dev/null
        mkfifo "$1/ready" || exit 1
        "$2" serve --perf --json --listen 127.0.0.1:4471 >"$1/ready" 2>/dev/null & holder=$!
        read -r _ <"$1/ready" && rm "$1/ready"
        shift; timeout 60 "$@"; code=$?
        kill "$holder"; exit $code"#;
    let cases: [(&[&str], i32, &str); 6] = [
        (&["--queues", "9"], 2, "--queues"),
        (&["--cpus", "4095"], 2, "--cpus"),
        (&["--max-datagram", "4000"], 2, "MTU of lo is 1500"),
        (&["--listen", "192.0.2.1:4433"], 1, "give an address of this machine"),
        (&["--listen", "127.0.0.1:4471"], 1, "port 4471 is in use"),
        (&["--cert", "/nowhere.pem", "--key", "/nowhere.pem"], 2, "/nowhere.pem"),
    ];
    let place = place("untouched");
    let directory = place.path().to_str().unwrap();
    for (more, code, words) in cases {
        let out = Command::new("unshare")
            .args(["--net", "--mount", "sh", "-c", script, "sh", directory, BINARY])
            .args(["-v", "serve", "--perf", "--dev", "lo", "--share-cpus"])
            .args(more)
            .output()
            .unwrap();
        if said(&out).contains("unshare failed") || out.status.code() == Some(77) {
            let must = std::env::var_os("QUICLANE_REQUIRE_ROOT").is_some_and(|value| value == "1");
            assert!(!must, "{}", said(&out));
            eprintln!("skipped: network namespaces need root");
            return;
        }
        assert_eq!(out.status.code(), Some(code), "{more:?}: {}", said(&out));
        assert!(said(&out).contains(words), "{more:?}: {}", said(&out));
        assert!(!said(&out).contains("attached"), "{more:?}: {}", said(&out));
    }
}
