//! `quiclane bundle`: everything that the reading verbs read of a machine, as files.
//!
//! No list of files is kept for this: the survey that all reading verbs start from is read
//! once with a recorder, and what it read is what is written. So a verb that is given the bundle
//! with `--root` reads the same, and says the same.
//!
//! ```text
//!   sys/ proc/ run/           files and links, where they were
//!   quiclane/answers/         what the kernel answered to netlink, ioctls and BPF, as JSON
//!   quiclane/refused.json     what could not be read, and why
//!   quiclane/bundle.json      the manifest
//! ```

mod archive;
mod redact;

use crate::error::Failure;
use crate::inspect::{ReadArgs, print, print_json, sheet};
use clap::{Args, ValueEnum};
use quiclane::exec::clock::Clock;
use quiclane::time::SECOND_NS;
use quiclane::topology::survey::Survey;
use quiclane::topology::{Record, Recorder};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use archive::read;

/// A tree, by path from `/`.
pub(crate) type Records = BTreeMap<PathBuf, Record>;

const SCHEMA: &str = "quiclane.bundle/1";
const MANIFEST: &str = "/quiclane/bundle.json";
const ANSWERS: &str = "/quiclane/answers";

/// What is replaced by tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Redact {
    /// MAC and IP addresses, the host's name, names of processes and of programs, values of boot
    /// arguments, and RSS keys: with the key an attacker can aim all flows at one queue.
    Names,
    /// The names of devices too.
    All,
    /// As `names`, but the RSS keys stay: without them `flow explain` cannot compute a queue.
    ButKeys,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BundleArgs {
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    /// Write to this file, .tar or .tar.gz, or to this directory, which must not exist yet; - is a
    /// .tar.gz on standard output.
    #[arg(short, long, value_name = "DIR|FILE", default_value = "quiclane-bundle.tar.gz")]
    pub(crate) output: PathBuf,
    /// Replace names and addresses by tokens: equal ones by equal tokens.
    #[arg(
        long,
        value_name = "WHAT",
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "names"
    )]
    pub(crate) redact: Option<Redact>,
}

/// What a bundle is: its manifest, and what the verb prints.
#[derive(Debug, Serialize)]
struct Manifest {
    /// The version of the command that made it.
    version: &'static str,
    taken_unix_s: u64,
    kernel: Option<String>,
    redacted: Option<Redact>,
    files: usize,
    links: usize,
    unanswered: Vec<Unanswered>,
    /// Where it was written; the manifest inside does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
}

/// A question that the kernel did not answer.
#[derive(Debug, Serialize)]
struct Unanswered {
    question: String,
    reason: String,
}

/// Makes a bundle.
///
/// # Errors
/// There is no machine to read, or the bundle cannot be written.
pub(crate) fn run(args: &BundleArgs) -> Result<(), Failure> {
    let format = archive::Format::of(&args.output)?;
    if format == archive::Format::Stdout && args.read.json {
        return Err(Failure::Usage(
            "-o - and --json: standard output is the bundle, or the object; name a file with -o"
                .to_owned(),
        ));
    }
    let recorder = Arc::new(Recorder::default());
    let survey = Survey::read(&args.read.source()?.recorded(recorder.clone()));
    let mut records = recorder.records();
    if let Some(level) = args.redact {
        let level = redact::Level {
            keeps_keys: level == Redact::ButKeys,
            with_devices: level == Redact::All,
        };
        records = redact::redacted(records, level);
    }
    let mut manifest = Manifest {
        version: env!("CARGO_PKG_VERSION"),
        taken_unix_s: Clock::monotonic().now().as_nanos() / SECOND_NS,
        kernel: survey.host.kernel.known().cloned(),
        redacted: args.redact,
        files: count(&records, |record| matches!(record, Record::File(_))),
        links: count(&records, |record| matches!(record, Record::Link(_))),
        unanswered: unanswered(&records),
        output: None,
    };
    records.insert(PathBuf::from(MANIFEST), Record::File(manifest_text(&manifest)?));
    archive::write(&args.output, format, &records)?;
    if format == archive::Format::Stdout {
        // Standard output is the bundle.
        eprint!("{}", summary(&manifest, &args.output));
        return Ok(());
    }
    manifest.output = Some(args.output.display().to_string());
    if args.read.json {
        return print_json(SCHEMA, &manifest);
    }
    print(&summary(&manifest, &args.output))
}

fn count(records: &Records, is: impl Fn(&Record) -> bool) -> usize {
    records.values().filter(|record| is(record)).count()
}

fn manifest_text(manifest: &Manifest) -> Result<String, Failure> {
    let mut value = serde_json::to_value(manifest)
        .map_err(|error| Failure::Failed(format!("the manifest: {error}")))?;
    value["schema"] = SCHEMA.into();
    Ok(format!("{value:#}\n"))
}

/// The questions without an answer, and why.
fn unanswered(records: &Records) -> Vec<Unanswered> {
    let reason = |(path, record): (&PathBuf, &Record)| {
        let Record::File(text) = record else { return None };
        let question = path.strip_prefix(ANSWERS).ok()?.with_extension("");
        let answer: serde_json::Value = serde_json::from_str(text).ok()?;
        let reason = answer.get("unknown")?.as_str()?.to_owned();
        Some(Unanswered { question: question.display().to_string(), reason })
    };
    records.iter().filter_map(reason).collect()
}

/// A summary: what is in it, what is missing, and what was redacted. The reasons
/// for what is missing are in the manifest.
fn summary(manifest: &Manifest, output: &Path) -> String {
    let redacted = match manifest.redacted {
        None => {
            "not redacted: addresses, RSS keys, names of hosts, processes and devices are in it"
        }
        Some(Redact::Names) => "redacted; kept: names of devices, layout, counters, versions",
        Some(Redact::All) => "redacted, names of devices too; kept: layout, counters, versions",
        Some(Redact::ButKeys) => {
            "redacted; kept: RSS keys, names of devices, layout, counters, versions"
        }
    };
    let missing = match manifest.unanswered.len() {
        0 => "every question answered".to_owned(),
        many => format!("{} not answered (see {MANIFEST} in it)", sheet::count(many, "question")),
    };
    format!(
        "{}: {}, {}, {missing}; {redacted}\n",
        output.display(),
        sheet::count(manifest.files, "file"),
        sheet::count(manifest.links, "link"),
    )
}
