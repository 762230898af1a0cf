//! Bounded rings between workers, and from other threads to a worker.
//!
//! Every worker owns a [`Inbox`]. Others put three kinds of things into it:
//!
//! - **datagrams** that the NIC gave to the wrong worker: a handed-over datagram is copied into a
//!   [`HandedOver`], since the frame that it lies in belongs to the queue that it arrived on.
//!   These buffers are made once, at most [`HANDED_OVER_MAX`] for each sending worker, and go
//!   round:
//!
//!   ```text
//!     worker 1: free list --copy--> worker 0: datagrams --read--> worker 1: returned
//!         ^                                                             |
//!         +-------------------------------------------------------------+
//!   ```
//!
//! - **commands** of handles: see [`message`](super::message);
//! - **moves**: what workers tell each other about a connection that goes from one to another, and the
//!   connection itself, which has a ring of its own that is never full (see [`INCOMING_MAX`]).
//!
//! A connection has no more than a share of those buffers ([`SHARE`]).
//!
//! A full ring is never waited for: a datagram is dropped and counted (QUIC sends it again), a
//! command is given back to its caller as an error.
//!
//! A worker that spins finds what is in its rings in its next turn, without a system call on
//! either side. A worker that is about to sleep sets a flag in [`Wakeup`] before it looks at its
//! rings for the last time. A sender puts something into a ring, then looks at the flag, and if it
//! is set writes to an eventfd. One of the two sees the other.

use super::owners::Owners;
use super::predecessors::Predecessors;
use super::sys::Event;
use crate::datapath::{MAX_BURST, RxMeta};
use crate::lb::Route;
use crossbeam::queue::ArrayQueue;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};

/// Datagrams that one worker may have under way to others: 64 bursts of the receive ring would
/// hide a steering mistake, and fewer than one burst would lose packets of a healthy re-steer.
pub(super) const HANDED_OVER_MAX: usize = 256;
/// Datagrams of one connection that one worker may have under way: a burst, which is what the owner
/// reads in a turn. A client that sends from many ports reaches many workers. Without this limit it
/// would fill the owner's inbox, and datagrams of other connections would be dropped.
pub(super) const SHARE: u16 = MAX_BURST as u16;
/// How many flow numbers there are. Connections with the same number share its buffers.
const FLOWS: usize = 256;
/// Datagrams that wait in one worker's inbox.
pub(super) const INBOX_DATAGRAMS: usize = 1024;
/// Workers that a datagram may pass on its way to its owner: a connection that moves while it is on
/// its way sends it after itself once.
pub(super) const HOPS_MAX: u8 = 4;
/// Connections that a worker has agreed to take and that have not arrived yet. A burst of the queue
/// they come from would begin no more moves in a turn.
pub(super) const INCOMING_MAX: usize = 256;
/// Messages about moves that wait in one worker's inbox. Beyond it their sender keeps them, and
/// carries out no further calls of handles until they have left.
pub(super) const INBOX_MOVES: usize = 1024;
/// Places in the ring of commands that handles do not fill, for the order to end: more than threads
/// that post at one instant, each of which may take one.
const RESERVED_COMMANDS: usize = 64;
/// Wakes a worker, if it sleeps.
#[derive(Debug)]
pub(super) struct Wakeup {
    sleeping: AtomicBool,
    event: Event,
}

impl Wakeup {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { sleeping: AtomicBool::new(false), event: Event::new()? })
    }

    /// Called by the worker: from now on others write to the eventfd. Look at the rings once
    /// more after this, and sleep only if they are empty.
    pub(super) fn announce_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Called by the worker after it slept, or decided not to.
    pub(super) fn awake(&self) {
        // If the flag still stands, no other thread wrote to the eventfd.
        if !self.sleeping.swap(false, Ordering::Relaxed) {
            self.event.clear();
        }
    }

    /// Called by the worker that finds the eventfd readable.
    pub(super) fn clear(&self) {
        self.event.clear();
    }

    /// Makes the descriptor readable, whether the worker sleeps or not: it turns once more.
    pub(super) fn signal(&self) {
        self.event.signal();
    }

    /// Called by any thread, after putting something into a ring.
    pub(super) fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            self.event.signal();
        }
    }

    /// What the worker sleeps on.
    pub(super) fn fd(&self) -> RawFd {
        self.event.fd()
    }
}

