//! `quiclane plan`: what would be changed, and why.

use super::show;
use crate::args::parse_list;
use crate::error::Failure;
use crate::inspect::{self, ReadArgs};
use clap::{Args, ValueEnum};
use quiclane::topology::plan::{PlanError, PlanRequest, Policy, make};
use quiclane::topology::survey::Survey;
use std::path::PathBuf;

#[derive(Clone, Debug, Args)]
pub(crate) struct PlanArgs {
    /// The network device.
    #[arg(value_name = "DEV")]
    device: String,
    /// Choose the CPUs of the workers.
    #[arg(long, value_enum, default_value = "node")]
    policy: PolicyKind,
    /// Plan this many workers, each with a queue [default: one for each core of the policy].
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// Use these CPUs, in the order of the workers, such as 2-5 [default: by the policy].
    #[arg(long, value_name = "LIST")]
    cpus: Option<String>,
    /// Have a kernel thread poll each queue all the time, in place of its interrupt (Linux 6.19): the
    /// lowest latency, at a further CPU for each queue.
    #[arg(long)]
    busy_napi: bool,
    /// Write the plan to this file, as TOML to read and edit; - is standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PolicyKind {
    /// Cores of the device's memory node.
    Node,
    /// The same, filling one last-level cache after another.
    Ccx,
    /// Cores of all memory nodes, one of each in turn.
    Spread,
}

impl From<PolicyKind> for Policy {
    fn from(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::Node => Self::Node,
            PolicyKind::Ccx => Self::Ccx,
            PolicyKind::Spread => Self::Spread,
        }
    }
}

pub(crate) fn plan(args: &PlanArgs) -> Result<(), Failure> {
    let source = args.read.source()?;
    let cpus = args.cpus.as_deref().map(|text| parse_list("cpus", text)).transpose();
    let request = PlanRequest {
        device: args.device.clone(),
        policy: args.policy.into(),
        workers: args.workers,
        cpus: cpus.map_err(Failure::Usage)?.unwrap_or_default(),
        busy_napi: args.busy_napi,
    };
    let survey = Survey::read_device(&source, &args.device);
    inspect::device(&survey, &args.device, &source)?;
    let plan = make(&survey, &request).map_err(|error| explain(&error))?;
    let to_stdout = args.output.as_ref().is_some_and(|path| path.as_os_str() == "-");
    if to_stdout {
        return inspect::print(&plan.to_toml());
    }
    if let Some(path) = &args.output {
        std::fs::write(path, plan.to_toml()).map_err(|e| Failure::file("write", path, &e))?;
    }
    if args.read.json {
        return inspect::print_json("quiclane.plan/1", &show::PlanJson::new(&plan));
    }
    inspect::print(&show::plan(&plan))?;
    match &args.output {
        Some(path) => eprintln!(
            "quiclane: {} is written; `quiclane apply {} --confirm 60s` applies it",
            path.display(),
            path.display()
        ),
        None => eprintln!("quiclane: nothing was changed; -o plan.toml writes the plan"),
    }
    Ok(())
}

fn explain(error: &PlanError) -> Failure {
    let text = error.to_string();
    Failure::Usage(match error {
        PlanError::TooFewCpus { cpus, .. } => {
            format!("{text}: --workers {cpus}, --policy spread, or --cpus LIST")
        }
        PlanError::TooManyWorkers { queues, .. } => format!("{text}: --workers {queues}"),
        _ => text,
    })
}
