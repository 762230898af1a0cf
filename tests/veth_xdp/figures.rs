//! Figures of the AF_XDP datapath, which are printed and not judged: a benchmark, not a test. Run it by
//! hand as root, on a quiet machine: `cargo bench --bench xdp_figures`

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]

#[path = "../common/echo.rs"]
mod echo;

use echo::{send, turn};
use quiclane::datapath::headers::{Checksums, FlowKey, Template, parse, sum};
use quiclane::datapath::xdp::{PortUse, XdpConfig, XdpDatapath, XdpDevice};
use quiclane::datapath::{Datapath, Link, Mode, Path};
use quiclane::ecn::Ecn;
use quiclane_testkit::netns::{self, Lab, LabConfig, Side, privileged};
use quiclane_testkit::raw::Frame;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Instant;

const PORT: u16 = 4433;

fn main() {
    headers();
    wire();
}

/// The server's address and port.
fn server() -> SocketAddr {
    SocketAddr::new(Side::Server.ip(false), PORT)
}

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "figures, run by hand")]
    Instant::now()
}

/// Nanoseconds of one call, the best of nine runs.
fn best(mut call: impl FnMut()) -> f64 {
    const CALLS: u32 = 100_000;
    let run = |call: &mut dyn FnMut()| {
        let start = now();
        for _ in 0..CALLS {
            call();
        }
        start.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    (0..9).map(|_| run(&mut call)).fold(f64::MAX, f64::min)
}

fn headers() {
    for v6 in [false, true] {
        for length in [64, 1200, 1400, 1472] {
            let frame = Frame {
                destination_mac: [2, 0, 0, 0, 0, 1],
                source_mac: [2, 0, 0, 0, 0, 2],
                tags: Vec::new(),
                source: SocketAddr::new(Side::Client.ip(v6), 50_000),
                destination: SocketAddr::new(Side::Server.ip(v6), PORT),
                payload: vec![7; length],
                options: Vec::new(),
            }
            .bytes();
            let path = parse(&frame, Checksums::Verify).unwrap().path;
            let template = Template::new(&path, FlowKey::new(1)).unwrap();
            let mut buffer = vec![7; 4096];
            let verified = best(|| {
                let _ = black_box(parse(black_box(&frame), Checksums::Verify));
            });
            let trusted = best(|| {
                let _ = black_box(parse(black_box(&frame), Checksums::Trusted));
            });
            let summed = best(|| {
                black_box(sum(black_box(&frame)));
            });
            let made = best(|| {
                black_box(Template::new(black_box(&path), FlowKey::new(1)));
            });
            let compared = best(|| {
                black_box(black_box(&path) == black_box(&path));
            });
            let written = best(|| {
                black_box(template.write(&mut buffer, 128..128 + length, Ecn::Ect0));
            });
            let unsummed = best(|| {
                black_box(template.write_unsummed(&mut buffer, 128..128 + length, Ecn::Ect0));
            });
            println!(
                "IPv{} {length} B: parse {verified:.1} ns (checksums trusted {trusted:.1}), write \
                 {written:.1} (left to the NIC {unsummed:.1}), sum {summed:.1}, new template \
                 {made:.1}, compare paths {compared:.1}",
                if v6 { 6 } else { 4 }
            );
        }
    }
}

/// A device and its queue 0 at the client's end, and the path to the server.
fn client_queue(lab: &Lab, mode: Mode) -> (XdpDatapath, Path) {
    let config = XdpConfig { force_mode: Some(mode), ..XdpConfig::new(lab.device(Side::Client)) };
    let device = XdpDevice::attach(&config).unwrap().0;
    let local = SocketAddr::new(Side::Client.ip(false), 50_000);
    device.listen_as(local, PortUse::Client).unwrap();
    let datapath = device.open_queue(0, &[local]).unwrap();
    (datapath, Path { local, remote: server(), link: Link::UNKNOWN })
}

/// Runs `measure` at the client's end while an echo server (or a sink) spins at the other.
fn against_server(
    mode: Mode,
    threaded_napi: bool,
    echo: bool,
    measure: impl FnOnce(XdpDatapath, Path) -> String,
) -> String {
    let lab = Lab::new(LabConfig { queues: 1 });
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, opened) = mpsc::channel();
    let (namespace, name) = (lab.namespace(Side::Server), lab.device(Side::Server));
    let stopped = Arc::clone(&stop);
    let server = std::thread::spawn(move || {
        netns::enter(&namespace);
        pin(0);
        let config = XdpConfig { force_mode: Some(mode), ..XdpConfig::new(name) };
        let device = XdpDevice::attach(&config).unwrap().0;
        device.listen(server()).unwrap();
        let mut datapath = device.open_queue(0, &[server()]).unwrap();
        ready.send(()).unwrap();
        while !stopped.load(Ordering::Relaxed) {
            if echo {
                turn(&mut datapath);
            } else {
                datapath.receive(64, &mut |_, _| {});
                datapath.flush().unwrap();
            }
        }
        datapath.stats().rx_packets
    });
    opened.recv().unwrap();
    lab.enter(Side::Client);
    pin(1);
    let (datapath, path) = client_queue(&lab, mode);
    if threaded_napi {
        lab.thread_napi(Side::Server, 0);
        lab.thread_napi(Side::Client, 1);
    }
    let text = measure(datapath, path);
    stop.store(true, Ordering::Relaxed);
    let received = server.join().unwrap();
    format!("{text} (received {received})")
}

