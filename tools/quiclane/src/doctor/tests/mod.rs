//! Every finding is tried on a machine that has it, and on one that does not.

mod triggers;

use super::finding::{Report, Severity};
use super::render::{Page, explanation, text};
use super::{checks, devices, judge};
use quiclane::topology::survey::Survey;
use quiclane::topology::{Record, Source};
use quiclane_fixtures::{Tree, two_node_ice};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use triggers::{TRIGGERS, driven_by, switch, switch_fixed};

fn survey(tree: &Tree) -> Survey {
    use quiclane_fixtures::Entry;
    let record = |(path, entry): (&str, &Entry)| {
        let record = match entry {
            Entry::File(text) => Record::File(text.clone()),
            Entry::Link(target) => Record::Link(PathBuf::from(target)),
            Entry::Directory => Record::Directory,
        };
        (PathBuf::from("/").join(path), record)
    };
    Survey::read(&Source::records(tree.entries().map(record).collect()))
}

fn examined(tree: &Tree, device: &str) -> Report {
    let survey = survey(tree);
    assert!(survey.device(device).is_some(), "the machine has no {device}");
    judge(&survey, None, &[device.to_owned()], &checks::all())
}

fn ids(report: &Report) -> Vec<&'static str> {
    report.findings.iter().map(|finding| finding.id).collect()
}

#[test]
fn a_machine_that_is_well_has_no_findings_and_no_gaps() {
    let survey = survey(&two_node_ice());
    let devices = devices(&survey);
    assert_eq!(devices, ["eth0", "eth1"]);
    let report = judge(&survey, None, &devices, &checks::all());
    assert_eq!(report.findings, [], "{:#?}", ids(&report));
    assert_eq!(report.not_judged, []);
    assert!(report.judged >= 2 * 60, "{}", report.judged);
}

#[test]
fn every_finding_is_found_where_it_is_and_not_where_it_is_not() {
    let mut missing: BTreeSet<&str> = checks::all().iter().map(|kind| kind.id).collect();
    for trigger in TRIGGERS {
        let mut tree = (trigger.machine)();
        (trigger.breaks)(&mut tree);
        let report = examined(&tree, trigger.device);
        let found = report.findings.iter().find(|finding| finding.id == trigger.id);
        let found = found.unwrap_or_else(|| {
            let gap = report.not_judged.iter().find(|gap| gap.id == trigger.id);
            panic!("{} is not found: {gap:?}; found are {:?}", trigger.id, ids(&report))
        });
        assert!(found.says.contains(trigger.says), "{}: {}", found.id, found.says);
        assert!(!found.read.is_empty(), "{} does not say what was read", found.id);
        assert!(!found.mend.contains("DEV"), "{}: {}", found.id, found.mend);
        missing.remove(trigger.id);
        // Without it, it is the machine that has neither findings nor gaps.
        let Some(mends) = trigger.mends else { continue };
        let mut well = (trigger.machine)();
        mends(&mut well);
        let report = examined(&well, trigger.device);
        assert!(!ids(&report).contains(&trigger.id), "{} is found in health", trigger.id);
        let is_judged = !report.not_judged.iter().any(|gap| gap.id == trigger.id);
        assert!(is_judged, "{} is not judged in health", trigger.id);
    }
    assert!(missing.is_empty(), "findings without a trigger: {missing:?}");
}

#[test]
fn what_cannot_be_switched_off_is_not_told_to_be() {
    for (feature, id) in [("rx-gro-hw", "QL032"), ("rx-lro", "QL033")] {
        let mend = |breaks: fn(&mut Tree, &str)| {
            let mut tree = two_node_ice();
            breaks(&mut tree, feature);
            let report = examined(&tree, "eth0");
            report.findings.into_iter().find(|finding| finding.id == id).unwrap().mend
        };
        assert!(mend(switch).starts_with("ethtool -K eth0 "), "{}", mend(switch));
        assert_eq!(mend(switch_fixed), "quiclane serve --io udp");
    }
}

/// A server with the capabilities of the README, but without CAP_PERFMON, has a program without a
/// name.
#[test]
fn a_server_of_ours_is_not_told_to_be_killed() {
    let found = |breaks: &dyn Fn(&mut serde_json::Value), is_told: bool| {
        let mut tree = two_node_ice();
        tree.edit_answer("programs", |programs| {
            programs[0]["name"] = "".into();
            breaks(&mut programs[0]);
        });
        if !is_told {
            tree.remove("run/quiclane");
        }
        ids(&examined(&tree, "eth0")).contains(&"QL040")
    };
    let map = |name: &str| serde_json::json!({"id": 9, "name": name, "kind": "hash", "max_entries": 1, "queues": null});
    let ours = |program: &mut serde_json::Value| {
        program["maps"] =
            ["xsks", "ports_v4", "ports_v6", "verdicts"].map(map).into_iter().collect();
    };
    let foreign = |program: &mut serde_json::Value| program["maps"] = serde_json::json!([]);
    assert!(!found(&ours, false), "the maps tell");
    assert!(!found(&foreign, true), "the server describes itself");
    assert!(found(&foreign, false), "nothing tells that it is ours");
}

