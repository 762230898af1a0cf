//! A flood of handshakes that fail, from forged addresses: a part of `tools/bench net`.
//!
//! Client Initials that are correctly sealed, so that a server has to decrypt them: half of them carry
//! CONNECTION_CLOSE, half an invalid ClientHello. Each leaves with a source address of its own,
//! through AF_XDP, which writes the headers itself. They are made before the flood begins; then a
//! datagram costs one copy.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use quiclane::datapath::xdp::{PortUse, Require, XdpConfig, XdpDatapath, XdpDevice};
use quiclane::datapath::{Datapath, Link, MAX_BURST, Mode, Path};
use quiclane::ecn::Ecn;
use quiclane::proto::crypto::{TAG_LEN, initial_keys};
use quiclane::wire::frame::Frame;
use quiclane::wire::packet::{LongHeader, PacketType, patch_length};
use quiclane::wire::{ConnectionId, Side, VERSION_1, Writer};

use crate::{Failure, clock};

/// Different datagrams. A server keeps no state of a failed handshake, so it does not recognize them.
const DISTINCT: u64 = 512;
const DATAGRAM_BYTES: usize = 1200;
const CLIENT_HELLO_BYTES: usize = 300;
/// Datagrams sent at once at most: a fraction of a ring.
const BURST: u64 = MAX_BURST as u64;
/// After a longer pause the missed datagrams are not sent.
const MAX_BEHIND: Duration = Duration::from_millis(20);
/// How long the server may take to answer the first datagram, which resolves its link address.
const PATIENCE: Duration = Duration::from_secs(5);
/// Forged sources: addresses of 10.0.0.0/8, ports from 49,152 up.
const SOURCE_BITS: u32 = 24;
const FIRST_PORT: u16 = 49_152;
const QUEUE: u32 = 0;

