//! The CPUs that packets are handled on.

use crate::doctor::context::{Context, Sift, Worker, named};
use crate::doctor::finding::{Check, Found, Judgement, Kind, Severity};
use quiclane::topology::list;
use quiclane::topology::survey::host::CpuState;

/// The longest time to leave an idle state that is no finding: about what a whole request on a local
/// network takes.
const EXIT_LATENCY_MAX_US: u32 = 50;

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "QL080",
        severity: Severity::Warn,
        title: "The governor lowers the frequency",
        reads: "/sys/devices/system/cpu/cpuN/cpufreq/scaling_governor of the CPUs of the queues' \
                interrupts and workers",
        why: "A worker that sleeps between bursts looks idle: the governor slows its CPU down, \
              and the next burst begins on a slow CPU.",
        mend: "cpupower frequency-set -g performance",
        afterwards: "cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor: performance",
        check: Check::Device(governor),
    },
    Kind {
        id: "QL081",
        severity: Severity::Warn,
        title: "Deep idle states are allowed",
        reads: "/sys/devices/system/cpu/cpuN/cpuidle/stateM/{latency,disable} of the CPUs of the \
                queues' interrupts and workers",
        why: "Leaving such a state takes longer than answering a request. The first packet after \
              a pause waits for it twice: in its interrupt and in the worker's wake-up.",
        mend: "cpupower idle-set -D 50",
        afterwards: "grep . /sys/devices/system/cpu/cpu*/cpuidle/state*/disable: 1 for the deep \
                     ones",
        check: Check::Device(idle_states),
    },
    Kind {
        id: "QL082",
        severity: Severity::Note,
        title: "Isolated CPUs are not used",
        reads: "/sys/devices/system/cpu/isolated and the workers' CPUs",
        why: "CPUs were kept free of other threads at boot (isolcpus), and the workers run \
              on CPUs that other threads use.",
        mend: "quiclane serve --dev DEV --cpus LIST",
        afterwards: "quiclane queue show DEV: the workers are on isolated CPUs",
        check: Check::Device(isolated),
    },
];

/// The states of the CPUs that serve the device.
fn serving<'a>(cx: &Context<'a>) -> Result<Vec<&'a CpuState>, String> {
    let cpus = cx.serving_cpus()?;
    let states = cx.host.survey.host.cpus.iter();
    Ok(states.filter(|state| cpus.contains(&state.cpu)).collect())
}

fn governor(cx: &Context<'_>) -> Judgement {
    let mut sift = Sift::new();
    for state in serving(cx)? {
        if let Some(governor) = sift.take(&state.governor).filter(|it| *it != "performance") {
            sift.hits.push((state.cpu, governor.clone()));
        }
    }
    sift.judge(|hits| {
        let cpus: Vec<u32> = hits.iter().map(|(cpu, _)| *cpu).collect();
        let mut governors: Vec<&str> = hits.iter().map(|(_, governor)| governor.as_str()).collect();
        governors.sort_unstable();
        governors.dedup();
        let says = format!("the governor of {} is {}", named("cpu", &cpus), governors.join(", "));
        let set = list::format(cpus.iter().copied());
        hits.iter()
            .fold(Found::new(says), |found, (cpu, governor)| {
                let file = format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
                found.read(governor.as_str(), file)
            })
            .mend(format!("cpupower -c {set} frequency-set -g performance"))
    })
}

fn idle_states(cx: &Context<'_>) -> Judgement {
    let mut sift = Sift::new();
    for state in serving(cx)? {
        if state.idle_states.is_empty() {
            let cpu = state.cpu;
            sift.miss(&format!("/sys/devices/system/cpu/cpu{cpu}/cpuidle shows no idle states"));
        }
        let is_deep = |it: &&quiclane::topology::survey::host::IdleState| {
            !it.disabled && it.exit_latency_us > EXIT_LATENCY_MAX_US
        };
        let deepest = state.idle_states.iter().filter(is_deep).max_by_key(|it| it.exit_latency_us);
        sift.hits.extend(deepest.map(|it| (state.cpu, it.clone())));
    }
    sift.judge(|hits| {
        let cpus: Vec<u32> = hits.iter().map(|(cpu, _)| *cpu).collect();
        let longest = hits.iter().map(|(_, it)| it.exit_latency_us).max().unwrap_or(0);
        let says = format!("{} may sleep {longest} us deep", named("cpu", &cpus));
        let set = list::format(cpus.iter().copied());
        hits.iter()
            .fold(Found::new(says), |found, (cpu, it)| {
                let what = format!("{}: {} us to leave it", it.name, it.exit_latency_us);
                found.read(what, format!("/sys/devices/system/cpu/cpu{cpu}/cpuidle"))
            })
            .mend(format!("cpupower -c {set} idle-set -D {EXIT_LATENCY_MAX_US}"))
    })
}

fn isolated(cx: &Context<'_>) -> Judgement {
    let machine = &cx.host.survey.machine;
    let node = cx.nic.node.known();
    let is_near = |cpu: &&quiclane::topology::Cpu| {
        node.is_none() || cpu.node.known().is_none() || cpu.node.known() == node
    };
    let isolated: Vec<u32> =
        machine.cpus.iter().filter(|cpu| cpu.isolated).filter(is_near).map(|cpu| cpu.id).collect();
    if isolated.is_empty() {
        return Ok(None);
    }
    let workers = cx.workers()?;
    let elsewhere = |worker: &&Worker| worker.cpu().is_none_or(|cpu| !isolated.contains(&cpu));
    let used = workers.iter().filter_map(Worker::cpu).filter(|cpu| isolated.contains(cpu)).count();
    let loose: Vec<&Worker> = workers.iter().filter(elsewhere).collect();
    // More workers than isolated CPUs: the others have to be somewhere.
    if loose.is_empty() || used == isolated.len() {
        return Ok(None);
    }
    let queues: Vec<u32> = loose.iter().map(|worker| worker.queue).collect();
    let free = list::format(isolated.iter().copied());
    let found = Found::new(format!(
        "{} free for workers, and those of {} are elsewhere",
        named("isolated cpu", &isolated),
        named("queue", &queues)
    ));
    loose
        .iter()
        .fold(found, |found, worker| {
            let cpus = list::format(worker.cpus.iter().copied());
            let cpus = if cpus.is_empty() { "any".to_owned() } else { cpus };
            found.read(format!("queue {}: cpu {cpus}", worker.queue), &*worker.from)
        })
        .read(format!("isolated {free}"), "/sys/devices/system/cpu/isolated")
        .mend(format!("quiclane serve --dev {} --cpus {free}", cx.name()))
        .judged()
}
