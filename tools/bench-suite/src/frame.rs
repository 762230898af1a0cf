//! The cost of a received frame before QUIC sees it, and of its UDP checksum.
//!
//! The AF_XDP datapath does not sum the checksum of a datagram whose packets an AEAD guards. Here the
//! same frames are parsed with the checksum summed and without, in turn.

use std::hint::black_box;
use std::net::SocketAddr;

use clap::Args;
use quiclane::datapath::headers::{Checksums, FlowKey, Template, parse};
use quiclane::ecn::Ecn;

use crate::meter::{End, Meter, Mode};
use crate::{Failure, clock};

/// The payloads: of a request, and of a full packet.
pub(crate) const PAYLOADS: [usize; 2] = [100, 1472];
/// Frames of one section that is counted or timed.
const FRAMES: u64 = 4_096;
/// Sections of each kind, in turn; the fastest counts, since noise only adds.
const ROUNDS: usize = 200;

/// The frame to parse.
#[derive(Args, Clone, Copy)]
pub(crate) struct FrameArgs {
    /// The UDP payload, in bytes
    #[arg(long)]
    bytes: usize,
    /// Sum the UDP checksum
    #[arg(long)]
    summed: bool,
}

impl FrameArgs {
    /// The arguments that run this again.
    pub(crate) fn line(bytes: usize, summed: bool) -> Vec<String> {
        let summed = summed.then(|| "--summed".to_owned());
        let line = ["one-frame", "--bytes"].map(str::to_owned).into_iter();
        line.chain([bytes.to_string()]).chain(summed).collect()
    }
}

const fn checksums(summed: bool) -> Checksums {
    if summed { Checksums::Verify } else { Checksums::Defer }
}

/// An IPv4 frame whose checksums are right.
fn made(payload_bytes: usize) -> Result<Vec<u8>, Failure> {
    let [from, to]: [SocketAddr; 2] = ["192.0.2.2:50000".parse()?, "192.0.2.1:4433".parse()?];
    // A path comes from a received frame: the first frame is written by hand, without checksum.
    let mut first = vec![0; 14 + 20 + 8 + 1];
    first[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    first[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17]);
    first[26..30].copy_from_slice(&[192, 0, 2, 1]);
    first[30..34].copy_from_slice(&[192, 0, 2, 2]);
    first[34..36].copy_from_slice(&to.port().to_be_bytes());
    first[36..38].copy_from_slice(&from.port().to_be_bytes());
    first[39] = 9;
    let path = parse(&first, Checksums::Trusted).map_err(|why| format!("{why:?}"))?.path;
    let template = Template::new(&path, FlowKey::new(1)).ok_or("a path without a link")?;
    let mut buffer = vec![7; 128 + payload_bytes];
    let frame = template.write(&mut buffer, 128..128 + payload_bytes, Ecn::Ect0);
    Ok(buffer[frame].to_vec())
}

fn take_apart(frame: &[u8], checksums: Checksums) {
    for _ in 0..FRAMES {
        let _ = black_box(parse(black_box(frame), black_box(checksums)));
    }
}

/// The run under callgrind.
pub(crate) fn one(args: FrameArgs) -> Result<(), Failure> {
    let frame = made(args.bytes)?;
    let mut meter = Meter::new();
    meter.mode = Mode::Time;
    meter.section(End::Server, || take_apart(&frame, checksums(args.summed)));
    println!("operations: {FRAMES}");
    Ok(())
}

/// Nanoseconds to parse a frame: without its checksum, and with it summed.
fn measure(payload_bytes: usize) -> Result<[f64; 2], Failure> {
    let frame = made(payload_bytes)?;
    let mut best = [f64::INFINITY; 2];
    for _ in 0..ROUNDS {
        for (best, summed) in best.iter_mut().zip([false, true]) {
            let start = clock::now();
            take_apart(&frame, checksums(summed));
            *best = best.min(clock::now().duration_since(start).as_nanos() as f64 / FRAMES as f64);
        }
    }
    Ok(best)
}

/// Prints one JSON array: a part of `tools/bench net`.
pub(crate) fn run() -> Result<(), Failure> {
    let rows = PAYLOADS.map(|bytes| -> Result<_, Failure> {
        let [left_alone, summed] = measure(bytes)?.map(|ns| (ns * 10.0).round() / 10.0);
        Ok(serde_json::json!({"bytes": bytes, "ns": left_alone, "summed_ns": summed}))
    });
    let rows = rows.into_iter().collect::<Result<Vec<_>, _>>()?;
    println!("{}", serde_json::Value::from(rows));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_take_the_same_frame_and_only_one_sees_damage() {
        for bytes in PAYLOADS {
            let mut frame = made(bytes).unwrap();
            for summed in [false, true] {
                let parsed = parse(&frame, checksums(summed)).unwrap();
                assert_eq!(parsed.payload.len(), bytes);
            }
            *frame.last_mut().unwrap() ^= 1;
            assert!(parse(&frame, checksums(false)).is_ok());
            assert!(parse(&frame, checksums(true)).is_err());
        }
    }
}
