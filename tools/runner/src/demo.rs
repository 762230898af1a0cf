//! `tools/demo`: a server and a client on AF_XDP; then a table of the server's queues.

use crate::failure::Failure;
use crate::process::Process;
use crate::stage::{PORT, Stage, words};
use quiclane_measure::{Column, Columns, short};
use quiclane_testkit::netns::Side;
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;

/// Run `quiclane serve` and `quiclane perf run` on AF_XDP, in two network namespaces with a veth pair
/// of 2 queues. Prints a table of the server's queues, and the result.
///
/// Needs root. Leaves nothing behind, also when it is interrupted.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Measure for this many seconds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Use this many connections.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Measure this: download, upload or rps.
    #[arg(long, default_value = "download")]
    scenario: String,
    /// Print one JSON object on standard output, and nothing else.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    queues: Vec<Queue>,
    result: Transfer,
}

#[derive(Serialize)]
struct Queue {
    queue: Value,
    cpu: Value,
    node: Value,
    mode: Value,
    rx_packets: Value,
    tx_packets: Value,
    drops: Value,
    wrong_queue: Value,
    connections: Value,
}

#[derive(Serialize)]
struct Transfer {
    scenario: Value,
    seconds: Value,
    bytes: Value,
    gbps: Value,
}

/// Runs it, and prints the report.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let stage = Stage::new("demo", &["quiclane-tools"], &[])?;
    let server = serve(&stage)?;
    let perf = transfer(&stage, args, &server)?;
    let end = server.stop().last_line()?;
    let report = Report::new(&end, &perf)?;
    if args.json {
        let text = serde_json::to_string(&report).map_err(|e| Failure::of("the report", e))?;
        println!("{text}");
    } else {
        print!("{}", report.table());
    }
    Ok(())
}

fn serve(stage: &Stage) -> Result<Process, Failure> {
    let (device, address) = (stage.lab.device(Side::Server), stage.address(Side::Server, PORT));
    let line = words([
        &stage.program("quiclane"),
        "serve",
        "--perf",
        "--listen",
        &address.to_string(),
        "--io",
        "xdp",
        "--dev",
        &device,
        "--require",
        "native",
        "--share-cpus",
        "--cert-out",
        &stage.scratch.text("cert.pem"),
        "--json",
    ]);
    let mut server = stage.start(Side::Server, "serve", &line)?;
    server.wait_for("\"event\":\"ready\"")?;
    Ok(server)
}

/// Returns what the client reports.
fn transfer(stage: &Stage, args: &Args, server: &Process) -> Result<Value, Failure> {
    let Args { seconds, connections, scenario, .. } = args;
    stage.say(&format!("{scenario} on {connections} connections for {seconds} s"));
    let (device, address) = (stage.lab.device(Side::Client), stage.address(Side::Server, PORT));
    let line = words([
        &stage.program("quiclane"),
        "perf",
        "run",
        &address.to_string(),
        "--scenario",
        scenario,
        "--io",
        "xdp",
        "--dev",
        &device,
        "--share-cpus",
        "--connections",
        &connections.to_string(),
        "--seconds",
        &seconds.to_string(),
        "--pin",
        &stage.scratch.text("cert.pem"),
        "--json",
    ]);
    let mut client = stage.start(Side::Client, "perf", &line)?;
    if let Err(failure) = client.succeed(Duration::from_secs(seconds + 60)) {
        if matches!(failure, Failure::Failed(_)) {
            eprint!("{}", server.log());
        }
        return Err(failure);
    }
    client.last_line()
}

impl Report {
    /// From the server's last words and what the client reports.
    pub(crate) fn new(end: &Value, perf: &Value) -> Result<Self, Failure> {
        let Some(queues) = end["queues"].as_array().filter(|_| end["event"] == "end") else {
            return Err(Failure::Failed(format!("the server did not report its queues: {end}")));
        };
        let queue = |of: &Value| {
            let get = |name: &str| of[name].clone();
            Queue {
                queue: get("queue"),
                cpu: get("cpu"),
                node: get("node"),
                mode: get("mode"),
                rx_packets: get("rx_packets"),
                tx_packets: get("tx_packets"),
                drops: get("drops"),
                wrong_queue: get("wrong_queue"),
                connections: get("connections_total"),
            }
        };
        let get = |name: &str| perf["result"][name].clone();
        let result = Transfer {
            scenario: get("scenario"),
            seconds: get("seconds"),
            bytes: get("bytes"),
            gbps: get("gbps"),
        };
        let queues = queues.iter().map(queue).collect();
        Ok(Self { schema: "quiclane.demo/1", queues, result })
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let columns = Columns::new([Column::Right(12); 9]);
        let mut table = columns.line([
            "queue",
            "cpu",
            "node",
            "mode",
            "rx_packets",
            "tx_packets",
            "drops",
            "wrong_queue",
            "connections",
        ]);
        for of in &self.queues {
            let cells = [
                &of.queue,
                &of.cpu,
                &of.node,
                &of.mode,
                &of.rx_packets,
                &of.tx_packets,
                &of.drops,
                &of.wrong_queue,
                &of.connections,
            ];
            table += &columns.line(cells.map(cell));
        }
        let Transfer { scenario, seconds, bytes, gbps } = &self.result;
        let number = |value: &Value, decimals| {
            value.as_f64().map_or_else(|| cell(value), |value| short(value, decimals))
        };
        table += &format!(
            "Result: {} {} s: {} Gb/s, {} bytes\n",
            cell(scenario),
            number(seconds, 1),
            number(gbps, 3),
            cell(bytes)
        );
        table
    }
}

/// A value in a table; an unknown one is `-`.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
