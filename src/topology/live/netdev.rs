//! What the netdev generic netlink family tells: XDP features, queues, NAPI, counters of queues.
//!
//! The numbers are those of `linux/netdev.h`, as of Linux 6.18.

use super::netlink::{Attributes, Command, Question};
use super::refused::Refused;
use super::{Kernel, link};
use crate::topology::survey::device::{Direction, Napi, QueueCounters, QueueLink, XdpSupport};

const FAMILY: &str = "netdev";

pub(super) const fn command(call: &'static str, id: u8, since: &'static str) -> Command {
    Command { family: FAMILY, call, id, since }
}

const DEV_GET: Command = command("netdev dev-get", 1, "Linux 6.3 does");
const QUEUE_GET: Command = command("netdev queue-get", 10, "Linux 6.8 does");
const NAPI_GET: Command = command("netdev napi-get", 11, "Linux 6.8 does");
const QSTATS_GET: Command = command("netdev qstats-get", 12, "Linux 6.9 does");

/// Queues of both directions, and NAPI instances, that are read: no device has more.
const QUEUES_MAX: usize = 65_536;

/// What the driver offers to XDP.
pub(super) fn xdp_support(kernel: &Kernel, device: &str) -> Result<XdpSupport, Refused> {
    const INDEX: u16 = 1;
    let question = Question::default().u32(INDEX, kernel.index(device)?);
    let answer = kernel.generic(|generic| generic.get(&DEV_GET, &question))?;
    Ok(read_support(Attributes(&answer)))
}

/// Queues and their NAPI instances, the receive queues first.
pub(super) fn queue_links(kernel: &Kernel, device: &str) -> Result<Vec<QueueLink>, Refused> {
    const INDEX: u16 = 2;
    let tells_sockets = kernel.is_since(6, 15);
    let mut queues = dump(kernel, device, &QUEUE_GET, INDEX, &[], &mut |answer| {
        read_queue(answer, tells_sockets)
    })?;
    queues.sort_unstable_by_key(|queue| (queue.direction, queue.index));
    awake(kernel, device, queues, "queues")
}

/// The receive queues of every device of the namespace, each with the device's index.
pub(super) fn receive_queues(kernel: &Kernel) -> Result<Vec<(u32, QueueLink)>, Refused> {
    const INDEX: u16 = 2;
    let tells_sockets = kernel.is_since(6, 15);
    let mut found = Vec::new();
    kernel.generic(|generic| {
        generic.dump(&QUEUE_GET, &Question::default(), &mut |answer| {
            let queue = read_queue(answer, tells_sockets);
            let queue = queue.filter(|queue| queue.direction == Direction::Rx);
            if found.len() < QUEUES_MAX {
                found.extend(answer.u32(INDEX).zip(queue));
            }
        })
    })?;
    Ok(found)
}

/// NAPI instances, by number.
pub(super) fn napis(kernel: &Kernel, device: &str) -> Result<Vec<Napi>, Refused> {
    const INDEX: u16 = 1;
    let mut napis = dump(kernel, device, &NAPI_GET, INDEX, &[], &mut read_napi)?;
    napis.sort_unstable_by_key(|napi| napi.id);
    awake(kernel, device, napis, "NAPI instances")
}

/// What each queue counted, the receive queues first.
pub(super) fn queue_counters(kernel: &Kernel, device: &str) -> Result<Vec<QueueCounters>, Refused> {
    const INDEX: u16 = 1;
    const SCOPE: u16 = 4;
    const BY_QUEUE: u32 = 1;
    let scope = [(SCOPE, BY_QUEUE)];
    let mut queues = dump(kernel, device, &QSTATS_GET, INDEX, &scope, &mut read_counters)?;
    queues.sort_unstable_by_key(|queue| (queue.direction, queue.index));
    awake(kernel, device, queues, "queues")
}

