use super::*;
use crate::topology::plan::{Plan, PlanRequest, Setting, make};
use crate::topology::rig::Rig;
use crate::topology::survey::device::{Process, XskSocket};
use crate::topology::survey::host::Capabilities;
use crate::topology::{Reading, plan};
use std::collections::BTreeMap;

/// A device that does what it is told, and like a real one forgets much when its channels change:
/// queues, interrupts and NAPIs are new ones then.
struct Fake {
    survey: Survey,
    rig: Rig,
    resets: u32,
    /// Words of writes that are refused.
    refuses: Vec<&'static str>,
    /// Words of writes that are taken and have no effect.
    ignores: Vec<&'static str>,
    written: Vec<Write>,
}

impl Fake {
    fn new(rig: Rig) -> Self {
        let survey = rig.survey();
        let (refuses, ignores, written) = (Vec::new(), Vec::new(), Vec::new());
        Self { survey, rig, resets: 0, refuses, ignores, written }
    }

    fn reset(&mut self, queues: u32) {
        self.resets += 1;
        self.rig.queues = queues;
        let old = self.survey.devices[0].clone();
        self.survey = self.rig.survey();
        for irq in self.survey.machine.nics[0].irqs.iter_mut() {
            irq.number += 1000 * self.resets;
        }
        for queue in &mut self.survey.machine.nics[0].queues {
            if let Reading::Known(irq) = &mut queue.irq {
                irq.number += 1000 * self.resets;
            }
        }
        let device = &mut self.survey.devices[0];
        (device.features, device.rings, device.coalesce) = (old.features, old.rings, old.coalesce);
        device.hash_fields = old.hash_fields;
    }

    fn table(&self) -> Vec<u32> {
        self.survey.devices[0].rss.known().unwrap()[0].table.clone()
    }

    fn channels(&mut self, numbers: &BTreeMap<String, u64>) -> Result<(), String> {
        let queues = numbers["combined"] as u32;
        if self.table().iter().any(|queue| *queue >= queues) {
            return Err("requested channel counts are too low for the indirection table".to_owned());
        }
        self.reset(queues);
        Ok(())
    }

    fn file(&mut self, path: &str, text: &str) -> Result<(), String> {
        let parts: Vec<&str> = path.split('/').collect();
        let device = &mut self.survey.devices[0];
        let queue = |part: &str| part[3..].parse::<usize>().unwrap();
        let mask = |text: &str| {
            let bits = u32::from_str_radix(text, 16).unwrap();
            Reading::Known((0..32).filter(|bit| bits >> bit & 1 == 1).collect())
        };
        match parts[..] {
            [.., queues, "rps_cpus"] => device.rps[queue(queues)].cpus = mask(text),
            [.., queues, "rps_flow_cnt"] => {
                device.rps[queue(queues)].flow_entries = Reading::Known(text.parse().unwrap());
            }
            [.., queues, "xps_cpus"] => device.xps[queue(queues)].cpus = mask(text),
            [.., "threaded"] => device.threaded = Reading::Known(text.parse().unwrap()),
            [.., number, "smp_affinity_list"] => {
                let number: u32 = number.parse().unwrap();
                let cpus = crate::topology::list::parse(text).unwrap();
                let queues = self.survey.machine.nics[0].queues.iter_mut();
                let mut irqs = queues.filter_map(|queue| match &mut queue.irq {
                    Reading::Known(irq) => Some(irq),
                    Reading::Unknown(_) => None,
                });
                let irq = irqs.find(|irq| irq.number == number).ok_or("no such interrupt")?;
                irq.permitted_cpus = Reading::Known(cpus);
            }
            _ => return Err(format!("{path} is not there")),
        }
        Ok(())
    }

