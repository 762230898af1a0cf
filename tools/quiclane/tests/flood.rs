//! A flood of garbage at a server while it serves files. Needs root; skips loudly without, fails
//! without where `QUICLANE_REQUIRE_ROOT=1`.
//!
//! What must hold: every download is exact, memory stays bounded, and every frame that the server's
//! device took is counted once. The account, with the driver's own counters as witness (all since
//! before the flood):
//!
//! ```text
//!   sent by the flooder   <=  frames that arrived + frames the veth had no room for
//!   frames that arrived    =  redirected + dropped by the XDP program + refused by the socket
//!                             + passed to the kernel (neighbour discovery: a handful)
//!   redirected             =  the datapath's rx_packets + its drop_* counters
//!   rx_packets             =  the lanes' rx_datagrams - those handed over between workers
//! ```
//!
//! The same once more from nothing but what `serve --json` prints, since the start:
//!
//! ```text
//!   verdict redirect       =  rx_packets + drop_* + what the socket's ring had no room for
//!   verdict drop-*         =  the driver's xdp_drops: Initials in small datagrams
//!   all verdicts           =  frames that arrived
//! ```

#![expect(clippy::disallowed_methods, reason = "a flood ends by the clock")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use quiclane_testkit::netns::{Lab, LabConfig, Side, privileged};
use quiclane_testkit::server::{Scratch, Server};
use serde_json::Value;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SERVER: &str = "10.77.0.1:4433";
/// How long the flood lasts where `QUICLANE_FLOOD_SECONDS` does not say, in CI and in an optimized
/// build.
const LONG_FLOOD_SECONDS: u64 = 30;
/// How long it lasts otherwise.
const SHORT_FLOOD_SECONDS: u64 = 5;
/// Datagrams that the flood aims at in a second. A machine that is busy with others makes fewer:
/// what was made is printed.
const RATE: u64 = 20_000;
/// The pause between two bursts.
const PAUSE: Duration = Duration::from_millis(1);
/// What a burst makes up for at most after a pause that was too long: a fraction of what the
/// rings hold, so that a burst is no loss by itself.
const BURST_MAX: u64 = 256;
/// Sockets, each with a port of its own, that the flood comes from.
const SOCKETS: usize = 8;
/// No datagram of the flood is fragmented: the kernel would take it from the account.
const MAX_DATAGRAM_BYTES: usize = 1400;
/// What the server may grow by under flood, after its first second.
const GROWTH_KIB: u64 = 64 * 1024;
/// Frames that are not of the flood and that the program passes: ARP, neighbour discovery.
const MAX_PASSED: u64 = 200;

fn flood_seconds() -> u64 {
    if let Ok(text) = std::env::var("QUICLANE_FLOOD_SECONDS") {
        return text.parse().expect("QUICLANE_FLOOD_SECONDS is a number");
    }
    let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    if ci || !cfg!(debug_assertions) { LONG_FLOOD_SECONDS } else { SHORT_FLOOD_SECONDS }
}

/// Pseudo-random numbers (xorshift64), the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_ne_bytes()[..chunk.len()]);
        }
    }
}

/// The program in a namespace; `ip` becomes it, so the process is the program's.
fn quiclane(lab: &Lab, side: Side, arguments: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &lab.namespace(side), env!("CARGO_BIN_EXE_quiclane")]);
    command.args(arguments);
    command
}

fn serve(lab: &Lab, scratch: &Scratch) -> Server {
    let device = lab.device(Side::Server);
    let (files, cert) = (scratch.text(""), scratch.text("cert.pem"));
    let arguments = ["serve", "--listen", SERVER, "--io", "xdp", "--dev", &device];
    let more = ["--require", "native", "--share-cpus", "--files", &files, "--json"];
    let mut command = quiclane(lab, Side::Server, &arguments);
    Server::start(command.args(more).args(["--cert-out", &cert]))
}

/// The first datagrams of a real client, sent to a socket that does not answer.
fn record_initials(lab: &Lab) -> Vec<Vec<u8>> {
    std::thread::scope(|scope| {
        let recorder = scope.spawn(|| {
            lab.enter(Side::Client);
            UdpSocket::bind("127.0.0.1:4433").unwrap()
        });
        let socket = recorder.join().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let arguments = ["get", "127.0.0.1:4433", "/x", "--insecure", "--timeout", "1"];
        let mut command = quiclane(lab, Side::Client, &arguments);
        let mut client = command.stderr(Stdio::null()).spawn().unwrap();
        let mut bytes = [0; 2048];
        // The client asks the kernel whether the port is closed by a datagram of one byte: where it
        // is slow, before its first packet.
        let length = loop {
            let length = socket.recv(&mut bytes).expect("a client sends an Initial");
            if length > 1 {
                break length;
            }
        };
        client.wait().unwrap();
        assert_eq!(bytes[0] & 0xc0, 0xc0, "a long header");
        vec![bytes[..length.min(MAX_DATAGRAM_BYTES)].to_vec()]
    })
}

