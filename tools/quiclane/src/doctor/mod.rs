//! `quiclane doctor`: what is wrong with a machine that is to run workers on AF_XDP, why, and what
//! mends it.
//!
//! A check ([`checks`]) is a pure function of a survey. It finds something, finds nothing, or
//! says why it cannot judge; what could not be read is never a pass.
//!
//! ```text
//!   Survey -> Context (questions) -> checks: Found | nothing | not judged -> Report -> render
//! ```

mod checks;
mod context;
mod finding;
mod render;
#[cfg(test)]
mod tests;

use crate::error::Failure;
use crate::inspect::{self, ReadArgs};
use clap::Args;
use context::{Context, Host};
use finding::{Check, Kind, Report};
use quiclane::topology::Nic;
use quiclane::topology::survey::Survey;
use quiclane::topology::survey::device::Device;
use std::collections::BTreeMap;
use std::time::Duration;

pub(crate) use finding::{Finding, Severity};

/// Longer than an operator watches a prompt.
const WATCH_SECONDS_MAX: f64 = 3_600.0;

/// Arguments of `quiclane doctor`.
#[derive(Clone, Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Check this device [default: physical devices that are up, and those with XDP].
    #[arg(value_name = "DEV")]
    pub(crate) device: Option<String>,
    /// Explain one finding: what is read, why it matters, what mends it, how to check.
    #[arg(long, value_name = "ID", conflicts_with = "list")]
    pub(crate) explain: Option<String>,
    /// List every finding.
    #[arg(long, conflicts_with = "device")]
    pub(crate) list: bool,
    /// Look twice, this many seconds apart, and judge how far counters rose in between.
    #[arg(long, value_name = "S")]
    pub(crate) watch_seconds: Option<f64>,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
}

/// Looks, judges and tells. Findings beyond notes are exit code 1.
pub(crate) fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let kinds = checks::all();
    if args.list {
        return render::list(&kinds, args.read.json);
    }
    let explained = args.explain.as_deref().map(|id| kind(&kinds, id)).transpose()?;
    let report = match explained {
        Some(kind) => examine(args, &[kind])?,
        None => examine(args, &kinds)?,
    };
    if let Some(kind) = explained {
        return render::explain(kind, &report, args.read.json);
    }
    render::report(&report, args.read.json)?;
    let is_bad = report.findings.iter().any(|finding| finding.severity < Severity::Note);
    if is_bad { Err(Failure::Findings) } else { Ok(()) }
}

fn kind<'a>(kinds: &[&'a Kind], id: &str) -> Result<&'a Kind, Failure> {
    let found = kinds.iter().find(|kind| kind.id.eq_ignore_ascii_case(id));
    found.copied().ok_or_else(|| {
        Failure::Usage(format!(
            "--explain {id}: there is no such finding; `quiclane doctor --list` lists them"
        ))
    })
}

fn examine(args: &DoctorArgs, kinds: &[&Kind]) -> Result<Report, Failure> {
    let source = args.read.source()?;
    let before = match args.watch_seconds {
        None => None,
        Some(_) if !source.is_live() => {
            return Err(Failure::Usage(
                "--watch-seconds: a captured machine stands still; leave --root out".to_owned(),
            ));
        }
        Some(seconds) if !(seconds > 0.0 && seconds <= WATCH_SECONDS_MAX) => {
            return Err(Failure::Usage(format!(
                "--watch-seconds {seconds}: more than 0 and at most {WATCH_SECONDS_MAX} seconds"
            )));
        }
        Some(seconds) => {
            let first = Survey::read(&source);
            std::thread::sleep(Duration::from_secs_f64(seconds));
            Some(first)
        }
    };
    let survey = Survey::read(&source);
    let devices = match &args.device {
        Some(name) => vec![inspect::device(&survey, name, &source)?.0.name.clone()],
        None => devices(&survey),
    };
    Ok(judge(&survey, before.as_ref(), &devices, kinds))
}

/// The findings of each device that is looked at when no device is named, the worst first.
/// Findings of the host are not among them.
pub(crate) fn of_devices(survey: &Survey) -> BTreeMap<String, Vec<Finding>> {
    let kinds = checks::all();
    let of_device = |kind: &&Kind| matches!(kind.check, Check::Device(_));
    let kinds: Vec<&Kind> = kinds.into_iter().filter(of_device).collect();
    let report = judge(survey, None, &devices(survey), &kinds);
    let mut found: BTreeMap<String, Vec<Finding>> =
        report.devices.iter().map(|device| (device.clone(), Vec::new())).collect();
    for finding in report.findings {
        let device = finding.device.as_ref().and_then(|device| found.get_mut(device));
        device.into_iter().for_each(|device| device.push(finding.clone()));
    }
    found
}

/// The devices that are looked at when no device is named.
fn devices(survey: &Survey) -> Vec<String> {
    let pairs = survey.machine.nics.iter().zip(&survey.devices);
    pairs
        .filter(|(nic, device)| is_of_interest(survey, nic, device))
        .map(|(nic, _)| nic.name.clone())
        .collect()
}

fn is_of_interest(survey: &Survey, nic: &Nic, device: &Device) -> bool {
    let has_program = device.attached.known().is_some_and(|attached| !attached.is_empty());
    let mut sockets = survey.sockets.known().into_iter().flatten();
    let has_socket =
        sockets.any(|it| it.device.is_some() && it.device.as_ref() == nic.index.known());
    let mut workers = survey.servers.iter().flat_map(|server| &server.workers);
    let is_served = workers.any(|worker| worker.device.as_deref() == Some(&*nic.name));
    // A device whose link cannot be asked is looked at: it may well be up.
    let is_up = device.link.known().is_none_or(|link| link.is_up);
    (nic.bus.known().is_some() && is_up) || has_program || has_socket || is_served
}

/// Lets every kind judge the host, or each of the devices.
fn judge(survey: &Survey, before: Option<&Survey>, devices: &[String], kinds: &[&Kind]) -> Report {
    let host = Host { survey, before };
    let contexts: Vec<Context<'_>> =
        devices.iter().filter_map(|name| Context::new(host, name)).collect();
    let mut report = Report { devices: devices.to_vec(), ..Report::default() };
    for kind in kinds {
        match kind.check {
            Check::Host(check) => report.add(kind, None, check(&host)),
            Check::Device(check) => {
                for context in &contexts {
                    report.add(kind, Some(context.name()), check(context));
                }
            }
        }
    }
    report.sort();
    report
}
