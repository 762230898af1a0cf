//! Waiting for the link of a device.

use super::sys::DeviceQuery;
use std::thread;
use std::time::Duration;

/// igb resets itself when a program is attached and drops the link 0.4 s later: so long a physical
/// device is watched for that.
const FLAP_WATCH: Duration = Duration::from_millis(800);
/// How often the carrier is looked at.
const CARRIER_PAUSE: Duration = Duration::from_millis(20);
/// How long a device may take to get its link back: copper at 10 Gb/s needs some seconds.
const CARRIER_WAIT: Duration = Duration::from_secs(10);
/// Drivers of devices without a link that could flap.
const VIRTUAL_DRIVERS: [&str; 5] = ["veth", "tun", "virtio_net", "bridge", "dummy"];

/// A physical device may drop its link some time after a program was attached: packets sent before
/// that are lost, so it is waited for.
pub(super) fn wait_after_attach(device: &str, driver: &str) {
    if VIRTUAL_DRIVERS.contains(&driver) {
        return;
    }
    let looks = FLAP_WATCH.as_millis() / CARRIER_PAUSE.as_millis();
    for _ in 0..looks {
        if !has_carrier(device) {
            break;
        }
        thread::sleep(CARRIER_PAUSE);
    }
    if !wait_for_carrier(device, CARRIER_WAIT) {
        tracing::warn!(device, "no carrier");
    }
}

/// Waits until a device has a carrier. True if it has one within `patience`.
pub(super) fn wait_for_carrier(device: &str, patience: Duration) -> bool {
    let looks = patience.as_millis().div_ceil(CARRIER_PAUSE.as_millis());
    for _ in 0..looks {
        if has_carrier(device) {
            return true;
        }
        thread::sleep(CARRIER_PAUSE);
    }
    has_carrier(device)
}

fn has_carrier(device: &str) -> bool {
    let flags = DeviceQuery::new(device).and_then(|mut query| query.flags());
    flags.is_ok_and(|flags| flags & libc::IFF_RUNNING != 0)
}
