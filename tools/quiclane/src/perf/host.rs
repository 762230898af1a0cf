//! What figures depend on: the machine of one side of a measurement.

use serde::{Deserialize, Serialize};
use std::fs;

/// Program, kernel and CPU of one side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Host {
    /// The version of this program.
    pub(crate) version: String,
    pub(crate) kernel: Option<String>,
    pub(crate) cpu_model: Option<String>,
    pub(crate) cpus: Option<u64>,
    /// Differs for each boot: two sides with the same id are on one machine.
    pub(crate) boot_id: Option<String>,
}

impl Host {
    /// The machine of this process.
    pub(crate) fn this() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: line("/proc/sys/kernel/osrelease"),
            cpu_model: cpu_model(&cpuinfo),
            cpus: fs::read_to_string("/sys/devices/system/cpu/online")
                .ok()
                .as_deref()
                .and_then(count),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
        }
    }
}

fn line(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
}

/// x86 says "model name"; other architectures say less, or nothing.
fn cpu_model(cpuinfo: &str) -> Option<String> {
    let fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let mut models = fields.filter(|(name, _)| matches!(name.trim(), "model name" | "Model"));
    models.next().map(|(_, model)| model.trim().to_owned())
}

/// How many CPUs a list such as `0-3,6` names.
fn count(list: &str) -> Option<u64> {
    let mut count = 0;
    for part in list.trim().split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u64, u64) = (from.parse().ok()?, to.parse().ok()?);
        count += to.checked_sub(from)? + 1;
    }
    Some(count)
}

/// Memory of this process that is in RAM.
pub(crate) fn rss_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_described() {
        assert_eq!(count("0-3,6\n"), Some(5));
        assert_eq!(count("3-0"), None);
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: AMD EPYC\n").unwrap(), "AMD EPYC");
        assert_eq!(cpu_model("Features : fp asimd\n"), None);
        let host = Host::this();
        assert!(host.kernel.is_some() && host.boot_id.is_some());
        assert!(rss_bytes().unwrap() > 100_000);
    }
}
