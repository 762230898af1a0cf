//! What only the running kernel can say, when it is asked: netlink, ioctls, BPF, other processes.
//!
//! Every question is a method of [`Source`] that names its answer: asked on the running machine,
//! it goes to the kernel; asked of a captured tree, to the file of that name.
//!
//! ```text
//!   ethtool   channels, rings, coalescing, offloads, flags      generic netlink, family ethtool
//!   monitor   changes, as they are made                         generic netlink, group monitor
//!   rss       keys and tables                                   the same; older kernels: ioctl
//!   ioctl     driver, counters, hashed fields                   SIOCETHTOOL
//!   rules     classification rules                              SIOCETHTOOL
//!   netdev    XDP features, queues, NAPI, counters of queues    generic netlink, family netdev
//!   set       what `topology::apply` writes                  ethtool, netdev, SIOCETHTOOL
//!   addresses the machine's own addresses, and their changes     rtnetlink
//!   carriers  devices that have lost their carrier                rtnetlink
//!   link      the link layer, attached programs                 rtnetlink
//!   programs  BPF programs, their maps and links                bpf(), /proc/PID/fdinfo, bpffs
//!   sockets   AF_XDP sockets and the threads beside them        sock_diag, /proc, pidfd_getfd
//!   host      irqbalance, the options of the kernel             /proc, /boot
//! ```
//!
//! None of it needs a privilege that the kernel does not ask for, all of it is bounded, and every
//! "no" becomes a reason that names the call.

mod addresses;
mod carriers;
mod ethtool;
mod host;
mod ioctl;
mod link;
mod monitor;
mod netdev;
mod netlink;
mod processes;
mod programs;
mod refused;
mod rss;
mod rules;
mod set;
mod sockets;

pub(crate) use addresses::{AddressNews, AddressWatch};
pub(super) use monitor::{Monitor, Told};
pub(super) use refused::Refused;

use super::survey::device::{
    Attached, Channels, Coalesce, Feature, Identity, Link, Napi, Program, QueueCounters, QueueLink,
    Rings, XdpSupport, XskSocket,
};
use super::survey::rss::{FlowHash, NtupleRule, RssContext};
use super::sys::Ethtool;
use super::{Reading, Source};
use neli::consts::socket::NlFamily;
use netlink::{Generic, Netlink};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::sync::{Mutex, PoisonError};