    fn take(&mut self, write: &Write) -> Result<(), String> {
        let queues = self.rig.queues;
        let device = &mut self.survey.devices[0];
        fn known<T>(reading: &mut Reading<T>) -> &mut T {
            match reading {
                Reading::Known(value) => value,
                Reading::Unknown(reason) => panic!("{reason}"),
            }
        }
        let number = |value: Option<&u64>| value.map(|value| *value as u32);
        match write {
            Write::File { path, text } => return self.file(path, text),
            Write::Channels(numbers) => return self.channels(numbers),
            Write::Feature { name, on } => {
                known(&mut device.features).get_mut(name).unwrap().active = *on;
            }
            Write::Rings(numbers) => {
                let rings = known(&mut device.rings);
                rings.rx.0 = number(numbers.get("rx")).unwrap_or(rings.rx.0);
                rings.tx.0 = number(numbers.get("tx")).unwrap_or(rings.tx.0);
            }
            Write::Coalesce(numbers) => {
                let coalesce = known(&mut device.coalesce);
                coalesce.rx_usecs = number(numbers.get("rx-usecs")).or(coalesce.rx_usecs);
                if let Some(on) = numbers.get("adaptive-rx") {
                    coalesce.adaptive_rx = Some(*on != 0);
                }
            }
            Write::Key(key) => known(&mut device.rss)[0].key = key.clone(),
            Write::Table(table) => {
                let default = || (0..128).map(|slot| slot % queues).collect();
                known(&mut device.rss)[0].table = table.clone().unwrap_or_else(default);
            }
            Write::Fields { flow, letters } => {
                for field in known(&mut device.hash_fields).iter_mut().filter(|f| f.flow == *flow) {
                    field.letters = letters.clone();
                }
            }
            Write::Napi { id, numbers } => {
                let napi = known(&mut device.napis).iter_mut().find(|napi| napi.id == *id).unwrap();
                napi.defer_hard_irqs =
                    number(numbers.get("defer-hard-irqs")).or(napi.defer_hard_irqs);
                let flush = numbers.get("gro-flush-timeout-ns").copied();
                napi.gro_flush_timeout_ns = flush.or(napi.gro_flush_timeout_ns);
                if let Some(&threaded) = numbers.get("threaded") {
                    (napi.threaded, napi.busy_polls) = (Some(threaded > 0), Some(threaded == 2));
                }
            }
        }
        Ok(())
    }
}

impl Hardware for Fake {
    fn look(&self) -> Survey {
        self.survey.clone()
    }

    fn write(&mut self, write: &Write) -> Result<(), String> {
        super::write::permitted(&self.survey, "eth0", write)?;
        self.written.push(write.clone());
        let text = format!("{write:?}");
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if has(&self.refuses) {
            return Err("Device or resource busy".to_owned());
        }
        if has(&self.ignores) { Ok(()) } else { self.take(write) }
    }
}

fn plan_for(rig: &Rig) -> Plan {
    let request = PlanRequest { device: "eth0".to_owned(), ..PlanRequest::default() };
    make(&rig.survey(), &request).unwrap()
}

fn outcome(report: &[LineReport], setting: &str) -> Outcome {
    let setting: Setting = setting.parse().unwrap();
    report.iter().find(|line| line.setting == setting).unwrap().outcome.clone()
}

fn all_good(report: &[LineReport]) -> bool {
    report.iter().all(|line| line.outcome.is_good())
}

/// Writes, and what a snapshot taken before it says.
fn apply(fake: &mut Fake, plan: &Plan) -> (Snapshot, Vec<LineReport>) {
    let snapshot = Snapshot::take(&fake.look(), plan, "apply", 0);
    (snapshot, run(fake, plan))
}

fn undo(fake: &mut Fake, snapshot: &Snapshot, after: Option<&BTreeMap<String, String>>) -> bool {
    let (way, lost) = snapshot.way_back(&fake.look(), after);
    assert!(lost.is_empty(), "{lost:?}");
    all_good(&run(fake, &way))
}

#[test]
fn a_plan_is_written_and_put_back() {
    for queues in [2, 4, 8] {
        let rig = Rig { queues, ..Rig::default() };
        let mut fake = Fake::new(rig.clone());
        let plan = plan_for(&rig);
        let (snapshot, report) = apply(&mut fake, &plan);
        assert!(all_good(&report), "{queues} queues: {report:#?}");
        assert_eq!(outcome(&report, "rss.udp6"), Outcome::Already);
        assert_eq!(outcome(&report, "irq.rx-3"), Outcome::Done);
        assert!(run(&mut fake, &plan).iter().all(|line| line.outcome == Outcome::Already));
        let there = values(&fake);
        for after in [None, Some(&there)] {
            let redo = Snapshot::take(&fake.look(), &plan, "undo", 0);
            assert!(undo(&mut fake, &snapshot, after), "{queues} queues");
            assert_eq!(values(&fake), snapshot.values, "{queues} queues: all as it was");
            assert!(undo(&mut fake, &redo, None), "an undo is undone");
            assert_eq!(values(&fake), redo.values);
        }
    }
}

