//! The costs: time, allocations and heap, split between the two sides of a pair.
//!
//! A section is one side's work for a whole batch of datagrams, so two clock reads serve
//! many packets; the cost of the reads was calibrated and is subtracted. The sections of one exchange
//! make a unit. On a shared machine other processes interrupt some units, which then show a hundred
//! times as much as the rest. Units that took over [`INTERRUPTED`] times the median are left out, for
//! every stack alike, and counted.

use quiclane_measure::median;

use crate::{clock, heap};

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Opens connections, sends bulk data and requests.
    Client,
    /// Accepts connections, receives bulk data, answers requests.
    Server,
}

/// A unit that took more than this many times the median was interrupted.
const INTERRUPTED: f64 = 3.0;

/// An exchange: what the ends spent on a number of operations.
#[derive(Clone, Copy, Debug, Default)]
struct Unit {
    ns: [u64; 2],
    operations: u64,
}

impl Unit {
    fn ns_per_operation(&self) -> f64 {
        (self.ns[0] + self.ns[1]) as f64 / self.operations as f64
    }
}

/// The costs of a slice: client, server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Nanoseconds per operation.
    pub(crate) ns: [f64; 2],
    /// Allocations per operation.
    pub(crate) allocations: [f64; 2],
    /// Operations, those of interrupted exchanges included.
    pub(crate) operations: u64,
    /// Exchanges that count.
    pub(crate) kept: usize,
    /// Exchanges that were interrupted.
    pub(crate) interrupted: usize,
}

/// What a meter measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing: warming up.
    Off,
    /// Time and allocations.
    Time,
    /// Bytes of heap; asking malloc costs more than most sections.
    Heap,
}

/// Measures sections.
pub(crate) struct Meter {
    /// What is measured now.
    pub(crate) mode: Mode,
    current: Unit,
    units: Vec<Unit>,
    allocations: [u64; 2],
    heap_bytes: [i64; 2],
    read_cost_ns: u64,
}

impl Meter {
    /// A meter that is off; calibrates the clock.
    pub(crate) fn new() -> Self {
        Self {
            mode: Mode::Off,
            current: Unit::default(),
            units: Vec::new(),
            allocations: [0; 2],
            heap_bytes: [0; 2],
            read_cost_ns: clock::read_cost_ns(),
        }
    }

    /// Runs `work` on the account of `end`.
    pub(crate) fn section<R>(&mut self, end: End, work: impl FnOnce() -> R) -> R {
        match self.mode {
            Mode::Off => work(),
            Mode::Time => self.timed(end, work),
            Mode::Heap => {
                let before = heap::in_use_bytes();
                let result = work();
                self.heap_bytes[end as usize] += heap::in_use_bytes() - before;
                result
            }
        }
    }

    fn timed<R>(&mut self, end: End, work: impl FnOnce() -> R) -> R {
        let calls = heap::calls();
        let start = clock::now();
        let result = match end {
            End::Client => measured_client(work),
            End::Server => measured_server(work),
        };
        let ns = clock::now().duration_since(start).as_nanos() as u64;
        self.current.ns[end as usize] += ns.saturating_sub(self.read_cost_ns);
        self.allocations[end as usize] += heap::calls() - calls;
        result
    }

    /// Ends a unit with this many operations; with none the unit goes on.
    pub(crate) fn unit(&mut self, operations: u64) {
        self.current.operations += operations;
        if self.mode == Mode::Time && self.current.operations > 0 {
            self.units.push(std::mem::take(&mut self.current));
        }
    }

    /// The costs of the units since the last call; they are reset.
    pub(crate) fn take(&mut self) -> Sample {
        let sample = sample(&self.units, self.allocations);
        self.units.clear();
        (self.current, self.allocations) = (Unit::default(), [0; 2]);
        sample
    }

    /// Heap that `end` took and did not give back while in [`Mode::Heap`].
    pub(crate) fn heap_bytes(&self, end: End) -> i64 {
        self.heap_bytes[end as usize]
    }
}

fn sample(units: &[Unit], allocations: [u64; 2]) -> Sample {
    let Some(median) = median(units.iter().map(Unit::ns_per_operation)) else {
        return Sample::default();
    };
    let kept = |unit: &&Unit| unit.ns_per_operation() <= median * INTERRUPTED;
    let (mut ns, mut operations, mut count) = ([0; 2], 0, 0);
    for unit in units.iter().filter(kept) {
        (ns[0], ns[1]) = (ns[0] + unit.ns[0], ns[1] + unit.ns[1]);
        operations += unit.operations;
        count += 1;
    }
    let all: u64 = units.iter().map(|unit| unit.operations).sum();
    Sample {
        ns: ns.map(|ns| ns as f64 / operations as f64),
        allocations: allocations.map(|calls| calls as f64 / all as f64),
        operations: all,
        kept: count,
        interrupted: units.len() - count,
    }
}

// Never inlined: callgrind switches collection on by their names (`tools/bench counts`). Each
// says whose it is, or the compiler merges two functions that do the same.

#[inline(never)]
fn measured_client<R>(work: impl FnOnce() -> R) -> R {
    std::hint::black_box(End::Client);
    work()
}

#[inline(never)]
fn measured_server<R>(work: impl FnOnce() -> R) -> R {
    std::hint::black_box(End::Server);
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_unit_does_not_count() {
        let unit = |client, server| Unit { ns: [client, server], operations: 10 };
        let units = [unit(100, 200), unit(120, 220), unit(5_000, 210), unit(110, 190)];
        let sample = sample(&units, [40, 80]);
        assert_eq!((sample.kept, sample.interrupted), (3, 1));
        assert_eq!(sample.ns, [11.0, 610.0 / 30.0]);
        assert_eq!(sample.allocations, [1.0, 2.0]);
    }

    #[test]
    fn a_unit_without_operations_goes_on() {
        let mut meter = Meter::new();
        meter.mode = Mode::Time;
        meter.unit(0);
        meter.section(End::Server, || std::hint::black_box(Box::new(1)));
        meter.unit(0);
        meter.unit(2);
        let sample = meter.take();
        assert_eq!((sample.kept, sample.allocations), (1, [0.0, 0.5]));
        assert_eq!(meter.take().kept, 0);
    }
}
