//! The host beyond its files: the daemon that moves interrupts, and how the kernel was built.

use super::refused::Refused;
use super::{Kernel, processes};
use flate2::read::GzDecoder;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Options that decide what works here, or how well.
const OPTIONS: &[&str] = &[
    "CONFIG_BPF_JIT",
    "CONFIG_BPF_JIT_ALWAYS_ON",
    "CONFIG_BPF_SYSCALL",
    "CONFIG_CPU_ISOLATION",
    "CONFIG_DEBUG_INFO_BTF",
    "CONFIG_ETHTOOL_NETLINK",
    "CONFIG_HUGETLBFS",
    "CONFIG_HZ",
    "CONFIG_NET_RX_BUSY_POLL",
    "CONFIG_NO_HZ_FULL",
    "CONFIG_NUMA",
    "CONFIG_PAGE_POOL_STATS",
    "CONFIG_PREEMPT",
    "CONFIG_PREEMPT_DYNAMIC",
    "CONFIG_PREEMPT_LAZY",
    "CONFIG_PREEMPT_NONE",
    "CONFIG_PREEMPT_RT",
    "CONFIG_PREEMPT_VOLUNTARY",
    "CONFIG_RFS_ACCEL",
    "CONFIG_RPS",
    "CONFIG_XDP_SOCKETS",
    "CONFIG_XDP_SOCKETS_DIAG",
    "CONFIG_XPS",
];

/// The most that is read of a list of options, unpacked.
const OPTIONS_BYTES_MAX: u64 = 4 << 20;

/// The process that moves interrupts, if it runs.
pub(super) fn irqbalance(_: &Kernel) -> Result<Option<u32>, Refused> {
    let found = processes::called("irqbalance");
    // Mounted with hidepid, /proc shows no other user's process, not even the first.
    if found.is_none() && !Path::new("/proc/1").exists() {
        let reason = "/proc hides other processes (hidepid): run it with sudo";
        return Err(Refused::Silent(reason.to_owned()));
    }
    Ok(found)
}

/// What the kernel was built with: `y`, `m`, `n`, or a number.
pub(super) fn options(_: &Kernel) -> Result<Vec<(String, String)>, Refused> {
    const PACKED: &str = "/proc/config.gz";
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let plain = [
        format!("/boot/config-{release}"),
        format!("/usr/lib/modules/{release}/config"),
        format!("/lib/modules/{release}/config"),
    ];
    let packed = File::open(PACKED).and_then(|file| limited(GzDecoder::new(file)));
    let text = packed.or_else(|none| {
        let read = |path: &String| File::open(path).and_then(limited).ok();
        plain.iter().find_map(read).ok_or(none)
    });
    match text {
        Ok(text) => Ok(read_options(&text)),
        Err(_) => Err(Refused::Silent(format!(
            "neither {PACKED} (CONFIG_IKCONFIG_PROC) nor {} can be read",
            plain.join(" nor ")
        ))),
    }
}

fn limited(file: impl Read) -> io::Result<String> {
    let mut text = String::new();
    file.take(OPTIONS_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// `CONFIG_X=y`, or `# CONFIG_X is not set`; what is not mentioned does not exist in that kernel
/// or cannot be chosen there, and is left out.
fn read_options(text: &str) -> Vec<(String, String)> {
    let option = |line: &str| {
        let (name, value) = match line.strip_prefix("# ") {
            Some(comment) => (comment.strip_suffix(" is not set")?, "n"),
            None => line.split_once('=')?,
        };
        OPTIONS.contains(&name).then(|| (name.to_owned(), value.to_owned()))
    };
    let mut options: Vec<_> = text.lines().filter_map(option).collect();
    options.sort();
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_they_were_chosen() {
        let text = "# Networking\nCONFIG_XDP_SOCKETS=y\n# CONFIG_XDP_SOCKETS_DIAG is not set\n\
                    CONFIG_HZ=250\nCONFIG_HZ_250=y\nCONFIG_UNRELATED=m\nCONFIG_BPF_JIT=m\n";
        let expected = [
            ("CONFIG_BPF_JIT", "m"),
            ("CONFIG_HZ", "250"),
            ("CONFIG_XDP_SOCKETS", "y"),
            ("CONFIG_XDP_SOCKETS_DIAG", "n"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(read_options(text), expected);
    }
}
