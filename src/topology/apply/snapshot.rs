//! Every value of a device at one moment, and the plan that leads back to it.

use super::run::is_absent;
use crate::topology::Reading;
use crate::topology::plan::{Line, Plan, Setting, Target, today};
use crate::topology::survey::Survey;
use crate::topology::survey::rss::FlowType;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a snapshot calls its format.
const SCHEMA: &str = "quiclane.snapshot/1";

/// Values of a device, as a plan writes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The format.
    pub schema: String,
    /// Its name: time and device.
    pub id: String,
    /// When it was taken, in seconds since 1970.
    pub taken_unix_s: u64,
    /// Why it was taken: `apply`, or `undo ID`, `revert ID`.
    pub cause: String,
    /// The device.
    pub device: Target,
    /// The values, by setting.
    pub values: BTreeMap<String, String>,
    /// Settings that could not be read, and why: they are not written either.
    pub unknown: BTreeMap<String, String>,
    /// What was about to be written.
    pub wanted: BTreeMap<String, String>,
}

/// A setting that cannot be put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// Which.
    pub setting: String,
    /// Why.
    pub reason: String,
}

impl Snapshot {
    /// Takes one, before `plan` is written.
    #[must_use]
    pub fn take(survey: &Survey, plan: &Plan, cause: &str, taken_unix_s: u64) -> Self {
        let name = &plan.device.name;
        let mut snapshot = Self {
            schema: SCHEMA.to_owned(),
            id: String::new(),
            taken_unix_s,
            cause: cause.to_owned(),
            device: Target::of(survey, name).unwrap_or_else(|| plan.device.clone()),
            values: values(survey, name),
            unknown: BTreeMap::new(),
            wanted: BTreeMap::new(),
        };
        for line in &plan.lines {
            let key = line.setting.to_string();
            if let Reading::Unknown(reason) = today(survey, name, &line.setting)
                && !is_absent(survey, name, &line.setting)
            {
                snapshot.unknown.insert(key.clone(), reason);
            }
            snapshot.wanted.insert(key, line.new.to_string());
        }
        snapshot
    }

    /// True if it can be read by this program.
    pub(super) fn is_known(&self) -> bool {
        self.schema == SCHEMA
    }

    /// The plan that restores it, and what cannot be restored.
    ///
    /// `after` are the values right after it was all written: only what changed then is put back,
    /// so that a value that the operator set since stays. Without them, every value that the writes
    /// may have changed is put back: all of them, if the device was reset.
    #[must_use]
    pub fn way_back(
        &self,
        survey: &Survey,
        after: Option<&BTreeMap<String, String>>,
    ) -> (Plan, Vec<Lost>) {
        let mut lost = Vec::new();
        let mut lines = Vec::new();
        for (key, value) in &self.values {
            if !self.is_touched(key, value, after) {
                continue;
            }
            let setting: Result<Setting, String> = key.parse();
            match setting.and_then(|setting| Ok((setting.parse(value)?, setting))) {
                Ok((new, setting)) => {
                    let today = today(survey, &self.device.name, &setting);
                    lines.push(Line { setting, today, new });
                }
                Err(reason) => lost.push(Lost { setting: key.clone(), reason }),
            }
        }
        lines.sort_by(|a, b| a.setting.cmp(&b.setting));
        (Plan { device: self.device.clone(), lines, ..Plan::default() }, lost)
    }

    fn is_touched(&self, key: &str, value: &str, after: Option<&BTreeMap<String, String>>) -> bool {
        if self.wanted.contains_key(key) {
            return true;
        }
        if let Some(after) = after {
            return after.get(key).is_some_and(|after| after != value)
                || (self.resets() && !after.contains_key(key));
        }
        // Written for the device, NAPI settings are written for every queue.
        let napi = key.starts_with("napi.") && self.wanted.keys().any(|k| k.starts_with("napi."));
        self.resets() || napi
    }

    /// True if what was written may have reset the device.
    fn resets(&self) -> bool {
        let resets = |key: &String| {
            key.starts_with("features.") || key == "queues.channels" || key == "queues.rings"
        };
        self.wanted.keys().any(resets)
    }
}

/// Every value of a device that can be read and set, by setting.
pub(super) fn values(survey: &Survey, name: &str) -> BTreeMap<String, String> {
    let Some((nic, device)) = survey.device(name) else { return BTreeMap::new() };
    let mut settings = vec![
        Setting::Channels,
        Setting::Rings,
        Setting::Coalesce,
        Setting::Key,
        Setting::Table,
        Setting::DeferHardIrqs,
        Setting::GroFlushTimeout,
        Setting::Threaded,
    ];
    let features = device.features.known().into_iter().flatten();
    let changeable = features.filter(|(_, feature)| feature.changeable);
    settings.extend(changeable.map(|(name, _)| Setting::Feature(name.clone())));
    settings.extend(FlowType::ALL.map(Setting::Fields));
    for queue in nic.queues.iter().map(|queue| queue.index) {
        settings.extend([
            Setting::Irq(queue),
            Setting::Rps(queue),
            Setting::Rfs(queue),
            Setting::Napi(queue),
        ]);
    }
    settings.extend(device.xps.iter().map(|xps| Setting::Xps(xps.queue)));
    let value = |setting: Setting| {
        let value = today(survey, name, &setting).known()?.to_string();
        Some((setting.to_string(), value))
    };
    settings.into_iter().filter_map(value).collect()
}