/// One cause is found once, under the kind that has the remedy.
#[test]
fn a_cause_is_found_once() {
    let mut tree = two_node_ice();
    tree.edit_answer("sockets", |all| {
        all[3]["counters"]["fill_ring_empty"] = 2_835.into();
        all[3]["counters"]["rx_dropped"] = 2_835.into();
    });
    let found = ids(&examined(&tree, "eth0"));
    assert!(found.contains(&"QL052") && !found.contains(&"QL053"), "{found:?}");
    // A veth's driver has native XDP: only the number of queues prevents it.
    let mut tree = quiclane_fixtures::veth();
    tree.edit_answer("device/veth0/xdp_support", |it| it["features"] = serde_json::json!([]));
    let report = examined(&tree, "veth0");
    let found = ids(&report);
    assert!(found.contains(&"QL068") && !found.contains(&"QL039"), "{found:?}");
}

#[test]
fn what_this_program_needs_is_said_in_one_way() {
    let readme = include_str!("../../../../../README.md");
    let words = readme.split_whitespace().collect::<Vec<_>>().join(" ");
    let [others @ .., last] = quiclane::datapath::xdp::CAPABILITIES;
    let list = format!("{} and {last}", others.join(", "));
    assert!(words.contains(&list), "the README does not name {list}");
    let mut tree = two_node_ice();
    tree.set("proc/self/status", "Name:\tquiclane\nCapEff:\t0000000000000000");
    let report = examined(&tree, "eth0");
    let mend = &report.findings.iter().find(|it| it.id == "QL094").unwrap().mend;
    let program = std::env::current_exe().unwrap().display().to_string();
    assert!(mend.contains("cap_ipc_lock") && mend.ends_with(&program), "{mend}");
}

/// Only the first network namespace shows the switch.
#[test]
fn a_compiler_that_cannot_be_switched_off_is_on() {
    let mut tree = two_node_ice();
    tree.remove("proc/sys/net/core/bpf_jit_enable");
    let always = |tree: &mut Tree, is_on: bool| {
        tree.edit_answer("kernel_options", |options| {
            let options = options.as_array_mut().unwrap();
            options.retain(|option| option[0] != "CONFIG_BPF_JIT_ALWAYS_ON");
            if is_on {
                options.push(serde_json::json!(["CONFIG_BPF_JIT_ALWAYS_ON", "y"]));
            }
        });
    };
    always(&mut tree, false);
    let gap = |tree: &Tree| {
        let report = examined(tree, "eth0");
        report.not_judged.into_iter().find(|it| it.id == "QL091").map(|it| it.reason)
    };
    assert!(gap(&tree).unwrap().contains("first network namespace"), "{:?}", gap(&tree));
    always(&mut tree, true);
    assert_eq!(gap(&tree), None);
}

#[test]
fn virtio_switches_its_merging_off_by_itself() {
    let found = |breaks: fn(&mut Tree, &str)| {
        let mut tree = two_node_ice();
        breaks(&mut tree, "rx-gro-hw");
        driven_by(&mut tree, "virtio_net");
        ids(&examined(&tree, "eth0")).contains(&"QL032")
    };
    assert!(!found(switch) && found(switch_fixed));
}

#[test]
fn what_is_not_answered_is_not_judged() {
    // Neither the kernel nor a Quiclane server reports anything: only sysfs and procfs are left.
    let mut tree = two_node_ice();
    tree.remove("quiclane/answers").remove("run/quiclane");
    let report = examined(&tree, "eth0");
    assert_eq!(report.findings, [], "{:?}", ids(&report));
    let gaps: BTreeSet<&str> = report.not_judged.iter().map(|gap| gap.id).collect();
    let judged: Vec<&str> =
        checks::all().iter().map(|kind| kind.id).filter(|id| !gaps.contains(id)).collect();
    let from_files = [
        "QL010", "QL011", "QL020", "QL021", "QL022", "QL024", "QL026", "QL035", "QL045", "QL050",
        "QL055", "QL056", "QL060", "QL061", "QL062", "QL063", "QL064", "QL065", "QL066", "QL068",
        "QL069", "QL070", "QL071", "QL072", "QL080", "QL081", "QL082", "QL091", "QL094",
    ];
    let unexpected: Vec<_> = judged.iter().filter(|id| !from_files.contains(id)).collect();
    assert!(unexpected.is_empty(), "judged without an answer: {unexpected:?}");
    assert!(report.not_judged.iter().all(|gap| !gap.reason.is_empty()));
}