/// Arguments of a flood.
#[derive(Args)]
pub(crate) struct FloodArgs {
    /// The network device
    #[arg(long)]
    dev: String,
    /// Our address and port, the source of the first datagram
    #[arg(long)]
    local: SocketAddr,
    /// The server
    #[arg(long)]
    to: SocketAddr,
    /// Datagrams in a second
    #[arg(long, default_value_t = 40_000)]
    rate: u64,
    /// How long it lasts, in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

/// Sends, and prints one JSON object.
pub(crate) fn run(args: &FloodArgs) -> Result<(), Failure> {
    let config = XdpConfig {
        require: Require::Xdp,
        force_mode: Some(Mode::NativeCopy),
        ..XdpConfig::new(args.dev.as_str())
    };
    let (device, _) = XdpDevice::attach(&config)?;
    let mut datapath = device.open_queue(QUEUE, &[args.local])?;
    device.listen_as(args.local, PortUse::Client)?;
    let initials = (0..DISTINCT).map(initial).collect::<Result<Vec<_>, _>>()?;
    let link = learn(&mut datapath, args, &initials[1])?;
    println!("ready");
    let begin = clock::now();
    let limit = Duration::from_secs_f64(args.seconds);
    let (mut sent, mut refused, mut forgone) = (0, 0, 0);
    while begin.elapsed() < limit {
        let due = (begin.elapsed().as_micros() * u128::from(args.rate) / 1_000_000) as u64;
        let behind = due - sent - refused - forgone;
        let most = args.rate * MAX_BEHIND.as_millis() as u64 / 1_000;
        forgone += behind.saturating_sub(most);
        for _ in 0..behind.min(most).min(BURST) {
            let number = sent + refused;
            let path = Path { local: source(number), remote: args.to, link };
            let bytes = &initials[(number % DISTINCT) as usize];
            match datapath.tx_buffer(&path) {
                Some(buffer) => {
                    buffer[..bytes.len()].copy_from_slice(bytes);
                    datapath.tx_commit(bytes.len(), &path, Ecn::NotEct);
                    sent += 1;
                }
                None => refused += 1,
            }
        }
        datapath.flush()?;
        // Only answers to our own first datagram arrive here.
        datapath.receive(MAX_BURST, &mut |_, _| ());
        if behind < BURST {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{}",
        serde_json::json!({"sent": sent, "refused": refused, "forgone": forgone,
            "seconds": seconds, "per_second": sent as f64 / seconds})
    );
    Ok(())
}

/// The link addresses of the path to the server, from its answer to a datagram of our own address.
fn learn(datapath: &mut XdpDatapath, args: &FloodArgs, bytes: &[u8]) -> Result<Link, Failure> {
    let path = Path { local: args.local, remote: args.to, link: Link::UNKNOWN };
    let begin = clock::now();
    let mut link = Link::UNKNOWN;
    while begin.elapsed() < PATIENCE {
        if let Some(buffer) = datapath.tx_buffer(&path) {
            buffer[..bytes.len()].copy_from_slice(bytes);
            datapath.tx_commit(bytes.len(), &path, Ecn::NotEct);
        }
        datapath.flush()?;
        std::thread::sleep(Duration::from_millis(50));
        datapath.receive(MAX_BURST, &mut |meta, _| link = meta.path.link);
        if link.is_known() {
            return Ok(link);
        }
    }
    Err(format!("{} does not answer", args.to).into())
}

/// The forged source of a datagram.
fn source(number: u64) -> SocketAddr {
    let host = number as u32 & ((1 << SOURCE_BITS) - 1);
    let port = FIRST_PORT + (number >> SOURCE_BITS) as u16 % (u16::MAX - FIRST_PORT);
    SocketAddr::from(((10 << SOURCE_BITS | host).to_be_bytes(), port))
}

/// A client Initial that ends its own handshake.
fn initial(number: u64) -> Result<Vec<u8>, Failure> {
    let dcid = ConnectionId::new(&(number | 1 << 63).to_be_bytes()).ok_or("an id of 8 bytes")?;
    let scid = ConnectionId::new(b"spoofed!").ok_or("an id of 8 bytes")?;
    let keys = initial_keys(VERSION_1, dcid.as_slice(), Side::Client).ok_or("no keys")?;
    let mut out = vec![0; DATAGRAM_BYTES];
    let mut w = Writer::new(&mut out[..DATAGRAM_BYTES - TAG_LEN]);
    let header =
        LongHeader { kind: PacketType::Initial, version: VERSION_1, dcid, scid, token: b"" };
    let layout = header.write(&mut w, 0, 4).map_err(|_| "the header does not fit")?;
    let at = w.position();
    let no_hello = [0x77; CLIENT_HELLO_BYTES];
    let frame = match number % 2 {
        0 => Frame::ConnectionClose { code: 0, frame_type: 0, reason: b"" },
        _ => Frame::Crypto { offset: 0, data: &no_hello },
    };
    frame.write(&mut w).map_err(|_| "the frame does not fit")?;
    let len = w.remaining();
    Frame::Padding { len }.write(&mut w).map_err(|_| "the padding does not fit")?;
    patch_length(&mut out, layout.length_at, DATAGRAM_BYTES - layout.pn_at);
    let payload = DATAGRAM_BYTES - TAG_LEN - at;
    let sealed = keys.local.packet().seal(0, &mut out, at, payload).ok_or("it cannot be sealed")?;
    if !keys.local.header().mask(&mut out[..sealed], layout.pn_at) {
        return Err("no header protection".into());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn initials_and_their_sources_differ() {
        let initials: HashSet<_> = (0..DISTINCT).map(|n| initial(n).unwrap()).collect();
        assert_eq!(initials.len() as u64, DISTINCT);
        assert!(
            initials.iter().all(|bytes| bytes.len() == DATAGRAM_BYTES && bytes[0] & 0xf0 == 0xc0)
        );
        let sources: HashSet<_> = (0..100_000).map(source).collect();
        assert_eq!(sources.len(), 100_000);
    }
}