fn values(fake: &Fake) -> BTreeMap<String, String> {
    super::snapshot::values(&fake.survey, "eth0")
}

#[test]
fn the_table_makes_room_for_fewer_queues() {
    let mut fake = Fake::new(Rig::default());
    let plan = plan_for(&Rig::default());
    assert!(all_good(&run(&mut fake, &plan)));
    let position = |kind: &str| {
        fake.written.iter().position(|write| format!("{write:?}").starts_with(kind)).unwrap()
    };
    assert!(position("Table") < position("Channels"), "{:?}", fake.written);
    assert!(position("Channels") < position("File"));
    assert_eq!(fake.survey.machine.nics[0].queues.len(), 4);
    // Interrupts have new numbers after the reset, and those were written.
    let irqs: Vec<&Write> = fake
        .written
        .iter()
        .filter(|write| format!("{write:?}").contains("/proc/irq/110"))
        .collect();
    assert_eq!(irqs.len(), 4, "{:?}", fake.written);
}

#[test]
fn what_is_refused_keeps_nothing_else_back() {
    let mut fake = Fake::new(Rig::default());
    fake.refuses = vec!["Rings", "udp4", "Udp4", "/proc/irq/1101/"];
    fake.ignores = vec!["Coalesce"];
    let report = run(&mut fake, &plan_for(&Rig::default()));
    let busy = Outcome::Refused("Device or resource busy".to_owned());
    for setting in ["queues.rings", "rss.udp4", "irq.rx-1"] {
        assert_eq!(outcome(&report, setting), busy, "{setting}");
    }
    assert_eq!(outcome(&report, "queues.coalesce"), Outcome::Differs);
    for setting in ["queues.channels", "irq.rx-0", "irq.rx-2", "xps.tx-3", "napi.rx-3"] {
        assert!(outcome(&report, setting).is_good(), "{setting}");
    }
    let tries = fake.written.iter().filter(|write| matches!(write, Write::Rings(_))).count();
    assert_eq!(tries, 1, "a refusal is an answer");
}

#[test]
fn lines_that_stand_on_queues_that_did_not_come_are_not_tried() {
    let rig = Rig { queues: 2, ..Rig::default() };
    let mut fake = Fake::new(rig.clone());
    fake.refuses = vec!["Channels"];
    let report = run(&mut fake, &plan_for(&rig));
    for setting in ["irq.rx-3", "rps.rx-3", "xps.tx-3", "napi.rx-3", "rss.table"] {
        let Outcome::NotTried(reason) = outcome(&report, setting) else {
            panic!("{setting}: {:?}", outcome(&report, setting))
        };
        assert!(reason.contains("queue 3"), "{setting}: {reason}");
    }
    assert_eq!(outcome(&report, "irq.rx-1"), Outcome::Done);
}

#[test]
fn what_cannot_be_read_is_not_written() {
    let plan = plan_for(&Rig::default());
    let mut fake = Fake::new(Rig::default());
    fake.survey.devices[0].rings = Reading::Unknown("no answer".to_owned());
    let (snapshot, report) = apply(&mut fake, &plan);
    let Outcome::NotTried(reason) = outcome(&report, "queues.rings") else { panic!() };
    assert!(reason.contains("no answer") && reason.contains("could not be restored"), "{reason}");
    assert_eq!(snapshot.unknown["queues.rings"], "no answer");
    assert!(!fake.written.iter().any(|write| matches!(write, Write::Rings(_))));
}

#[test]
fn a_value_that_a_reset_takes_back_is_written_again() {
    let mut plan = plan_for(&Rig::default());
    // As a person may order it: the reset comes after what it takes.
    plan.lines.reverse();
    let mut fake = Fake::new(Rig::default());
    let report = run(&mut fake, &plan);
    assert!(all_good(&report), "{report:#?}");
}

