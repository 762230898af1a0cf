//! `quiclane get`: what it trusts, what it writes, and its errors.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quiclane_testkit::certificate::{Authority, Identity, named};
use quiclane_testkit::rcgen::{BasicConstraints, IsCa, date_time_ymd};
use quiclane_testkit::server::{Scratch, Server, rss_kib};
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_quiclane");

/// A place with a file to serve, `/data`.
fn place(name: &str) -> Scratch {
    let place = Scratch::new(&format!("get-{name}"));
    place.write("files/data", "data");
    place
}

/// A server of its files, whose certificate is `cert.pem` unless it is given another.
fn serve(place: &Scratch, more: &[&str]) -> Server {
    let files = place.text("files");
    Server::on_loopback(BINARY, place, &[&["serve", "--files", &files], more].concat())
}

fn run(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).output().unwrap()
}

/// The exit code and what was said.
fn failure(args: &[&str]) -> (i32, String) {
    let out = run(args);
    (out.status.code().unwrap(), String::from_utf8(out.stderr).unwrap())
}

fn with_chain(place: &Scratch, chain: &str, key: &str) -> Server {
    let (chain, key) = (place.write("chain.pem", chain), place.write("key.pem", key));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    serve(place, &["--cert", &chain, "--key", &key])
}

#[test]
fn an_authority_is_trusted_for_the_names_of_its_certificates() {
    let place = place("ca");
    let (ca, other) = (Authority::root("Example CA"), Authority::root("Other CA"));
    let leaf = named("lb", &["lb.example.com", "127.0.0.1"]);
    let leaf = ca.signs(&leaf);
    let server = with_chain(&place, &leaf.certificate_pem, &leaf.key_pem);
    let (ca, other) = (place.write("ca.pem", &ca.pem), place.write("other.pem", &other.pem));
    let get = ["get", server.address(), "/data"];
    // By the address, which the certificate bears, and by the name.
    for more in [&["--ca", &ca][..], &["--ca", &ca, "--server-name", "lb.example.com"]] {
        let out = run(&[&get[..], more].concat());
        assert_eq!(out.stdout, b"data", "{more:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
    let wrong = "wrong.example.com";
    let (code, text) = failure(&[&get[..], &["--ca", &ca, "--server-name", wrong]].concat());
    assert_eq!(code, 1);
    for word in [wrong, "lb.example.com", "127.0.0.1", "CN=lb", "CN=Example CA"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let (code, text) = failure(&[&get[..], &["--ca", &other]].concat());
    assert_eq!(code, 1);
    assert!(text.contains("issuer is unknown") && text.contains("CN=Example CA"), "{text}");
    assert!(text.contains("see --ca, --pin and --server-name"), "{text}");
    // The system does not know it either.
    let (code, text) = failure(&get);
    assert!(
        code != 0 && (text.contains("issuer is unknown") || text.contains("ca-cert")),
        "{text}"
    );
    // What the system trusts is the default: here it is told to trust this authority.
    let out = Command::new(BINARY).args(get).env("SSL_CERT_FILE", &ca).output().unwrap();
    assert_eq!(out.stdout, b"data", "{}", String::from_utf8_lossy(&out.stderr));
    // A pin is the certificate itself, under whatever name.
    let pin = place.text("chain.pem");
    let out = run(&[&get[..], &["--pin", &pin, "--server-name", wrong]].concat());
    assert_eq!(out.stdout, b"data");
    let (code, text) = failure(&[&get[..], &["--pin", &ca]].concat());
    assert_eq!(code, 1);
    assert!(text.contains("not the pinned"), "{text}");
}

#[test]
fn a_certificate_out_of_date_is_said_with_its_dates() {
    let place = place("date");
    let ca = Authority::root("Example CA");
    let mut leaf = named("old", &["127.0.0.1"]);
    leaf.not_before = date_time_ymd(2020, 1, 2);
    leaf.not_after = date_time_ymd(2021, 3, 4);
    let leaf = ca.signs(&leaf);
    let server = with_chain(&place, &leaf.certificate_pem, &leaf.key_pem);
    let ca = place.write("ca.pem", &ca.pem);
    let (code, text) = failure(&["get", server.address(), "/data", "--ca", &ca]);
    assert_eq!(code, 1);
    assert!(text.contains("it expired at 2021-03-04"), "{text}");
    // An authority between that is out of date is not the server's certificate.
    let root = Authority::root("Root");
    let old = root.below("Old", |old| old.not_after = date_time_ymd(2022, 5, 6));
    let leaf = old.signs(&named("new", &["127.0.0.1"]));
    let server = with_chain(&place, &(leaf.certificate_pem + &old.pem), &leaf.key_pem);
    let ca = place.write("root.pem", &root.pem);
    let (code, text) = failure(&["get", server.address(), "/data", "--ca", &ca]);
    assert_eq!(code, 1);
    assert!(
        text.contains("of its chain expired at 2022-05-06") && text.contains("CN=new"),
        "{text}"
    );
}

#[test]
fn a_chain_that_is_too_long_is_said() {
    let place = place("chain");
    let root = Authority::root("Root");
    let ca = place.write("ca.pem", &root.pem);
    let mut chain = Vec::new();
    let mut last = root;
    for number in 1..=8 {
        last = last.below(&format!("Intermediate {number}"), |_| ());
        chain.insert(0, last.pem.clone());
    }
    let leaf = last.signs(&named("leaf", &["127.0.0.1"]));
    let server = with_chain(&place, &(leaf.certificate_pem + &chain.concat()), &leaf.key_pem);
    let (code, text) = failure(&["get", server.address(), "/data", "--ca", &ca]);
    assert_eq!(code, 1);
    assert!(text.contains("8 intermediate certificates") && text.contains("0x12e"), "{text}");
}

#[test]
fn a_file_is_replaced_only_by_a_whole_one() {
    let place = place("output");
    let cert = place.text("cert.pem");
    let server = serve(&place, &[]);
    let keep = place.write("keep.txt", "precious");
    fs::set_permissions(&keep, fs::Permissions::from_mode(0o640)).unwrap();
    let missing = ["get", server.address(), "/nope", "--pin", &cert, "-o", &keep];
    assert_eq!(failure(&missing).0, 1);
    let gone = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable = ["get", &gone.to_string(), "/data", "--pin", &cert, "-o", &keep];
    assert_eq!(failure(&unreachable).0, 1);
    assert_eq!(fs::read_to_string(&keep).unwrap(), "precious");
    let link = place.text("link");
    std::os::unix::fs::symlink(&keep, &link).unwrap();
    let out = run(&["get", server.address(), "/data", "--pin", &cert, "-o", &link]);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(fs::read_to_string(&keep).unwrap(), "data");
    assert_eq!(fs::metadata(&keep).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let left: Vec<_> =
        fs::read_dir(place.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains(".part")), "{left:?}");
    // What is no file is written to as it is.
    let out = run(&["get", server.address(), "/data", "--pin", &cert, "-o", "/dev/stdout"]);
    assert_eq!(out.stdout, b"data");
}

#[test]
fn a_name_is_looked_up_and_every_address_tried() {
    let place = place("name");
    let cert = place.text("cert.pem");
    let server = serve(&place, &[]);
    let port = server.address().rsplit_once(':').unwrap().1;
    let target = format!("localhost:{port}");
    // A self-signed certificate is an authority for itself, and bears the name.
    for trust in ["--pin", "--ca"] {
        let out = run(&["get", &target, "/data", trust, &cert, "-v"]);
        let log = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.stdout, b"data", "{log}");
        assert!(log.contains("connected to 127.0.0.1") && log.contains("4 bytes"), "{log}");
    }
}

#[test]
fn a_closed_port_is_said_for_what_it_is() {
    let gone = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (code, text) = failure(&["get", &gone, "/data", "--insecure"]);
    assert_eq!(code, 1);
    assert!(text.contains("no socket listens") && text.contains(&gone), "{text}");
}

#[test]
fn a_silent_host_is_said_for_what_it_is() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let (code, text) = failure(&["get", &address, "/data", "--insecure", "--timeout", "0.5"]);
    assert_eq!(code, 1);
    assert!(text.contains("no answer") && text.contains("0.5 s"), "{text}");
    assert!(!text.contains("WARN"), "{text}");
}

#[test]
fn what_cannot_be_meant_is_usage() {
    let get = |more: &[&str]| failure(&[&["get"], more].concat());
    let cases: [(&[&str], &str); 19] = [
        (&["localhost", "/x"], "no port"),
        (&["localhost:99999", "/x"], "1 to 65535"),
        (&["::1:4433", "/x"], "[::1]:4433"),
        (&["[fe80::1%no-such0]:4433", "/x", "--insecure"], "no-such0"),
        (&["https://localhost/x", "/x"], "URL"),
        (&["localhost:1", "x", "--insecure"], "begin with /, such as /x"),
        (&["localhost:1", "/x", "--timeout", "abc", "--insecure"], "number of seconds"),
        (&["localhost:1", "/x", "--timeout", "-1", "--insecure"], "above 0"),
        (&["localhost:1", "/x", "--timeout", "0", "--insecure"], "above 0"),
        (&["localhost:1", "/x", "--cpus", "1-0", "--insecure"], "backwards"),
        (&["localhost:1", "/x", "--server-name", "bad name", "--insecure"], "bad name"),
        (
            &["localhost:1", "/x", "--profile", "scavenger", "--poll", "spin", "--insecure"],
            "leave out --poll",
        ),
        (&["localhost:1", "/x", "--quic-threads", "2", "--insecure"], "--profile max-throughput"),
        (&["localhost:1", "/x", "--ca", "/nowhere.pem"], "/nowhere.pem"),
        (&["localhost:1", "/x", "--pin", "/dev/null"], "/dev/null"),
        (&["localhost:1", "/x", "--insecure", "-o", "/nowhere/x"], "/nowhere/x"),
        (&["localhost:1", "/x", "--insecure", "--max-datagram", "900"], "1200"),
        (&["localhost:1", "/x", "--insecure", "--workers", "100"], "--share-cpus"),
        (&["localhost:1", "/x", "--ca", "a", "--pin", "b"], "--pin"),
    ];
    for (args, words) in cases {
        let (code, text) = get(args);
        if args.contains(&"100") && code == 1 {
            continue; // More CPUs than most machines have.
        }
        assert_eq!(code, 2, "{args:?}: {text}");
        assert!(text.contains(words), "{args:?}: {text}");
    }
}

/// An option without effect is refused.
#[test]
fn options_without_effect_are_refused() {
    for (args, word) in [
        (&["--require", "zerocopy"][..], "--require"),
        (&["--queues", "0-3"], "--queues"),
        (&["--generic"], "--generic"),
        (&["--frame-size", "4096"], "--frame-size"),
        (&["--frame-size", "3000", "--dev", "lo"], "2048 or 4096"),
        (&["--dev", "lo", "--io", "udp"], "--dev"),
        (&["--io", "auto"], "--dev"),
        (&["--vlan", "5"], "--vlan"),
        (&["--share-cpus"], "--share-cpus"),
        (&["--workers", "3", "--dev", "lo"], "--workers"),
        (&["--workers", "0"], "give 1 or more"),
        (&["--max-datagram", "100"], "1200"),
    ] {
        let all = [&["serve", "--perf", "--listen", "127.0.0.1:0"], args].concat();
        let (code, text) = failure(&all);
        assert_eq!(code, 2, "{args:?}: {text}");
        assert!(text.contains(word), "{args:?}: {text}");
    }
}

/// Skips a test loudly, but not where CI says that it must run.
fn skipped(what: &str, why: &str) {
    let must = std::env::var_os("QUICLANE_REQUIRE_ROOT").is_some_and(|value| value == "1");
    assert!(!must, "{what}: {why}");
    eprintln!("skipped: {what} needs root");
}

/// A get that writes to `keep`, where `precious` lies.
fn get_endless(server: &Server, place: &Scratch, more: &[&str]) -> (Child, String) {
    let keep = place.write("out/keep", "precious");
    let mut command = Command::new(BINARY);
    command.args(["get", server.address(), "/endless", "--pin", &place.text("cert.pem")]);
    command.args(more).stdout(Stdio::piped()).stderr(Stdio::piped());
    (command.spawn().unwrap(), keep)
}

/// Bytes of the draft beside `keep`.
fn draft_bytes(place: &Scratch) -> u64 {
    let entries = fs::read_dir(place.at("out")).unwrap().flatten();
    let drafts = entries.filter(|entry| entry.file_name() != "keep");
    drafts.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}

#[test]
fn a_server_that_is_killed_leaves_the_file_as_it_was() {
    let place = place("killed");
    place.zeros("files/endless", 1 << 40);
    let mut server = serve(&place, &[]);
    let keep = place.text("out/keep");
    let (mut get, _) = get_endless(&server, &place, &["-o", &keep, "--timeout", "1"]);
    while draft_bytes(&place) < 100_000 {
        assert!(get.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    server.kill();
    let out = get.wait_with_output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains(server.address()) && text.contains("nothing arrived"), "{text}");
    assert_eq!(fs::read_to_string(&keep).unwrap(), "precious");
    assert_eq!(fs::read_dir(place.at("out")).unwrap().count(), 1, "a draft was left");
}

#[test]
fn a_full_disk_is_said_and_leaves_the_file_as_it_was() {
    let place = place("full");
    place.zeros("files/endless", 1 << 40);
    let server = serve(&place, &[]);
    // What is no regular file has no draft.
    let (get, _) = get_endless(&server, &place, &["-o", "/dev/full"]);
    let out = get.wait_with_output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("/dev/full") && text.contains("No space left"), "{text}");
    // A disk of its own in a namespace of its own, full after 256 KiB.
    let script = r#"
        mount -t tmpfs -o size=256k none "$1" || exit 77
        cd "$1" && shift && echo precious >keep
        "$@"; code=$?
        cat keep; ls -A; exit $code"#;
    let disk = place.text("disk");
    fs::create_dir(&disk).unwrap();
    let out = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh", &disk, BINARY, "get", server.address()])
        .args(["/endless", "--pin", &place.text("cert.pem"), "-o", "keep"])
        .output()
        .unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    if text.contains("unshare failed") || out.status.code() == Some(77) {
        return skipped("a full disk", &text);
    }
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("keep") && text.contains("No space left"), "{text}");
    assert_eq!(String::from_utf8(out.stdout).unwrap(), "precious\nkeep\n");
}