/// Writes the next datagram of the flood.
fn compose(random: &mut Random, initials: &[Vec<u8>], out: &mut Vec<u8>) {
    out.clear();
    let kind = random.below(8);
    match kind {
        0 => {}
        1 | 2 => {
            out.resize(random.below(MAX_DATAGRAM_BYTES + 1), 0);
            random.fill(out);
        }
        3 => {
            // A short header with an id of no connection.
            out.resize(1 + random.below(MAX_DATAGRAM_BYTES), 0);
            random.fill(out);
            out[0] = 0x40 | (out[0] & 0x3f);
        }
        4 => {
            // An Initial by its header, with ids of 8 bytes, and noise after it.
            out.resize(1200, 0);
            random.fill(out);
            out[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
            out[14] = 8;
            out[23] = 0;
            out[24..26].copy_from_slice(&(0x4000_u16 | 1174).to_be_bytes());
        }
        _ => {
            out.extend_from_slice(&initials[random.below(initials.len())]);
            if kind != 5 {
                for _ in 0..=random.below(8) {
                    let at = random.below(out.len());
                    out[at] = random.next() as u8;
                }
            }
            if kind != 6 {
                out.truncate(random.below(out.len()));
            }
        }
    }
}

/// Sends until told to stop, as many as the time that has passed asks for. Returns how many
/// datagrams the kernel took.
fn flood(lab: &Lab, initials: &[Vec<u8>], stop: &AtomicBool) -> u64 {
    lab.enter(Side::Client);
    let connect = |_| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(SERVER).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let sockets: Vec<UdpSocket> = (0..SOCKETS).map(connect).collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut datagram = Vec::with_capacity(MAX_DATAGRAM_BYTES);
    let (mut sent, mut tried, mut forgone) = (0, 0, 0);
    let begin = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let due = begin.elapsed().as_micros() as u64 * RATE / 1_000_000;
        let behind = due - tried - forgone;
        let burst = behind.min(BURST_MAX);
        // What is not made up for now never is: a long pause is not followed by a long burst.
        forgone += behind - burst;
        tried += burst;
        for _ in 0..burst {
            compose(&mut random, initials, &mut datagram);
            let socket = &sockets[random.below(SOCKETS)];
            sent += u64::from(socket.send(&datagram).is_ok());
        }
        std::thread::sleep(PAUSE);
    }
    let seconds = begin.elapsed().as_secs_f64();
    eprintln!(
        "{sent} datagrams in {seconds:.1} s: {:.0} in a second, of {RATE}; {} refused by the \
         kernel, {forgone} left out after pauses",
        sent as f64 / seconds,
        tried - sent,
    );
    sent
}

/// Downloads the file and compares.
fn download(lab: &Lab, dir: &Path, expected: &[u8]) {
    let got = dir.join("got");
    let arguments = ["get", SERVER, "/file", "--insecure", "--timeout", "60", "--output"];
    let output = quiclane(lab, Side::Client, &arguments).arg(&got).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(std::fs::read(&got).unwrap() == expected, "the download differs");
}

/// What the veth driver counted.
#[derive(Debug)]
struct Witness {
    arrived: u64,
    redirected: u64,
    dropped_by_program: u64,
    refused: u64,
    no_room: u64,
}

impl Witness {
    fn read(lab: &Lab) -> Self {
        let text = lab.must_run(Side::Server, &["ethtool", "-S", &lab.device(Side::Server)]);
        let sum = |suffix: &str| -> u64 {
            let named = |line: &str| {
                let (name, value) = line.trim().split_once(": ")?;
                let name = name.strip_prefix("rx_queue_")?.split_once('_')?.1;
                (name == suffix).then(|| value.parse::<u64>().unwrap())
            };
            let values: Vec<u64> = text.lines().filter_map(named).collect();
            assert!(!values.is_empty(), "no {suffix} in {text}");
            values.iter().sum()
        };
        let path = format!("/sys/class/net/{}/statistics/tx_dropped", lab.device(Side::Client));
        let no_room = lab.must_run(Side::Client, &["cat", &path]);
        Self {
            arrived: sum("xdp_packets"),
            redirected: sum("xdp_redirect"),
            dropped_by_program: sum("xdp_drops"),
            refused: sum("drops"),
            no_room: no_room.trim().parse().unwrap(),
        }
    }
}

