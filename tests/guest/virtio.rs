//! `quiclane flow explain --verify` against a NIC that reports the hash of each packet.
//!
//! The rig has virtio NICs only where it may make tap devices (`tools/lab vm --virtio`, as root);
//! elsewhere these tests are skipped, and say so.

use crate::explain::{CAPTURE, capture};
use crate::flows::{Family, Flows};
use crate::nic::{Lane, QUEUES, rss, run};
use crate::rss::{hex, listen, other_key};
use crate::{Outcome, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

const LANE: Lane = Lane { dev: "lane2", pair: 2, node: 0, cpus: "0-1" };

/// A port that is not in use.
const PORT: u16 = 4435;

/// True if the rig has the NICs.
pub(crate) fn is_there() -> bool {
    Path::new("/sys/class/net").join(LANE.dev).exists()
}

pub(crate) fn every_flow_has_the_hash_that_was_predicted() -> Outcome {
    for (family, kind) in [(Family::V4, "ipv4+l4+udp"), (Family::V6, "ipv6+l4+udp")] {
        let flows = Flows::to(&LANE, family, PORT);
        let _owner = listen(&flows)?;
        fs::write(CAPTURE, capture(&flows)).map_err(|error| format!("{CAPTURE}: {error}"))?;
        put_back(|| {
            let first = matches(family, "key as found", kind)?;
            set_key(&other_key())?;
            let second = matches(family, "other key", kind)?;
            ensure!(first.is_disjoint(&second), "{family:?}: the key changes nothing");
            Ok(())
        })?;
    }
    Ok(())
}

/// Every flow of the capture has the predicted hash, by the driver's word, on the predicted queue.
/// Returns the hashes.
fn matches(family: Family, what: &str, kind: &str) -> Result<BTreeSet<String>, String> {
    let sending = ["--send-from-netns", "peer", "--packets", "8", "--by", "rx-hash", "--json"];
    let args = ["flow", "explain", LANE.dev, "--pcap", CAPTURE, "--verify"];
    let text = run("quiclane", &[&args[..], &sending].concat())?;
    let answer: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
    let flows = answer["flows"].as_array().ok_or_else(|| format!("no flows: {text}"))?;
    ensure!(flows.len() == 64, "{what}: {} flows", flows.len());
    let (mut hashes, mut queues) = (BTreeSet::new(), BTreeSet::new());
    for flow in flows {
        let (hash, seen) = (&flow["hash"]["hash"], &flow["verify"]);
        let expected = serde_json::json!([
            {"queue": flow["queue"], "hash": hash, "hash_type": kind, "error": null, "packets": 8}
        ]);
        let is_match = seen["verdict"] == "match" && seen["way"] == "rx_hash";
        ensure!(is_match && seen["reported"] == expected, "{family:?} {what}: {flow}");
        ensure!(seen["predicted_hash"] == *hash, "{family:?} {what}: {flow}");
        hashes.extend(hash.as_str().map(str::to_owned));
        queues.insert(flow["queue"].to_string());
    }
    println!("  {} {family:?} {what}: {} hashes MATCH", LANE.dev, hashes.len());
    ensure!(queues.len() == QUEUES, "{what}: queues {queues:?}");
    Ok(hashes)
}

/// The test can fail: a flow that was explained under one key is sent under another.
pub(crate) fn another_key_than_the_explained_one_is_a_mismatch() -> Outcome {
    let flows = Flows::to(&LANE, Family::V4, PORT);
    let _owner = listen(&flows)?;
    put_back(|| {
        let watching = watch(&flows)?;
        set_key(&other_key())?;
        flows.send()?;
        let output = end(watching)?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.code() == Some(1), "{}: {text}", output.status);
        let verdict = text.lines().find(|line| line.starts_with("MISMATCH")).unwrap_or_default();
        println!("  {verdict}");
        ensure!(verdict.contains(" (ipv4+l4+udp), not 0x"), "{text}");
        Ok(())
    })
}

/// With a table that was set, attaching a program would end RSS. So none is attached: the table stays in
/// use, and counters are compared.
pub(crate) fn a_table_that_was_set_is_left_alone() -> Outcome {
    let flows = Flows::to(&LANE, Family::V4, PORT);
    let _owner = listen(&flows)?;
    fs::write(CAPTURE, capture(&flows)).map_err(|error| format!("{CAPTURE}: {error}"))?;
    put_back(|| {
        run("ethtool", &["-X", LANE.dev, "equal", "2"])?;
        let args = ["flow", "explain", LANE.dev, "--pcap", CAPTURE, "--verify"];
        let sending = ["--send-from-netns", "peer", "--packets", "32"];
        let text = run("quiclane", &[&args[..], &sending].concat())?;
        ensure!(text.contains("verified: 64 MATCH, 0 MISMATCH, 0 UNSURE"), "{text}");
        ensure!(text.contains("counters: virtio_net turns RSS off"), "{text}");
        Ok(())
    })
}

/// Starts to watch the first flow; the program is on the device when this returns.
fn watch(flows: &Flows) -> Result<Child, String> {
    let source = flows.sources().next().ok_or("no flow")?;
    let mut watching = Command::new("quiclane")
        .args(["flow", "explain", LANE.dev, &source.to_string(), &flows.destination.to_string()])
        .args(["--verify", "--by", "rx-hash", "--seconds", "60", "--packets", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("quiclane: {error}"))?;
    for _ in 0..100 {
        if run("ip", &["link", "show", LANE.dev])?.contains("prog/xdp") {
            return Ok(watching);
        }
        sleep(Duration::from_millis(100));
    }
    // Fails if it has ended, which its output tells.
    drop(watching.kill());
    Err(format!("no program on {}: {:?}", LANE.dev, end(watching)?))
}

fn end(child: Child) -> Result<Output, String> {
    child.wait_with_output().map_err(|error| format!("quiclane: {error}"))
}

fn set_key(key: &[u8]) -> Outcome {
    run("ethtool", &["-X", LANE.dev, "hkey", &hex(key)])?;
    ensure!(rss(LANE.dev)?.key() == key, "{}: the key was not taken", LANE.dev);
    Ok(())
}

/// Gives the NIC its key back, and then its table: a table that was set, if only to its default,
/// would not be the driver's own any more.
fn put_back(body: impl FnOnce() -> Outcome) -> Outcome {
    let before = rss(LANE.dev)?;
    let done = body();
    set_key(before.key())?;
    run("ethtool", &["-X", LANE.dev, "default"])?;
    done
}
