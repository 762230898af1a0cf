//! What a device is opened with.

use super::error::XdpError;
use super::ladder::Require;
use super::layout::RX_HEADROOM_BYTES;
use super::metadata::Metadata;
use crate::datapath::Mode;
use crate::datapath::headers::{ETHERNET_BYTES, VLAN_BYTES, VLAN_TAGS_MAX, VlanSet};
use std::path::PathBuf;

/// The kernel polls the NIC in the thread that receives, instead of in an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPoll {
    /// How long one call may poll, in microseconds.
    pub microseconds: u32,
    /// How many packets one call may take.
    pub budget: u32,
}

impl Default for BusyPoll {
    /// What the kernel's documentation of AF_XDP measures with.
    fn default() -> Self {
        Self { microseconds: 20, budget: 64 }
    }
}

/// Who computes the UDP checksums of what is sent. Those of what is received are compared by us, and
/// only where no AEAD guards the datagram: no kernel tells an XDP program what a NIC found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TxChecksum {
    /// The NIC, where its driver offers that to zero-copy sockets (`tx-checksum` among the device's
    /// xsk-features, Linux 6.8); else we do.
    #[default]
    Auto,
    /// We do.
    Software,
    /// The kernel, which reads the same metadata as a NIC would while it copies. Slower, and there
    /// to try that path on a machine without such a NIC. In zero-copy mode the kernel does not copy:
    /// there we do.
    Kernel,
}

/// Which program leads packets to the sockets of the queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum XdpProgram {
    /// Ours, for this process alone.
    #[default]
    Own,
    /// Ours, and pinned in this directory of a BPF file system, for all processes that name the same. Each
    /// serves other queues, and other ports. The directory is made by the first, and removed by the last. A device
    /// may have 128 queues, and 8 processes.
    Shared(PathBuf),
    /// The application's. Sockets are entered into its XSKMAP, which is pinned at this path, at the numbers
    /// of their queues. Nothing is attached, and ports are the program's own matter.
    Theirs(PathBuf),
}

/// How to open a device. The defaults are what was measured to be good; a device and nothing else
/// has to be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpConfig {
    /// The name of the network device.
    pub device: String,
    /// How far down the ladder one may step.
    pub require: Require,
    /// Bytes of a frame: 4096, or 2048 where the driver is known not to cut packets short.
    pub chunk_bytes: usize,
    /// Frames of each worker, for both directions.
    pub frames: u32,
    /// Entries of the RX ring; the fill ring has twice as many.
    pub rx_entries: u32,
    /// Entries of the TX ring and of the completion ring.
    pub tx_entries: u32,
    /// Poll the NIC from the worker. Where a kernel thread polls the queue's NAPI all the time (threaded
    /// NAPI with busy polling, `quiclane plan --busy-napi`), leave it `None`: the thread has what this
    /// would ask for. Nothing else changes here with such a thread. A socket's need_wakeup flags are the
    /// driver's word, which is honoured as ever: in copy mode the wake-up call itself sends, thread or
    /// not, and in zero-copy mode a driver that has no need of it does not ask.
    pub busy_poll: Option<BusyPoll>,
    /// Use huge pages if there are some.
    pub huge_pages: bool,
    /// Try this mode alone.
    pub force_mode: Option<Mode>,
    /// Who computes UDP checksums.
    pub tx_checksum: TxChecksum,
    /// The VLANs whose tagged frames are taken from the device; none by default. Those of others
    /// are left to the kernel, whose VLAN devices and firewall they are for.
    pub vlans: VlanSet,
    /// Which program leads packets to the sockets.
    pub program: XdpProgram,
}

impl XdpConfig {
    /// The defaults for `device`.
    #[must_use]
    pub fn new(device: impl Into<String>) -> Self {
        Self {
            device: device.into(),
            require: Require::Any,
            chunk_bytes: 4096,
            frames: 4096,
            rx_entries: 1024,
            tx_entries: 1024,
            busy_poll: None,
            huge_pages: true,
            force_mode: None,
            tx_checksum: TxChecksum::Auto,
            vlans: VlanSet::NONE,
            program: XdpProgram::Own,
        }
    }

    /// Entries of the fill ring. A driver moves entries of it into its own queue ahead of time, so
    /// it has room for more than the RX ring.
    #[must_use]
    pub(crate) const fn fill_entries(&self) -> u32 {
        2 * self.rx_entries
    }

