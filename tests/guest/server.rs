//! `quiclane serve` in the guest: started, asked, ended.

use crate::ensure;
use crate::nic::{Lane, run};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

/// The served directory.
pub(crate) const FILES: &str = "/tmp/files";
/// The certificate that clients trust.
pub(crate) const CERTIFICATE: &str = "/tmp/certificate.pem";
const LOG: &str = "/tmp/serve.log";

/// A server on all queues of a lane. Dropped, it is killed.
pub(crate) struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// The queues when it was ready.
    pub(crate) queues: Vec<QueueRow>,
}

/// A row of `"queues"` in what the server prints.
#[derive(Clone, Debug)]
pub(crate) struct QueueRow {
    pub(crate) queue: u32,
    pub(crate) cpu: Option<u32>,
    pub(crate) node: Option<u32>,
    pub(crate) unmet: Option<String>,
    pub(crate) mode: String,
    pub(crate) rx_packets: u64,
    pub(crate) wrong_queue: u64,
    pub(crate) connections: u64,
}

impl Server {
    /// Starts it in zero-copy or not at all, and waits until it is ready.
    pub(crate) fn start(lane: &Lane, listen: SocketAddr) -> Result<Self, String> {
        Self::start_with(lane, listen, &["--queues", "0-3", "--share-cpus"])
    }

    /// The same with these options in place of all queues.
    pub(crate) fn start_with(
        lane: &Lane,
        listen: SocketAddr,
        options: &[&str],
    ) -> Result<Self, String> {
        fs::create_dir_all(FILES).map_err(|error| format!("{FILES}: {error}"))?;
        let log = File::create(LOG).map_err(|error| format!("{LOG}: {error}"))?;
        let mut child = Command::new("quiclane")
            .args(["-vv", "serve", "--perf", "--json", "--listen", &listen.to_string()])
            .args(["--io", "xdp", "--dev", lane.dev])
            .args(options)
            .args(["--require", "zerocopy", "--files", FILES, "--cert-out", CERTIFICATE])
            // An emulated machine is late with all that it does: no reason to refuse clients, or to
            // keep them waiting until their handshakes time out.
            .args(["--queue-delay-max", "0", "--handshake-share", "100"])
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("quiclane serve: {error}"))?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let mut server = Self { child, stdout: BufReader::new(stdout), queues: Vec::new() };
        let ready = server.line()?;
        ensure!(ready.contains("\"event\":\"ready\""), "serve: {ready:?}; {}", log_end());
        server.queues = rows(&ready)?;
        Ok(server)
    }

    pub(crate) fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// How many datagrams arrived at another worker than their connection's so far, and how many of them
    /// were lost, by the file that it writes for the inspection verbs once a second.
    pub(crate) fn wrong_queue(&self) -> Result<(u64, u64), String> {
        let path = format!("/run/quiclane/{}.json", self.pid());
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let told: Value =
            serde_json::from_str(&text).map_err(|error| format!("{path}: {error}"))?;
        let workers = told["workers"].as_array().ok_or_else(|| format!("no workers in {text}"))?;
        let arrived = workers.iter().filter_map(|worker| worker["wrong_queue"].as_u64()).sum();
        let lost = |worker: &Value| {
            let dropped = &worker["dropped"];
            ["rx_wrong_queue_dropped", "rx_wrong_queue_share"]
                .iter()
                .filter_map(|name| dropped[name].as_u64())
                .sum::<u64>()
        };
        Ok((arrived, workers.iter().map(lost).sum()))
    }

    /// Ends it as an operator would; the queues at the end.
    pub(crate) fn stop(mut self) -> Result<Vec<QueueRow>, String> {
        run("kill", &["-TERM", &self.pid()])?;
        let end = self.line()?;
        let status = self.child.wait().map_err(|error| format!("serve: {error}"))?;
        ensure!(status.success(), "serve: {status}; {}", log_end());
        ensure!(end.contains("\"event\":\"end\""), "serve: {end:?}; {}", log_end());
        rows(&end)
    }

    /// Kills it with SIGKILL, and waits until it is gone.
    pub(crate) fn kill(mut self) -> Result<(), String> {
        self.child.kill().map_err(|error| format!("kill: {error}"))?;
        self.child.wait().map(drop).map_err(|error| format!("wait: {error}"))
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).map_err(|error| format!("serve: {error}"))?;
        Ok(line)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if it has ended, which is as well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A client's address and a worker, of a line of the log.
fn home(line: &str) -> Option<(SocketAddr, u32)> {
    let value = |key: &str| Some(line.split_once(key)?.1.split_whitespace().next()?.to_owned());
    Some((value(" remote=")?.parse().ok()?, value(" worker=")?.parse().ok()?))
}

/// Each connection in the server's log: the client's address, and the worker.
pub(crate) fn connections_in_log() -> Result<Vec<(SocketAddr, u32)>, String> {
    let log = fs::read_to_string(LOG).map_err(|error| format!("{LOG}: {error}"))?;
    Ok(log.lines().filter(|line| line.contains(" connected ")).filter_map(home).collect())
}

/// The worker that has each connection by the server's log: the one that accepted it, or the last that
/// it moved to.
pub(crate) fn homes_in_log() -> Result<BTreeMap<SocketAddr, u32>, String> {
    let log = fs::read_to_string(LOG).map_err(|error| format!("{LOG}: {error}"))?;
    let tells = |line: &&str| line.contains(" connected ") || line.contains(" moved ");
    Ok(log.lines().filter(tells).filter_map(home).collect())
}

/// The end of the server's log, for messages.
pub(crate) fn log_end() -> String {
    let mut log = String::new();
    let read = File::open(LOG).and_then(|mut file| file.read_to_string(&mut log));
    if let Err(error) = read {
        return format!("{LOG}: {error}");
    }
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// The rows of `"queues"`.
fn rows(line: &str) -> Result<Vec<QueueRow>, String> {
    let told: Value = serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))?;
    let list = told["queues"].as_array().ok_or_else(|| format!("no queues in {line}"))?;
    list.iter().map(row).collect()
}

fn row(told: &Value) -> Result<QueueRow, String> {
    let number = |key: &str| told[key].as_u64();
    let some = |key: &str| number(key).ok_or_else(|| format!("no {key} in {told}"));
    Ok(QueueRow {
        queue: some("queue")? as u32,
        cpu: number("cpu").map(|cpu| cpu as u32),
        node: number("node").map(|node| node as u32),
        unmet: told["unmet"].as_str().map(str::to_owned),
        mode: told["mode"].as_str().unwrap_or_default().to_owned(),
        rx_packets: some("rx_packets")?,
        wrong_queue: some("wrong_queue")?,
        connections: some("connections_total")?,
    })
}
