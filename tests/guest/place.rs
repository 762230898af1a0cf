//! `quiclane plan`, `apply` and `undo` on igb: settings that a veth lacks, compared with ethtool and
//! procfs; and where a server places its workers (`--place`).

use crate::nic::{LANES, Lane, read, rss, run};
use crate::server::{QueueRow, Server};
use crate::{Outcome, ensure};
use std::collections::BTreeMap;
use std::fs;

const PLAN: &str = "/tmp/plan.toml";
/// Microsoft's key with its bytes in reverse: a key that no driver has by itself.
const KEY: &str = "fa:01:ac:be:3b:b7:42:6a:0c:f2:30:80:a3:2d:cb:77:b4:30:7b:ae:cb:2b:ca:d0:b0:\
                   8f:a3:43:3d:25:67:41:c2:0e:5b:25:da:56:5a:6d";

/// Everything of a lane that a plan may hold, read without the library.
fn settings(dev: &str) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for option in ["-l", "-g", "-x", "-k", "-c"] {
        all.insert(option.to_owned(), run("ethtool", &[option, dev])?);
    }
    for flow in ["udp4", "udp6"] {
        all.insert(flow.to_owned(), run("ethtool", &["-n", dev, "rx-flow-hash", flow])?);
    }
    for file in ["napi_defer_hard_irqs", "gro_flush_timeout", "threaded"] {
        all.insert(file.to_owned(), read(&format!("/sys/class/net/{dev}/{file}"))?);
    }
    let queues = format!("/sys/class/net/{dev}/queues");
    let names = fs::read_dir(&queues).map_err(|error| format!("{queues}: {error}"))?;
    for name in names.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        for file in ["rps_cpus", "rps_flow_cnt", "xps_cpus"] {
            if let Ok(value) = read(&format!("{queues}/{name}/{file}")) {
                all.insert(format!("{name} {file}"), value);
            }
        }
    }
    for (queue, number) in irqs(dev)? {
        let value = read(&format!("/proc/irq/{number}/smp_affinity_list"))?;
        all.insert(format!("irq {queue}"), value);
    }
    Ok(all)
}

/// The number of each queue's interrupt, by `lane0-TxRx-3`.
fn irqs(dev: &str) -> Result<BTreeMap<u32, u32>, String> {
    let text = read("/proc/interrupts")?;
    let line = |line: &str| {
        let (number, rest) = line.trim_start().split_once(':')?;
        let queue = rest.split_whitespace().next_back()?.strip_prefix(dev)?;
        let queue = queue.strip_prefix("-TxRx-").or_else(|| queue.strip_prefix("-rx-"))?;
        Some((queue.parse().ok()?, number.parse().ok()?))
    };
    Ok(text.lines().filter_map(line).collect())
}

