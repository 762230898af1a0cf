//! `quiclane flow explain`: the queue of a flow, step by step, and a check with real packets.

mod answer;
mod cid;
mod pcap;
mod verify;

use crate::error::Failure;
use crate::inspect::sheet::{self, NONE, Sheet, Shown, Side};
use crate::inspect::{ReadArgs, device, print, print_json};
use answer::Answer;
use clap::{Args, Subcommand, ValueEnum};
use pcap::Capture;
use quiclane::topology::Nic;
use quiclane::topology::explain::{Protocol, Question, predict};
use quiclane::topology::joined::{self, QueueRow};
use quiclane::topology::survey::Survey;
use quiclane::topology::survey::device::Device;
use quiclane::topology::toeplitz::Flow;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use verify::{Verdict, Verified, Verifier, VerifyArgs};

/// Flows.
#[derive(Clone, Debug, Args)]
pub(crate) struct FlowArgs {
    #[command(subcommand)]
    command: FlowCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum FlowCommand {
    /// Show which queue a flow arrives on, and why: rules, hash, slot, queue, CPU, process.
    Explain(Box<ExplainArgs>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProtocolKind {
    /// UDP, which carries QUIC.
    Udp,
    /// TCP.
    Tcp,
}

#[derive(Clone, Debug, Args)]
#[command(override_usage = "quiclane flow explain [OPTIONS] <DEV> <SRC:PORT> <DST:PORT>
       quiclane flow explain [OPTIONS] <DEV> --pcap <FILE>")]
struct ExplainArgs {
    /// The network device that receives the flow.
    #[arg(value_name = "DEV")]
    device: String,
    /// The sender of the flow.
    #[arg(value_name = "SRC:PORT", required_unless_present = "pcap")]
    source: Option<SocketAddr>,
    /// The receiver of the flow.
    #[arg(value_name = "DST:PORT", requires = "source", required_unless_present = "pcap")]
    destination: Option<SocketAddr>,
    /// Set the transport protocol of the flow.
    #[arg(long, value_enum, default_value = "udp", value_name = "PROTO")]
    proto: ProtocolKind,
    /// Explain every flow of a pcap or pcapng file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "destination"])]
    pcap: Option<PathBuf>,
    #[command(flatten)]
    cid: cid::CidArgs,
    #[command(flatten)]
    verify: VerifyArgs,
    #[command(flatten)]
    read: ReadArgs,
}

pub(crate) fn run(args: &FlowArgs) -> Result<(), Failure> {
    let FlowCommand::Explain(args) = &args.command;
    if let (Some(from), Some(to)) = (args.source, args.destination)
        && from.is_ipv4() != to.is_ipv4()
    {
        return Err(Failure::Usage(format!(
            "{from} and {to} are of different address families: a flow has one"
        )));
    }
    let source = args.read.source()?;
    args.verify.check(&source)?;
    let reader = args.cid.reader()?;
    let survey = Survey::read_device(&source, &args.device);
    device(&survey, &args.device, &source)?;
    let Some((nic, found)) = survey.device(&args.device) else {
        return Err(Failure::Usage(format!("there is no device {}", args.device)));
    };
    let explainer = Explainer {
        rows: joined::queues(&survey, &args.device).unwrap_or_default(),
        nic,
        device: found,
        verifier: args.verify.start(&source, nic, found)?,
    };
    if let Some(path) = &args.pcap {
        return explainer.capture(&Capture::read(path, &reader)?, args.read.json);
    }
    let (Some(from), Some(to)) = (args.source, args.destination) else {
        return Err(Failure::Usage("flow explain needs SRC:PORT and DST:PORT".to_owned()));
    };
    let protocol = match args.proto {
        ProtocolKind::Udp => Protocol::Udp,
        ProtocolKind::Tcp => Protocol::Tcp,
    };
    let question = Question { flow: Flow { source: from, destination: to }, protocol };
    let mut answer = explainer.answer(&question)?;
    answer.connection_id = args.cid.explain(&reader);
    if args.read.json {
        print_json("quiclane.flow_explain/1", &answer)?;
    } else {
        print(&answer.text())?;
    }
    end(answer.verify.iter().map(Verified::verdict))
}

/// The exit code of a check: 1 if a prediction was wrong, 4 if one could not be verified.
fn end(verdicts: impl Iterator<Item = Verdict>) -> Result<(), Failure> {
    let verdicts: Vec<Verdict> = verdicts.collect();
    if verdicts.contains(&Verdict::Mismatch) {
        return Err(Failure::Findings);
    }
    let unsure = verdicts.iter().filter(|&&verdict| verdict == Verdict::Unsure).count();
    if unsure > 0 {
        let flows = sheet::count(unsure, "prediction");
        return Err(Failure::Unsupported(format!("{flows} could not be verified")));
    }
    Ok(())
}

/// The data that an answer needs.
struct Explainer<'a> {
    nic: &'a Nic,
    device: &'a Device,
    rows: Vec<QueueRow>,
    verifier: Option<Verifier<'a>>,
}

impl Explainer<'_> {
    fn answer(&self, question: &Question) -> Result<Answer, Failure> {
        let prediction = predict(self.nic, self.device, question);
        let queue = prediction.queue();
        let row = self.rows.iter().find(|row| Some(row.queue) == queue);
        let verifier = self.verifier.as_ref();
        let verified = verifier.map(|verifier| verifier.run(question, &prediction)).transpose()?;
        let mut answer = Answer::new(self.nic, self.device, question, prediction, row);
        answer.verify = verified;
        Ok(answer)
    }

    fn capture(&self, capture: &Capture, json: bool) -> Result<(), Failure> {
        let mut flows = Vec::new();
        for seen in &capture.flows {
            let mut answer = self.answer(&seen.question)?;
            answer.packets = Some(seen.packets);
            answer.connection_ids = seen.ids.clone();
            flows.push(answer);
        }
        let summary = Summary::new(&self.nic.name, capture, flows);
        if json {
            print_json("quiclane.flow_explain/1", &summary)?;
        } else {
            print(&summary.text())?;
        }
        end(summary.flows.iter().filter_map(|flow| flow.verify.as_ref()).map(Verified::verdict))
    }
}

/// Every flow of a captured file.
#[derive(Clone, Debug, Serialize)]
struct Summary {
    device: String,
    file: String,
    packets: u64,
    /// Packets of the file that are neither UDP nor TCP, or cannot be read.
    other_packets: u64,
    queues: Vec<QueueShare>,
    flows: Vec<Answer>,
}

/// What arrives on one queue, or on an unknown one.
#[derive(Clone, Copy, Debug, Serialize)]
struct QueueShare {
    queue: Option<u32>,
    flows: u64,
    packets: u64,
}

impl Summary {
    fn new(device: &str, capture: &Capture, flows: Vec<Answer>) -> Self {
        let mut shares: BTreeMap<(bool, Option<u32>), (u64, u64)> = BTreeMap::new();
        for flow in &flows {
            let share = shares.entry((flow.queue.is_none(), flow.queue)).or_default();
            share.0 += 1;
            share.1 += flow.packets.unwrap_or(0);
        }
        let share = |((_, queue), (flows, packets))| QueueShare { queue, flows, packets };
        Self {
            device: device.to_owned(),
            file: capture.path.display().to_string(),
            packets: capture.packets,
            other_packets: capture.others,
            queues: shares.into_iter().map(share).collect(),
            flows,
        }
    }

