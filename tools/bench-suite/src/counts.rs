//! `counts`: instructions per operation, by callgrind. They do not depend on other load of the machine,
//! so they tell a change of 1% from noise.
//!
//! The program runs itself under valgrind with collection switched on inside one side's
//! measured sections only (`meter::measured_client`, `meter::measured_server`): handshakes
//! and warming up are not counted. Valgrind knows no AVX-512, so cryptography takes paths
//! that real machines may not: compare counts with counts, not with nanoseconds.
//!
//! `lines`: cache lines per operation, by the cache that callgrind simulates. It holds [`CACHE`], so
//! that with 10,000 connections each operation finds its connection cold, and a line that it touches
//! is a line that it fetches. What is prefetched counts where it is used.

use std::process::Command;
use std::rc::Rc;

use quiclane_measure::{Column, Columns};

use crate::Failure;
use crate::cases::Case;
use crate::frame::{self, FrameArgs};
use crate::identity::Identity;
use crate::stack::Stack;
use crate::suite::{self, COLUMNS, NAMES};

/// Operations that are counted: enough that rare work is spread over them.
const OPERATIONS: u64 = 4_096;
/// Handshakes that are counted: each is as long as a thousand packets.
const HANDSHAKES: u64 = 32;
/// The functions in which callgrind counts: client, server.
const SWITCHES: [&str; 2] = ["*measured_client*", "*measured_server*"];

/// The last level of the simulated caches: 4 MiB, 16 ways, lines of 64 bytes.
const CACHE: &str = "--LL=4194304,16,64";
/// The columns of callgrind for reads and writes of data that missed it.
const MISSES: std::ops::Range<usize> = 7..9;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Instructions,
    Lines,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Lines => "lines",
        }
    }
}

/// Prints what was counted per operation for both sides of each case and stack.
pub(crate) fn print(what: What, cases: &[Case], columns: [bool; COLUMNS]) -> Result<(), Failure> {
    print!("{}", table().line(["case", "side", "stack", what.name()]));
    for case in cases {
        for column in (0..COLUMNS).filter(|column| columns[*column]) {
            for (end, side) in case.sides().into_iter().enumerate() {
                let line = ["one", "--case", &case.name(), "--only", NAMES[column]];
                let count = count(what, &line.map(str::to_owned), SWITCHES[end])?;
                let unit = format!("{count:.0}/{}", case.operation());
                print!("{}", table().line([&case.name(), side, NAMES[column], &unit]));
            }
        }
    }
    Ok(())
}

/// Prints instructions for each received frame: parsed as the AF_XDP datapath does, and with its UDP
/// checksum summed, which the datapath does not do.
pub(crate) fn print_frames() -> Result<(), Failure> {
    for bytes in frame::PAYLOADS {
        for summed in [false, true] {
            let line = FrameArgs::line(bytes, summed);
            let count = count(What::Instructions, &line, SWITCHES[1])?;
            let name = format!("frame-{bytes}{}", if summed { "-summed" } else { "" });
            let unit = format!("{count:.0}/frame");
            print!("{}", table().line([&name, "receiver", NAMES[0], &unit]));
        }
    }
    Ok(())
}

fn table() -> Columns {
    let words = [19, 10, 13].map(Column::Left);
    Columns::new(words.into_iter().chain([Column::Right(26)]))
}

/// Runs this program under callgrind, on a line of arguments, and reads how much was collected.
fn count(what: What, line: &[String], switch: &str) -> Result<f64, Failure> {
    let cache: &[&str] = if what == What::Lines { &["--cache-sim=yes", CACHE] } else { &[] };
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect={switch}"))
        .args(cache)
        .arg(std::env::current_exe()?)
        .args(line)
        .output()
        .map_err(|cause| format!("cannot run valgrind, which counts: {cause}"))?;
    let (out, talk) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let collected = match what {
        What::Instructions => numbers(&talk, "Collected :").first().copied(),
        What::Lines => numbers(&talk, "Collected :").get(MISSES).map(|misses| misses.iter().sum()),
    };
    match (collected, numbers(&out, "operations:").first()) {
        (Some(collected), Some(operations)) => Ok(collected / operations),
        _ => Err(format!("{} under valgrind: {talk}", line.join(" ")).into()),
    }
}

/// The numbers behind a label, to the end of its line.
fn numbers(text: &str, label: &str) -> Vec<f64> {
    let rest = text.split_once(label).map_or("", |(_, rest)| rest);
    let line = rest.lines().next().unwrap_or_default();
    line.split_whitespace().map_while(|word| word.parse().ok()).collect()
}

/// The run under valgrind: one slice of one case on one stack.
pub(crate) fn one<S: Stack>(case: Case, identity: &Rc<Identity>) -> Result<(), Failure> {
    let wanted = if let Case::Handshake { .. } = case { HANDSHAKES } else { OPERATIONS };
    let sample = case.start::<S>(identity.clone())?.slice(wanted, false)?;
    println!("operations: {}", sample.operations);
    Ok(())
}

/// [`one`] on the stack of a column.
pub(crate) fn one_of(column: usize, case: Case, identity: &Rc<Identity>) -> Result<(), Failure> {
    match column {
        0 => one::<suite::Quiclane>(case, identity),
        1 => one::<suite::Quinn>(case, identity),
        _ => one::<suite::Quiche>(case, identity),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_callgrind_says_is_read() {
        let talk = "==7== Events    : Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw\n\
                    ==7== Collected : 58186134 13 8 4 808606 134546 188 515286 32256\n==7== \n";
        let all = numbers(talk, "Collected :");
        assert_eq!((all.len(), all[0]), (9, 58_186_134.0));
        assert_eq!(all[MISSES], [515_286.0, 32_256.0]);
        assert!(numbers(talk, "operations:").is_empty());
    }
}