fn pin(cpu: usize) {
    // SAFETY: a cpu_set_t of zeroes is empty, CPU_SET stays inside of it, and the call reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, std::mem::size_of_val(&set), &raw const set);
    }
}

fn ping_pong(mode: Mode, threaded_napi: bool, length: usize) -> String {
    const ROUNDS: usize = 20_000;
    against_server(mode, threaded_napi, true, |mut datapath, mut path| {
        let payload = vec![9; length];
        let mut times = Vec::with_capacity(ROUNDS);
        while times.len() < ROUNDS {
            let start = now();
            assert!(send(&mut datapath, &path, Ecn::NotEct, &payload));
            datapath.flush().unwrap();
            while datapath.receive(1, &mut |meta, _| path.link = meta.path.link) == 0 {
                datapath.flush().unwrap();
            }
            times.push(start.elapsed().as_nanos() as u64);
        }
        times.sort_unstable();
        let at = |part: f64| times[(ROUNDS as f64 * part) as usize] as f64 / 1e3;
        format!("p50 {:.2} us, p90 {:.2}, p99 {:.2}", at(0.5), at(0.9), at(0.99))
    })
}

fn transmit(mode: Mode, threaded_napi: bool, length: usize) -> String {
    const PACKETS: u64 = 300_000;
    against_server(mode, threaded_napi, false, |mut datapath, path| {
        let payload = vec![9; length];
        // The first datagrams resolve the neighbour.
        while datapath.stats().tx_packets == datapath.stats().tx_via_kernel {
            send(&mut datapath, &path, Ecn::NotEct, &payload);
            datapath.flush().unwrap();
        }
        let before = datapath.stats();
        let mut sent = 0;
        let start = now();
        while sent < PACKETS {
            for _ in 0..64 {
                sent += u64::from(send(&mut datapath, &path, Ecn::NotEct, &payload));
            }
            datapath.flush().unwrap();
        }
        let elapsed = start.elapsed().as_nanos() as f64 / PACKETS as f64;
        let kicks = datapath.stats().tx_kicks - before.tx_kicks;
        format!(
            "{elapsed:.0} ns a packet, {:.2} Mpps, {:.1} packets a kick",
            1e3 / elapsed,
            PACKETS as f64 / kicks as f64
        )
    })
}

fn wire() {
    if !privileged("wire") {
        return;
    }
    for (mode, threaded) in
        [(Mode::NativeCopy, false), (Mode::NativeCopy, true), (Mode::Generic, false)]
    {
        let name = format!("{mode}{}", if threaded { ", threaded NAPI" } else { "" });
        println!("{name}: ping-pong 100 B: {}", ping_pong(mode, threaded, 100));
        for length in [64, 1400] {
            println!("{name}: transmit {length} B: {}", transmit(mode, threaded, length));
        }
    }
}