    fn text(&self) -> String {
        /// The most flows that text shows; `--json` has them all.
        const SHOWN: usize = 20;
        let flows = sheet::count(self.flows.len(), "flow");
        let others = match self.other_packets {
            0 => String::new(),
            others => format!(", {others} of them neither UDP nor TCP"),
        };
        let mut text = format!(
            "{}: {} packets{others}; {flows} to {}\n",
            self.file, self.packets, self.device
        );
        let mut shares =
            Sheet::new(&[("queue", Side::Right), ("flows", Side::Right), ("packets", Side::Right)]);
        for share in &self.queues {
            let queue = Shown::known(share.queue);
            shares.row([queue, share.flows.to_string().into(), share.packets.to_string().into()]);
        }
        let mut list = Sheet::new(&[
            ("flow", Side::Left),
            ("hash", Side::Left),
            ("queue", Side::Right),
            ("cpu", Side::Right),
            ("packets", Side::Right),
            ("worker", Side::Left),
            ("verified", Side::Left),
        ]);
        for flow in self.flows.iter().take(SHOWN) {
            list.row(flow.cells());
        }
        if !self.flows.is_empty() {
            text += &format!("{}\n{}", shares.render(), list.render());
        }
        if self.flows.len() > SHOWN {
            text += &format!("and {} more; --json shows them\n", self.flows.len() - SHOWN);
        }
        text + &self.verified_text() + &self.doubts_text()
    }

    fn verified_text(&self) -> String {
        let verdicts: Vec<Verdict> = self
            .flows
            .iter()
            .filter_map(|flow| flow.verify.as_ref())
            .map(Verified::verdict)
            .collect();
        let way = self.flows.iter().find_map(|flow| flow.verify.as_ref()).map(|v| v.way.text());
        if verdicts.is_empty() {
            return String::new();
        }
        let of = |verdict| verdicts.iter().filter(|&&other| other == verdict).count();
        format!(
            "verified: {} MATCH, {} MISMATCH, {} UNSURE\n{}",
            of(Verdict::Match),
            of(Verdict::Mismatch),
            of(Verdict::Unsure),
            way.unwrap_or_default()
        )
    }

    /// Each doubt once, however many flows have it.
    fn doubts_text(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for flow in &self.flows {
            let unknown = flow.unknown.0.get("queue").map(String::as_str);
            for doubt in flow.doubts.iter().map(String::as_str).chain(unknown) {
                *counts.entry(doubt).or_default() += 1;
            }
        }
        let line = |(doubt, flows)| format!("? {doubt} ({})\n", sheet::count(flows, "flow"));
        counts.into_iter().map(line).collect()
    }
}

impl Answer {
    fn cells(&self) -> [Shown; 7] {
        let row = self.row.as_ref();
        let hash = self.hash.as_ref().and_then(|hash| hash.hash.clone());
        let cpus = row.and_then(|row| row.cpus.as_deref()).map(sheet::ranges);
        let workers: Vec<String> = self
            .connection_ids
            .iter()
            .filter_map(|id| id.worker)
            .map(|worker| worker.to_string())
            .collect();
        let or_none = |text: Option<String>| Shown::from(text.unwrap_or_else(|| NONE.to_owned()));
        let verified = self.verify.as_ref().map(|verified| verified.verdict().name().to_owned());
        [
            format!("{} {}>{}", self.flow_type, self.source, self.destination).into(),
            or_none(hash),
            Shown::known(self.queue),
            or_none(cpus),
            or_none(self.packets.map(|packets| packets.to_string())),
            or_none((!workers.is_empty()).then(|| workers.join(","))),
            or_none(verified),
        ]
    }
}