#[test]
fn files_that_cannot_be_read_are_not_judged() {
    let mut tree = two_node_ice();
    for path in [
        "sys/class/net/eth0/mtu",
        "sys/class/net/eth0/gro_flush_timeout",
        "proc/net/softnet_stat",
        "proc/sys/net/core/bpf_jit_enable",
        "proc/self/status",
        "sys/devices/system/cpu/cpu3/cpufreq",
        "sys/devices/system/cpu/cpu3/cpuidle",
        "proc/irq/121/effective_affinity_list",
        "sys/class/net/eth0/queues/rx-2/rps_cpus",
        "sys/class/net/eth0/queues/tx-2/xps_cpus",
    ] {
        tree.remove(path);
    }
    let report = examined(&tree, "eth0");
    let gaps: Vec<&str> = report.not_judged.iter().map(|gap| gap.id).collect();
    for id in [
        "QL010", "QL011", "QL013", "QL018", "QL020", "QL022", "QL024", "QL025", "QL026", "QL035",
        "QL055", "QL056", "QL071", "QL080", "QL081", "QL094",
    ] {
        assert!(gaps.contains(&id), "{id} is judged without its file");
    }
    assert_eq!(report.findings, []);
}

/// Where a soft worker runs is known by node, and not by CPU.
#[test]
fn a_soft_worker_is_on_a_node_and_on_no_cpu() {
    let with = |soft: &[u32]| {
        let mut tree = two_node_ice();
        tree.edit("run/quiclane/812.json", |text| {
            let mut server: Value = serde_json::from_str(text).unwrap();
            // The second worker starts on the CPU of the first, the fourth on a sibling of the third.
            for (queue, cpu) in [(0, 0), (1, 0), (2, 2), (3, 34)] {
                let worker = &mut server["workers"][queue];
                worker["cpu"] = cpu.into();
                worker["soft_cpus"] = soft.into();
                worker["crowded"] = 3.into();
                worker["unmet"] = "why; do this".into();
            }
            server.to_string()
        });
        examined(&tree, "eth0")
    };
    let hard = with(&[]);
    for id in ["QL013", "QL014", "QL017"] {
        assert!(ids(&hard).contains(&id), "{id}: {:?}", ids(&hard));
    }
    let node: Vec<u32> = (0..16).chain(32..48).collect();
    let soft = with(&node);
    assert_eq!(ids(&soft), ["QL019", "QL059"]);
    assert_eq!(soft.not_judged, []);
    let told = &soft.findings[0].read[3].what;
    assert!(told.starts_with("queue 3, starts on cpu 34:"), "{told}");
    let crowded = &soft.findings[1].says;
    assert!(crowded.contains("the CPU of queues 0-3"), "{crowded}");
    // All of another node's.
    let far = with(&(16..32).collect::<Vec<_>>());
    let far = far.findings.iter().find(|finding| finding.id == "QL016").unwrap();
    assert!(far.says.starts_with("4 workers not on node 0"), "{}", far.says);
}

/// An affinity that was set takes effect with the next interrupt. Both CPUs are named until then.
#[test]
fn an_interrupt_that_will_move_is_shown_with_both_cpus() {
    let read = |set: &str| {
        let mut tree = two_node_ice();
        tree.set("proc/irq/121/effective_affinity_list", "16");
        tree.set("proc/irq/121/smp_affinity_list", set);
        let report = examined(&tree, "eth0");
        let found = report.findings.into_iter().find(|finding| finding.id == "QL010").unwrap();
        found.read[0].what.clone()
    };
    let moves = read("0-1");
    assert!(moves.contains("cpu 16 (from the next interrupt on cpus 0-1) of node 1"), "{moves}");
    let stays = read("0-31");
    assert!(stays.contains(": cpu 16 of node 1"), "{stays}");
}