#[test]
fn what_the_operator_set_since_stays() {
    let by_hand = "version = 1\ndevice.name = \"eth0\"\n\
                   [rss]\nudp6 = { new = \"sd\" }\n\
                   [features]\nrx-checksum = { new = false }\n";
    let by_hand = Plan::from_toml(by_hand).unwrap();
    // Without the values after it was applied, our values and the operator's cannot be told apart.
    for (knows_after, checksum) in [(true, "off"), (false, "on")] {
        let mut fake = Fake::new(Rig::default());
        let (snapshot, _) = apply(&mut fake, &plan_for(&Rig::default()));
        let after = values(&fake);
        assert!(all_good(&run(&mut fake, &by_hand)));
        assert!(undo(&mut fake, &snapshot, knows_after.then_some(&after)));
        let now = values(&fake);
        assert_eq!(now["rss.udp6"], "sdfn", "a line of the plan goes back");
        assert_eq!(now["features.rx-checksum"], checksum, "known: {knows_after}");
    }
}

#[test]
fn another_device_is_refused() {
    let plan = plan_for(&Rig::default());
    let mut survey = Rig::default().survey();
    assert_eq!(check(&survey, &plan), Ok(()));
    survey.machine.nics[0].bus = Reading::Known("0000:18:00.0".to_owned());
    let refusal = check(&survey, &plan).unwrap_err().to_string();
    assert!(refusal.contains("0000:18:00.0") && refusal.contains("0000:17:00.0"), "{refusal}");
    let mut gone = Rig::default().survey();
    gone.machine.nics.clear();
    gone.devices.clear();
    assert_eq!(check(&gone, &plan), Err(Refusal::NoDevice("eth0".to_owned())));
}

#[test]
fn a_capability_that_is_missing_is_named() {
    let mut survey = Rig::default().survey();
    survey.host.capabilities = Reading::Known(Capabilities::default());
    let refusal = check(&survey, &plan_for(&Rig::default())).unwrap_err();
    assert!(refusal.to_string().contains("CAP_NET_ADMIN"), "{refusal}");
}

#[test]
fn a_queue_in_use_does_not_vanish() {
    let plan = plan_for(&Rig::default());
    let mut survey = Rig::default().survey();
    let mut socket = XskSocket {
        inode: 7,
        process: Some(Process { pid: 812, name: "quiclane".to_owned() }),
        workers: Vec::new(),
        device: Some(2),
        queue: Some(3),
        zerocopy: None,
        rx_ring: None,
        tx_ring: None,
        counters: None,
    };
    survey.sockets = Reading::Known(vec![socket.clone()]);
    assert_eq!(check(&survey, &plan), Ok(()), "queue 3 of 4 stays");
    socket.queue = Some(4);
    survey.sockets = Reading::Known(vec![socket.clone()]);
    let refusal = check(&survey, &plan).unwrap_err().to_string();
    assert!(refusal.contains("queue 4") && refusal.contains("pid 812"), "{refusal}");
    // A dry run without privileges gets the same errors.
    let able =
        std::mem::replace(&mut survey.host.capabilities, Reading::Known(Capabilities::default()));
    assert_eq!(check(&survey, &plan).unwrap_err().to_string(), refusal);
    survey.host.capabilities = able;
    socket.device = Some(3);
    survey.sockets = Reading::Known(vec![socket]);
    assert_eq!(check(&survey, &plan), Ok(()), "of another device");
    survey.sockets = Reading::Unknown("no XDP_SOCKETS_DIAG".to_owned());
    if let Reading::Known(links) = &mut survey.devices[0].queue_links {
        links[6].has_xsk = Some(true);
    }
    let refusal = check(&survey, &plan).unwrap_err().to_string();
    assert!(refusal.contains("queue 6"), "{refusal}");
}