#[test]
fn a_slow_reader_costs_time_and_no_memory() {
    /// What the client may hold: its windows, and what waits to be written.
    const MOST_KIB: u64 = 100 << 10;
    let place = place("slow");
    let bytes = 300 << 20;
    place.zeros("files/endless", bytes);
    let server = serve(&place, &[]);
    let (mut get, _) = get_endless(&server, &place, &["-v"]);
    let mut out = get.stdout.take().unwrap();
    out.read_exact(&mut [0; 1]).unwrap();
    // The reader stops: it stops growing before it has all of the file.
    let (mut last, mut unchanged) = (0, 0);
    while unchanged < 10 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let now = rss_kib(&get);
        assert!(now < MOST_KIB, "{now} KiB");
        unchanged = if now == last { unchanged + 1 } else { 0 };
        last = now;
    }
    // And goes on where it was.
    let rest = std::io::copy(&mut out, &mut std::io::sink()).unwrap();
    assert_eq!(rest + 1, bytes);
    assert!(get.wait_with_output().unwrap().status.success());
}

#[test]
fn a_certificate_of_an_authority_proves_no_name() {
    let place = place("authority");
    let mut parameters = named("both", &["127.0.0.1"]);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let both = Identity::self_signed(&parameters);
    let server = with_chain(&place, &both.certificate_pem, &both.key_pem);
    let ca = place.text("chain.pem");
    let (code, text) = failure(&["get", server.address(), "/data", "--ca", &ca]);
    assert_eq!(code, 1);
    assert!(text.contains("CN=both") && text.contains("pin it"), "{text}");
}

