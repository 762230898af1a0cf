//! A survey of the guest's igb NICs, compared with ethtool, sysfs and our own server.

use crate::flows::{Family, address};
use crate::nic::{LANES, Lane, QUEUES, read, rss, run};
use crate::server::Server;
use crate::{Outcome, ensure};
use quiclane::topology::survey::Survey;
use quiclane::topology::survey::device::{AttachMode, Device, Direction, QueueLink};
use quiclane::topology::survey::rss::FlowType;
use quiclane::topology::{Nic, Reading, Recorder, Source};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;

fn look(lane: &Lane) -> Result<(Survey, Nic, Device), String> {
    let survey = Survey::read_device(&Source::live(), lane.dev);
    let (nic, device) = survey.device(lane.dev).ok_or_else(|| format!("no {}", lane.dev))?;
    let (nic, device) = (nic.clone(), device.clone());
    Ok((survey, nic, device))
}

fn known<'a, T>(what: &str, reading: &'a Reading<T>) -> Result<&'a T, String> {
    reading.known().ok_or_else(|| format!("{what}: {:?}", reading.reason()))
}

fn same<T: PartialEq + Debug>(what: &str, got: &T, expected: &T) -> Outcome {
    ensure!(got == expected, "{what}: {got:?}, expected {expected:?}");
    Ok(())
}

/// The numbers of `name:` in the two lists that ethtool prints, the maximum first: (now, most).
fn pair(text: &str, name: &str) -> Result<(u32, u32), String> {
    let mut numbers = text.lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().parse().unwrap_or(0))
    });
    let most = numbers.next().ok_or_else(|| format!("no {name} in {text}"))?;
    Ok((numbers.next().ok_or_else(|| format!("one {name} in {text}"))?, most))
}

pub(crate) fn ethtool_and_the_survey_agree() -> Outcome {
    for lane in &LANES {
        let (_, _, device) = look(lane)?;
        let rings = known("rings", &device.rings)?;
        let text = run("ethtool", &["-g", lane.dev])?;
        same("RX ring", &rings.rx, &pair(&text, "RX")?)?;
        same("TX ring", &rings.tx, &pair(&text, "TX")?)?;
        let channels = known("channels", &device.channels)?;
        let text = run("ethtool", &["-l", lane.dev])?;
        same("combined", &channels.combined, &pair(&text, "Combined")?)?;
        same("other", &channels.other, &pair(&text, "Other")?)?;
        ensure!(channels.combined.0 == QUEUES as u32, "{channels:?}");
        let text = run("ethtool", &["-i", lane.dev])?;
        let identity = known("identity", &device.identity)?;
        ensure!(identity.driver == "igb", "{identity:?}");
        for (key, value) in [
            ("driver", &identity.driver),
            ("version", &identity.version),
            ("firmware-version", &identity.firmware),
            ("bus-info", &identity.bus),
        ] {
            let found = text.lines().filter_map(|line| line.split_once(": "));
            let mut found = found.filter(|(other, _)| *other == key);
            let told = found.next().map_or("", |(_, told)| told.trim());
            same(key, &value.as_str(), &told)?;
        }
        let coalesce = known("coalesce", &device.coalesce)?;
        let text = run("ethtool", &["-c", lane.dev])?;
        let told = text.lines().filter_map(|line| line.split_once(':'));
        let mut told = told.filter(|(key, _)| *key == "rx-usecs");
        let told = told.next().and_then(|(_, usecs)| usecs.trim().parse().ok());
        ensure!(told.is_some(), "no rx-usecs in {text}");
        same("rx-usecs", &coalesce.rx_usecs, &told)?;
        let flags = run("ethtool", &["--show-priv-flags", lane.dev])?;
        for (name, set) in known("private flags", &device.private_flags)? {
            let line = flags.lines().find(|line| line.starts_with(name.as_str()));
            let on = line.is_some_and(|line| line.trim_end().ends_with(": on"));
            ensure!(line.is_some() && on == *set, "{name} {set}: {flags}");
        }
        check_statistics(lane, &device)?;
        println!("  {} {rings:?} {channels:?} {coalesce:?}", lane.dev);
    }
    Ok(())
}

fn check_statistics(lane: &Lane, device: &Device) -> Outcome {
    let text = run("ethtool", &["-S", lane.dev])?;
    let told: Vec<&str> =
        text.lines().skip(1).filter_map(|line| Some(line.rsplit_once(':')?.0.trim())).collect();
    let counters = known("statistics", &device.statistics)?;
    let names: Vec<&str> = counters.iter().map(|(name, _)| name.as_str()).collect();
    same("names of counters", &names, &told)
}

pub(crate) fn keys_tables_and_fields_are_those_of_ethtool() -> Outcome {
    let lane = &LANES[0];
    let (before, letters) = rss_of(lane)?;
    same("udp4 as the rig left it", &letters.as_str(), &"sdfn")?;
    run("ethtool", &["-N", lane.dev, "rx-flow-hash", "udp4", "sd"])?;
    run("ethtool", &["-X", lane.dev, "weight", "1", "0", "3", "0"])?;
    let changed = rss_of(lane);
    run("ethtool", &["-N", lane.dev, "rx-flow-hash", "udp4", "sdfn"])?;
    run("ethtool", &["-X", lane.dev, "default"])?;
    let (table, letters) = changed?;
    same("udp4 without ports", &letters.as_str(), &"sd")?;
    ensure!(table != before, "the table did not change: {table:?}");
    // The driver's own table is another one than the kernel's default.
    let (_, letters) = rss_of(lane)?;
    same("udp4 with ports again", &letters.as_str(), &"sdfn")
}