    /// Frames that are posted to receive into: the working set of the cache, since they go round
    /// in order. Where the kernel copies, one for each entry of the RX ring is all that can be in
    /// use; a zero-copy driver fills its own queue besides.
    #[must_use]
    pub(crate) fn receive_frames(&self, mode: Mode) -> u32 {
        let wanted = match mode {
            Mode::NativeZerocopy => self.fill_entries(),
            _ => self.rx_entries,
        };
        // Half of the frames at least are left to send with.
        wanted.min(self.frames / 2)
    }

    /// What a socket's packets are described with in `mode`, on a device that offers checksums in
    /// hardware or does not.
    pub(super) const fn metadata(&self, mode: Mode, offered: bool) -> Option<Metadata> {
        match (self.tx_checksum, mode) {
            (TxChecksum::Auto, Mode::NativeZerocopy) if offered => Some(Metadata::Nic),
            (TxChecksum::Kernel, Mode::NativeCopy | Mode::Generic) => Some(Metadata::Kernel),
            _ => None,
        }
    }

    /// The largest MTU whose frames, with two tags, fit behind the kernel's headroom.
    #[must_use]
    pub const fn mtu_limit(&self) -> u32 {
        let front = RX_HEADROOM_BYTES + ETHERNET_BYTES + VLAN_TAGS_MAX * VLAN_BYTES;
        (self.chunk_bytes - front) as u32
    }

    /// Contradictions are found before anything is touched.
    pub(super) fn validate(&self) -> Result<(), XdpError> {
        let ring = |entries: u32| entries.is_power_of_two() && (64..=32_768).contains(&entries);
        if self.device.is_empty() || self.device.len() > 15 {
            return Err(XdpError::config("a device name has 1 to 15 bytes"));
        }
        if self.chunk_bytes != 2048 && self.chunk_bytes != 4096 {
            return Err(XdpError::config("a frame has 2048 or 4096 bytes"));
        }
        if !ring(self.rx_entries) || !ring(self.tx_entries) {
            return Err(XdpError::config("a ring has a power of two of entries, 64 to 32768"));
        }
        if !(128..=1 << 20).contains(&self.frames) {
            return Err(XdpError::config("a worker has 128 to 1048576 frames"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_refused() {
        let good = XdpConfig::new("eth0");
        assert!(good.validate().is_ok());
        let refused = [
            XdpConfig { device: String::new(), ..good.clone() },
            XdpConfig { device: "a-name-of-16-byt".into(), ..good.clone() },
            XdpConfig { chunk_bytes: 3000, ..good.clone() },
            XdpConfig { rx_entries: 1000, ..good.clone() },
            XdpConfig { tx_entries: 32, ..good.clone() },
            XdpConfig { frames: 64, ..good },
        ];
        for config in refused {
            assert!(config.validate().is_err(), "{config:?}");
        }
    }

    #[test]
    fn a_nic_is_asked_for_checksums_only_where_it_offers_them_and_reads_them() {
        let auto = XdpConfig::new("eth0");
        let software = XdpConfig { tx_checksum: TxChecksum::Software, ..auto.clone() };
        let kernel = XdpConfig { tx_checksum: TxChecksum::Kernel, ..auto.clone() };
        let asked = |config: &XdpConfig, offered| {
            [Mode::NativeZerocopy, Mode::NativeCopy, Mode::Generic]
                .map(|mode| config.metadata(mode, offered))
        };
        assert_eq!(asked(&auto, false), [None, None, None]);
        assert_eq!(asked(&auto, true), [Some(Metadata::Nic), None, None]);
        assert_eq!(asked(&software, true), [None, None, None]);
        let by_kernel = Some(Metadata::Kernel);
        assert_eq!(asked(&kernel, true), [None, by_kernel, by_kernel]);
    }

    #[test]
    fn a_frame_holds_an_ordinary_mtu_with_two_tags() {
        let small = XdpConfig { chunk_bytes: 2048, ..XdpConfig::new("eth0") };
        assert_eq!(small.mtu_limit(), 1770);
        assert_eq!(XdpConfig::new("eth0").mtu_limit(), 3818);
    }

    #[test]
    fn some_frames_are_always_left_to_send_with() {
        let tight = XdpConfig { frames: 128, ..XdpConfig::new("eth0") };
        assert_eq!(tight.receive_frames(Mode::NativeCopy), 64);
        assert_eq!(XdpConfig::new("eth0").receive_frames(Mode::NativeZerocopy), 2048);
    }
}
