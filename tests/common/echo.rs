//! An echo server on AF_XDP: it sends every datagram back to its sender.

use quiclane::datapath::memory::Datagrams;
use quiclane::datapath::xdp::{XdpDatapath, XdpDevice};
use quiclane::datapath::{Datapath, MAX_BURST, Path, QueueStats};
use quiclane::ecn::Ecn;
use quiclane_testkit::netns::{self, Lab, Side};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

/// Workers that echo, one for each queue.
pub(crate) struct Echo {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<QueueStats>>,
}

impl Echo {
    /// Starts a worker for each of `queues`; returns when all are open.
    pub(crate) fn start(
        lab: &Lab,
        device: &Arc<XdpDevice>,
        queues: &[u32],
        ports: &[SocketAddr],
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, opened) = mpsc::channel();
        let workers = queues
            .iter()
            .map(|&queue| {
                let device = Arc::clone(device);
                let (stop, ready) = (Arc::clone(&stop), ready.clone());
                let (namespace, ports) = (lab.namespace(Side::Server), ports.to_vec());
                std::thread::spawn(move || {
                    netns::enter(&namespace);
                    let mut datapath = device.open_queue(queue, &ports).unwrap();
                    ready.send(()).unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        if turn(&mut datapath) == 0 {
                            // Two cores are shared by all tests.
                            std::thread::yield_now();
                        }
                    }
                    datapath.stats()
                })
            })
            .collect::<Vec<_>>();
        drop(ready);
        for _ in &workers {
            opened.recv().expect("a worker did not open its queue");
        }
        Self { stop, workers }
    }

    /// Stops all workers; returns the counters of each queue.
    pub(crate) fn stop(self) -> Vec<QueueStats> {
        self.stop.store(true, Ordering::Relaxed);
        self.workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    }
}

/// One turn of an echo server: returns how many datagrams it sent back.
pub(crate) fn turn(datapath: &mut XdpDatapath) -> usize {
    let mut waiting = Datagrams::default();
    let count = datapath.receive(MAX_BURST, &mut |meta, payload| waiting.put(meta, payload));
    while let Some(datagram) = waiting.pop() {
        send(datapath, &datagram.meta.path, datagram.meta.ecn, datagram.payload());
    }
    datapath.flush().unwrap();
    count
}

/// Sends one datagram with the next flush. False if nothing was free.
pub(crate) fn send(datapath: &mut XdpDatapath, path: &Path, ecn: Ecn, payload: &[u8]) -> bool {
    let Some(buffer) = datapath.tx_buffer(path) else { return false };
    buffer[..payload.len()].copy_from_slice(payload);
    datapath.tx_commit(payload.len(), path, ecn);
    true
}

/// Not every program uses all of it.
const _: () = {
    let _ = (Echo::start, Echo::stop);
};