/// A datagram on its way from the worker that received it to the one that owns it.
#[derive(Debug)]
pub(super) struct HandedOver {
    /// The worker that sends it and gets it back empty.
    pub(super) origin: usize,
    /// What the datapath reported of the datagram: its addresses, its ECN codepoint.
    pub(super) meta: Option<RxMeta>,
    /// The socket that received it, by number: the same on every worker.
    pub(super) datapath: usize,
    /// The flow number of its connection at the sending worker.
    flow: u8,
    /// Workers that have passed it on.
    hops: u8,
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
}

/// The inbox of one worker; `C` is what handles send, `M` what workers send about moves.
#[derive(Debug)]
pub(super) struct Inbox<C, M> {
    datagrams: ArrayQueue<Box<HandedOver>>,
    returned: ArrayQueue<Box<HandedOver>>,
    commands: ArrayQueue<C>,
    moves: ArrayQueue<M>,
    arrivals: ArrayQueue<M>,
    closed: AtomicBool,
    pub(super) wakeup: Wakeup,
}

/// Why a command was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PostError {
    /// The worker's inbox is full: it is behind, or stuck in a callback.
    Full,
    /// The worker has ended.
    Closed,
}

impl<C, M> Inbox<C, M> {
    pub(super) fn new(commands: usize) -> io::Result<Self> {
        let commands = commands + RESERVED_COMMANDS;
        Ok(Self {
            datagrams: ArrayQueue::new(INBOX_DATAGRAMS),
            returned: ArrayQueue::new(HANDED_OVER_MAX),
            commands: ArrayQueue::new(commands),
            moves: ArrayQueue::new(INBOX_MOVES),
            arrivals: ArrayQueue::new(INCOMING_MAX),
            closed: AtomicBool::new(false),
            wakeup: Wakeup::new()?,
        })
    }

    /// Puts a command into the inbox, from any thread.
    pub(super) fn post(&self, command: C) -> Result<(), PostError> {
        if self.commands.len() + RESERVED_COMMANDS >= self.commands.capacity() {
            return if self.is_closed() { Err(PostError::Closed) } else { Err(PostError::Full) };
        }
        self.post_last(command)
    }

    /// As [`post`](Self::post), for the order to end: it finds room where calls do not.
    pub(super) fn post_last(&self, command: C) -> Result<(), PostError> {
        if self.is_closed() {
            return Err(PostError::Closed);
        }
        self.commands.push(command).map_err(|_| PostError::Full)?;
        self.wakeup.wake();
        // After the fence in `wake`: either this sees that the owner has left, or the owner
        // sees the command when it empties the inbox.
        if self.is_closed() {
            self.empty();
            return Err(PostError::Closed);
        }
        Ok(())
    }

    /// The owner's next command.
    pub(super) fn command(&self) -> Option<C> {
        // A look before a pop: `pop` on an empty queue costs a fence.
        if self.commands.is_empty() { None } else { self.commands.pop() }
    }

    /// The owner's next datagram. Give it back to its origin with [`Fleet::give_back`].
    pub(super) fn datagram(&self) -> Option<Box<HandedOver>> {
        if self.datagrams.is_empty() { None } else { self.datagrams.pop() }
    }

    /// Calls of handles that wait.
    pub(super) fn waiting(&self) -> usize {
        self.commands.len()
    }

    /// Puts a message about a move into the inbox. Gives it back if there is no room.
    pub(super) fn tell(&self, message: M) -> Result<(), M> {
        self.moves.push(message)?;
        self.wakeup.wake();
        // As in `post`: a call within it has to be dropped, since its caller may wait.
        if self.is_closed() {
            self.empty();
        }
        Ok(())
    }

