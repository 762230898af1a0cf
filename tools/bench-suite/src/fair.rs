//! `fair`: how two senders share a bottleneck.
//!
//! Two bulk transfers of two clients to two servers meet in one queue in front of a line of
//! 50 Mb/s, over 20 ms, in virtual time. The second starts two seconds after the first. Compared is
//! what arrives in a minute from then on, without its first ten seconds. The seed moves the start,
//! and picks which flow sends first in a tick; in every other run the two change places.
//!
//! Only a full queue loses datagrams.

use std::cell::Cell;
use std::rc::Rc;

use quiclane_measure::{Column, Columns};

use crate::Failure;
use crate::identity::Identity;
use crate::link::{Line, Link, next};
use crate::loss::Bench;
use crate::stack::{Client, Server, Stack};
use crate::suite::{Quiclane, Quinn, Strict};

const LINE: Line = Line {
    delay_ns: 10_000_000,
    bits_per_second: 50_000_000,
    queue_bytes: 0,
    lost_per_mille: 0,
    corrupted_per_mille: 0,
};
/// Bytes that fill the path without a queue.
const BDP_BYTES: u64 = 125_000;
/// The size of the queue, in hundredths of that.
const QUEUES: [u64; 4] = [4, 10, 100, 400];
/// The measured time.
const SECONDS: u64 = 60;
/// The time before it, until the flows have found their shares.
const LEAD_IN_SECONDS: u64 = 10;
const SECOND_NS: u64 = 1_000_000_000;
const TICK_NS: u64 = crate::loss::TICK_NS;
/// Seeds of a full run, and of a quick one.
const SEEDS: u64 = 10;
const QUICK_SEEDS: u64 = 2;

/// A sender and its receiver.
trait Flow {
    fn start(&mut self);
    fn tick(&mut self);
    fn received_bytes(&self) -> u64;
    fn overflowed(&self) -> u64;
}

struct Transfer<S: Stack> {
    bench: Bench<S>,
    connection: usize,
}

impl<S: Stack> Flow for Transfer<S> {
    fn start(&mut self) {
        self.bench.client.start_bulk(self.bench.now_ns, self.connection);
    }

    fn tick(&mut self) {
        self.bench.tick();
    }

    fn received_bytes(&self) -> u64 {
        self.bench.server.received_bytes()
    }

    fn overflowed(&self) -> u64 {
        self.bench.up.overflowed
    }
}

type Begin = fn(Line, &Rc<Cell<u64>>, &Rc<Identity>) -> Result<Box<dyn Flow>, Failure>;

/// A connection that is established; its time is the same for all.
fn begin<S: Stack>(
    line: Line,
    busy: &Rc<Cell<u64>>,
    identity: &Rc<Identity>,
) -> Result<Box<dyn Flow>, Failure> {
    let (mut bench, connection) = Bench::<S>::connected(line, identity)?;
    while bench.now_ns < SECOND_NS {
        bench.tick();
    }
    bench.up = Link::sharing(line, 1, busy.clone());
    Ok(Box::new(Transfer { bench, connection }))
}

/// A pairing of two senders.
struct Pairing {
    name: &'static str,
    flows: [Begin; 2],
}

const PAIRINGS: [Pairing; 6] = [
    Pairing { name: "two", flows: [begin::<Quiclane>, begin::<Quiclane>] },
    Pairing { name: "beside-strict", flows: [begin::<Quiclane>, begin::<Strict>] },
    Pairing { name: "beside-quinn", flows: [begin::<Quiclane>, begin::<Quinn>] },
    Pairing { name: "two-strict", flows: [begin::<Strict>, begin::<Strict>] },
    Pairing { name: "strict-quinn", flows: [begin::<Strict>, begin::<Quinn>] },
    Pairing { name: "two-quinn", flows: [begin::<Quinn>, begin::<Quinn>] },
];

/// Runs the pairings, and prints for each queue what each flow got.
pub(crate) fn run(wanted: &[String], quick: bool) -> Result<(), Failure> {
    if let Some(unknown) = wanted.iter().find(|name| PAIRINGS.iter().all(|p| p.name != **name)) {
        let all: Vec<_> = PAIRINGS.iter().map(|p| p.name).collect();
        return Err(format!("there is no pairing {unknown}; the pairings are {all:?}").into());
    }
    let identity = Rc::new(Identity::new()?);
    let seeds = if quick { QUICK_SEEDS } else { SEEDS };
    print!("{}", table().line(["", "queue", "Mb/s", "Mb/s", "share", "Jain", "lost"]));
    for pairing in
        PAIRINGS.iter().filter(|p| wanted.is_empty() || wanted.iter().any(|w| w == p.name))
    {
        for queue in QUEUES {
            let mut sum = [0.0; 2];
            let (mut jain, mut lost) = (0.0, 0);
            for seed in 0..seeds {
                let (got, overflowed) = meet(pairing, queue, seed, &identity)?;
                jain += (got[0] + got[1]).powi(2) / (2.0 * (got[0].powi(2) + got[1].powi(2)));
                sum = [sum[0] + got[0], sum[1] + got[1]];
                lost += overflowed;
            }
            let [a, b] = sum.map(|s| s / seeds as f64);
            let line = table().line([
                pairing.name.to_owned(),
                format!("{:.2}B", queue as f64 / 100.0),
                format!("{a:.2}"),
                format!("{b:.2}"),
                format!("{:.3}", b / (a + b)),
                format!("{:.3}", jain / seeds as f64),
                (lost / seeds).to_string(),
            ]);
            print!("{line}");
        }
    }
    Ok(())
}

fn table() -> Columns {
    let figures = [8, 9, 9, 8, 8, 8].map(Column::Right);
    Columns::new([Column::Left(14)].into_iter().chain(figures))
}

/// What each flow got, in Mb/s, and the datagrams that the full queue dropped.
fn meet(
    pairing: &Pairing,
    queue: u64,
    seed: u64,
    identity: &Rc<Identity>,
) -> Result<([f64; 2], u64), Failure> {
    let line = Line { queue_bytes: BDP_BYTES * queue / 100, ..LINE };
    let busy = Rc::new(Cell::new(0));
    let mut flows =
        [pairing.flows[0](line, &busy, identity)?, pairing.flows[1](line, &busy, identity)?];
    let mut random = 2 * seed + 1;
    for _ in 0..8 {
        next(&mut random);
    }
    let first = (seed & 1) as usize;
    let later = 2 * SECOND_NS / TICK_NS + next(&mut random) % (SECOND_NS / TICK_NS);
    let from = later + LEAD_IN_SECONDS * SECOND_NS / TICK_NS;
    let mut before = [0; 2];
    for tick in 0..from + SECONDS * SECOND_NS / TICK_NS {
        if tick == 0 {
            flows[first].start();
        } else if tick == later {
            flows[1 - first].start();
        } else if tick == from {
            before = [flows[0].received_bytes(), flows[1].received_bytes()];
        }
        let one = (next(&mut random) >> 40 & 1) as usize;
        flows[one].tick();
        flows[1 - one].tick();
    }
    let got =
        [0, 1].map(|i| (flows[i].received_bytes() - before[i]) as f64 * 8.0 / SECONDS as f64 / 1e6);
    Ok((got, flows[0].overflowed() + flows[1].overflowed()))
}