/// `fn name(&self, device) -> Reading<T>`: the answer `device/NAME/name`.
macro_rules! questions {
    ($($(#[$doc:meta])* $name:ident -> $type:ty = $live:path, $what:literal;)*) => {
        impl Source {
            $(
                $(#[$doc])*
                pub(super) fn $name(&self, device: &str) -> Reading<$type> {
                    let name = format!(concat!("device/{}/", stringify!($name)), device);
                    self.ask(&name, || {
                        let kernel = self.kernel();
                        kernel.reading(device, $what, $live(kernel, device))
                    })
                }
            )*
        }
    };
}

questions! {
    link -> Link = link::link, "its link layer";
    identity -> Identity = ioctl::identity, "its name and version";
    xdp_support -> XdpSupport = netdev::xdp_support, "what it offers to XDP";
    attached -> Vec<Attached> = link::attached, "attached programs";
    channels -> Channels = ethtool::channels, "its channels";
    rings -> Rings = ethtool::rings, "its ring sizes";
    coalesce -> Coalesce = ethtool::coalesce, "its interrupt moderation";
    features -> BTreeMap<String, Feature> = ethtool::features, "its offloads";
    private_flags -> BTreeMap<String, bool> = ethtool::private_flags, "flags of its own";
    rss -> Vec<RssContext> = rss::contexts, "its hash key and table";
    hash_fields -> Vec<FlowHash> = ioctl::hash_fields, "which fields it hashes";
    rules -> Vec<NtupleRule> = rules::rules, "classification rules";
    queue_links -> Vec<QueueLink> = netdev::queue_links, "its queues";
    napis -> Vec<Napi> = netdev::napis, "its NAPI instances";
    queue_counters -> Vec<QueueCounters> = netdev::queue_counters, "counters of its queues";
    statistics -> Vec<(String, u64)> = ioctl::statistics, "counters of its own";
}

/// Handles to the kernel, opened when they are first needed and kept for the next question: in
/// the network namespace of the thread that asked first.
#[derive(Default)]
pub(super) struct Kernel {
    generic: Mutex<Option<Generic>>,
    route: Mutex<Option<Netlink>>,
    ethtool: Mutex<Option<Ethtool>>,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").finish_non_exhaustive()
    }
}

impl Kernel {
    fn generic<T>(
        &self,
        ask: impl FnOnce(&mut Generic) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        opened(&self.generic, Generic::new, ask)
    }

    fn route<T>(&self, ask: impl FnOnce(&mut Netlink) -> Result<T, Refused>) -> Result<T, Refused> {
        opened(&self.route, || Netlink::new(NlFamily::Route), ask)
    }

    fn ioctl<T>(&self, ask: impl FnOnce(&Ethtool) -> Result<T, Refused>) -> Result<T, Refused> {
        opened(&self.ethtool, Ethtool::new, |ethtool| ask(ethtool))
    }

    /// The index of a device.
    fn index(&self, device: &str) -> Result<u32, Refused> {
        self.ioctl(|ethtool| ethtool.index(device))
    }

    /// True if the running kernel is at least this version.
    pub(super) fn is_since(&self, major: u32, minor: u32) -> bool {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        version(&release).is_some_and(|running| running >= (major, minor))
    }

    /// What is told of `device`, or why `what` is not.
    fn reading<T>(&self, device: &str, what: &str, answer: Result<T, Refused>) -> Reading<T> {
        match answer {
            Ok(answer) => Reading::Known(answer),
            Err(refused) => {
                let driver = ioctl::driver(self, device);
                Reading::Unknown(refused.of_device(what, device, &driver))
            }
        }
    }
}

fn opened<H, T>(
    handle: &Mutex<Option<H>>,
    open: impl FnOnce() -> Result<H, Refused>,
    ask: impl FnOnce(&mut H) -> Result<T, Refused>,
) -> Result<T, Refused> {
    let mut handle = handle.lock().unwrap_or_else(PoisonError::into_inner);
    let handle = match &mut *handle {
        Some(handle) => handle,
        none => none.insert(open()?),
    };
    ask(handle)
}

/// The first two numbers of a kernel's release, such as `6.18.5-amd64`.
pub(super) fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// `fn name(&self) -> Reading<T>`: the answer `name`.
macro_rules! questions_of_the_host {
    ($($(#[$doc:meta])* $name:ident -> $type:ty = $live:path;)*) => {
        impl Source {
            $(
                $(#[$doc])*
                pub(super) fn $name(&self) -> Reading<$type> {
                    self.ask(stringify!($name), || match $live(self.kernel()) {
                        Ok(answer) => Reading::Known(answer),
                        Err(refused) => Reading::Unknown(refused.to_string()),
                    })
                }
            )*
        }
    };
}

questions_of_the_host! {
    programs -> Vec<Program> = programs::programs;
    sockets -> Vec<XskSocket> = sockets::sockets;
    /// The process that moves interrupts, if it runs.
    irqbalance -> Option<u32> = host::irqbalance;
    /// What the kernel was built with.
    kernel_options -> Vec<(String, String)> = host::options;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(version("6.18.44-fc-v669\n"), Some((6, 18)));
        assert!(version("6.9.0") < version("6.15-rc1"));
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        let source = Source::live();
        for reason in [
            source.link("nodevice0").reason().map(str::to_owned),
            source.rings("nodevice0").reason().map(str::to_owned),
            source.statistics("nodevice0").reason().map(str::to_owned),
            source.queue_links("a-name-that-is-too-long").reason().map(str::to_owned),
        ] {
            assert!(reason.as_ref().is_some_and(|r| r.contains("no device")), "{reason:?}");
        }
    }
}
