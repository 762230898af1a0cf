//! What a line of a plan means on the device as it is now, and what may be written at all.

use crate::topology::plan::{Setting, Table, Value, napi_of, today};
use crate::topology::survey::Survey;
use crate::topology::survey::device::Device;
use crate::topology::survey::rss::FlowType;
use crate::topology::{Nic, Reading, list};
use std::collections::BTreeMap;

/// One thing to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A file of sysfs or procfs.
    File {
        /// Its path.
        path: String,
        /// Its new text.
        text: String,
    },
    /// An offload.
    Feature {
        /// The kernel's name for it.
        name: String,
        /// On or off.
        on: bool,
    },
    /// Channels by kind: `combined`, `rx`, `tx`.
    Channels(BTreeMap<String, u64>),
    /// Rings by direction: `rx`, `tx`.
    Rings(BTreeMap<String, u64>),
    /// Interrupt moderation, by the names of a plan.
    Coalesce(BTreeMap<String, u64>),
    /// The hash key.
    Key(Vec<u8>),
    /// The indirection table; `None` for the kernel's own, which follows later changes of the
    /// channels.
    Table(Option<Vec<u32>>),
    /// The hashed fields.
    Fields {
        /// Of which traffic.
        flow: FlowType,
        /// ethtool's letters.
        letters: String,
    },
    /// Settings of one NAPI instance, by the names of a plan.
    Napi {
        /// Its id.
        id: u32,
        /// What is set.
        numbers: BTreeMap<String, u64>,
    },
}

/// What has to be written for a line, on the device as the survey shows it.
///
/// # Errors
/// Why nothing can be: the queue is not there, its interrupt is not known...
pub(super) fn write_for(
    survey: &Survey,
    name: &str,
    setting: &Setting,
    value: &Value,
) -> Result<Write, String> {
    let (nic, device) = survey.device(name).ok_or_else(|| format!("there is no device {name}"))?;
    let queues = format!("/sys/class/net/{name}/queues");
    let value = &changed(survey, name, setting, value);
    let write = match (setting, value) {
        (Setting::Feature(feature), Value::Switch(on)) => {
            Write::Feature { name: feature.clone(), on: *on }
        }
        (Setting::Channels, Value::Numbers(numbers)) => Write::Channels(numbers.clone()),
        (Setting::Rings, Value::Numbers(numbers)) => Write::Rings(numbers.clone()),
        (Setting::Coalesce, Value::Numbers(numbers)) => Write::Coalesce(numbers.clone()),
        (Setting::Key, Value::Key(key)) => Write::Key(key.clone()),
        (Setting::Table, Value::Table(table)) => table_write(survey, nic, table)?,
        (Setting::Fields(flow), Value::Letters(letters)) => {
            Write::Fields { flow: *flow, letters: letters.clone() }
        }
        (Setting::Irq(queue), Value::Cpus(cpus)) => irq_write(nic, *queue, cpus)?,
        (Setting::Rps(queue), Value::Cpus(cpus)) => {
            receives(device, *queue)?;
            file(format!("{queues}/rx-{queue}/rps_cpus"), mask(cpus))
        }
        (Setting::Rfs(queue), Value::Number(entries)) => {
            receives(device, *queue)?;
            file(format!("{queues}/rx-{queue}/rps_flow_cnt"), entries.to_string())
        }
        (Setting::Xps(queue), Value::Cpus(cpus)) => {
            if !device.xps.iter().any(|xps| xps.queue == *queue) {
                return Err(format!("there is no transmit queue {queue}"));
            }
            file(format!("{queues}/tx-{queue}/xps_cpus"), mask(cpus))
        }
        (Setting::DeferHardIrqs, Value::Number(count)) => {
            of_device(name, "napi_defer_hard_irqs", *count)
        }
        (Setting::GroFlushTimeout, Value::Number(ns)) => of_device(name, "gro_flush_timeout", *ns),
        (Setting::Threaded, Value::Number(mode)) => of_device(name, "threaded", *mode),
        (Setting::Napi(queue), Value::Numbers(numbers)) => {
            receives(device, *queue)?;
            Write::Napi { id: napi_of(device, *queue)?.id, numbers: numbers.clone() }
        }
        (setting, value) => return Err(format!("{value} is not a value of {setting}")),
    };
    Ok(write)
}

/// Of several numbers those that are to change: some drivers refuse a call for what it repeats.
fn changed(survey: &Survey, name: &str, setting: &Setting, value: &Value) -> Value {
    let Value::Numbers(wanted) = value else { return value.clone() };
    let Reading::Known(Value::Numbers(have)) = today(survey, name, setting) else {
        return value.clone();
    };
    let other = wanted.iter().filter(|(name, number)| have.get(*name) != Some(number));
    Value::Numbers(other.map(|(name, number)| (name.clone(), *number)).collect())
}

