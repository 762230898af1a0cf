//! Observing by hash: what the driver reports of each packet of the flow.

use super::{Counted, STEP, Seen, Verdict};
use quiclane::datapath::xdp::{Arrival, Carrier, HashProbe, HashType, XdpError};
use quiclane::topology::explain::{Prediction, Protocol, Question};
use quiclane::topology::survey::device::Device;
use quiclane::topology::{Nic, Reading};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

/// How long a sent packet may take to be seen. It is far more than needed: only a lost packet
/// takes it.
pub(super) const LATE: Duration = Duration::from_secs(2);
/// The source of the numbers.
const ORIGIN: &str = "XDP rx_hash";
/// The driver that turns RSS off: see [`virtio_turns_rss_off`].
const VIRTIO: &str = "virtio_net";

/// What the driver reported of packets, and how many agree in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Reported {
    queue: u32,
    hash: Option<String>,
    /// What the driver hashed, by its report.
    hash_type: Option<String>,
    /// Why there is no hash.
    error: Option<String>,
    packets: u64,
}

/// Puts the program on the device, or says why not.
pub(super) fn attach(nic: &Nic, device: &Device) -> Result<HashProbe, String> {
    offered(device)?;
    if virtio_turns_rss_off(nic, device) {
        return Err(format!(
            "{VIRTIO} turns RSS off silently when an XDP program comes or goes and the \
             indirection table is not its own default (ethtool -X {} default)",
            nic.name
        ));
    }
    HashProbe::attach(&nic.name).map_err(|error| match error {
        // Capabilities that only AF_XDP sockets need are not needed here.
        XdpError::Privilege { .. } => {
            "attaching an XDP program needs CAP_BPF and CAP_NET_ADMIN (sudo)".to_owned()
        }
        // A device takes one program of a mode. No server has to be stopped: counters do without.
        XdpError::Occupied { device, program, .. } => format!(
            "program {} ({}) is on {device}, and a device takes one: what the queues count is \
             compared while it runs",
            program.id,
            program.name.as_deref().filter(|name| !name.is_empty()).unwrap_or("no name")
        ),
        error => error.to_string(),
    })
}

/// # Errors
/// The driver does not offer the hash, or whether it does is not known.
fn offered(device: &Device) -> Result<(), String> {
    const ASKED: &str = "netdev netlink dev-get, xdp-rx-metadata-features";
    match &device.xdp_support {
        Reading::Known(support) if support.rx_metadata.iter().any(|what| what == "hash") => Ok(()),
        Reading::Known(_) => {
            let driver =
                device.identity.known().map_or("the driver", |known| known.driver.as_str());
            Err(format!("{driver} offers no rx_hash ({ASKED})"))
        }
        Reading::Unknown(reason) => Err(format!("whether rx_hash is offered: {reason}")),
    }
}

/// True if attaching a program would turn RSS off. virtio_net tells the device the number of its
/// queues whenever a program is attached or detached. That command ends RSS, unless the table is the
/// driver's own. Nothing shows it: `ethtool -x` shows the table as before. A diagnosis must not
/// cause that.
fn virtio_turns_rss_off(nic: &Nic, device: &Device) -> bool {
    let contexts = device.rss.known().map_or(&[][..], Vec::as_slice);
    let main = contexts.iter().find(|context| context.id == 0);
    // The default table names all queues in turn (`ethtool_rxfh_indir_default`).
    let turns = |table: &[u32]| {
        let queues = nic.queues.len().max(1);
        table.iter().enumerate().all(|(slot, &queue)| slot % queues == queue as usize)
    };
    is_virtio(device) && main.is_some_and(|context| !turns(&context.table))
}

fn is_virtio(device: &Device) -> bool {
    device.identity.known().is_some_and(|known| known.driver == VIRTIO)
}

/// Looks at the packets of this flow from now on.
pub(super) fn watch(probe: &HashProbe, question: &Question) -> Result<(), XdpError> {
    let carrier = match question.protocol {
        Protocol::Udp => Carrier::Udp,
        Protocol::Tcp => Carrier::Tcp,
    };
    probe.watch(carrier, question.flow.source, question.flow.destination)
}

/// What has arrived: as soon as it is `wanted` packets, or at the deadline.
pub(super) fn settled(
    probe: &HashProbe,
    wanted: u64,
    patience: Duration,
) -> Result<Vec<Arrival>, XdpError> {
    let mut steps = patience.as_millis() / STEP.as_millis();
    loop {
        let arrivals = probe.arrivals()?;
        let packets: u64 = arrivals.iter().map(|arrival| arrival.packets).sum();
        if packets >= wanted || steps == 0 {
            return Ok(arrivals);
        }
        steps -= 1;
        thread::sleep(STEP);
    }
}

