//! What the inspection verbs share: where they read from, and how they print.
//!
//! Every reading verb takes `--root DIR`, a captured machine, and `--json`, one object with a
//! `schema` name and version. A value that could not be read is `null` there, and its reason is
//! under `unknown`; in text it is a `?`, with the reasons below the table.

pub(crate) mod sheet;

use crate::error::Failure;
use clap::Args;
use quiclane::topology::survey::Survey;
use quiclane::topology::survey::device::Device;
use quiclane::topology::{Machine, Nic, Reading, Source};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Arguments of every reading verb.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReadArgs {
    /// Read a captured machine (`quiclane bundle`) instead of this one.
    #[arg(long, value_name = "DIR|FILE")]
    pub(crate) root: Option<PathBuf>,
    /// Print one JSON object on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

impl ReadArgs {
    /// Where to read.
    pub(crate) fn source(&self) -> Result<Source, Failure> {
        let Some(root) = &self.root else { return Ok(Source::live()) };
        if root.is_file() {
            let records = crate::bundle::read(root)?;
            if !records.keys().any(|path| path.starts_with("/sys")) {
                return Err(no_machine(root));
            }
            return Ok(Source::records(records));
        }
        if !root.join("sys").is_dir() {
            return Err(no_machine(root));
        }
        Ok(Source::captured(root))
    }
}

fn no_machine(root: &Path) -> Failure {
    Failure::Usage(format!(
        "{} is not a captured machine: it has no directory sys; `quiclane bundle` makes one",
        root.display()
    ))
}

/// Both halves of a device, or an error that names the devices of the machine.
pub(crate) fn device<'a>(
    survey: &'a Survey,
    name: &str,
    source: &Source,
) -> Result<(&'a Nic, &'a Device), Failure> {
    survey.device(name).ok_or_else(|| no_device(name, &source.machine()))
}

/// The error that names the devices of the machine.
pub(crate) fn no_device(name: &str, machine: &Machine) -> Failure {
    let names: Vec<&str> = machine.nics.iter().map(|nic| nic.name.as_str()).collect();
    Failure::Usage(format!("there is no device {name}; the devices are: {}", names.join(", ")))
}

/// Reasons for what could not be read, by field: the `unknown` of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Unknowns(pub(crate) BTreeMap<String, String>);

impl Unknowns {
    /// The same without these fields, which are not expected there.
    pub(crate) fn without(&self, fields: &[&str]) -> Self {
        let kept = self.0.iter().filter(|(field, _)| !fields.contains(&field.as_str()));
        Self(kept.map(|(field, reason)| (field.clone(), reason.clone())).collect())
    }

    /// The value; or `None`, and the reason is kept under `field`.
    pub(crate) fn take<T: Clone>(&mut self, field: &str, reading: &Reading<T>) -> Option<T> {
        match reading {
            Reading::Known(value) => Some(value.clone()),
            Reading::Unknown(reason) => {
                self.0.insert(field.to_owned(), reason.clone());
                None
            }
        }
    }
}

/// Prints `value` as one JSON object that begins with its schema, such as `quiclane.nic_list/1`.
pub(crate) fn print_json<T: Serialize>(schema: &'static str, value: &T) -> Result<(), Failure> {
    print(&json_text(schema, value)?)
}

/// What [`print_json`] prints.
pub(crate) fn json_text<T: Serialize>(schema: &'static str, value: &T) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Named<'a, T> {
        schema: &'static str,
        #[serde(flatten)]
        value: &'a T,
    }
    let text = serde_json::to_string_pretty(&Named { schema, value })
        .map_err(|error| Failure::Failed(format!("JSON: {error}")))?;
    Ok(text + "\n")
}

/// Writes to standard output; a reader that has gone is no error.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::output)
}

/// The width of the terminal of standard output; `None` if that is not a terminal.
pub(crate) fn columns() -> Option<usize> {
    let size = terminal_size::terminal_size().filter(|_| std::io::stdout().is_terminal());
    size.map(|(width, _)| usize::from(width.0)).filter(|width| *width > 0)
}

/// True if output may be coloured: on a terminal that has colours, without NO_COLOR.
pub(crate) fn has_color() -> bool {
    !refuses_color() && std::io::stdout().is_terminal()
}

/// True if the environment wants no colours: NO_COLOR (no-color.org; an empty one has no effect), or
/// a terminal without colours.
pub(crate) fn refuses_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_some_and(|value| value == "dumb")
}