    /// Puts a connection into the inbox, which its owner has agreed to take. Gives it back if the
    /// owner has ended.
    pub(super) fn deliver(&self, connection: M) -> Result<(), M> {
        if self.is_closed() {
            return Err(connection);
        }
        self.arrivals.push(connection)?;
        self.wakeup.wake();
        // As in `post`: it may have ended in between.
        if self.is_closed() {
            self.empty();
        }
        Ok(())
    }

    /// True if there is anything about moves.
    #[inline]
    pub(super) fn has_moves(&self) -> bool {
        !self.moves.is_empty() || !self.arrivals.is_empty()
    }

    /// The owner's next message about a move.
    pub(super) fn told(&self) -> Option<M> {
        if self.moves.is_empty() { None } else { self.moves.pop() }
    }

    /// The next connection that comes.
    pub(super) fn arrival(&self) -> Option<M> {
        if self.arrivals.is_empty() { None } else { self.arrivals.pop() }
    }

    /// True once its owner has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// True when nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty()
            && self.datagrams.is_empty()
            && self.moves.is_empty()
            && self.arrivals.is_empty()
    }

    /// Takes nothing any more, and drops what waits. A caller that waits for the answer to a
    /// dropped command gets an error.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        self.empty();
    }

    fn empty(&self) {
        while self.commands.pop().is_some() {}
        while self.moves.pop().is_some() {}
        while self.arrivals.pop().is_some() {}
    }
}

/// The inboxes of all workers, by number, and the owners of what names no worker.
#[derive(Debug)]
pub(super) struct Fleet<C, M> {
    inboxes: Box<[Inbox<C, M>]>,
    /// The CPU of each worker, once its thread has begun.
    cpus: Box<[OnceLock<u32>]>,
    resets: Owners,
    handshakes: Owners,
    predecessors: OnceLock<Predecessors>,
}

impl<C, M> Fleet<C, M> {
    /// Inboxes for `workers` workers, each for `commands` commands.
    pub(super) fn new(workers: usize, commands: usize) -> io::Result<Arc<Self>> {
        let inboxes =
            (0..workers).map(|_| Inbox::new(commands)).collect::<io::Result<Box<[_]>>>()?;
        let cpus = (0..workers).map(|_| OnceLock::new()).collect();
        let (resets, handshakes) = (Owners::new(workers), Owners::new(workers));
        let predecessors = OnceLock::new();
        Ok(Arc::new(Self { inboxes, cpus, resets, handshakes, predecessors }))
    }

    /// How many workers there are.
    pub(super) fn len(&self) -> usize {
        self.inboxes.len()
    }

    /// A worker's thread runs on this CPU.
    pub(super) fn note_cpu(&self, worker: usize, cpu: u32) {
        if let Some(slot) = self.cpus.get(worker) {
            slot.get_or_init(|| cpu);
        }
    }

    /// The CPU that a worker runs on; `None` if it is not pinned to one.
    pub(super) fn cpu(&self, worker: usize) -> Option<u32> {
        self.cpus.get(worker)?.get().copied()
    }

    /// The processes that this one has taken over from, before workers begin.
    pub(super) fn set_predecessors(&self, predecessors: Predecessors) {
        self.predecessors.get_or_init(|| predecessors);
    }

    /// The processes that this one has taken over from; `None` if there was none.
    pub(super) fn predecessors(&self) -> Option<&Predecessors> {
        self.predecessors.get()
    }

    /// Finds the worker that a stateless reset is for.
    pub(super) fn resets(&self) -> &Owners {
        &self.resets
    }

    /// Finds the worker that has the handshake which a client's first packet belongs to.
    pub(super) fn handshakes(&self) -> &Owners {
        &self.handshakes
    }

    /// The inbox of one worker.
    pub(super) fn inbox(&self, worker: usize) -> Option<&Inbox<C, M>> {
        self.inboxes.get(worker)
    }