/// Runs the tool; its outcomes by setting.
fn outcomes(arguments: &[&str]) -> Result<BTreeMap<String, String>, String> {
    let mut command = std::process::Command::new("quiclane");
    let output = command
        .args(arguments)
        .env("QUICLANE_STATE", "/tmp/state")
        .output()
        .map_err(|error| format!("quiclane: {error}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "quiclane {arguments:?}: {}: {stderr}{stdout}", output.status);
    let json: serde_json::Value = serde_json::from_str(&stdout)
        .map_err(|error| format!("quiclane {arguments:?}: {error}: {stdout}"))?;
    let lines = json["lines"].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(lines.iter().map(|line| (text(&line["setting"]), text(&line["outcome"]))).collect())
}

/// A plan by hand with everything that igb has, for fewer queues than it has now.
fn by_hand(lane: &Lane) -> String {
    let cpu = if lane.node == 0 { 0 } else { 2 };
    let (first, second) = (cpu, cpu + 1);
    format!(
        "version = 1\ndevice.name = \"{}\"\n\
         [features]\nrx-vlan-hw-parse = {{ new = false }}\nrx-checksum = {{ new = false }}\n\
         [queues]\nchannels = {{ new = \"combined 2\" }}\nrings = {{ new = \"rx 512 tx 512\" }}\n\
         coalesce = {{ new = \"rx-usecs 50\" }}\n\
         [rss]\nkey = {{ new = \"{KEY}\" }}\ntable = {{ new = \"0*32 1*96\" }}\n\
         udp4 = {{ new = \"sd\" }}\nudp6 = {{ new = \"sd\" }}\n\
         [irq]\nrx-0 = {{ new = \"{second}\" }}\nrx-1 = {{ new = \"{first}\" }}\n\
         [rps]\nrx-1 = {{ new = \"{first}\" }}\n\
         [xps]\ntx-0 = {{ new = \"{second}\" }}\ntx-1 = {{ new = \"{first}\" }}\n\
         [napi]\ndefer-hard-irqs = {{ new = 3 }}\ngro-flush-timeout-ns = {{ new = 30000 }}\n\
         threaded = {{ new = 1 }}\n",
        lane.dev
    )
}

pub(crate) fn what_a_nic_has_is_written_and_put_back() -> Outcome {
    let [lane, other] = &LANES;
    let (before, others) = (settings(lane.dev)?, settings(other.dev)?);
    fs::write(PLAN, by_hand(lane)).map_err(|error| format!("{PLAN}: {error}"))?;
    let written = outcomes(&["apply", PLAN, "--json"])?;
    for (setting, outcome) in &written {
        ensure!(outcome == "done", "{setting}: {outcome}");
    }
    let checked = check_written(lane);
    let others_then = settings(other.dev)?;
    let undone = outcomes(&["undo", "--json"])?;
    checked?;
    ensure!(others_then == others, "{} was written to", other.dev);
    ensure!(undone.len() >= written.len(), "{undone:?}");
    same(lane.dev, &before, &settings(lane.dev)?)?;
    ensure!(settings(other.dev)? == others, "{} was written to", other.dev);
    Ok(())
}

fn check_written(lane: &Lane) -> Outcome {
    let now = settings(lane.dev)?;
    let rss = rss(lane.dev)?;
    let key: Vec<String> = rss.key().iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(key.join(":") == KEY, "the key is {}", key.join(":"));
    let table: Vec<u32> = (0..128).map(|slot| u32::from(slot >= 32)).collect();
    ensure!(rss.table() == table, "the table is {:?}", rss.table());
    ensure!(!now["udp4"].contains("L4 bytes"), "{}", now["udp4"]);
    for line in ["rx-vlan-offload: off", "rx-checksumming: off"] {
        ensure!(now["-k"].contains(line), "{}", now["-k"]);
    }
    ensure!(now["-c"].contains("rx-usecs: 50\n"), "{}", now["-c"]);
    let numbers = irqs(lane.dev)?;
    ensure!(numbers.len() == 2, "two queues: {numbers:?}");
    let cpu = if lane.node == 0 { 0 } else { 2 };
    for (what, value) in [
        ("irq 0", (cpu + 1).to_string()),
        ("irq 1", cpu.to_string()),
        ("rx-1 rps_cpus", format!("{:x}", 1 << cpu)),
        ("tx-0 xps_cpus", format!("{:x}", 1 << (cpu + 1))),
        ("napi_defer_hard_irqs", "3".to_owned()),
        ("gro_flush_timeout", "30000".to_owned()),
        ("threaded", "1".to_owned()),
    ] {
        ensure!(now.get(what) == Some(&value), "{what}: {:?}, and not {value}", now.get(what));
    }
    Ok(())
}

fn same(dev: &str, before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Outcome {
    for (what, value) in before {
        ensure!(after.get(what) == Some(value), "{dev} {what}: {:?}, was {value}", after.get(what));
    }
    ensure!(before.len() == after.len(), "{dev} has more than before: {after:?}");
    Ok(())
}

/// The plan that the tool itself makes: workers of the NIC's node, each on its interrupt's CPU.
pub(crate) fn a_plan_of_the_tool_brings_queue_and_cpu_together() -> Outcome {
    for lane in &LANES {
        let before = settings(lane.dev)?;
        run("quiclane", &["plan", lane.dev, "-o", PLAN])?;
        let written = outcomes(&["apply", PLAN, "--json"])?;
        let checked = check_own(lane, &written);
        outcomes(&["undo", "--json"])?;
        checked?;
        same(lane.dev, &before, &settings(lane.dev)?)?;
    }
    Ok(())
}

fn check_own(lane: &Lane, written: &BTreeMap<String, String>) -> Outcome {
    for (setting, outcome) in written {
        ensure!(outcome == "done" || outcome == "already", "{} {setting}: {outcome}", lane.dev);
    }
    println!("  {}: {} settings", lane.dev, written.len());
    let now = settings(lane.dev)?;
    let first = if lane.node == 0 { 0 } else { 2 };
    for (queue, cpu) in [(0, first), (1, first + 1)] {
        let (irq, xps) = (&now[&format!("irq {queue}")], &now[&format!("tx-{queue} xps_cpus")]);
        ensure!(*irq == cpu.to_string(), "{} irq of queue {queue}: {irq}", lane.dev);
        ensure!(*xps == format!("{:x}", 1 << cpu), "{} xps of queue {queue}: {xps}", lane.dev);
    }
    ensure!(!now.contains_key("irq 2"), "{} has queues without a worker", lane.dev);
    ensure!(now["udp4"].contains("L4 bytes"), "{}: {}", lane.dev, now["udp4"]);
    // The NAPI of each queue that has a worker, and not all of the device's.
    let device = &now["napi_defer_hard_irqs"];
    ensure!(device == "0", "{}: napi_defer_hard_irqs is {device}", lane.dev);
    for setting in ["rss.table", "queues.channels", "irq.rx-1", "napi.rx-1"] {
        ensure!(written.contains_key(setting), "{} has no line {setting}: {written:?}", lane.dev);
    }
    Ok(())
}

/// Where the server of the placement test listens on `lane0`.
const LISTEN: ([u8; 4], u16) = ([10, 77, 0, 1], 4434);

/// The CPU that the interrupt of a receive queue is delivered to, as the kernel says.
fn served(dev: &str, queue: u32) -> Result<u32, String> {
    let numbers = irqs(dev)?;
    let number = numbers.get(&queue).ok_or_else(|| format!("{dev}: no IRQ of queue {queue}"))?;
    let path = format!("/proc/irq/{number}/effective_affinity_list");
    let cpu = read(&path)?;
    cpu.parse().map_err(|_| format!("{path}: {cpu}"))
}

fn move_irq(dev: &str, queue: u32, cpu: u32) -> Outcome {
    let numbers = irqs(dev)?;
    let number = numbers.get(&queue).ok_or_else(|| format!("{dev}: no IRQ of queue {queue}"))?;
    let path = format!("/proc/irq/{number}/smp_affinity_list");
    fs::write(&path, cpu.to_string()).map_err(|error| format!("{path}: {error}"))?;
    // It moves with the next interrupt: igb makes one on every queue each two seconds, if the link
    // is up. A server counts on the place that it moves to.
    for _ in 0..100 {
        if served(dev, queue)? == cpu {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    Ok(())
}

/// The CPU that the interrupt is set to.
fn set_to(dev: &str, queue: u32) -> Result<u32, String> {
    let numbers = irqs(dev)?;
    let number = numbers.get(&queue).ok_or_else(|| format!("{dev}: no IRQ of queue {queue}"))?;
    let path = format!("/proc/irq/{number}/smp_affinity_list");
    read(&path)?.parse().map_err(|_| format!("{path} is not one CPU"))
}

/// Two queues of `lane0`, placed as `place` says; the doctor's findings meanwhile.
fn placed(place: &str) -> Result<(Vec<QueueRow>, String), String> {
    let options = ["--queues", "0-1", "--place", place];
    let server = Server::start_with(&LANES[0], LISTEN.into(), &options)?;
    let queues = server.queues.clone();
    // Exit code 1: the guest has findings of its own.
    let doctor = std::process::Command::new("quiclane").args(["doctor", "lane0"]).output();
    let doctor = doctor.map_err(|error| format!("quiclane doctor: {error}"))?;
    server.stop()?;
    Ok((queues, String::from_utf8_lossy(&doctor.stdout).into_owned()))
}

/// A server sits where the interrupts of its queues are served, or beside them; never on another
/// node, and it says what it could not have. The guest's `lane0` is on node 0, CPUs 0 and 1.
pub(crate) fn workers_sit_where_interrupts_are_served() -> Outcome {
    let dev = LANES[0].dev;
    let before = [served(dev, 0)?, served(dev, 1)?];
    let checked = check_places(dev);
    for (queue, cpu) in (0..).zip(before) {
        move_irq(dev, queue, cpu)?;
    }
    checked
}

fn check_places(dev: &str) -> Outcome {
    move_irq(dev, 0, 1)?;
    move_irq(dev, 1, 0)?;
    let (queues, doctor) = placed("irq")?;
    for row in &queues {
        ensure!(row.cpu == Some(set_to(dev, row.queue)?), "near its IRQ: {row:?}");
        ensure!(row.unmet.is_none() && row.node == Some(0), "{row:?}");
    }
    ensure!(queues[0].cpu == Some(1) && queues[1].cpu == Some(0), "{queues:?}");
    ensure!(!doctor.contains("QL019"), "{doctor}");
    let (queues, _) = placed("cache")?;
    for row in &queues {
        ensure!(row.cpu.is_some_and(|cpu| cpu < 2), "on the node: {row:?}");
        ensure!(row.cpu != Some(set_to(dev, row.queue)?), "beside its IRQ: {row:?}");
        ensure!(row.unmet.is_none(), "{row:?}");
    }
    move_irq(dev, 0, 3)?;
    let (queues, doctor) = placed("irq")?;
    ensure!(queues.iter().all(|row| row.node == Some(0)), "{queues:?}");
    let unmet = queues[0].unmet.as_deref().unwrap_or_default();
    ensure!(unmet.contains("cpu 3 of another node"), "{queues:?}");
    ensure!(queues[1].cpu == Some(0) && queues[1].unmet.is_none(), "{queues:?}");
    ensure!(doctor.contains("QL019"), "{doctor}");
    let (queues, _) = placed("node")?;
    ensure!(queues.iter().all(|row| row.unmet.is_none()), "{queues:?}");
    Ok(())
}

/// True if the kernel has a thread for a NAPI instance of the device.
fn has_napi_thread(dev: &str) -> Result<bool, String> {
    let processes = fs::read_dir("/proc").map_err(|error| format!("/proc: {error}"))?;
    // The kernel cuts names to 15 bytes: `napi/lane0-8193`.
    let start = format!("napi/{dev}-");
    let names = processes.filter_map(|entry| read(entry.ok()?.path().join("comm").to_str()?).ok());
    Ok(names.into_iter().any(|name| name.starts_with(&start)))
}

/// Linux 6.19 has a kernel thread poll a queue all the time: a plan sets it, and undo ends it.
pub(crate) fn the_kernel_polls_a_queue_and_stops() -> Outcome {
    let dev = LANES[0].dev;
    let text = format!(
        "version = 1\ndevice.name = \"{dev}\"\n[napi]\nrx-0 = {{ new = \"threaded 2\" }}\n"
    );
    fs::write(PLAN, text).map_err(|error| format!("{PLAN}: {error}"))?;
    ensure!(!has_napi_thread(dev)?, "{dev} has a NAPI thread before");
    let written = outcomes(&["apply", PLAN, "--json"])?;
    let is_there = has_napi_thread(dev);
    // A server meanwhile: it hears of a thread, and serves.
    let served = placed("node").map(|(queues, _)| queues);
    outcomes(&["undo", "--json"])?;
    ensure!(written.get("napi.rx-0").is_some_and(|it| it == "done"), "{written:?}");
    ensure!(is_there?, "{dev} has no NAPI thread");
    ensure!(served?.iter().all(|row| row.mode == "native-zerocopy"), "not zero-copy");
    ensure!(!has_napi_thread(dev)?, "{dev} has a NAPI thread afterwards");
    Ok(())
}

/// The indirection table is set while a server runs: it hears of it, names the queues, and counts.
pub(crate) fn a_change_of_the_table_is_heard() -> Outcome {
    let dev = LANES[0].dev;
    let options = ["--queues", "0-1", "--place", "node"];
    let server = Server::start_with(&LANES[0], LISTEN.into(), &options)?;
    let status = format!("/run/quiclane/{}.json", server.pid());
    let before = rss(dev)?.table().to_vec();
    run("ethtool", &["-X", dev, "equal", "3"])?;
    let changed = rss(dev)?.table().to_vec();
    ensure!(changed != before, "the table is the same: {changed:?}");
    let heard = || -> Result<Option<u64>, String> {
        let status: serde_json::Value =
            serde_json::from_str(&read(&status)?).map_err(|error| format!("{status}: {error}"))?;
        Ok(status["device_changes"]["rss"].as_u64())
    };
    // Twenty looks of the server, which looks every second.
    for _ in 0..200 {
        if heard()? == Some(1) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let count = heard()?;
    server.stop()?;
    run("ethtool", &["-X", dev, "default"])?;
    ensure!(count == Some(1), "heard {count:?} changes");
    let log = crate::server::log_end();
    ensure!(log.contains("slots lead to another queue"), "{log}");
    ensure!(log.contains("have no worker here"), "{log}");
    Ok(())
}