/// The hash that the flow should have.
pub(super) fn predicted(prediction: &Prediction) -> Option<u32> {
    Some(prediction.hashing.as_ref()?.placement?.hash)
}

pub(super) fn hex(hash: u32) -> String {
    format!("{hash:#010x}")
}

/// The expected queue and hash of the packets.
#[derive(Clone, Debug, Default)]
pub(super) struct Expected {
    queue: Option<u32>,
    hash: Option<u32>,
    /// Why no hash is expected, if none is.
    no_hash_because: &'static str,
    /// What to do if the driver gives none.
    remedy: String,
}

impl Expected {
    pub(super) fn new(nic: &Nic, device: &Device, prediction: &Prediction) -> Self {
        let contexts = device.rss.known().map_or(&[][..], Vec::as_slice);
        let has_key = contexts.iter().any(|context| !context.key.is_empty());
        Self {
            queue: prediction.queue(),
            hash: predicted(prediction),
            no_hash_because: if has_key { "none was predicted" } else { "it has no RSS key" },
            remedy: remedy(nic, device),
        }
    }

    /// Compares queue and hash of every packet.
    pub(super) fn judge(&self, arrivals: &[Arrival]) -> Seen {
        let mut counted = BTreeMap::new();
        for arrival in arrivals {
            *counted.entry(arrival.queue).or_insert(0) += arrival.packets;
        }
        let (verdict, why) = self.verdict(&counted, arrivals);
        let row = |(queue, packets)| Counted { queue, packets };
        Seen {
            verdict,
            why,
            counted: counted.into_iter().map(row).collect(),
            counters: Some(ORIGIN),
            reported: arrivals.iter().map(reported).collect(),
        }
    }

    fn verdict(&self, counted: &BTreeMap<u32, u64>, arrivals: &[Arrival]) -> (Verdict, String) {
        if arrivals.is_empty() {
            let why = "no packet of the flow arrived: is it under way, and to this device?";
            return (Verdict::Unsure, why.to_owned());
        }
        let (differs, hash) = self.hash(arrivals);
        let queues: Vec<String> = counted.keys().map(u32::to_string).collect();
        let queues = match &queues[..] {
            [one] => format!("queue {one}"),
            many => format!("queues {}", many.join(", ")),
        };
        let Some(expected) = self.queue else {
            let why = format!("no queue was predicted; the flow arrives on {queues}{hash}");
            return (Verdict::Unsure, why);
        };
        if counted.keys().any(|&queue| queue != expected) {
            let why = format!("the flow arrives on {queues}{hash}; predicted was queue {expected}");
            return (Verdict::Mismatch, why);
        }
        let verdict = if differs { Verdict::Mismatch } else { Verdict::Match };
        (verdict, format!("the flow arrives on {queues}{hash}"))
    }

    /// Whether a hash differs, and the text about it.
    fn hash(&self, arrivals: &[Arrival]) -> (bool, String) {
        let hashes: BTreeSet<String> = arrivals.iter().map(hash_text).collect();
        let hashes = hashes.into_iter().collect::<Vec<_>>().join(", ");
        let remedy = &self.remedy;
        if arrivals.iter().all(|arrival| arrival.hash.is_err()) {
            return (false, format!("; the device reports no hash of it{remedy}"));
        }
        let Some(expected) = self.hash else {
            let why = self.no_hash_because;
            return (false, format!("; the hash, {hashes}, cannot be compared: {why}"));
        };
        let hash = |arrival: &Arrival| arrival.hash.as_ref().ok().copied();
        if arrivals.iter().filter_map(hash).all(|(hash, _)| hash == expected) {
            return (false, format!(" with hash {hashes}"));
        }
        let is_unhashed = |arrival| hash(arrival) == Some((0, HashType::NONE));
        let remedy = if arrivals.iter().any(is_unhashed) { remedy } else { "" };
        (true, format!(" with hash {hashes}, not {}{remedy}", hex(expected)))
    }
}

fn hash_text(arrival: &Arrival) -> String {
    match &arrival.hash {
        Ok((hash, kind)) => format!("{} ({kind})", hex(*hash)),
        Err(error) => format!("none ({error})"),
    }
}

