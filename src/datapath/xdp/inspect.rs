//! What is known of a device before a program is attached to it.

use super::config::XdpConfig;
use super::error::XdpError;
use super::netlink::Netlink;
use super::sys::{self, DeviceQuery};

/// `NETDEV_XSK_FLAGS_TX_CHECKSUM`.
const XSK_FEATURE_CHECKSUM: u64 = 1 << 1;

/// What is known of a device since it was attached.
#[derive(Clone, Debug)]
pub(super) struct DeviceInfo {
    pub(super) name: String,
    pub(super) ifindex: u32,
    pub(super) mtu: u32,
    pub(super) mac: [u8; 6],
    pub(super) queues: u32,
    pub(super) driver: String,
    /// Zero-copy senders may leave UDP checksums to it.
    pub(super) offers_checksums: bool,
}

/// Reads what has to be known of a device, and refuses what cannot work.
pub(super) fn inspect(config: &XdpConfig) -> Result<DeviceInfo, XdpError> {
    let name = config.device.clone();
    let Some(ifindex) = sys::device_index(&name) else {
        return Err(XdpError::NoSuchDevice { device: name });
    };
    let named = |failed| XdpError::from_call(&config.device, failed);
    let mut query = DeviceQuery::new(&name).map_err(named)?;
    let mtu = query.mtu().map_err(named)?;
    if mtu > config.mtu_limit() {
        let (limit, chunk_bytes) = (config.mtu_limit(), config.chunk_bytes);
        return Err(XdpError::MtuTooLarge { device: name, mtu, limit, chunk_bytes });
    }
    let mac = query.mac().map_err(named)?;
    // A device that cannot tell its channels has one queue.
    let queues = query.receive_queues().unwrap_or(1).max(1);
    let driver = query.driver().unwrap_or_default();
    // A kernel that does not report (before 6.8) takes no metadata either.
    let offers_checksums = Netlink::generic()
        .and_then(|mut netlink| netlink.xsk_features(ifindex))
        .is_ok_and(|features| features & XSK_FEATURE_CHECKSUM != 0);
    Ok(DeviceInfo { name, ifindex, mtu, mac, queues, driver, offers_checksums })
}