fn file(path: String, text: String) -> Write {
    Write::File { path, text }
}

fn of_device(name: &str, key: &str, number: u64) -> Write {
    file(format!("/sys/class/net/{name}/{key}"), number.to_string())
}

fn receives(device: &Device, queue: u32) -> Result<(), String> {
    let there = device.rps.iter().any(|rps| rps.queue == queue);
    if there { Ok(()) } else { Err(format!("there is no receive queue {queue}")) }
}

fn irq_write(nic: &Nic, queue: u32, cpus: &[u32]) -> Result<Write, String> {
    let found = nic.queues.iter().find(|other| other.index == queue);
    let found = found.ok_or_else(|| format!("there is no receive queue {queue}"))?;
    let irq = found.irq.known().ok_or_else(|| found.irq.reason().unwrap_or_default().to_owned())?;
    Ok(file(
        format!("/proc/irq/{}/smp_affinity_list", irq.number),
        list::format(cpus.iter().copied()),
    ))
}

fn table_write(survey: &Survey, nic: &Nic, table: &Table) -> Result<Write, String> {
    let queues = u32::try_from(nic.queues.len()).unwrap_or(u32::MAX);
    if table.queues() > queues {
        let last = table.queues() - 1;
        return Err(format!("the table names queue {last}, and there are {queues} queues"));
    }
    let today = today(survey, &nic.name, &Setting::Table);
    let slots = match today {
        Reading::Known(Value::Table(Table::Slots(slots))) => slots.len(),
        other => return Err(other.reason().unwrap_or("there is no table").to_owned()),
    };
    let wanted = table.slots(slots);
    if wanted.len() != slots {
        return Err(format!("the table has {slots} slots, and not {}", wanted.len()));
    }
    // All queues in turn is what the kernel does by itself.
    let is_default = wanted == Table::Equal(queues).slots(slots);
    Ok(Write::Table((!is_default).then_some(wanted)))
}

/// The kernel's masks: hex words of 32 bits with commas, the highest first.
fn mask(cpus: &[u32]) -> String {
    let words = cpus.iter().max().map_or(1, |last| *last as usize / 32 + 1);
    let word = |at: usize| {
        let bits = cpus.iter().filter(|cpu| **cpu as usize / 32 == at);
        bits.fold(0u32, |word, cpu| word | 1 << (cpu % 32))
    };
    let words: Vec<String> = (0..words).rev().map(|at| format!("{:08x}", word(at))).collect();
    words.join(",")
}

/// Files of a device that may be written, below its directory in sysfs.
const FILES: [&str; 3] = ["napi_defer_hard_irqs", "gro_flush_timeout", "threaded"];
/// Files of a queue.
const RX_FILES: [&str; 2] = ["rps_cpus", "rps_flow_cnt"];
const TX_FILES: [&str; 1] = ["xps_cpus"];

/// Refuses what does not belong to the device called `name`. What goes through ethtool names the
/// device with every call, so only files and NAPI ids can be of another.
///
/// # Errors
/// What it would have written to.
pub(super) fn permitted(survey: &Survey, name: &str, write: &Write) -> Result<(), String> {
    let (nic, device) = survey.device(name).ok_or_else(|| format!("there is no device {name}"))?;
    let belongs = match write {
        Write::File { path, .. } => file_belongs(nic, path),
        Write::Napi { id, .. } => {
            device.napis.known().is_some_and(|napis| napis.iter().any(|napi| napi.id == *id))
        }
        _ => true,
    };
    if belongs { Ok(()) } else { Err(format!("{write:?} does not belong to {name}")) }
}