    /// Passes a datagram on that was handed to a worker whose connection has moved on. False if it
    /// was dropped.
    pub(super) fn pass_on(&self, mut handed: Box<HandedOver>, to: Route) -> bool {
        handed.hops += 1;
        let inbox = self.inbox(to.worker.into());
        let inbox = inbox.filter(|inbox| handed.hops < HOPS_MAX && !inbox.is_closed());
        let refused = match inbox {
            Some(inbox) => match inbox.datagrams.push(handed) {
                Ok(()) => {
                    inbox.wakeup.wake();
                    return true;
                }
                Err(handed) => handed,
            },
            None => handed,
        };
        self.give_back(refused);
        false
    }

    /// A worker has ended. Its inbox takes nothing any more, and others hear of it.
    pub(super) fn close(&self, worker: usize) {
        let Some(inbox) = self.inbox(worker) else { return };
        inbox.close();
        // Their senders have only so many buffers.
        while let Some(handed) = inbox.datagram() {
            self.give_back(handed);
        }
        self.inboxes.iter().for_each(|other| other.wakeup.wake());
    }

    /// Gives an emptied buffer back to the worker that it belongs to.
    pub(super) fn give_back(&self, handed: Box<HandedOver>) {
        if let Some(home) = self.inboxes.get(handed.origin) {
            // As large as the number of buffers that there are: it cannot be full.
            drop(home.returned.push(handed));
        }
    }
}

/// The sending side of one worker: its buffers for datagrams that it hands over.
#[derive(Debug)]
pub(super) struct Dispatch {
    worker: usize,
    #[expect(clippy::vec_box, reason = "rings pass the boxes on, and never move their content")]
    free: Vec<Box<HandedOver>>,
    made: usize,
    /// Datagrams under way, by flow.
    under_way: Box<[u16; FLOWS]>,
}

/// What became of a datagram for another worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is in the owner's inbox.
    Yes,
    /// All buffers are under way, the inbox is full, or there is no such worker.
    Dropped,
    /// The connection has its [`SHARE`] under way.
    Share,
}

impl Dispatch {
    pub(super) fn new(worker: usize) -> Self {
        let under_way = Box::new([0; FLOWS]);
        Self { worker, free: Vec::with_capacity(HANDED_OVER_MAX), made: 0, under_way }
    }

    /// Copies a datagram of the connection `to` into its owner's inbox.
    ///
    /// Wakes no worker: call [`Wakeup::wake`] of the receiving inbox once per burst.
    pub(super) fn send<C, M>(
        &mut self,
        fleet: &Fleet<C, M>,
        to: Route,
        datapath: usize,
        meta: &RxMeta,
        bytes: &[u8],
    ) -> Sent {
        let inbox = fleet.inbox(to.worker.into()).filter(|inbox| !inbox.is_closed());
        let Some(inbox) = inbox else { return Sent::Dropped };
        let flow = flow(to);
        if self.under_way[usize::from(flow)] >= SHARE {
            self.take_back(fleet);
            if self.under_way[usize::from(flow)] >= SHARE {
                return Sent::Share;
            }
        }
        let Some(mut handed) = self.buffer(fleet) else { return Sent::Dropped };
        handed.meta = Some(*meta);
        (handed.datapath, handed.flow, handed.hops) = (datapath, flow, 0);
        handed.bytes.clear();
        handed.bytes.extend_from_slice(bytes);
        match inbox.datagrams.push(handed) {
            Ok(()) => {
                self.under_way[usize::from(flow)] += 1;
                Sent::Yes
            }
            Err(handed) => {
                self.free.push(handed);
                Sent::Dropped
            }
        }
    }

    /// Takes back the buffers that others have emptied.
    fn take_back<C, M>(&mut self, fleet: &Fleet<C, M>) {
        let Some(inbox) = fleet.inbox(self.worker) else { return };
        while let Some(handed) = inbox.returned.pop() {
            self.under_way[usize::from(handed.flow)] -= 1;
            self.free.push(handed);
        }
    }