/// What to do if a driver that offers the hash has none.
fn remedy(nic: &Nic, device: &Device) -> String {
    let name = &nic.name;
    let feature = device.features.known().and_then(|features| features.get("rx-hashing"));
    match feature {
        Some(found) if !found.active && found.changeable => {
            format!(": it is off (ethtool -K {name} rxhash on)")
        }
        _ if is_virtio(device) => format!(
            ": {VIRTIO} turns RSS off when an XDP program comes or goes, if the indirection table \
             was ever set (ethtool -X {name} default)"
        ),
        _ => String::new(),
    }
}

fn reported(arrival: &Arrival) -> Reported {
    let known = arrival.hash.as_ref().ok();
    Reported {
        queue: arrival.queue,
        hash: known.map(|&(hash, _)| hex(hash)),
        hash_type: known.map(|(_, kind)| kind.to_string()),
        error: arrival.hash.as_ref().err().map(ToString::to_string),
        packets: arrival.packets,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    const HASH: u32 = 0x51cc_c178;
    const UDP4: HashType = HashType(0b10_1001);

    fn on(queue: u32, hash: Result<(u32, HashType), i32>) -> Arrival {
        Arrival { queue, hash: hash.map_err(io::Error::from_raw_os_error), packets: 10 }
    }

    fn expected(queue: Option<u32>, hash: Option<u32>) -> Expected {
        let remedy = ": mend it".to_owned();
        Expected { queue, hash, no_hash_because: "it has no RSS key", remedy }
    }

    fn judged(expected: &Expected, arrivals: &[Arrival]) -> (Verdict, String) {
        let seen = expected.judge(arrivals);
        assert_eq!(seen.reported.len(), arrivals.len());
        (seen.verdict, seen.why)
    }

    #[test]
    fn queue_and_hash_have_to_be_those() {
        let both = expected(Some(3), Some(HASH));
        for (arrivals, verdict, says) in [
            (vec![on(3, Ok((HASH, UDP4)))], Verdict::Match, "0x51ccc178 (ipv4+l4+udp)"),
            (
                vec![on(1, Ok((HASH, UDP4)))],
                Verdict::Mismatch,
                "queue 1 with hash 0x51ccc178 (ipv4+l4+udp); predicted was queue 3",
            ),
            (vec![on(3, Ok((7, UDP4)))], Verdict::Mismatch, "0x00000007 (ipv4+l4+udp), not 0x51"),
            (
                vec![on(1, Ok((HASH, UDP4))), on(3, Ok((HASH, UDP4)))],
                Verdict::Mismatch,
                "queues 1, 3 with",
            ),
            (
                vec![on(3, Ok((HASH, UDP4))), on(3, Ok((7, UDP4)))],
                Verdict::Mismatch,
                "0x00000007 (ipv4+l4+udp), 0x51ccc178 (ipv4+l4+udp), not",
            ),
            (vec![], Verdict::Unsure, "no packet"),
        ] {
            let (found, why) = judged(&both, &arrivals);
            assert_eq!(found, verdict, "{why}");
            assert!(why.contains(says), "{why}");
        }
    }

    #[test]
    fn the_remedy_is_told_where_a_packet_was_not_hashed() {
        let both = expected(Some(3), Some(HASH));
        let (verdict, why) = judged(&both, &[on(3, Ok((0, HashType::NONE)))]);
        assert_eq!(verdict, Verdict::Mismatch);
        assert!(why.ends_with("with hash 0x00000000 (none), not 0x51ccc178: mend it"), "{why}");
        let (_, why) = judged(&both, &[on(3, Ok((7, UDP4)))]);
        assert!(!why.contains("mend it"), "{why}");
    }

    #[test]
    fn without_a_hash_the_queue_alone_is_compared() {
        let none = || vec![on(3, Err(libc::ENODATA))];
        for (expected, arrivals, verdict, says) in [
            (expected(Some(3), Some(HASH)), none(), Verdict::Match, "no hash of it: mend it"),
            (expected(Some(1), Some(HASH)), none(), Verdict::Mismatch, "; predicted was queue 1"),
            (
                expected(Some(3), None),
                vec![on(3, Ok((HASH, HashType(8))))],
                Verdict::Match,
                "the hash, 0x51ccc178 (l4), cannot be compared: it has no RSS key",
            ),
            (expected(None, None), none(), Verdict::Unsure, "no queue was predicted"),
        ] {
            let (found, why) = judged(&expected, &arrivals);
            assert_eq!(found, verdict, "{why}");
            assert!(why.contains(says), "{why}");
        }
    }
}
