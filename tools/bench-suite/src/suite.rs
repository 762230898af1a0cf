//! The run: every stack does a slice of a case in turn, many times, and medians are taken.
//!
//! `quiclane-measure` says why slices of all stacks are interleaved. Ratios are taken of medians.

use std::rc::Rc;

use quiclane_measure::{interleaved, median};

use crate::Failure;
use crate::cases::{Case, Runner};
use crate::identity::Identity;
use crate::meter::Sample;
use crate::stack::Stack;
pub(crate) use crate::stacks::{
    quiche::Quiche,
    quiclane::{Quiclane, Strict},
    quinn::Quinn,
};

/// Stacks in the order of the columns.
pub(crate) const COLUMNS: usize = 3;
/// The names of the columns.
pub(crate) const NAMES: [&str; COLUMNS] = [Quiclane::NAME, Quinn::NAME, Quiche::NAME];
/// Rounds of a full run.
const ROUNDS: usize = 21;
/// Rounds of a quick run.
const QUICK_ROUNDS: usize = 5;
/// A quick run's slices are this much shorter.
const QUICK_DIVISOR: u64 = 4;
/// Part of a slice that runs unmeasured before it, while caches fill: one in so many.
const LEAD_IN_DIVISOR: u64 = 8;

/// What to run.
pub(crate) struct Plan {
    /// Fewer and shorter rounds.
    pub(crate) quick: bool,
    /// Columns that take part.
    pub(crate) columns: [bool; COLUMNS],
}

/// A case, measured: medians per column.
pub(crate) struct Measured {
    /// Which.
    pub(crate) case: Case,
    /// Nanoseconds per operation of client and server.
    pub(crate) ns: [[Option<f64>; COLUMNS]; 2],
    /// Allocations per operation of client and server.
    pub(crate) allocations: [[Option<f64>; COLUMNS]; 2],
    /// Exchanges that count, of all columns and rounds.
    pub(crate) kept: usize,
    /// Exchanges that were interrupted and do not count.
    pub(crate) interrupted: usize,
}

/// Runs one case on all stacks of the plan.
pub(crate) fn run(case: Case, plan: &Plan, identity: &Rc<Identity>) -> Result<Measured, Failure> {
    let mut runners: [Option<Box<dyn Runner>>; COLUMNS] = [None, None, None];
    for (column, runner) in runners.iter_mut().enumerate() {
        if plan.columns[column] {
            *runner = Some(start(case, column, identity)?);
        }
    }
    let rounds = if plan.quick { QUICK_ROUNDS } else { ROUNDS };
    let operations = case.slice_operations() / if plan.quick { QUICK_DIVISOR } else { 1 };
    let mut samples: [Vec<Sample>; COLUMNS] = Default::default();
    for (_, column) in interleaved(rounds, COLUMNS) {
        if let Some(runner) = &mut runners[column] {
            runner.slice((operations / LEAD_IN_DIVISOR).max(1), true)?;
            samples[column].push(runner.slice(operations, false)?);
        }
    }
    Ok(summarise(case, &samples))
}

fn start(case: Case, column: usize, identity: &Rc<Identity>) -> Result<Box<dyn Runner>, Failure> {
    Ok(match column {
        0 => case.start::<Quiclane>(identity.clone())?,
        1 => case.start::<Quinn>(identity.clone())?,
        _ => case.start::<Quiche>(identity.clone())?,
    })
}

fn summarise(case: Case, samples: &[Vec<Sample>; COLUMNS]) -> Measured {
    let per = |figure: fn(&Sample) -> f64| {
        let column = |of: &Vec<Sample>| median(of.iter().map(figure));
        [column(&samples[0]), column(&samples[1]), column(&samples[2])]
    };
    let all = || samples.iter().flatten();
    Measured {
        case,
        ns: [per(|s| s.ns[0]), per(|s| s.ns[1])],
        allocations: [per(|s| s.allocations[0]), per(|s| s.allocations[1])],
        kept: all().map(|s| s.kept).sum(),
        interrupted: all().map(|s| s.interrupted).sum(),
    }
}