#[test]
fn a_watched_counter_is_judged_by_what_it_rose() {
    let count = |full: u64, drops: u64, wrong: u64| {
        let mut tree = two_node_ice();
        tree.edit_answer("sockets", |sockets| {
            sockets[0]["counters"]["tx_ring_empty"] = 6.into();
            sockets[0]["counters"]["rx_ring_full"] = full.into();
        });
        tree.edit_answer("device/eth0/queue_counters", |counters| {
            counters[0]["packets"] = 5.into();
            counters[0]["hw_drops"] = drops.into();
        });
        triggers::server_with(&mut tree, |worker| {
            worker["wrong_queue"] = wrong.into();
            worker["wrong_queue_recent"] = 1.into();
        });
        survey(&tree)
    };
    let watched = |before: &Survey, after: &Survey| {
        let report = judge(after, Some(before), &["eth0".to_owned()], &checks::all());
        let line = |id| report.findings.iter().find(|it| it.id == id).map(|it| it.says.clone());
        (line("QL050"), line("QL051"), line("QL054"))
    };
    let (old, new) = (count(100, 50, 7), count(130, 51, 9));
    assert_eq!(watched(&old, &old), (None, None, None));
    let (wrong, full, drops) = watched(&old, &new);
    assert_eq!(wrong.unwrap(), "2 packets on queue 0 are of other workers, while watched");
    assert_eq!(full.unwrap(), "rx_ring_full is 30 on 1 socket while watched");
    assert_eq!(drops.unwrap(), "the NIC dropped 1 packet while watched");
}

#[test]
fn kinds_are_complete_and_their_ids_are_for_ever() {
    let kinds = checks::all();
    assert!(kinds.len() >= 60, "{}", kinds.len());
    let ids: BTreeSet<&str> = kinds.iter().map(|kind| kind.id).collect();
    assert_eq!(ids.len(), kinds.len(), "an id is given twice");
    for kind in kinds {
        let number = kind.id.strip_prefix("QL").unwrap();
        assert!(number.len() == 3 && number.parse::<u32>().is_ok(), "{}", kind.id);
        for text in [kind.title, kind.reads, kind.why, kind.mend, kind.afterwards] {
            assert!(!text.is_empty() && !text.contains("  "), "{}: {text:?}", kind.id);
        }
        assert!(kind.why.ends_with('.'), "{}", kind.id);
    }
}

#[test]
fn lines_are_sorted_aligned_and_folded() {
    let mut tree = two_node_ice();
    tree.answer("irqbalance", 733).set("sys/class/net/eth0/mtu", "9000");
    tree.refuse("device/eth0/rings", "no").refuse("device/eth0/rules", "no");
    let report = examined(&tree, "eth0");
    let wide = text(&report, Page { columns: None, color: false });
    let lines: Vec<&str> = wide.lines().collect();
    assert_eq!(
        lines[..2],
        [
            "ERROR QL035 MTU 9000: a frame of 4096 bytes holds 3818 >>> ip link set eth0 mtu 1500",
            "WARN  QL012 irqbalance may move 17 IRQs                >>> systemctl disable --now \
             irqbalance && quiclane plan eth0",
        ]
    );
    assert_eq!(lines[3..6], ["not judged", "  QL007 QL030 QL031", "      no"]);
    assert!(lines[7].starts_with("eth0: 1 error, 1 warning; "), "{wide}");
    let narrow = text(&report, Page { columns: Some(60), color: false });
    assert!(narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");
    assert!(narrow.contains("\n            >>> systemctl"), "{narrow}");
    let color = text(&report, Page { columns: None, color: true });
    assert!(color.contains("\x1b[1;31mERROR\x1b[0m QL035"), "{color}");
}

#[test]
fn an_explanation_has_all_texts_and_what_is_so_here() {
    let mut tree = two_node_ice();
    tree.answer("irqbalance", 733);
    let survey = survey(&tree);
    let kind = checks::all().into_iter().find(|kind| kind.id == "QL012").unwrap();
    let report = judge(&survey, None, &["eth0".to_owned()], &[kind]);
    let text = explanation(kind, &report, Page { columns: Some(80), color: false });
    for part in ["QL012 WARN", "Read", "Why", "Mend", "Afterwards", "/proc/733/comm", "17 IRQs"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn the_worst_comes_first() {
    let mut tree = two_node_ice();
    tree.answer("irqbalance", 733).set("sys/class/net/eth0/mtu", "9000");
    tree.edit_answer("device/eth0/coalesce", |coalesce| coalesce["rx_usecs"] = 500.into());
    let report = examined(&tree, "eth0");
    let severities: Vec<Severity> = report.findings.iter().map(|it| it.severity).collect();
    assert_eq!(severities, [Severity::Error, Severity::Warn, Severity::Note]);
}

#[test]
fn devices_of_interest_are_physical_or_have_xdp() {
    let mut tree = two_node_ice();
    tree.edit_answer("device/eth1/link", |link| link["is_up"] = false.into());
    assert_eq!(devices(&survey(&tree)), ["eth0"]);
    tree.edit_answer("device/lo/attached", |attached| {
        *attached = serde_json::json!([{"mode": "generic", "program": 198}]);
    });
    assert_eq!(devices(&survey(&tree)), ["eth0", "lo"]);
}
