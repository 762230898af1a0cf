//! What a setting is today: from the survey, as a value that a plan can hold.

use super::setting::BUSY_POLL;
use super::{Setting, Table, Value};
use crate::topology::Reading;
use crate::topology::survey::Survey;
use crate::topology::survey::device::{Channels, Device, Direction, Napi};
use crate::topology::survey::rss::{FlowType, RssContext};
use std::collections::BTreeMap;

/// The value of `setting` of the device called `name`.
#[must_use]
pub fn today(survey: &Survey, name: &str, setting: &Setting) -> Reading<Value> {
    let Some((nic, device)) = survey.device(name) else {
        return Reading::unknown(format!("there is no device {name}"));
    };
    match setting {
        Setting::Feature(feature) => then(&device.features, |features| {
            features
                .get(feature)
                .map(|feature| Value::Switch(feature.active))
                .ok_or_else(|| format!("{name} has no feature {feature}"))
        }),
        Setting::Channels => then(&device.channels, channels),
        Setting::Rings => then(&device.rings, |rings| {
            Ok(Value::of_numbers([("rx", rings.rx.0.into()), ("tx", rings.tx.0.into())]))
        }),
        Setting::Coalesce => coalesce(device),
        Setting::Key => then(&device.rss, |rss| key(rss)),
        Setting::Table => then(&device.rss, |rss| table(rss)),
        Setting::Fields(flow) => fields(device, *flow),
        Setting::Irq(queue) => match nic.queues.iter().find(|other| other.index == *queue) {
            None => no_queue("receive", *queue),
            Some(queue) => match &queue.irq {
                Reading::Known(irq) => map(&irq.permitted_cpus, |cpus| Value::Cpus(cpus.clone())),
                Reading::Unknown(reason) => Reading::Unknown(reason.clone()),
            },
        },
        Setting::Rps(queue) => match device.rps.iter().find(|rps| rps.queue == *queue) {
            None => no_queue("receive", *queue),
            Some(rps) => map(&rps.cpus, |cpus| Value::Cpus(cpus.clone())),
        },
        Setting::Rfs(queue) => match device.rps.iter().find(|rps| rps.queue == *queue) {
            None => no_queue("receive", *queue),
            Some(rps) => map(&rps.flow_entries, |entries| Value::Number(u64::from(*entries))),
        },
        Setting::Xps(queue) => match device.xps.iter().find(|xps| xps.queue == *queue) {
            None => no_queue("transmit", *queue),
            Some(xps) => map(&xps.cpus, |cpus| Value::Cpus(cpus.clone())),
        },
        Setting::DeferHardIrqs => {
            map(&device.defer_hard_irqs, |count| Value::Number(u64::from(*count)))
        }
        Setting::GroFlushTimeout => map(&device.gro_flush_timeout_ns, |ns| Value::Number(*ns)),
        Setting::Threaded => map(&device.threaded, |mode| Value::Number(u64::from(*mode))),
        Setting::Napi(queue) => {
            if nic.queues.iter().any(|other| other.index == *queue) {
                napi_settings(device, *queue)
            } else {
                no_queue("receive", *queue)
            }
        }
    }
}

fn no_queue(way: &str, queue: u32) -> Reading<Value> {
    Reading::unknown(format!("there is no {way} queue {queue}"))
}

fn map<T>(reading: &Reading<T>, value: impl FnOnce(&T) -> Value) -> Reading<Value> {
    then(reading, |known| Ok(value(known)))
}

fn then<T>(
    reading: &Reading<T>,
    value: impl FnOnce(&T) -> Result<Value, String>,
) -> Reading<Value> {
    match reading {
        Reading::Unknown(reason) => Reading::Unknown(reason.clone()),
        Reading::Known(known) => match value(known) {
            Ok(value) => Reading::Known(value),
            Err(reason) => Reading::Unknown(reason),
        },
    }
}

/// Those kinds that the device may have.
fn channels(channels: &Channels) -> Result<Value, String> {
    let kinds = [("combined", channels.combined), ("rx", channels.rx), ("tx", channels.tx)];
    let some = kinds.map(|(name, (now, most))| (name, (most > 0).then_some(u64::from(now))));
    some_numbers(some).ok_or_else(|| "the device has no channels to change".to_owned())
}