fn file_belongs(nic: &Nic, path: &str) -> bool {
    let Some(path) = path.strip_prefix('/') else { return false };
    let parts: Vec<&str> = path.split('/').collect();
    let numbered = |part: &str, prefix: &str| {
        part.strip_prefix(prefix)
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    match parts[..] {
        ["sys", "class", "net", name, file] => name == nic.name && FILES.contains(&file),
        ["sys", "class", "net", name, "queues", queue, file] if name == nic.name => {
            (numbered(queue, "rx-") && RX_FILES.contains(&file))
                || (numbered(queue, "tx-") && TX_FILES.contains(&file))
        }
        ["proc", "irq", number, "smp_affinity_list"] => {
            nic.irqs.iter().any(|irq| irq.number.to_string() == number)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::rig::Rig;

    fn written(setting: &str, value: &str) -> Result<Write, String> {
        let setting: Setting = setting.parse().unwrap();
        let value = setting.parse(value).unwrap();
        write_for(&Rig::default().survey(), "eth0", &setting, &value)
    }

    fn path_and_text(setting: &str, value: &str) -> (String, String) {
        match written(setting, value) {
            Ok(Write::File { path, text }) => (path, text),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn settings_become_files() {
        let (path, text) = path_and_text("xps.tx-3", "0,33");
        assert_eq!(path, "/sys/class/net/eth0/queues/tx-3/xps_cpus");
        assert_eq!(text, "00000002,00000001");
        assert_eq!(path_and_text("rps.rx-0", "none").1, "00000000");
        let (path, text) = path_and_text("irq.rx-5", "1-3");
        assert_eq!((path.as_str(), text.as_str()), ("/proc/irq/105/smp_affinity_list", "1-3"));
        let (path, text) = path_and_text("napi.gro-flush-timeout-ns", "20000");
        assert_eq!(path, "/sys/class/net/eth0/gro_flush_timeout");
        assert_eq!(text, "20000");
        let (path, _) = path_and_text("rfs.rx-7", "0");
        assert_eq!(path, "/sys/class/net/eth0/queues/rx-7/rps_flow_cnt");
    }

    #[test]
    fn a_queue_that_is_not_there_is_not_written() {
        for setting in ["rps.rx-8", "xps.tx-8", "irq.rx-8"] {
            let error = written(setting, "1").unwrap_err();
            assert!(error.contains("queue 8"), "{setting}: {error}");
        }
        let error = written("napi.rx-8", "defer-hard-irqs 1").unwrap_err();
        assert!(error.contains("queue 8"), "{error}");
        let error = written("rss.table", "equal 9").unwrap_err();
        assert!(error.contains("names queue 8"), "{error}");
        let error = written("rss.table", "0 1").unwrap_err();
        assert!(error.contains("128 slots"), "{error}");
    }

    #[test]
    fn of_several_numbers_only_what_changes_is_written() {
        let numbers = [("rx-usecs".to_owned(), 20)].into();
        let written = written("queues.coalesce", "adaptive-rx 1 rx-usecs 20 tx-usecs 50");
        assert_eq!(written, Ok(Write::Coalesce(numbers)));
    }

    #[test]
    fn a_napi_is_found_by_its_queue() {
        let numbers = [("defer-hard-irqs".to_owned(), 2)].into();
        assert_eq!(
            written("napi.rx-3", "defer-hard-irqs 2"),
            Ok(Write::Napi { id: 8195, numbers })
        );
    }

    #[test]
    fn all_queues_in_turn_is_the_kernels_own_table() {
        assert_eq!(written("rss.table", "equal 8"), Ok(Write::Table(None)));
        let half = (0..128).map(|slot| slot % 4).collect();
        assert_eq!(written("rss.table", "equal 4"), Ok(Write::Table(Some(half))));
    }

    #[test]
    fn nothing_but_the_device_is_written() {
        let survey = Rig::default().survey();
        let may = |path: &str| {
            let write = Write::File { path: path.to_owned(), text: "1".to_owned() };
            permitted(&survey, "eth0", &write).is_ok()
        };
        for path in [
            "/sys/class/net/eth0/threaded",
            "/sys/class/net/eth0/queues/rx-0/rps_cpus",
            "/sys/class/net/eth0/queues/tx-12/xps_cpus",
            "/proc/irq/107/smp_affinity_list",
        ] {
            assert!(may(path), "{path}");
        }
        for path in [
            "/sys/class/net/eth1/threaded",
            "/sys/class/net/eth0/../eth1/threaded",
            "/sys/class/net/eth0/mtu",
            "/sys/class/net/eth0/queues/rx-0/xps_cpus",
            "/sys/class/net/eth0/queues/rx-/rps_cpus",
            "/sys/class/net/eth0/queues/../threaded",
            "/sys/class/net//threaded",
            "/proc/irq/99/smp_affinity_list",
            "/proc/irq/107/../99/smp_affinity_list",
            "/proc/irq/107/smp_affinity",
            "/proc/irq/default_smp_affinity",
            "/proc/sys/net/core/rps_sock_flow_entries",
            "sys/class/net/eth0/threaded",
            "/etc/passwd",
        ] {
            assert!(!may(path), "{path}");
        }
        let napi = |id| permitted(&survey, "eth0", &Write::Napi { id, numbers: BTreeMap::new() });
        assert!(napi(8192).is_ok() && napi(1).is_err());
    }
}
