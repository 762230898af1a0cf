//! `loss`: how fast each stack sends over a path with random loss.
//!
//! One transfer of a client at a time, over 20 ms and 100 Mb/s with a queue of 1 MB, in virtual time.
//! Every stack gets the same seeds, and a seed is one list of faults. The figure is what arrived in
//! order, the median of the seeds. There is no competing flow. The last case shows what a sender does
//! to a queue that it fills, where it causes the loss itself.
//!
//! quiche reads clocks itself, so it runs in real time, and only if named.

use std::rc::Rc;

use quiclane_measure::{Column, Columns};

use crate::identity::Identity;
use crate::link::{Line, Link};
use crate::stack::{BATCH_DATAGRAMS, Client, Endpoint, Server, Setup, Stack};
use crate::suite::{COLUMNS, NAMES, Quiche, Quiclane, Quinn};
use crate::wire::Wire;
use crate::{Failure, clock};

/// The largest datagram.
const MTU: u16 = 1_472;
/// The interval at which both sides may send: a packet's time on the line.
pub(crate) const TICK_NS: u64 = 100_000;
/// The longest time of a handshake.
const HANDSHAKE_TICKS: u64 = 100_000;
/// The measured time of a transfer.
const SECONDS: u64 = 20;
const SECOND_NS: u64 = 1_000_000_000;
/// Seeds of a full run, and of a quick one.
const SEEDS: u64 = 10;
const QUICK_SEEDS: u64 = 3;
/// The interval at which the window is recorded.
const TRACE_NS: u64 = 100_000_000;

const CLEAN: Line = Line {
    delay_ns: 10_000_000,
    bits_per_second: 100_000_000,
    queue_bytes: 1_000_000,
    lost_per_mille: 0,
    corrupted_per_mille: 0,
};

/// A case.
struct Case {
    name: &'static str,
    line: Line,
}

const CASES: [Case; 6] = [
    Case { name: "lost-1%", line: Line { lost_per_mille: 10, ..CLEAN } },
    Case { name: "lost-3%", line: Line { lost_per_mille: 30, ..CLEAN } },
    Case { name: "lost-10%", line: Line { lost_per_mille: 100, ..CLEAN } },
    Case { name: "corrupted-3%", line: Line { corrupted_per_mille: 30, ..CLEAN } },
    Case { name: "lost-3%-1ms", line: Line { lost_per_mille: 30, delay_ns: 500_000, ..CLEAN } },
    Case { name: "full-queue", line: Line { bits_per_second: 20_000_000, ..CLEAN } },
];

/// The result of a transfer.
struct Transfer {
    megabits_per_second: f64,
    /// Datagrams that the full queue dropped.
    overflowed: u64,
}

/// Runs every case on every stack of `columns` and prints a table; with `trace`, one seed of each
/// and the window as it went.
pub(crate) fn run(
    columns: [bool; COLUMNS],
    wanted: &[String],
    quick: bool,
    trace: bool,
) -> Result<(), Failure> {
    if let Some(unknown) = wanted.iter().find(|name| CASES.iter().all(|c| c.name != **name)) {
        let all: Vec<_> = CASES.iter().map(|c| c.name).collect();
        return Err(format!("there is no case {unknown}; the cases are {all:?}").into());
    }
    let identity = Rc::new(Identity::new()?);
    let seeds = if trace { 1 } else { [SEEDS, QUICK_SEEDS][usize::from(quick)] };
    print!("{}", table().line(["Mb/s"].iter().chain(&NAMES)));
    for case in CASES.iter().filter(|c| wanted.is_empty() || wanted.iter().any(|w| w == c.name)) {
        let mut row = [const { Vec::new() }; COLUMNS];
        for (column, results) in row.iter_mut().enumerate().filter(|(c, _)| columns[*c]) {
            for seed in 1..=seeds {
                results.push(match column {
                    0 => transfer::<Quiclane>(case, seed, trace, &identity)?,
                    1 => transfer::<Quinn>(case, seed, trace, &identity)?,
                    _ => transfer::<Quiche>(case, seed, trace, &identity)?,
                });
            }
        }
        print_row(case, row);
    }
    Ok(())
}