fn dump<T>(
    kernel: &Kernel,
    device: &str,
    command: &Command,
    index: u16,
    more: &[(u16, u32)],
    read: &mut dyn FnMut(Attributes<'_>) -> Option<T>,
) -> Result<Vec<T>, Refused> {
    let question = Question::default().u32(index, kernel.index(device)?);
    let question = more.iter().fold(question, |question, &(kind, value)| question.u32(kind, value));
    let mut found = Vec::new();
    kernel.generic(|generic| {
        generic.dump(command, &question, &mut |answer| {
            if found.len() < QUEUES_MAX {
                found.extend(read(answer));
            }
        })
    })?;
    Ok(found)
}

/// The kernel tells nothing of a device that is down, which is not the same as nothing to tell.
fn awake<T>(kernel: &Kernel, device: &str, found: Vec<T>, what: &str) -> Result<Vec<T>, Refused> {
    if found.is_empty() && link::link(kernel, device).is_ok_and(|link| !link.is_up) {
        return Err(Refused::Silent(format!(
            "{device} is down: the kernel tells of {what} only while a device is up"
        )));
    }
    Ok(found)
}

/// The names of the bits that are set, in the order of the bits.
fn names(bits: u64, names: &[&str]) -> Vec<String> {
    let name = |bit: u32| match names.get(bit as usize) {
        Some(name) => (*name).to_owned(),
        None => format!("bit-{bit}"),
    };
    (0..u64::BITS).filter(|bit| bits >> bit & 1 == 1).map(name).collect()
}

fn read_support(answer: Attributes<'_>) -> XdpSupport {
    const FEATURES: u16 = 3;
    const SEGMENTS: u16 = 4;
    const RX_METADATA: u16 = 5;
    const XSK_FEATURES: u16 = 6;
    const FEATURE_NAMES: [&str; 7] =
        ["basic", "redirect", "ndo-xmit", "xsk-zerocopy", "hw-offload", "rx-sg", "ndo-xmit-sg"];
    const METADATA_NAMES: [&str; 3] = ["timestamp", "hash", "vlan-tag"];
    const XSK_NAMES: [&str; 3] = ["tx-timestamp", "tx-checksum", "tx-launch-time-fifo"];
    let bits = |kind| answer.number(kind).unwrap_or(0);
    XdpSupport {
        features: names(bits(FEATURES), &FEATURE_NAMES),
        rx_metadata: names(bits(RX_METADATA), &METADATA_NAMES),
        xsk_features: names(bits(XSK_FEATURES), &XSK_NAMES),
        zerocopy_max_segments: answer.u32(SEGMENTS).filter(|&segments| segments > 1),
    }
}

fn direction(number: u64) -> Option<Direction> {
    match number {
        0 => Some(Direction::Rx),
        1 => Some(Direction::Tx),
        _ => None,
    }
}

fn read_queue(answer: Attributes<'_>, tells_sockets: bool) -> Option<QueueLink> {
    const ID: u16 = 1;
    const TYPE: u16 = 3;
    const NAPI: u16 = 4;
    const XSK: u16 = 7;
    let has_xsk = answer.has(XSK);
    Some(QueueLink {
        index: answer.u32(ID)?,
        direction: direction(answer.number(TYPE)?)?,
        napi: answer.u32(NAPI),
        has_xsk: (has_xsk || tells_sockets).then_some(has_xsk),
    })
}

fn read_napi(answer: Attributes<'_>) -> Option<Napi> {
    /// NETDEV_NAPI_THREADED_BUSY_POLL.
    const BUSY_POLL: u64 = 2;
    Some(Napi {
        id: answer.u32(2)?,
        irq: answer.u32(3),
        thread: answer.u32(4),
        defer_hard_irqs: answer.u32(5),
        gro_flush_timeout_ns: answer.number(6),
        irq_suspend_timeout_ns: answer.number(7),
        // 0 is no; there are two ways of yes.
        threaded: answer.number(8).map(|how| how != 0),
        busy_polls: answer.number(8).map(|how| how == BUSY_POLL),
    })
}

fn read_counters(answer: Attributes<'_>) -> Option<QueueCounters> {
    const TYPE: u16 = 2;
    const ID: u16 = 3;
    let direction = direction(answer.number(TYPE)?)?;
    let (packets, bytes, hw_drops) = match direction {
        Direction::Rx => (8, 9, 13),
        Direction::Tx => (10, 11, 24),
    };
    const ALLOC_FAIL: u16 = 12;
    Some(QueueCounters {
        index: answer.u32(ID)?,
        direction,
        packets: answer.number(packets),
        bytes: answer.number(bytes),
        hw_drops: answer.number(hw_drops),
        alloc_fail: answer.number(ALLOC_FAIL).filter(|_| direction == Direction::Rx),
    })
}

#[cfg(test)]
mod tests {
    use super::super::netlink::recorded;
    use super::*;

    #[test]
    fn bits_have_names() {
        let answer = Question::default().bytes(3, &0b1_1011u64.to_ne_bytes()).u32(4, 1);
        let support = read_support(Attributes(answer.as_bytes()));
        assert_eq!(support.features, ["basic", "redirect", "xsk-zerocopy", "hw-offload"]);
        assert!(support.offers("xsk-zerocopy") && support.rx_metadata.is_empty());
        assert_eq!(support.zerocopy_max_segments, None);
        assert_eq!(names(1 << 40, &["basic"]), ["bit-40"]);
    }

    #[test]
    fn a_queue_without_a_socket_is_known_only_where_the_kernel_tells() {
        let queue = Question::default().u32(1, 3).u32(2, 9).u32(3, 0).u32(4, 8_193);
        let read = |tells| read_queue(Attributes(queue.as_bytes()), tells).unwrap();
        assert_eq!(read(false).has_xsk, None);
        assert_eq!(read(true).has_xsk, Some(false));
        assert_eq!((read(true).index, read(true).napi), (3, Some(8_193)));
        let with = queue.clone().nest(7, &Question::default());
        let read = |tells| read_queue(Attributes(with.as_bytes()), tells).unwrap();
        assert_eq!(read(false).has_xsk, Some(true));
    }

    /// From a virtio_net of one queue, Linux 6.18; without the generic header.
    #[test]
    fn recorded_answers_are_read() {
        let support = recorded(
            "08000100 04000000 0c000300 2b000000 00000000 0c000500 00000000 00000000
             0c000600 00000000 00000000 08000400 01000000",
        );
        let support = read_support(Attributes(&support));
        assert_eq!(support.features, ["basic", "redirect", "xsk-zerocopy", "rx-sg"]);
        let queue =
            recorded("08000100 00000000 08000300 00000000 08000200 04000000 08000400 01010000");
        let expected =
            QueueLink { index: 0, direction: Direction::Rx, napi: Some(257), has_xsk: Some(false) };
        assert_eq!(read_queue(Attributes(&queue), true), Some(expected));
        let napi = recorded(
            "08000200 01010000 08000100 04000000 08000800 00000000 08000500 00000000
             08000700 00000000 08000600 00000000",
        );
        let expected = Napi {
            id: 257,
            defer_hard_irqs: Some(0),
            gro_flush_timeout_ns: Some(0),
            irq_suspend_timeout_ns: Some(0),
            threaded: Some(false),
            busy_polls: Some(false),
            ..Napi::default()
        };
        assert_eq!(read_napi(Attributes(&napi)), Some(expected));
        let counters = recorded(
            "08000100 04000000 08000200 00000000 08000300 00000000 08000800 2f990000
             08000900 4da0fc4c",
        );
        let expected = QueueCounters {
            index: 0,
            direction: Direction::Rx,
            packets: Some(39_215),
            bytes: Some(1_291_624_525),
            hw_drops: None,
            alloc_fail: None,
        };
        assert_eq!(read_counters(Attributes(&counters)), Some(expected));
    }

    #[test]
    fn numbers_of_either_width_are_read() {
        let answer = Question::default()
            .u32(2, 8_200)
            .u32(6, 20_000)
            .bytes(7, &5_000_000_000u64.to_ne_bytes())
            .u32(8, 2);
        let napi = read_napi(Attributes(answer.as_bytes())).unwrap();
        assert_eq!(napi.gro_flush_timeout_ns, Some(20_000));
        assert_eq!(napi.irq_suspend_timeout_ns, Some(5_000_000_000));
        assert_eq!((napi.threaded, napi.irq), (Some(true), None));
        assert_eq!(napi.busy_polls, Some(true));
    }
}
