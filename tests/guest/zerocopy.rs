//! The datapath alone, without QUIC: every queue of a NIC opened in zero-copy, and an echo.
//!
//! The peer sends datagrams of all sizes from 64 ports, and expects each back unchanged. The echo sees
//! on which queue each flow arrived: for every flow that shows whether Toeplitz was right. It runs on
//! the CPUs of the NIC's node, where its frames have to be.

use crate::flows::{Family, Flows, pattern};
use crate::nic::{LANES, Lane, QUEUES, rss, run};
use crate::numa::large_mappings;
use crate::{Outcome, ensure};
use quiclane::datapath::memory::Datagrams;
use quiclane::datapath::xdp::{Require, XdpConfig, XdpDatapath, XdpDevice};
use quiclane::datapath::{Datapath, MAX_BURST, Mode, RxMeta};
use quiclane::topology::toeplitz::{Flow, HashFields};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Child;

const PORT: u16 = 7;
/// Sizes beyond the 1024 bytes at which igb cuts frames in small chunks, up to a full MTU.
const SIZES_BYTES: [usize; 8] = [6, 64, 600, 1024, 1025, 1200, 1400, 1452];

pub(crate) fn echoes_every_flow_on_its_queue() -> Outcome {
    for lane in &LANES {
        // On the node's CPUs: memory follows the thread that touches it first.
        let mask = format!("{:x}", 0b11 << (2 * lane.node));
        let program = std::env::current_exe().map_err(|error| format!("own path: {error}"))?;
        let output = run("taskset", &[&mask, &program.to_string_lossy(), "echo", lane.dev])?;
        print!("{output}");
    }
    Ok(())
}

/// The echo's side: `echo DEV`. Fails if anything was lost, cut, changed or on another queue.
pub(crate) fn echo_role(arguments: &[String]) -> Outcome {
    let lane = LANES
        .iter()
        .find(|lane| arguments == [lane.dev])
        .ok_or_else(|| format!("`echo lane0` or `echo lane1`, not {arguments:?}"))?;
    let config = XdpConfig { require: Require::Zerocopy, ..XdpConfig::new(lane.dev) };
    let frames = u64::from(config.frames);
    let (device, ladder) = XdpDevice::attach(&config).map_err(|error| error.to_string())?;
    for family in [Family::V4, Family::V6] {
        let flows = Flows { sizes_bytes: SIZES_BYTES.to_vec(), ..Flows::to(lane, family, PORT) };
        device.listen(flows.destination).map_err(|error| error.to_string())?;
        let mut queues = (0..QUEUES as u32)
            .map(|queue| device.open_queue(queue, &[flows.destination]))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())?;
        check_modes(&queues)?;
        check_memory(lane, frames)?;
        let mut echo = Echo::default();
        echo.serve(&mut queues, flows.start_echo_client()?)?;
        let sent = flows.sources().count() * flows.sizes_bytes.len();
        ensure!(echo.datagrams == sent, "{} of {sent} datagrams arrived", echo.datagrams);
        let moved = echo.compare(lane, &flows)?;
        println!(
            "  {} {family:?} {ladder}: {sent} datagrams there and back, flows {moved:?}",
            lane.dev
        );
        device.unlisten(flows.destination);
    }
    Ok(())
}

fn check_modes(queues: &[XdpDatapath]) -> Outcome {
    for datapath in queues {
        let capabilities = datapath.capabilities();
        ensure!(
            capabilities.mode == Mode::NativeZerocopy,
            "queue {}: {}",
            capabilities.queue,
            capabilities.mode
        );
    }
    Ok(())
}

/// The frames of all queues are on the NIC's node, to the last page.
fn check_memory(lane: &Lane, frames: u64) -> Outcome {
    let pages = large_mappings("self", frames)?;
    let here = pages.get(&lane.node).copied().unwrap_or_default();
    let total: u64 = pages.values().sum();
    ensure!(
        here == total && here >= frames * QUEUES as u64,
        "{}: pages by node {pages:?}, expected {} on node {}",
        lane.dev,
        frames * QUEUES as u64,
        lane.node
    );
    Ok(())
}

#[derive(Default)]
struct Echo {
    datagrams: usize,
    /// On which queue each source was seen.
    queue_of: BTreeMap<SocketAddr, u32>,
}

impl Echo {
    /// Answers until the client has ended.
    fn serve(&mut self, queues: &mut [XdpDatapath], mut client: Child) -> Outcome {
        loop {
            for datapath in queues.iter_mut() {
                self.turn(datapath)?;
            }
            if let Some(status) = client.try_wait().map_err(|error| error.to_string())? {
                let stats: Vec<_> = queues.iter().map(|queue| queue.stats()).collect();
                ensure!(status.success(), "the client: {status}; {stats:?}");
                return Ok(());
            }
        }
    }

    fn turn(&mut self, datapath: &mut XdpDatapath) -> Outcome {
        let queue = datapath.capabilities().queue;
        let mut answers = Datagrams::default();
        datapath.receive(MAX_BURST, &mut |meta, datagram| answers.put(meta, datagram));
        while let Some(datagram) = answers.pop() {
            let (RxMeta { path, ecn, .. }, payload) = (datagram.meta, datagram.payload());
            self.note(path.remote, queue, payload)?;
            let buffer = datapath.tx_buffer(&path).ok_or("no frame to send with")?;
            buffer[..payload.len()].copy_from_slice(payload);
            datapath.tx_commit(payload.len(), &path, ecn);
        }
        datapath.flush().map_err(|error| error.to_string())
    }

    fn note(&mut self, source: SocketAddr, queue: u32, datagram: &[u8]) -> Outcome {
        self.datagrams += 1;
        let expected = pattern(source.port(), datagram.len());
        ensure!(datagram == expected, "{source}: {} bytes arrived changed", datagram.len());
        let before = *self.queue_of.entry(source).or_insert(queue);
        ensure!(before == queue, "{source} arrived on queue {before}, then on {queue}");
        Ok(())
    }

    /// Every flow against the prediction; how many flows each queue had.
    fn compare(&self, lane: &Lane, flows: &Flows) -> Result<[u32; QUEUES], String> {
        let rss = rss(lane.dev)?;
        let mut count = [0; QUEUES];
        for source in flows.sources() {
            let flow = Flow { source, destination: flows.destination };
            let expected = rss
                .place(&flow, HashFields::AddressesAndPorts)
                .map_err(|error| error.to_string())?;
            let got = self.queue_of.get(&source).copied();
            ensure!(
                got == Some(expected.queue),
                "{source}: hash {:#010x} predicts queue {}, arrived on {got:?}",
                expected.hash,
                expected.queue
            );
            count[expected.queue as usize] += 1;
        }
        Ok(count)
    }
}
