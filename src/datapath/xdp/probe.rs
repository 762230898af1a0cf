//! What a device reports of a flow's packets: the queue they arrive on, and the hash that the
//! driver read from the hardware.
//!
//! [`HashProbe::attach`] puts a program on the device (`bpf/probe.bpf.c`) that passes every packet
//! on to the kernel; [`HashProbe::watch`] names the flow; [`HashProbe::arrivals`] tells what came.
//! Dropping the probe detaches the program, and so does the death of the process.
//!
//! The driver's hash is had by calling `bpf_xdp_metadata_rx_hash`, a function of the kernel that
//! is found by its type information, from a program that is bound to the device when it is
//! loaded. libbpf does both, aya does neither: hence another loader than the one beside this.

use super::attach::refuse_foreign;
use super::carrier::wait_after_attach;
use super::error::XdpError;
use super::sys::{self, DeviceQuery};
use libbpf_rs::{
    ErrorKind, Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, PrintLevel, set_print,
};
use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// `bpf/probe.bpf.c`, compiled by `build.rs`.
static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/probe.bpf.o"));
const PROGRAM: &str = "quiclane_probe";
/// `struct probe_flow` and `struct probe_arrival`.
const FLOW_BYTES: usize = 40;
const ARRIVAL_BYTES: usize = 20;
/// `BPF_F_XDP_DEV_BOUND_ONLY` (Linux 6.3).
const DEV_BOUND_ONLY: u32 = 1 << 6;
const ATTACHING: &str = "attaching a program that reads the hash";

/// What carries a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// What the hash was made of, as the driver says (`enum xdp_rss_hash_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashType(pub u32);

impl HashType {
    /// The driver says that it does not know, or that the packet was not hashed.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for HashType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 9] =
            ["ipv4", "ipv6", "dynhdr", "l4", "tcp", "udp", "sctp", "ipsec", "icmp"];
        let bits = (0..u32::BITS).filter(|bit| self.0 >> bit & 1 == 1);
        let names: Vec<String> = bits
            .map(|bit| match NAMES.get(bit as usize) {
                Some(name) => (*name).to_owned(),
                None => format!("bit-{bit}"),
            })
            .collect();
        if names.is_empty() { f.write_str("none") } else { f.write_str(&names.join("+")) }
    }
}

/// Packets of the flow that arrived alike.
#[derive(Debug)]
pub struct Arrival {
    /// The queue.
    pub queue: u32,
    /// The hash and what it was made of; or why the driver did not give it.
    pub hash: Result<(u32, HashType), io::Error>,
    /// How many.
    pub packets: u64,
}

/// A program on a device that looks at the packets of a flow.
pub struct HashProbe {
    flows: MapHandle,
    arrivals: MapHandle,
    unnoted: MapHandle,
    /// The flow that is looked at now has this number.
    number: Cell<u32>,
    /// Before the object: a program is detached before it goes.
    _link: Link,
    _object: Object,
}

impl HashProbe {
    /// Loads the program for this device, attaches it in the driver, and waits until the device
    /// has its link back.
    ///
    /// # Errors
    /// There is no such device, the privilege is missing, another program is attached (it is never
    /// replaced), or the kernel or the driver cannot do it.
    pub fn attach(device: &str) -> Result<Self, XdpError> {
        let ifindex = sys::device_index(device)
            .ok_or_else(|| XdpError::NoSuchDevice { device: device.to_owned() })?;
        refuse_foreign(device, ifindex)?;
        // What libbpf has to say goes where everything else goes that is talk.
        let before = set_print(Some((PrintLevel::Debug, |_, line| {
            tracing::debug!(target: "libbpf", "{}", line.trim_end());
        })));
        let probe = Self::load(ifindex);
        set_print(before);
        let probe = probe.map_err(|error| refused(device, ATTACHING, &error))?;
        let driver = DeviceQuery::new(device).and_then(|mut query| query.driver());
        wait_after_attach(device, &driver.unwrap_or_default());
        Ok(probe)
    }

    fn load(ifindex: u32) -> Result<Self, libbpf_rs::Error> {
        let mut object = ObjectBuilder::default().open_memory(OBJECT)?;
        for mut program in object.progs_mut() {
            program.set_ifindex(ifindex);
            program.set_flags(DEV_BOUND_ONLY);
        }
        let object = object.load()?;
        let missing = |what: &str| libbpf_rs::Error::from(io::Error::other(what.to_owned()));
        let map = |name: &str| {
            let map = object.maps().find(|map| map.name() == name);
            MapHandle::try_from(&map.ok_or_else(|| missing(name))?)
        };
        let (flows, arrivals, unnoted) = (map("flows")?, map("arrivals")?, map("unnoted")?);
        let program = object.progs_mut().find(|program| program.name() == PROGRAM);
        // As a link: a kill leaves nothing.
        let link = program.ok_or_else(|| missing(PROGRAM))?.attach_xdp(ifindex.cast_signed())?;
        Ok(Self { flows, arrivals, unnoted, number: Cell::new(0), _link: link, _object: object })
    }