#[test]
fn an_address_that_was_given_up_does_not_end_the_next() {
    let place = place("addresses");
    place.zeros("files/endless", 1 << 40);
    let mut server = Command::new(BINARY);
    server.args(["serve", "--listen", "127.0.0.2:0", "--json", "--files", &place.text("files")]);
    let server = Server::start(server.stderr(Stdio::null()));
    let port = server.address().rsplit_once(':').unwrap().1;
    // No server listens at 127.0.0.1, which is tried first.
    let hosts = place.write("hosts", "127.0.0.1 both.test\n127.0.0.2 both.test\n");
    let script = r#"mount --bind "$1" /etc/hosts || exit 77; shift; exec "$@""#;
    let mut get = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh", &hosts, BINARY, "-v", "get", "--insecure"])
        .args([&format!("both.test:{port}"), "/endless", "--timeout", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = get.stdout.take().unwrap();
    let reading = std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    // Longer than the handshake with the first address may take, which is --timeout.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let ended = get.try_wait().unwrap();
    get.kill().unwrap();
    let text = String::from_utf8(get.wait_with_output().unwrap().stderr).unwrap();
    reading.join().unwrap().unwrap();
    if text.contains("unshare failed") || ended.is_some_and(|end| end.code() == Some(77)) {
        return skipped("a file system of its own", &text);
    }
    assert!(ended.is_none(), "{text}");
    assert!(text.contains("127.0.0.1:") && text.contains("connected to 127.0.0.2"), "{text}");
}