fn print_row(case: &Case, row: [Vec<Transfer>; COLUMNS]) {
    let own = case.line.lost_per_mille + case.line.corrupted_per_mille == 0;
    let cells = row.map(|mut results| {
        results.sort_unstable_by(|a, b| a.megabits_per_second.total_cmp(&b.megabits_per_second));
        let middle = results.get(results.len() / 2);
        middle.map_or("-".to_owned(), |t| match own {
            true => format!("{:.1} ({} lost)", t.megabits_per_second, t.overflowed),
            false => format!("{:.2}", t.megabits_per_second),
        })
    });
    print!("{}", table().line([case.name.to_owned()].iter().chain(&cells)));
}

fn table() -> Columns {
    Columns::new([Column::Left(14)].into_iter().chain([Column::Right(14); COLUMNS]))
}

/// Both sides and the path between them.
pub(crate) struct Bench<S: Stack> {
    pub(crate) client: S::Client,
    pub(crate) server: S::Server,
    pub(crate) up: Link,
    down: Link,
    wire: Wire,
    pub(crate) now_ns: u64,
    started: std::time::Instant,
}

impl<S: Stack> Bench<S> {
    /// Both sides and a connection between them whose handshake is over. It met no faults.
    pub(crate) fn connected(line: Line, identity: &Rc<Identity>) -> Result<(Self, usize), Failure> {
        let setup = Setup { mtu: MTU, resume: false, identity: identity.clone() };
        let (client, server) = S::pair(&setup)?;
        let clean = Line { lost_per_mille: 0, corrupted_per_mille: 0, ..line };
        let mut bench = Self {
            client,
            server,
            up: Link::new(clean, 0),
            down: Link::new(clean, 0),
            wire: Wire::default(),
            now_ns: 0,
            started: clock::now(),
        };
        let connection = bench.client.connect(0)?;
        for _ in 0..HANDSHAKE_TICKS {
            if bench.client.handshakes() > 0 && bench.server.handshakes() > 0 {
                break;
            }
            bench.tick();
        }
        // Acknowledgements of the handshake are still under way.
        for _ in 0..SECOND_NS / 10 / TICK_NS {
            bench.tick();
        }
        Ok((bench, connection))
    }

    /// A tick later: what has arrived is read, what is due is sent.
    pub(crate) fn tick(&mut self) {
        self.now_ns += TICK_NS;
        while S::REAL_TIME && (clock::now() - self.started).as_nanos() < u128::from(self.now_ns) {
            std::hint::spin_loop();
        }
        let now_ns = self.now_ns;
        exchange(&mut self.client, &mut self.down, &mut self.up, &mut self.wire, now_ns);
        exchange(&mut self.server, &mut self.up, &mut self.down, &mut self.wire, now_ns);
    }
}

/// One side reads what `from` brings, and sends into `to`.
fn exchange(
    side: &mut impl Endpoint,
    from: &mut Link,
    to: &mut Link,
    wire: &mut Wire,
    now_ns: u64,
) {
    wire.clear();
    from.receive(now_ns, BATCH_DATAGRAMS, |datagram| {
        let next = wire.next();
        next.clear();
        next.extend_from_slice(datagram);
        wire.commit(datagram.len(), datagram.len());
    });
    side.stage(wire);
    side.receive(now_ns);
    wire.clear();
    side.transmit(now_ns, wire, BATCH_DATAGRAMS);
    wire.iter().for_each(|datagram| to.send(now_ns, datagram));
    wire.clear();
}

fn transfer<S: Stack>(
    case: &Case,
    seed: u64,
    trace: bool,
    identity: &Rc<Identity>,
) -> Result<Transfer, Failure> {
    let (mut bench, connection) = Bench::<S>::connected(case.line, identity)?;
    bench.up = Link::new(case.line, seed);
    bench.down = Link::new(case.line, seed + 1_000);
    bench.client.start_bulk(bench.now_ns, connection);
    let mut line = String::new();
    for tick in 0..SECONDS * SECOND_NS / TICK_NS {
        if trace && (tick * TICK_NS).is_multiple_of(TRACE_NS) {
            line += &format!(" {}", bench.client.window_bytes(connection) / u64::from(MTU));
        }
        bench.tick();
    }
    if trace {
        println!("{} {} window, in packets, every 100 ms:{line}", S::NAME, case.name);
    }
    let bits = bench.server.received_bytes() as f64 * 8.0;
    Ok(Transfer {
        megabits_per_second: bits / SECONDS as f64 / 1e6,
        overflowed: bench.up.overflowed,
    })
}