    /// Looks at the packets of this flow from now on, and forgets the one before.
    ///
    /// # Errors
    /// The kernel refuses to change the maps.
    pub fn watch(
        &self,
        carrier: Carrier,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Result<(), XdpError> {
        let number = self.number.get().wrapping_add(1);
        self.number.set(number);
        let flow = flow(carrier, source, destination);
        (|| {
            clear(&self.flows)?;
            clear(&self.arrivals)?;
            self.unnoted.update(&[0; 4], &[0; 8], MapFlags::ANY)?;
            self.flows.update(&flow, &number.to_ne_bytes(), MapFlags::ANY)
        })()
        .map_err(|error| refused("", "naming a flow to the XDP program", &error))
    }

    /// What has arrived of the flow, by queue.
    ///
    /// # Errors
    /// The kernel refuses to read the maps, or the packets differed too much to be noted.
    pub fn arrivals(&self) -> Result<Vec<Arrival>, XdpError> {
        const READING: &str = "reading what the XDP program saw";
        let read = |error| refused("", READING, &error);
        let lost = self.unnoted.lookup(&[0; 4], MapFlags::ANY).map_err(read)?;
        if let lost @ 1.. = lost.map_or(0, |lost| number(&lost)) {
            let detail = format!("{lost} packets had one queue or hash too many to be noted");
            return Err(XdpError::Program { what: READING, detail });
        }
        let mut found = Vec::new();
        for key in self.arrivals.keys() {
            let packets = self.arrivals.lookup(&key, MapFlags::ANY).map_err(read)?;
            let packets = packets.map_or(0, |packets| number(&packets));
            let (flow, arrival) = arrival(&key, packets);
            // A packet of the flow before may have been under way.
            found.extend((flow == self.number.get() && packets > 0).then_some(arrival));
        }
        found.sort_by_key(|arrival| (arrival.queue, arrival.hash.as_ref().ok().map(|hash| hash.0)));
        Ok(found)
    }
}

/// `struct probe_flow`.
fn flow(carrier: Carrier, source: SocketAddr, destination: SocketAddr) -> [u8; FLOW_BYTES] {
    let mut flow = [0; FLOW_BYTES];
    for (at, address) in [(0, source.ip()), (16, destination.ip())] {
        match address {
            IpAddr::V4(ip) => flow[at..at + 4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => flow[at..at + 16].copy_from_slice(&ip.octets()),
        }
    }
    flow[32..34].copy_from_slice(&source.port().to_be_bytes());
    flow[34..36].copy_from_slice(&destination.port().to_be_bytes());
    flow[36] = match carrier {
        Carrier::Udp => libc::IPPROTO_UDP as u8,
        Carrier::Tcp => libc::IPPROTO_TCP as u8,
    };
    flow[37] = if source.is_ipv4() { 4 } else { 6 };
    flow
}

/// The number of the flow, and what `struct probe_arrival` says.
fn arrival(key: &[u8], packets: u64) -> (u32, Arrival) {
    let mut words = [0u32; ARRIVAL_BYTES / 4];
    for (word, bytes) in words.iter_mut().zip(key.as_chunks().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    let [flow, queue, hash, hash_type, error] = words;
    let hash = match error.cast_signed() {
        0 => Ok((hash, HashType(hash_type))),
        error => Err(io::Error::from_raw_os_error(-error)),
    };
    (flow, Arrival { queue, hash, packets })
}

fn number(value: &[u8]) -> u64 {
    value.try_into().map_or(0, u64::from_ne_bytes)
}

fn clear(map: &MapHandle) -> Result<(), libbpf_rs::Error> {
    // Deleting what a walk stands on would end the walk.
    let keys: Vec<Vec<u8>> = map.keys().collect();
    keys.iter().try_for_each(|key| map.delete(key))
}

/// The meaning of what libbpf said.
fn refused(device: &str, what: &'static str, error: &libbpf_rs::Error) -> XdpError {
    match error.kind() {
        ErrorKind::PermissionDenied if !sys::missing_capabilities().is_empty() => {
            XdpError::privilege(what)
        }
        _ if device.is_empty() => XdpError::Program { what, detail: error.to_string() },
        _ => XdpError::Program { what, detail: format!("{device}: {}", XdpError::chain(error)) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_types_have_names() {
        let text = |bits| HashType(bits).to_string();
        assert_eq!(text(0b10_1001), "ipv4+l4+udp");
        assert_eq!(text(0b1_1010), "ipv6+l4+tcp");
        assert_eq!((text(0), text(1 << 12)), ("none".to_owned(), "bit-12".to_owned()));
    }

    #[test]
    fn flows_and_arrivals_are_laid_out_as_the_program_has_them() {
        let source = "10.0.0.1:258".parse().unwrap();
        let key = flow(Carrier::Udp, source, "10.0.0.2:772".parse().unwrap());
        assert_eq!((&key[..5], &key[16..21]), (&[10, 0, 0, 1, 0][..], &[10, 0, 0, 2, 0][..]));
        assert_eq!(key[32..], [1, 2, 3, 4, 17, 4, 0, 0]);
        let words = [7u32, 3, 0x51cc_c178, 0b10_1001, 0].map(u32::to_ne_bytes).concat();
        let (number, seen) = arrival(&words, 9);
        assert_eq!((number, seen.queue, seen.packets), (7, 3, 9));
        assert_eq!(seen.hash.unwrap(), (0x51cc_c178, HashType(0b10_1001)));
        let none = (-libc::ENODATA).cast_unsigned();
        let words = [7u32, 3, 0, 0, none].map(u32::to_ne_bytes).concat();
        let error = arrival(&words, 9).1.hash.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODATA));
    }
}