#[test]
fn a_way_back_leaves_queues_in_use_alone_and_takes_the_rest() {
    let mut survey = Rig::default().survey();
    let mut plan = plan_for(&Rig::default());
    let lines = plan.lines.len();
    assert_eq!(spare_queues_in_use(&survey, &mut plan), None);
    assert_eq!(plan.lines.len(), lines);
    if let Reading::Known(links) = &mut survey.devices[0].queue_links {
        links[6].has_xsk = Some(true);
    }
    let lost = spare_queues_in_use(&survey, &mut plan).unwrap();
    assert_eq!(lost.setting, "queues.channels");
    assert!(lost.reason.contains("queue 6"), "{}", lost.reason);
    assert_eq!(plan.lines.len(), lines - 1);
    assert_eq!(check(&survey, &plan), Ok(()));
}

#[test]
fn what_drifted_since_the_plan_is_told() {
    let plan = plan_for(&Rig::default());
    let mut survey = Rig::default().survey();
    assert_eq!(drift(&survey, &plan), []);
    survey.devices[0].threaded = Reading::Known(1);
    let drift = drift(&survey, &plan);
    assert_eq!(drift.len(), 1);
    assert_eq!(drift[0].setting, Setting::Threaded);
    assert_eq!(
        (drift[0].planned.to_string(), drift[0].found.to_string()),
        ("0".into(), "1".into())
    );
}

struct Directory(std::path::PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let name = format!("quiclane-store-{name}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn snapshots_are_kept_and_found() {
    let directory = Directory::new("kept");
    let places = ["/proc/nowhere".into(), directory.0.clone()];
    let store = Store::create(&places).unwrap();
    assert_eq!(store.root(), directory.0, "the first place that can be written to");
    let plan = plan_for(&Rig::default());
    let survey = Rig::default().survey();
    let keep = |time| {
        let mut snapshot = Snapshot::take(&survey, &plan, "apply", time);
        store.keep(&mut snapshot).unwrap();
        snapshot
    };
    let (first, second, earlier) = (keep(1_000_000_000), keep(1_000_000_000), keep(5));
    assert_eq!(first.id, "20010909-014640-eth0");
    assert_eq!(second.id, "20010909-014640-eth0.2");
    assert_eq!(store.list(), [earlier, first.clone(), second]);
    assert_eq!(store.load(&first.id).unwrap(), first);
    assert!(store.marked(&first.id, Mark::Confirmed).is_none());
    store.mark(&first.id, Mark::Confirmed, "yes").unwrap();
    assert_eq!(store.marked(&first.id, Mark::Confirmed).as_deref(), Some("yes"));
    std::fs::write(directory.0.join(&first.id).join("snapshot.json"), "{").unwrap();
    assert!(store.load(&first.id).is_err());
    assert_eq!(store.list().len(), 2, "one that cannot be read hides no other");
}

#[test]
fn a_snapshot_waits_as_long_as_a_process_would_put_it_back() {
    let directory = Directory::new("pending");
    let store = Store::create(std::slice::from_ref(&directory.0)).unwrap();
    let plan = plan_for(&Rig::default());
    let mut snapshot = Snapshot::take(&Rig::default().survey(), &plan, "apply", 7);
    store.keep(&mut snapshot).unwrap();
    store.set_deadline(&snapshot.id, 67).unwrap();
    assert_eq!(store.pending(&snapshot.id), None, "no process waits");
    let reverter = store.become_reverter(&snapshot.id).unwrap();
    assert!(store.become_reverter(&snapshot.id).is_err(), "one is enough");
    assert_eq!(store.pending(&snapshot.id), Some(Pending { deadline_unix_s: 67 }));
    drop(reverter);
    assert_eq!(store.pending(&snapshot.id), None, "it died");
    let _reverter = store.become_reverter(&snapshot.id).unwrap();
    store.mark(&snapshot.id, Mark::Confirmed, "").unwrap();
    assert_eq!(store.pending(&snapshot.id), None);
    let held = store.lock("eth0").unwrap();
    assert!(store.try_lock("eth0").unwrap().is_none());
    drop(held);
    assert!(store.try_lock("eth0").unwrap().is_some());
}

#[test]
fn the_file_of_a_plan_says_what_it_does() {
    let text = plan_for(&Rig::default()).to_toml();
    let read = plan::Plan::from_toml(&text).unwrap();
    let mut fake = Fake::new(Rig::default());
    assert!(all_good(&run(&mut fake, &read)));
}