/// Adds up a counter of all queues, from the server's last words; counters of zero are not there.
fn total(last: &Value, layer: &str, name: &str) -> u64 {
    let queues = last["counters"].as_array().unwrap().iter();
    queues.map(|queue| queue[layer][name].as_u64().unwrap_or(0)).sum()
}

/// See the account in the [module](self).
fn audit(sent: u64, before: &Witness, after: &Witness, last: &Value) {
    let story = format!("{sent} sent; {before:?}; {after:?}; {last}");
    let arrived = after.arrived - before.arrived;
    assert!(sent <= arrived + after.no_room - before.no_room, "frames vanished: {story}");
    let passed = after
        .arrived
        .checked_sub(after.redirected + after.dropped_by_program + after.refused)
        .unwrap_or_else(|| panic!("frames counted twice: {story}"));
    assert!(passed <= MAX_PASSED, "{passed} frames were passed: {story}");
    let datapath = |name: &str| total(last, "datapath", name);
    let drops = ["malformed", "ip_checksum", "udp_checksum", "udp_length", "truncated", "empty"];
    let drops: u64 = drops.iter().map(|name| datapath(&format!("drop_{name}"))).sum();
    let taken = datapath("rx_packets") - datapath("rx_via_kernel") + drops;
    assert_eq!(after.redirected, taken, "redirected and not counted: {story}");
    let lane = |name: &str| total(last, "lane", name);
    let seen = lane("rx_datagrams") - lane("rx_handed_over");
    assert_eq!(seen, datapath("rx_packets"), "the lanes did not look at all: {story}");
    audit_verdicts(after, last, taken, &story);
    assert!(drops > 0, "empty datagrams were sent: {story}");
    assert!(after.dropped_by_program > 0, "small Initials were sent: {story}");
    eprintln!("{story}");
}

/// The account of the program's own verdicts, of which the server's last words tell.
fn audit_verdicts(after: &Witness, last: &Value, taken: u64, story: &str) {
    let verdicts = last["xdp_verdicts"].as_object().expect("a device has verdicts");
    let sum = |prefix: &str| -> u64 {
        let named = verdicts.iter().filter(|(name, _)| name.starts_with(prefix));
        named.map(|(_, count)| count.as_u64().unwrap()).sum()
    };
    let no_room =
        total(last, "datapath", "xdp_rx_dropped") + total(last, "datapath", "xdp_rx_ring_full");
    assert_eq!(sum("redirect"), taken + no_room, "redirected and not counted: {story}");
    assert_eq!(sum("drop-"), after.dropped_by_program, "the driver counts drops too: {story}");
    // A neighbour may ask after the driver's counters were read.
    let late = sum("").checked_sub(after.arrived).expect("every frame that arrived was judged");
    assert!(late <= MAX_PASSED && sum("pass-") <= MAX_PASSED, "{late} frames: {story}");
}

#[test]
fn a_flood_of_garbage_does_not_disturb_a_transfer() {
    if !privileged("a_flood_of_garbage_does_not_disturb_a_transfer") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let scratch = Scratch::new("flood");
    let mut file = vec![0; if cfg!(debug_assertions) { 8 << 20 } else { 50 << 20 }];
    Random(7).fill(&mut file);
    scratch.write("file", &file);
    let initials = record_initials(&lab);
    let server = serve(&lab, &scratch);
    // The neighbours know each other before the account begins.
    download(&lab, scratch.path(), &file);
    let before = Witness::read(&lab);
    let stop = AtomicBool::new(false);
    let end = Instant::now() + Duration::from_secs(flood_seconds());
    let (sent, early_kib) = std::thread::scope(|scope| {
        let flooder = scope.spawn(|| flood(&lab, &initials, &stop));
        let downloads = scope.spawn(|| {
            loop {
                download(&lab, scratch.path(), &file);
                if Instant::now() >= end {
                    break;
                }
            }
            // The flood goes on until the last download is there.
        });
        std::thread::sleep(Duration::from_secs(1));
        let early_kib = server.rss_kib();
        let outcome = downloads.join();
        stop.store(true, Ordering::Relaxed);
        let sent = flooder.join().unwrap();
        assert!(outcome.is_ok(), "a download failed under flood");
        (sent, early_kib)
    });
    let late_kib = server.rss_kib();
    // What is in the rings is served, and the workers publish their counters.
    std::thread::sleep(Duration::from_secs(1));
    let after = Witness::read(&lab);
    let last = server.stop().last;
    assert_eq!(last["event"], "end");
    audit(sent, &before, &after, &last);
    assert!(late_kib <= early_kib + GROWTH_KIB, "{early_kib} KiB grew to {late_kib} KiB");
}
