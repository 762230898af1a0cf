//! What a worker does while another process takes over: see `exec/takeover`.

use super::run::WorkerLoop;
use crate::datapath::Datapath;
use crate::datapath::fed::{self, FedDatapath, Inner};
use crate::datapath::udp::UdpDatapath;
use crate::exec::source::{AnyDatapath, OpenDatapathError, Source};
use crate::exec::takeover::{Order, Shown};
use std::os::fd::OwnedFd;

/// Turns in which a worker empties its receive ring and waits for what it has sent, before it gives its
/// queue up. What is left then is lost, as packets are.
const LAST_TURNS: usize = 256;

impl WorkerLoop {
    pub(super) fn obey(&mut self, order: Order) {
        // The thread that asked may have given up.
        match order {
            Order::Show { feed, reply } => drop(reply.send(self.show(feed))),
            Order::Leave { reply } => drop(reply.send(self.leave())),
            Order::Yield { reply } => drop(reply.send(self.give_up())),
            Order::Done { reply } => drop(reply.send(self.complete())),
            Order::Resume { reply } => drop(reply.send(self.resume())),
        }
    }

    /// Reads a feed as well from now on. What it serves, for the successor.
    fn show(&mut self, feed: OwnedFd) -> Result<Shown, OpenDatapathError> {
        let wait = OpenDatapathError::Wait;
        let mut shown = Shown { queue: self.placement.queue, sockets: Vec::new(), xdp: None };
        let shared = match self.worker.datapaths().first() {
            Some(AnyDatapath::Xdp(datapath)) => {
                shown.xdp = datapath.share_socket().map_err(wait)?;
                datapath.share_ports().map_err(wait)?
            }
            Some(AnyDatapath::Udp(datapath)) => datapath.share().map_err(wait)?,
            Some(AnyDatapath::Fed(_)) => return Err(OpenDatapathError::TakenOver),
            // `Desk::offer` has refused before.
            Some(AnyDatapath::Relay(_)) => return Err(OpenDatapathError::QueueThread(shown.queue)),
            None => Vec::new(),
        };
        let listened = &self.listened;
        let of = |(address, fd)| (address, listened.contains(&address), fd);
        shown.sockets = shared.into_iter().map(of).collect();
        self.change(|datapath| {
            let inner = datapath.map_or_else(|| Inner::Nothing(fed::nothing()), Inner::Serving);
            Ok(Some(AnyDatapath::Fed(Box::new(FedDatapath::new(inner, feed)))))
        })?;
        Ok(shown)
    }

    /// Gives up the queue. What arrives there falls to the kernel sockets, which serve in its place.
    fn leave(&mut self) -> Result<(), OpenDatapathError> {
        self.turn_until(|datapath| match datapath.inner_mut() {
            Inner::Serving(AnyDatapath::Xdp(datapath)) => datapath.is_quiet(),
            _ => true,
        });
        self.change(|datapath| {
            let Some(AnyDatapath::Fed(datapath)) = datapath else { return Ok(datapath) };
            Ok(Some(AnyDatapath::Fed(Box::new(datapath.replace(without_queue)))))
        })
    }

    /// Reads the kernel sockets no more.
    fn give_up(&mut self) -> Result<(), OpenDatapathError> {
        self.change(|datapath| {
            let Some(AnyDatapath::Fed(datapath)) = datapath else { return Ok(datapath) };
            let sending = |inner| match inner {
                Inner::Serving(AnyDatapath::Udp(sockets)) => Inner::Sending(sockets),
                other => other,
            };
            Ok(Some(AnyDatapath::Fed(Box::new(datapath.replace(sending)))))
        })
    }

    /// The successor serves. What it does not pass on is its own, until it ends.
    fn complete(&mut self) -> Result<(), OpenDatapathError> {
        if let Some(AnyDatapath::Fed(datapath)) = self.worker.datapaths().first_mut() {
            datapath.complete();
        }
        Ok(())
    }