fn coalesce(device: &Device) -> Reading<Value> {
    then(&device.coalesce, |coalesce| {
        let switch = |on: Option<bool>| on.map(u32::from);
        let all = [
            ("adaptive-rx", switch(coalesce.adaptive_rx)),
            ("adaptive-tx", switch(coalesce.adaptive_tx)),
            ("rx-usecs", coalesce.rx_usecs),
            ("rx-frames", coalesce.rx_frames),
            ("tx-usecs", coalesce.tx_usecs),
            ("tx-frames", coalesce.tx_frames),
        ];
        some_numbers(all.map(|(name, number)| (name, number.map(u64::from))))
            .ok_or_else(|| "the driver has no interrupt moderation".to_owned())
    })
}

/// Those of the numbers that there are.
fn some_numbers<const N: usize>(all: [(&str, Option<u64>); N]) -> Option<Value> {
    let known = all.into_iter().filter_map(|(name, number)| Some((name.to_owned(), number?)));
    let numbers: BTreeMap<String, u64> = known.collect();
    (!numbers.is_empty()).then_some(Value::Numbers(numbers))
}

fn key(rss: &[RssContext]) -> Result<Value, String> {
    let key = rss.first().map(|context| context.key.clone()).unwrap_or_default();
    if key.is_empty() {
        Err("the device shows no hash key".to_owned())
    } else {
        Ok(Value::Key(key))
    }
}

fn table(rss: &[RssContext]) -> Result<Value, String> {
    let slots = rss.first().map(|context| context.table.clone()).unwrap_or_default();
    if slots.is_empty() {
        return Err("the device has no indirection table".to_owned());
    }
    Ok(Value::Table(Table::Slots(slots)))
}

fn fields(device: &Device, flow: FlowType) -> Reading<Value> {
    then(&device.hash_fields, |fields| {
        let found = fields.iter().find(|field| field.flow == flow && field.context == 0);
        found
            .map(|field| Value::Letters(field.letters.clone()))
            .ok_or_else(|| format!("the driver does not say what it hashes of {flow}"))
    })
}

/// The NAPI instance of a receive queue.
pub(crate) fn napi_of(device: &Device, queue: u32) -> Result<Napi, String> {
    let links = match &device.queue_links {
        Reading::Known(links) => links,
        Reading::Unknown(reason) => return Err(reason.clone()),
    };
    let napi = links
        .iter()
        .find(|link| link.direction == Direction::Rx && link.index == queue)
        .and_then(|link| link.napi)
        .ok_or_else(|| format!("the driver does not say which NAPI serves queue {queue}"))?;
    match &device.napis {
        Reading::Known(napis) => napis
            .iter()
            .find(|other| other.id == napi)
            .copied()
            .ok_or_else(|| format!("the kernel shows no NAPI {napi}")),
        Reading::Unknown(reason) => Err(reason.clone()),
    }
}

/// 0 no, 1 in a kernel thread, [`BUSY_POLL`]; `None` if the kernel does not tell it for each instance.
fn threaded(napi: &Napi) -> Option<u64> {
    Some(match napi.threaded? {
        true if napi.busy_polls == Some(true) => BUSY_POLL,
        is_threaded => u64::from(is_threaded),
    })
}

fn napi_settings(device: &Device, queue: u32) -> Reading<Value> {
    let napi = match napi_of(device, queue) {
        Ok(napi) => napi,
        Err(reason) => return Reading::Unknown(reason),
    };
    let all = [
        ("defer-hard-irqs", napi.defer_hard_irqs.map(u64::from)),
        ("gro-flush-timeout-ns", napi.gro_flush_timeout_ns),
        ("irq-suspend-timeout-ns", napi.irq_suspend_timeout_ns),
        ("threaded", threaded(&napi)),
    ];
    match some_numbers(all) {
        Some(numbers) => Reading::Known(numbers),
        None => Reading::unknown(
            "this kernel has no settings for single NAPI instances (Linux 6.13 has)",
        ),
    }
}
