//! What ethtool's generic netlink family tells of a device.
//!
//! Every question has the device in its first attribute; the numbers of the others are those of
//! `linux/ethtool_netlink.h`, which are never given away twice.

use super::Kernel;
use super::netlink::{Attributes, Command, Question};
use super::refused::Refused;
use crate::topology::survey::device::{Channels, Coalesce, Feature, Rings};
use std::collections::BTreeMap;

const FAMILY: &str = "ethtool";
/// The device that is asked about, in every question and answer.
const HEADER: u16 = 1;

pub(super) const fn command(call: &'static str, id: u8, since: &'static str) -> Command {
    Command { family: FAMILY, call, id, since }
}

const LINKMODES_GET: Command = command("ethtool LINKMODES_GET", 4, "Linux 5.6 does");
const FEATURES_GET: Command = command("ethtool FEATURES_GET", 11, "Linux 5.8 does");
const PRIVFLAGS_GET: Command = command("ethtool PRIVFLAGS_GET", 13, "Linux 5.8 does");
const RINGS_GET: Command = command("ethtool RINGS_GET", 15, "Linux 5.8 does");
const CHANNELS_GET: Command = command("ethtool CHANNELS_GET", 17, "Linux 5.8 does");
const COALESCE_GET: Command = command("ethtool COALESCE_GET", 19, "Linux 5.8 does");
pub(super) const RSS_GET: Command = command("ethtool RSS_GET", 38, "Linux 6.2 does");

/// A question about `device`.
pub(super) fn about(device: &str) -> Question {
    const DEVICE_NAME: u16 = 2;
    Question::default().nest(HEADER, &Question::default().text(DEVICE_NAME, device))
}