    /// After a turn: reads the kernel sockets again if the successor has ended that served in its place.
    pub(super) fn outlive_successor(&mut self) {
        let first = self.worker.datapaths().first();
        if !matches!(first, Some(AnyDatapath::Fed(datapath)) if datapath.is_abandoned()) {
            return;
        }
        let worker = self.worker.lane().number();
        let changed = self.change(|datapath| {
            let Some(AnyDatapath::Fed(datapath)) = datapath else { return Ok(datapath) };
            Ok(match datapath.into_inner() {
                Inner::Serving(datapath) => Some(datapath),
                Inner::Sending(sockets) => Some(AnyDatapath::Udp(sockets)),
                Inner::Nothing(_) => None,
            })
        });
        match changed {
            Ok(()) => tracing::warn!(
                worker,
                "the process that took over has ended: this one reads its kernel sockets again"
            ),
            Err(error) => tracing::error!(worker, %error, "the kernel sockets are not read"),
        }
    }

    /// Turns until the datapath is as wanted, a few times.
    fn turn_until(&mut self, is_done: impl Fn(&mut FedDatapath<AnyDatapath>) -> bool) {
        for _ in 0..LAST_TURNS {
            let first = self.worker.datapaths().first_mut();
            let Some(AnyDatapath::Fed(datapath)) = first else { break };
            if is_done(datapath) {
                break;
            }
            let now = self.clock.now();
            // An error says that the device is gone: then nothing is left to wait for.
            let Ok(_) = self.worker.turn(now) else { break };
        }
    }

    /// Serves again what it gave up.
    fn resume(&mut self) -> Result<(), OpenDatapathError> {
        let (source, queue) = (self.source.clone(), self.placement.queue);
        // What the successor has passed on.
        self.turn_until(|datapath| datapath.is_over());
        let mut unbound = None;
        self.change(|datapath| {
            let Some(AnyDatapath::Fed(datapath)) = datapath else { return Ok(datapath) };
            let sockets = match datapath.into_inner() {
                Inner::Serving(AnyDatapath::Udp(sockets)) | Inner::Sending(sockets) => {
                    Some(sockets)
                }
                Inner::Serving(datapath) => return Ok(Some(datapath)),
                Inner::Nothing(_) => None,
            };
            let Source::Xdp { device, .. } = source else {
                return Ok(sockets.map(AnyDatapath::Udp));
            };
            // Without the queue all comes by the kernel sockets, and they serve.
            let mut bound = match device.open_queue(queue, &[]) {
                Ok(bound) => bound,
                Err(error) => {
                    unbound = Some(error);
                    return Ok(sockets.map(AnyDatapath::Udp));
                }
            };
            bound.adopt_ports(sockets.map_or_else(Vec::new, |of| of.into_side_sockets()))?;
            Ok(Some(AnyDatapath::Xdp(Box::new(bound))))
        })?;
        unbound.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Puts another datapath in the place of the first.
    fn change(
        &mut self,
        change: impl FnOnce(Option<AnyDatapath>) -> Result<Option<AnyDatapath>, OpenDatapathError>,
    ) -> Result<(), OpenDatapathError> {
        let former = self.worker.take_datapath();
        if let Some(datapath) = change(former)? {
            self.worker.put_datapath(datapath).map_err(OpenDatapathError::Wait)?;
        }
        self.tell_facts();
        Ok(())
    }
}

/// The same addresses, by their kernel sockets.
fn without_queue(inner: Inner<AnyDatapath>) -> Inner<AnyDatapath> {
    match inner {
        Inner::Serving(AnyDatapath::Xdp(datapath)) => {
            let capabilities = datapath.capabilities().clone();
            let (device, longest) = (capabilities.device.clone(), capabilities.max_datagram_bytes);
            match UdpDatapath::of_side_sockets(datapath.into_ports(), device, longest) {
                Some(sockets) => Inner::Serving(AnyDatapath::Udp(Box::new(sockets))),
                None => Inner::Nothing(capabilities),
            }
        }
        other => other,
    }
}
