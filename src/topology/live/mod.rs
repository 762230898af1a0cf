//! What only the running kernel can say, when it is asked: netlink, ioctls, BPF, other processes.
//!
//! Every question is a method of [`Source`] that names its answer: asked on the running machine,
//! it goes to the kernel; asked of a captured tree, to the file of that name.

use super::survey::device::{
    Attached, Channels, Coalesce, Feature, Identity, Link, Napi, Program, QueueCounters, QueueLink,
    Rings, XdpSupport, XskSocket,
};
use super::survey::rss::{FlowHash, NtupleRule, RssContext};
use super::{Reading, Source};
use std::collections::BTreeMap;

/// `fn name(&self, device) -> Reading<T>`: the answer `device/NAME/name`.
macro_rules! questions {
    ($($(#[$doc:meta])* $name:ident -> $type:ty = $live:path;)*) => {
        impl Source {
            $(
                $(#[$doc])*
                pub(super) fn $name(&self, device: &str) -> Reading<$type> {
                    let name = format!(concat!("device/{}/", stringify!($name)), device);
                    self.ask(&name, || $live(device))
                }
            )*
        }
    };
}

questions! {
    link -> Link = todo;
    identity -> Identity = todo;
    xdp_support -> XdpSupport = todo;
    attached -> Vec<Attached> = todo;
    channels -> Channels = todo;
    rings -> Rings = todo;
    coalesce -> Coalesce = todo;
    features -> BTreeMap<String, Feature> = todo;
    private_flags -> BTreeMap<String, bool> = todo;
    rss -> Vec<RssContext> = todo;
    hash_fields -> Vec<FlowHash> = todo;
    rules -> Vec<NtupleRule> = todo;
    queue_links -> Vec<QueueLink> = todo;
    napis -> Vec<Napi> = todo;
    queue_counters -> Vec<QueueCounters> = todo;
    statistics -> Vec<(String, u64)> = todo;
}

impl Source {
    pub(super) fn programs(&self) -> Reading<Vec<Program>> {
        self.ask("programs", || todo(""))
    }

    pub(super) fn sockets(&self) -> Reading<Vec<XskSocket>> {
        self.ask("sockets", || todo(""))
    }

    /// The process that moves interrupts, if it runs.
    pub(super) fn irqbalance(&self) -> Reading<Option<u32>> {
        self.ask("irqbalance", || todo(""))
    }

    /// What the kernel was built with.
    pub(super) fn kernel_options(&self) -> Reading<Vec<(String, String)>> {
        self.ask("kernel_options", || todo(""))
    }
}

fn todo<T>(_device: &str) -> Reading<T> {
    Reading::unknown("this question is not asked yet")
}