    fn buffer<C, M>(&mut self, fleet: &Fleet<C, M>) -> Option<Box<HandedOver>> {
        if self.free.is_empty() {
            self.take_back(fleet);
        }
        if self.free.is_empty() && self.made < HANDED_OVER_MAX {
            self.made += 1;
            let (origin, bytes) = (self.worker, Vec::with_capacity(2048));
            let made = HandedOver { origin, meta: None, datapath: 0, flow: 0, hops: 0, bytes };
            return Some(Box::new(made));
        }
        self.free.pop()
    }
}

/// The flow number of a connection. It follows from the slot, which a client cannot choose.
fn flow(route: Route) -> u8 {
    (route.slot ^ u32::from(route.worker).wrapping_mul(0x9e)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::{Checksum, Link, Path};
    use crate::ecn::Ecn;
    use std::net::SocketAddr;

    fn meta(port: u16) -> RxMeta {
        let local = SocketAddr::from(([127, 0, 0, 1], 4433));
        let remote = SocketAddr::from(([127, 0, 0, 1], port));
        let path = Path { local, remote, link: Link::UNKNOWN };
        RxMeta { path, ecn: Ecn::Ect0, checksum: Checksum::Verified }
    }

    fn to(worker: u16, slot: u32) -> Route {
        Route { process: 0, worker, slot, generation: 0 }
    }

    /// A client that sends from many ports.
    #[test]
    fn one_connection_leaves_buffers_and_inbox_to_others() {
        let fleet = Fleet::<(), ()>::new(2, 1).unwrap();
        let mut dispatch = Dispatch::new(1);
        for round in 0..3 {
            let sent = (0..10 * INBOX_DATAGRAMS)
                .map(|port| dispatch.send(&fleet, to(0, 7), 0, &meta(port as u16), b"x"));
            let taken = sent.filter(|sent| *sent == Sent::Yes).count();
            assert_eq!(taken, usize::from(SHARE), "round {round}");
            assert_eq!(dispatch.send(&fleet, to(0, 7), 0, &meta(1), b"x"), Sent::Share);
            assert_eq!(dispatch.send(&fleet, to(0, 8), 0, &meta(1), b"y"), Sent::Yes);
            while let Some(handed) = fleet.inbox(0).unwrap().datagram() {
                fleet.give_back(handed);
            }
        }
        dispatch.take_back(&fleet);
        assert!(dispatch.under_way.iter().all(|count| *count == 0));
    }

    #[test]
    fn a_datagram_arrives_with_all_that_was_known_of_it() {
        let fleet = Fleet::<(), ()>::new(2, 1).unwrap();
        let mut dispatch = Dispatch::new(1);
        assert_eq!(dispatch.send(&fleet, to(0, 1), 3, &meta(5), b"datagram"), Sent::Yes);
        let handed = fleet.inbox(0).unwrap().datagram().unwrap();
        assert_eq!((handed.origin, handed.datapath, &handed.bytes[..]), (1, 3, &b"datagram"[..]));
        let got = handed.meta.unwrap();
        assert_eq!((got.path.remote.port(), got.ecn), (5, Ecn::Ect0));
    }

    /// Its caller may wait for the answer.
    #[test]
    fn what_is_told_to_a_worker_that_has_ended_is_dropped() {
        let fleet = Fleet::<(), Arc<()>>::new(1, 1).unwrap();
        let inbox = fleet.inbox(0).unwrap();
        let message = Arc::new(());
        inbox.tell(message.clone()).unwrap();
        assert_eq!(Arc::strong_count(&message), 2);
        inbox.close();
        assert_eq!(Arc::strong_count(&message), 1);
        // Its sender looked before the worker ended.
        let _ = inbox.tell(message.clone());
        assert_eq!(Arc::strong_count(&message), 1);
    }

    #[test]
    fn buffers_are_bounded_and_come_back() {
        let fleet = Fleet::<(), ()>::new(2, 1).unwrap();
        let mut dispatch = Dispatch::new(1);
        for _ in 0..3 {
            for slot in 0..HANDED_OVER_MAX as u32 {
                assert_eq!(dispatch.send(&fleet, to(0, slot), 0, &meta(1), b"x"), Sent::Yes);
            }
            assert_eq!(dispatch.send(&fleet, to(0, 0), 0, &meta(1), b"x"), Sent::Dropped);
            while let Some(handed) = fleet.inbox(0).unwrap().datagram() {
                fleet.give_back(handed);
            }
        }
        assert_eq!(dispatch.made, HANDED_OVER_MAX);
    }

    #[test]
    fn a_datagram_follows_its_connection_but_not_for_ever() {
        let fleet = Fleet::<(), ()>::new(3, 1).unwrap();
        let mut dispatch = Dispatch::new(1);
        for round in 0..2 {
            assert_eq!(dispatch.send(&fleet, to(0, 1), 0, &meta(5), b"datagram"), Sent::Yes);
            for hop in 1..HOPS_MAX {
                let at = usize::from(2 * ((hop - 1) % 2));
                let handed = fleet.inbox(at).unwrap().datagram().unwrap();
                assert_eq!((handed.origin, &handed.bytes[..]), (1, &b"datagram"[..]));
                assert!(fleet.pass_on(handed, to(2 * u16::from(hop % 2), 1)), "{round} {hop}");
            }
            let last = usize::from(2 * ((HOPS_MAX - 1) % 2));
            let handed = fleet.inbox(last).unwrap().datagram().unwrap();
            assert!(!fleet.pass_on(handed, to(0, 1)));
        }
        dispatch.take_back(&fleet);
        assert_eq!((dispatch.made, dispatch.free.len()), (1, 1), "its buffer goes home");
    }

    #[test]
    fn a_worker_that_does_not_exist_gets_nothing_and_costs_no_buffer() {
        let fleet = Fleet::<(), ()>::new(2, 1).unwrap();
        let mut dispatch = Dispatch::new(1);
        assert_eq!(dispatch.send(&fleet, to(2, 0), 0, &meta(1), b"x"), Sent::Dropped);
        assert_eq!(dispatch.made, 0);
    }

    #[test]
    fn a_full_or_closed_inbox_is_an_error_of_the_caller() {
        let fleet = Fleet::<_, ()>::new(1, 2).unwrap();
        let inbox = fleet.inbox(0).unwrap();
        inbox.post(1).unwrap();
        inbox.post(2).unwrap();
        assert_eq!(inbox.post(3), Err(PostError::Full));
        assert_eq!(inbox.command(), Some(1));
        inbox.close();
        assert_eq!(inbox.post(4), Err(PostError::Closed));
        assert!(inbox.is_empty(), "what waited is dropped");
    }

    #[test]
    fn no_wake_up_is_lost_between_a_post_and_falling_asleep() {
        const ROUNDS: usize = 2_000;
        let fleet = Fleet::<_, ()>::new(1, ROUNDS).unwrap();
        let sender = {
            let fleet = fleet.clone();
            std::thread::spawn(move || {
                for round in 0..ROUNDS {
                    fleet.inbox(0).unwrap().post(round).unwrap();
                    if round % 7 == 0 {
                        std::thread::yield_now();
                    }
                }
            })
        };
        let inbox = fleet.inbox(0).unwrap();
        let mut poller = super::super::sys::Poller::new().unwrap();
        poller.add(inbox.wakeup.fd(), super::super::sys::Interest::Readable, 0).unwrap();
        let mut next = 0;
        while next < ROUNDS {
            while let Some(round) = inbox.command() {
                assert_eq!(round, next);
                next += 1;
            }
            inbox.wakeup.announce_sleep();
            if inbox.is_empty() && next < ROUNDS {
                // Without end: a lost wake-up hangs the test.
                poller.wait(u64::MAX, |_, _| ()).unwrap();
            }
            inbox.wakeup.awake();
        }
        sender.join().unwrap();
    }
}
