//! `counts`: instructions per operation, by callgrind. They do not depend on who else uses
//! the machine, so they tell a change of 1% from noise.
//!
//! The program runs itself under valgrind with collection switched on inside one side's
//! measured sections only (`meter::measured_client`, `meter::measured_server`): handshakes
//! and warming up are not counted. Valgrind knows no AVX-512, so cryptography takes paths
//! that real machines may not: compare counts with counts, not with nanoseconds.

use std::process::Command;
use std::rc::Rc;

use quiclane_measure::{Column, Columns};

use crate::Failure;
use crate::cases::Case;
use crate::frame::{self, FrameArgs};
use crate::identity::Identity;
use crate::stack::Stack;
use crate::suite::{self, COLUMNS, NAMES};

/// Operations that are counted: enough that what happens once in a while is spread.
const OPERATIONS: u64 = 4_096;
/// Handshakes that are counted: each is as long as a thousand packets.
const HANDSHAKES: u64 = 32;
/// The functions that callgrind switches on in: client, server.
const SWITCHES: [&str; 2] = ["*measured_client*", "*measured_server*"];

/// Prints instructions per operation for both sides of each case and stack.
pub(crate) fn print(cases: &[Case], columns: [bool; COLUMNS]) -> Result<(), Failure> {
    print!("{}", table().line(["case", "side", "stack", "instructions"]));
    for case in cases {
        for column in (0..COLUMNS).filter(|column| columns[*column]) {
            for (end, side) in case.sides().into_iter().enumerate() {
                let line = ["one", "--case", &case.name(), "--only", NAMES[column]];
                let count = instructions(&line.map(str::to_owned), SWITCHES[end])?;
                let unit = format!("{count:.0}/{}", case.operation());
                print!("{}", table().line([&case.name(), side, NAMES[column], &unit]));
            }
        }
    }
    Ok(())
}

/// Prints instructions for each received frame, as the AF_XDP datapath takes it apart, and with its
/// UDP checksum summed, which it leaves alone.
pub(crate) fn print_frames() -> Result<(), Failure> {
    for bytes in frame::PAYLOADS {
        for summed in [false, true] {
            let count = instructions(&FrameArgs::line(bytes, summed), SWITCHES[1])?;
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
fn instructions(line: &[String], switch: &str) -> Result<f64, Failure> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect={switch}"))
        .arg(std::env::current_exe()?)
        .args(line)
        .output()
        .map_err(|cause| format!("cannot run valgrind, which counts: {cause}"))?;
    let (out, talk) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let after = |text: &str, label: &str| {
        let (_, rest) = text.split_once(label)?;
        rest.split_whitespace().next()?.parse::<f64>().ok()
    };
    match (after(&talk, "Collected :"), after(&out, "operations:")) {
        (Some(collected), Some(operations)) => Ok(collected / operations),
        _ => Err(format!("{} under valgrind: {talk}", line.join(" ")).into()),
    }
}

/// What runs under valgrind: one slice of one case on one stack.
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