/// The table, after key and table were compared with ethtool's; and what is hashed of UDP.
fn rss_of(lane: &Lane) -> Result<(Vec<u32>, String), String> {
    let (_, _, device) = look(lane)?;
    let told = rss(lane.dev)?;
    let [context] = &known("rss", &device.rss)?[..] else {
        return Err(format!("{}: {:?}", lane.dev, device.rss));
    };
    same("key", &context.key.as_slice(), &told.key())?;
    same("table", &context.table.as_slice(), &told.table())?;
    same("function", &context.hash_function.as_deref(), &Some("toeplitz"))?;
    same("context", &context.id, &0)?;
    let fields = known("hash fields", &device.hash_fields)?;
    ensure!(fields.len() == FlowType::ALL.len(), "{fields:?}");
    let udp = fields.iter().find(|hash| hash.flow == FlowType::Udp4).ok_or("no udp4")?;
    println!("  {} {fields:?}", lane.dev);
    Ok((context.table.clone(), udp.letters.clone()))
}

pub(crate) fn queues_lead_to_interrupts_and_cpus() -> Outcome {
    for lane in &LANES {
        let (_, nic, device) = look(lane)?;
        let support = known("XDP support", &device.xdp_support)?;
        for feature in ["basic", "redirect", "xsk-zerocopy"] {
            ensure!(support.offers(feature), "{}: {support:?}", lane.dev);
        }
        let napis = known("NAPI", &device.napis)?;
        let links = known("queues", &device.queue_links)?;
        let receive = |link: &&QueueLink| link.direction == Direction::Rx;
        same("receive queues", &links.iter().filter(receive).count(), &QUEUES)?;
        for link in links.iter().filter(receive) {
            let napi = napis.iter().find(|napi| Some(napi.id) == link.napi);
            let napi = napi.ok_or_else(|| format!("{link:?} of {napis:?}"))?;
            let queue = nic.queues.iter().find(|queue| queue.index == link.index);
            let irq = known("interrupt", &queue.ok_or("no queue")?.irq)?;
            same("interrupt by netlink and by name", &napi.irq, &Some(irq.number))?;
            check_affinity(irq.number)?;
        }
        println!("  {} {support:?}", lane.dev);
    }
    Ok(())
}

/// An interrupt is moved, and the survey sees it.
fn check_affinity(irq: u32) -> Outcome {
    let file = format!("/proc/irq/{irq}/smp_affinity_list");
    let before = read(&file)?;
    std::fs::write(&file, "2").map_err(|error| format!("{file}: {error}"))?;
    let machine = Source::live().machine();
    let irqs = machine.nics.iter().flat_map(|nic| &nic.irqs);
    let moved = irqs.into_iter().find(|other| other.number == irq).ok_or("gone")?.clone();
    std::fs::write(&file, &before).map_err(|error| format!("{file}: {error}"))?;
    same("permitted", known("affinity", &moved.permitted_cpus)?, &vec![2])
}

pub(crate) fn a_zerocopy_server_is_seen_on_its_queues() -> Outcome {
    let lane = &LANES[0];
    let server = Server::start(lane, SocketAddr::new(address(lane, Family::V4, 1), 4433))?;
    let seen = check_server(lane, &server);
    server.stop()?;
    seen
}

fn check_server(lane: &Lane, server: &Server) -> Outcome {
    let recorder = Arc::<Recorder>::default();
    let survey = Survey::read(&Source::live().recorded(recorder.clone()));
    let (nic, device) = survey.device(lane.dev).ok_or("no device")?;
    let attached = known("attached", &device.attached)?;
    ensure!(attached.len() == 1 && attached[0].mode == AttachMode::Native, "{attached:?}");
    let programs = known("programs", &survey.programs)?;
    let program = programs.iter().find(|program| program.id == attached[0].program);
    let holders = &program.ok_or("the program is not listed")?.processes;
    let holders: Vec<String> = holders.iter().map(|process| process.pid.to_string()).collect();
    same("who holds the program", &holders, &vec![server.pid()])?;
    let links = known("queues", &device.queue_links)?;
    let with_socket =
        |link: &&QueueLink| link.direction == Direction::Rx && link.has_xsk == Some(true);
    same("queues with a socket", &links.iter().filter(with_socket).count(), &QUEUES)?;
    let sockets = known("sockets", &survey.sockets)?;
    same("sockets", &sockets.len(), &QUEUES)?;
    for (queue, socket) in (0..).zip(sockets) {
        println!("  {socket:?}");
        same("zero-copy", &socket.zerocopy, &Some(true))?;
        same("device", &socket.device.as_ref(), &nic.index.known())?;
        same("queue", &socket.queue, &Some(queue))?;
        let process = socket.process.as_ref().ok_or("whose socket?")?;
        same("process", &process.pid.to_string(), &server.pid())?;
        let worker = socket.workers.iter().find(|worker| worker.queue == Some(queue));
        let worker = worker.ok_or_else(|| format!("no worker of queue {queue}"))?;
        let row = server.queues.iter().find(|row| row.queue == queue).ok_or("no row")?;
        same("CPU of the worker", &worker.cpus.first().copied(), &row.cpu)?;
    }
    let again = Survey::read(&Source::records(recorder.records()));
    ensure!(again == survey, "what was recorded is not what was seen");
    Ok(())
}