fn get<T>(
    kernel: &Kernel,
    device: &str,
    command: &Command,
    read: impl FnOnce(Attributes<'_>) -> T,
) -> Result<T, Refused> {
    let answer = kernel.generic(|generic| generic.get(command, &about(device)))?;
    Ok(read(Attributes(&answer)))
}

/// How many queues there are.
pub(super) fn channels(kernel: &Kernel, device: &str) -> Result<Channels, Refused> {
    get(kernel, device, &CHANNELS_GET, read_channels)
}

/// How long the rings are.
pub(super) fn rings(kernel: &Kernel, device: &str) -> Result<Rings, Refused> {
    get(kernel, device, &RINGS_GET, read_rings)
}

/// How interrupts are moderated.
pub(super) fn coalesce(kernel: &Kernel, device: &str) -> Result<Coalesce, Refused> {
    get(kernel, device, &COALESCE_GET, read_coalesce)
}

/// Offloads.
pub(super) fn features(
    kernel: &Kernel,
    device: &str,
) -> Result<BTreeMap<String, Feature>, Refused> {
    get(kernel, device, &FEATURES_GET, read_features)
}

/// The driver's own switches.
pub(super) fn private_flags(
    kernel: &Kernel,
    device: &str,
) -> Result<BTreeMap<String, bool>, Refused> {
    const FLAGS: u16 = 2;
    get(kernel, device, &PRIVFLAGS_GET, |answer| {
        read_bits(answer.nest(FLAGS)).into_iter().collect()
    })
}

/// Mb/s; `None` if there is no link or no notion of speed.
pub(super) fn speed_mbps(kernel: &Kernel, device: &str) -> Option<u32> {
    const SPEED: u16 = 5;
    /// What the kernel writes when it does not know.
    const UNKNOWN: u32 = u32::MAX;
    let speed = get(kernel, device, &LINKMODES_GET, |answer| answer.u32(SPEED));
    speed.ok().flatten().filter(|&speed| speed != 0 && speed != UNKNOWN)
}

/// A kind of channel that the device does not have is missing from the answer: its number is 0.
fn read_channels(answer: Attributes<'_>) -> Channels {
    let pair = |now, most| (answer.u32(now).unwrap_or(0), answer.u32(most).unwrap_or(0));
    Channels { rx: pair(6, 2), tx: pair(7, 3), other: pair(8, 4), combined: pair(9, 5) }
}

fn read_rings(answer: Attributes<'_>) -> Rings {
    let pair = |now, most| (answer.u32(now).unwrap_or(0), answer.u32(most).unwrap_or(0));
    Rings { rx: pair(6, 2), tx: pair(9, 5) }
}

fn read_coalesce(answer: Attributes<'_>) -> Coalesce {
    let switch = |kind| answer.number(kind).map(|value| value != 0);
    Coalesce {
        rx_usecs: answer.u32(2),
        rx_frames: answer.u32(3),
        tx_usecs: answer.u32(6),
        tx_frames: answer.u32(7),
        adaptive_rx: switch(11),
        adaptive_tx: switch(12),
    }
}

/// A set of named bits. With a mask, the bits of the mask are listed, those that are set with a
/// mark; without, only those that are set are listed.
fn read_bits(set: Attributes<'_>) -> Vec<(String, bool)> {
    const HAS_NO_MASK: u16 = 1;
    const BITS: u16 = 3;
    const NAME: u16 = 2;
    const VALUE: u16 = 3;
    let all = set.has(HAS_NO_MASK);
    let bits = set.nest(BITS).iter().filter_map(|(_, bit)| {
        let bit = Attributes(bit);
        // A bit that is reserved has an empty name.
        let name = bit.text(NAME).filter(|name| !name.is_empty())?;
        Some((name, all || bit.has(VALUE)))
    });
    bits.collect()
}

/// Four sets: what the driver can switch (of all that the kernel knows), what is asked for, what
/// is at work, and what cannot be switched although the driver could.
fn read_features(answer: Attributes<'_>) -> BTreeMap<String, Feature> {
    const HARDWARE: u16 = 2;
    const WANTED: u16 = 3;
    const ACTIVE: u16 = 4;
    const NO_CHANGE: u16 = 5;
    let names = |kind: u16| {
        let bits = read_bits(answer.nest(kind)).into_iter();
        bits.filter_map(|(name, set)| set.then_some(name)).collect::<Vec<_>>()
    };
    let mut features: BTreeMap<String, Feature> = read_bits(answer.nest(HARDWARE))
        .into_iter()
        .map(|(name, changeable)| (name, Feature { changeable, ..Feature::default() }))
        .collect();
    for name in names(WANTED) {
        features.entry(name).or_default().wanted = true;
    }
    for name in names(ACTIVE) {
        features.entry(name).or_default().active = true;
    }
    for name in names(NO_CHANGE) {
        features.entry(name).or_default().changeable = false;
    }
    features
}

#[cfg(test)]
mod tests {
    use super::super::netlink::recorded;
    use super::*;

    fn set(bits: &[(&str, bool)], has_mask: bool) -> Question {
        let list = bits.iter().fold(Question::default(), |list, &(name, value)| {
            let bit = Question::default().u32(1, 0).text(2, name);
            list.nest(1, &if value { bit.bytes(3, &[]) } else { bit })
        });
        let set = Question::default().u32(2, 64).nest(3, &list);
        if has_mask { set } else { set.bytes(1, &[]) }
    }

    #[test]
    fn an_offload_that_is_fixed_cannot_be_changed() {
        let hardware =
            set(&[("rx-gro", true), ("", false), ("rx-lro", false), ("rx-all", true)], true);
        let answer = about("eth0")
            .nest(2, &hardware)
            .nest(3, &set(&[("rx-gro", false), ("rx-all", false)], false))
            .nest(4, &set(&[("rx-gro", false)], false))
            .nest(5, &set(&[("rx-all", false)], false));
        let features = read_features(Attributes(answer.as_bytes()));
        let of = |active, wanted, changeable| Feature { active, wanted, changeable };
        assert_eq!(features.len(), 3);
        assert_eq!(features["rx-gro"], of(true, true, true));
        assert_eq!(features["rx-lro"], of(false, false, false));
        assert_eq!(features["rx-all"], of(false, true, false));
    }

    #[test]
    fn flags_of_the_driver_are_all_listed() {
        let flags = set(&[("legacy-rx", true), ("vf-true-promisc-support", false)], true);
        let expected = [("legacy-rx", true), ("vf-true-promisc-support", false)];
        let expected = expected.map(|(name, set)| (name.to_owned(), set));
        assert_eq!(read_bits(Attributes(flags.as_bytes())), expected);
    }

    /// From a virtio_net of one queue, Linux 6.18; without the generic header.
    #[test]
    fn recorded_answers_are_read() {
        let channels = recorded(
            "18000180 08000100 04000000 09000200 65746830 00000000 08000500 01000000
             08000900 01000000",
        );
        let expected = Channels { combined: (1, 1), ..Channels::default() };
        assert_eq!(read_channels(Attributes(&channels)), expected);
        let rings = recorded(
            "18000180 08000100 04000000 09000200 65746830 00000000 08000200 00010000
             08000600 00010000 08000500 00010000 08000900 00010000 05000d00 00000000
             05000e00 00000000",
        );
        let expected = Rings { rx: (256, 256), tx: (256, 256) };
        assert_eq!(read_rings(Attributes(&rings)), expected);
        let coalesce = recorded(
            "18000180 08000100 04000000 09000200 65746830 00000000 08000200 00000000
             08000300 01000000 08000600 00000000 08000700 01000000 05000b00 00000000",
        );
        let expected = Coalesce {
            rx_usecs: Some(0),
            rx_frames: Some(1),
            tx_usecs: Some(0),
            tx_frames: Some(1),
            adaptive_rx: Some(false),
            adaptive_tx: None,
        };
        assert_eq!(read_coalesce(Attributes(&coalesce)), expected);
    }

    #[test]
    fn what_is_left_out_is_none() {
        // A NIC with combined channels alone, as igb answers.
        let answer = about("eth0").u32(4, 1).u32(5, 4).u32(8, 1).u32(9, 4);
        let channels = read_channels(Attributes(answer.as_bytes()));
        let expected = Channels { other: (1, 1), combined: (4, 4), ..Channels::default() };
        assert_eq!(channels, expected);
        let rings = read_rings(Attributes(about("x").u32(2, 4096).u32(6, 256).as_bytes()));
        assert_eq!(rings, Rings { rx: (256, 4096), tx: (0, 0) });
        let coalesce = read_coalesce(Attributes(about("x").u32(2, 3).bytes(11, &[1]).as_bytes()));
        assert_eq!((coalesce.rx_usecs, coalesce.adaptive_rx), (Some(3), Some(true)));
        assert_eq!((coalesce.tx_usecs, coalesce.adaptive_tx), (None, None));
    }
}
