//! What a worker does for its application besides connections: timers, descriptors, closures.
//!
//! A callback reaches these through its [`ConnectionRef`](crate::exec::ConnectionRef) while the
//! connection itself is borrowed, so they live beside the table and not in it. Nothing here
//! calls the application: the lane takes out what is due, and calls.

use super::super::address::Key;
use super::super::clock::Clock;
use super::super::entropy::Entropy;
use super::super::message::{ConnectRequest, Task, WorkerFleet};
use super::super::overrun::Overruns;
use super::super::sys::{Interest, Poller, Readiness};
use super::super::wheel::Wheel;
use super::belongings::{
    Belongings, Name, PackedTimer, PackedWatch, TimerId, WatchId, key_of, token_of,
};
use super::references::WorkerRef;
use super::seat::Seat;
use crate::time::Instant;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// A closure for the worker, from its own thread.
pub(in crate::exec) type LocalWorkerTask = Box<dyn FnOnce(&mut WorkerRef<'_>)>;
/// A closure that is called whenever a descriptor is ready.
pub(in crate::exec) type WatchTask = Box<dyn FnMut(&mut WorkerRef<'_>, Readiness)>;

/// A closure that is called in every turn until it breaks off.
pub(in crate::exec) type TurnTask = Box<dyn FnMut(&mut WorkerRef<'_>) -> ControlFlow<()>>;

/// Where in a turn a [`TurnTask`] is called.
#[derive(Clone, Copy, Debug)]
pub(in crate::exec) enum Edge {
    Before,
    After,
}

/// Work to be done between stages of a turn.
pub(in crate::exec) enum Job {
    Connection(Key, Task),
    Worker(LocalWorkerTask),
}

/// What a timer calls.
pub(in crate::exec) enum TimerTarget {
    Connection(Key, u64),
    Worker(LocalWorkerTask),
}

/// What the readiness of a descriptor calls.
pub(in crate::exec) enum WatchTarget {
    Connection(Key, u64),
    /// Empty while the closure runs.
    Worker(Option<WatchTask>),
}

struct Timer {
    at: Instant,
    target: TimerTarget,
}

struct Watch {
    fd: RawFd,
    interest: Interest,
    target: WatchTarget,
}

/// See the [module](self).
pub(in crate::exec) struct Services {
    now: Instant,
    worker: u16,
    fleet: Arc<WorkerFleet>,
    pub(in crate::exec) entropy: Entropy,
    pub(in crate::exec) overruns: Overruns,
    /// Callbacks that panicked.
    pub(in crate::exec) panics: u64,
    timers: Slab<Timer>,
    timer_wheel: Wheel,
    watches: Slab<Watch>,
    /// The watch of each descriptor.
    watched_fds: HashMap<RawFd, Key>,
    /// `None` in a simulation.
    poller: Option<Poller>,
    jobs: VecDeque<Job>,
    /// By [`Edge`].
    turn_tasks: [Vec<TurnTask>; 2],
    /// Connections that callbacks have asked for. They are begun when no callback runs.
    orders: VecDeque<Box<ConnectRequest>>,
}

/// What a worker is made of, besides connections.
pub(in crate::exec) struct Setting {
    pub(in crate::exec) now: Instant,
    pub(in crate::exec) worker: u16,
    pub(in crate::exec) fleet: Arc<WorkerFleet>,
    pub(in crate::exec) entropy: Entropy,
    pub(in crate::exec) clock: Option<Clock>,
    pub(in crate::exec) poller: Option<Poller>,
}

impl Services {
    pub(in crate::exec) fn new(setting: Setting) -> Self {
        Self {
            now: setting.now,
            worker: setting.worker,
            fleet: setting.fleet,
            entropy: setting.entropy,
            overruns: Overruns::new(setting.clock),
            panics: 0,
            timers: Slab::default(),
            timer_wheel: Wheel::new(setting.now),
            watches: Slab::default(),
            watched_fds: HashMap::new(),
            poller: setting.poller,
            jobs: VecDeque::new(),
            turn_tasks: Default::default(),
            orders: VecDeque::new(),
        }
    }

    /// The time of this turn.
    pub(in crate::exec) fn now(&self) -> Instant {
        self.now
    }

    pub(in crate::exec) fn set_now(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    pub(in crate::exec) fn worker(&self) -> usize {
        usize::from(self.worker)
    }

    pub(in crate::exec) fn fleet(&self) -> &Arc<WorkerFleet> {
        &self.fleet
    }

    // ---- closures --------------------------------------------------------------------------

    pub(in crate::exec) fn spawn_for_connection(&mut self, key: Key, task: Task) {
        self.jobs.push_back(Job::Connection(key, task));
    }

    pub(in crate::exec) fn spawn(&mut self, task: LocalWorkerTask) {
        self.jobs.push_back(Job::Worker(task));
    }

    pub(in crate::exec) fn next_job(&mut self) -> Option<Job> {
        self.jobs.pop_front()
    }

    pub(in crate::exec) fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// What is called at that edge of every turn.
    #[inline]
    pub(in crate::exec) fn turn_tasks(&mut self, edge: Edge) -> &mut Vec<TurnTask> {
        &mut self.turn_tasks[edge as usize]
    }

    // ---- connections ------------------------------------------------------------------------

    pub(in crate::exec) fn order(&mut self, request: ConnectRequest) {
        self.orders.push_back(Box::new(request));
    }

    pub(in crate::exec) fn has_orders(&self) -> bool {
        !self.orders.is_empty()
    }

    pub(in crate::exec) fn next_order(&mut self) -> Option<Box<ConnectRequest>> {
        self.orders.pop_front()
    }

    // ---- timers ----------------------------------------------------------------------------

    pub(in crate::exec) fn set_connection_timer(
        &mut self,
        seat: &mut Seat,
        after: Duration,
        token: u64,
    ) -> TimerId {
        let key = self.set_timer(self.now + after, TimerTarget::Connection(seat.key, token));
        TimerId(seat.timers.add(key))
    }

    pub(in crate::exec) fn set_worker_timer(
        &mut self,
        after: Duration,
        task: LocalWorkerTask,
    ) -> TimerId {
        let key = self.set_timer(self.now + after, TimerTarget::Worker(task));
        TimerId(Name::of_worker(self.worker, key))
    }

    fn set_timer(&mut self, at: Instant, target: TimerTarget) -> Key {
        let key = self.timers.insert(Timer { at, target });
        self.timer_wheel.grow(self.timers.len());
        self.timer_wheel.set(key.slot, at);
        key
    }

    /// Takes back a timer of the worker.
    pub(in crate::exec) fn cancel_timer(&mut self, timer: TimerId) -> bool {
        timer.0.key(self.worker).is_some_and(|key| self.end_timer(key).is_some())
    }

    /// Takes back a timer of the connection, or of the worker.
    pub(in crate::exec) fn cancel_timer_for(&mut self, seat: &mut Seat, timer: TimerId) -> bool {
        let key = timer.0.key(self.worker).or_else(|| seat.timers.remove(timer.0));
        key.is_some_and(|key| self.end_timer(key).is_some())
    }

    fn end_timer(&mut self, key: Key) -> Option<Timer> {
        let timer = self.timers.remove(key)?;
        self.timer_wheel.remove(key.slot);
        Some(timer)
    }

    /// The next timer that has come due, with its place.
    pub(in crate::exec) fn due_timer(&mut self) -> Option<(Key, TimerTarget)> {
        while let Some(slot) = self.timer_wheel.pop_due(self.now) {
            let key = self.timers.key(slot);
            if let Some(timer) = self.timers.remove_slot(slot) {
                return Some((key, timer.target));
            }
        }
        None
    }

    /// No timer comes due before this instant.
    pub(in crate::exec) fn next_timer(&self) -> Instant {
        self.timer_wheel.next_expiry()
    }

    // ---- descriptors -----------------------------------------------------------------------

    pub(in crate::exec) fn watch_for_connection(
        &mut self,
        seat: &mut Seat,
        descriptor: BorrowedFd<'_>,
        interest: Interest,
        token: u64,
    ) -> io::Result<WatchId> {
        let target = WatchTarget::Connection(seat.key, token);
        let key = self.watch(descriptor.as_raw_fd(), interest, target)?;
        if seat.watches.is_full() {
            // Before the list grows, it forgets those that ended with their descriptors.
            seat.watches.retain(|key| self.watches.get(key).is_some());
        }
        Ok(WatchId(seat.watches.add(key)))
    }

    pub(in crate::exec) fn watch_for_worker(
        &mut self,
        descriptor: BorrowedFd<'_>,
        interest: Interest,
        task: WatchTask,
    ) -> io::Result<WatchId> {
        let key = self.watch(descriptor.as_raw_fd(), interest, WatchTarget::Worker(Some(task)))?;
        Ok(WatchId(Name::of_worker(self.worker, key)))
    }

    fn watch(&mut self, fd: RawFd, interest: Interest, target: WatchTarget) -> io::Result<Key> {
        let Some(poller) = &self.poller else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let key = self.watches.insert(Watch { fd, interest, target });
        match poller.add(fd, interest, token_of(key)) {
            Ok(()) => {
                // A descriptor of this number was closed and the kernel has forgotten it: its watch
                // must not be in the way of the new one.
                if let Some(dead) = self.watched_fds.insert(fd, key) {
                    self.watches.remove(dead);
                }
                Ok(key)
            }
            Err(error) => {
                self.watches.remove(key);
                Err(error)
            }
        }
    }

    /// Has the poller report `token` when a descriptor of the worker's own is readable.
    pub(in crate::exec) fn watch_own(&mut self, fd: RawFd, token: u64) -> io::Result<()> {
        let Some(poller) = &self.poller else { return Ok(()) };
        poller.add(fd, Interest::Readable, token)?;
        // An application that closed its descriptor before its watch ended has left that behind: when it ends it
        // must not take this one, which has got the number, out of the poller.
        if let Some(dead) = self.watched_fds.remove(&fd) {
            self.watches.remove(dead);
        }
        Ok(())
    }

    /// The poller tells of a descriptor of the worker's own no more.
    pub(in crate::exec) fn unwatch_own(&mut self, fd: RawFd) {
        if let Some(poller) = &self.poller {
            // One that is closed is forgotten already.
            let _ = poller.remove(fd);
        }
    }

    /// Ends a watch of the worker.
    pub(in crate::exec) fn unwatch(&mut self, watch: WatchId) {
        if let Some(key) = watch.0.key(self.worker) {
            self.end_watch(key);
        }
    }

    /// Ends a watch of the connection, or of the worker.
    pub(in crate::exec) fn unwatch_for(&mut self, seat: &mut Seat, watch: WatchId) {
        if let Some(key) = watch.0.key(self.worker).or_else(|| seat.watches.remove(watch.0)) {
            self.end_watch(key);
        }
    }

    /// Ends what stands at `key`; `None` if the kernel had forgotten its descriptor.
    pub(in crate::exec) fn end_watch(&mut self, key: Key) -> Option<()> {
        let watch = self.watches.remove(key)?;
        self.watched_fds.remove(&watch.fd);
        // An error means that the descriptor was closed: it is not watched any more.
        self.poller.as_ref()?.remove(watch.fd).ok()
    }

    // ---- moves of connections --------------------------------------------------------------

    /// Ends all that a connection has set up here, so that nothing of it is called any more.
    pub(in crate::exec) fn end_all(&mut self, seat: &mut Seat) {
        for key in seat.watches.drain() {
            self.end_watch(key);
        }
        for key in seat.timers.drain() {
            self.end_timer(key);
        }
    }

    /// Takes out all that a connection has set up here.
    pub(in crate::exec) fn pack(&mut self, seat: &mut Seat) -> Belongings {
        let mut packed = Belongings::default();
        for (number, key) in seat.timers.take() {
            if let Some(Timer { at, target: TimerTarget::Connection(_, token) }) =
                self.end_timer(key)
            {
                packed.timers.push(PackedTimer { number, at, token });
            }
        }
        for (number, key) in seat.watches.take() {
            let Some(&mut Watch { fd, interest, target: WatchTarget::Connection(_, token) }) =
                self.watches.get(key)
            else {
                continue;
            };
            if self.end_watch(key).is_some() {
                packed.watches.push(PackedWatch { number, fd, interest, token });
            }
        }
        for job in std::mem::take(&mut self.jobs) {
            match job {
                Job::Connection(key, task) if key == seat.key => packed.tasks.push(task),
                other => self.jobs.push_back(other),
            }
        }
        packed
    }

    /// Sets up here what a connection brought along. Returns the tokens of watches that this worker
    /// cannot keep.
    pub(in crate::exec) fn unpack(&mut self, seat: &mut Seat, packed: Belongings) -> Vec<u64> {
        for PackedTimer { number, at, token } in packed.timers {
            let key = self.set_timer(at, TimerTarget::Connection(seat.key, token));
            seat.timers.restore(number, key);
        }
        for task in packed.tasks {
            self.spawn_for_connection(seat.key, task);
        }
        let mut lost = Vec::new();
        for PackedWatch { number, fd, interest, token } in packed.watches {
            match self.watch(fd, interest, WatchTarget::Connection(seat.key, token)) {
                Ok(key) => seat.watches.restore(number, key),
                Err(error) => {
                    tracing::warn!(fd, %error, "a descriptor could not move with its connection");
                    lost.push(token);
                }
            }
        }
        lost
    }

    /// How many descriptors of the application are watched.
    pub(in crate::exec) fn watched(&self) -> usize {
        self.watches.used
    }

    /// What the readiness of `watch` calls.
    pub(in crate::exec) fn watch_target(&mut self, watch: Key) -> Option<&mut WatchTarget> {
        self.watches.get(watch).map(|watch| &mut watch.target)
    }

    /// What the worker sleeps with.
    pub(in crate::exec) fn poller(&mut self) -> Option<&mut Poller> {
        self.poller.as_mut()
    }
}

#[cfg(test)]
impl Services {
    /// Lets a worker without a thread watch descriptors.
    pub(in crate::exec) fn set_poller(&mut self, poller: Poller) {
        self.poller = Some(poller);
    }
}

/// The place of the watch that a token of the poller stands for. The worker's own descriptors have
/// tokens with the highest bit set.
pub(in crate::exec) fn watch_of(token: u64) -> Key {
    key_of(token)
}

/// Values by number, with generations; nothing is allocated once it has grown.
struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    used: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), used: 0 }
    }
}

impl<T> Slab<T> {
    fn len(&self) -> usize {
        self.slots.len()
    }

    /// The key of what stands in `slot` now.
    fn key(&self, slot: u32) -> Key {
        Key { slot, generation: self.slots.get(slot as usize).map_or(0, |entry| entry.0) }
    }

    fn insert(&mut self, value: T) -> Key {
        self.used += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        entry.1 = Some(value);
        Key { slot, generation: entry.0 }
    }

    fn get(&mut self, key: Key) -> Option<&mut T> {
        let (generation, value) = self.slots.get_mut(key.slot as usize)?;
        if *generation == key.generation { value.as_mut() } else { None }
    }

    fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        self.remove_slot(key.slot)
    }

    fn remove_slot(&mut self, slot: u32) -> Option<T> {
        let entry = self.slots.get_mut(slot as usize)?;
        let value = entry.1.take()?;
        // The highest bit stays free: tokens with it are the worker's own.
        entry.0 = (entry.0 + 1) % (1 << 31);
        self.free.push(slot);
        self.used -= 1;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MILLISECOND_NS;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    const KEY: Key = Key { slot: 1, generation: 2 };

    fn services(poller: Option<Poller>) -> Services {
        Services::new(Setting {
            now: Instant::from_nanos(MILLISECOND_NS),
            worker: 1,
            fleet: WorkerFleet::new(2, 4).unwrap(),
            entropy: Entropy::seeded(1),
            clock: None,
            poller,
        })
    }

    fn seat() -> Seat {
        Seat::new(KEY, 0, crate::datapath::Link::UNKNOWN, Instant::EPOCH)
    }

    fn due(services: &mut Services) -> Vec<u64> {
        std::iter::from_fn(|| services.due_timer())
            .map(|(_, target)| match target {
                TimerTarget::Connection(KEY, token) => token,
                _ => panic!("not what was set"),
            })
            .collect()
    }

    #[test]
    fn timers_come_due_once_unless_they_are_taken_back() {
        let (mut services, mut seat) = (services(None), seat());
        let start = services.now();
        let first = services.set_connection_timer(&mut seat, Duration::from_millis(1), 10);
        let second = services.set_connection_timer(&mut seat, Duration::from_millis(2), 20);
        assert!(services.next_timer() <= start + Duration::from_millis(2));
        assert!(due(&mut services).is_empty());
        assert!(services.cancel_timer_for(&mut seat, first));
        assert!(!services.cancel_timer_for(&mut seat, first));
        let third = services.set_connection_timer(&mut seat, Duration::from_millis(3), 30);
        assert_ne!(first, third, "a name is not used twice, though its place is");
        services.set_now(start + Duration::from_millis(9));
        assert_eq!(due(&mut services), [20, 30]);
        assert!(!services.cancel_timer_for(&mut seat, second));
        assert_eq!(services.next_timer(), Instant::NEVER);
    }

    #[test]
    fn time_never_runs_back() {
        let mut services = services(None);
        services.set_now(Instant::EPOCH);
        assert_eq!(services.now(), Instant::from_nanos(MILLISECOND_NS));
    }

    #[test]
    fn a_watched_descriptor_reports_to_whom_it_was_watched_for() {
        let (mut services, mut seat) = (services(Some(Poller::new().unwrap())), seat());
        let (here, there) = UnixStream::pair().unwrap();
        let watch =
            services.watch_for_connection(&mut seat, here.as_fd(), Interest::Readable, 5).unwrap();
        assert!(services.watch_for_connection(&mut seat, here.as_fd(), Interest::Both, 6).is_err());
        assert_eq!(services.watched(), 1);
        std::io::Write::write_all(&mut &there, b"x").unwrap();
        let mut tokens = Vec::new();
        services.poller().unwrap().wait(0, |token, _| tokens.push(token)).unwrap();
        let at = watch_of(tokens[0]);
        assert_eq!(tokens.len(), 1);
        assert!(matches!(services.watch_target(at), Some(WatchTarget::Connection(KEY, 5))));
        services.unwatch_for(&mut seat, watch);
        assert!(services.watch_target(at).is_none());
        assert_eq!(services.poller().unwrap().wait(0, |_, _| ()).unwrap(), 0);
        services.watch_for_connection(&mut seat, here.as_fd(), Interest::Both, 6).unwrap();
    }

    #[test]
    fn a_watch_that_died_with_its_descriptor_takes_no_other_with_it() {
        let (mut services, mut seat) = (services(Some(Poller::new().unwrap())), seat());
        let (here, there) = UnixStream::pair().unwrap();
        let first =
            services.watch_for_connection(&mut seat, here.as_fd(), Interest::Readable, 1).unwrap();
        // What the kernel does when a descriptor is closed; its number comes back.
        services.poller().unwrap().remove(here.as_raw_fd()).unwrap();
        let second =
            services.watch_for_connection(&mut seat, here.as_fd(), Interest::Readable, 2).unwrap();
        assert_eq!(services.watched(), 1);
        services.unwatch_for(&mut seat, first);
        std::io::Write::write_all(&mut &there, b"x").unwrap();
        let mut tokens = Vec::new();
        services.poller().unwrap().wait(0, |token, _| tokens.push(token)).unwrap();
        let target = |at: usize, services: &mut Services| match services
            .watch_target(watch_of(tokens[at]))
        {
            Some(WatchTarget::Connection(KEY, token)) => *token,
            _ => panic!("not what was watched"),
        };
        assert_eq!((tokens.len(), target(0, &mut services)), (1, 2));
        services.unwatch_for(&mut seat, second);
        assert_eq!(services.watched(), 0);
    }

    #[test]
    fn a_watch_that_died_with_its_descriptor_leaves_the_workers_own_alone() {
        let (mut services, mut seat) = (services(Some(Poller::new().unwrap())), seat());
        let (here, there) = UnixStream::pair().unwrap();
        services.watch_for_connection(&mut seat, here.as_fd(), Interest::Readable, 1).unwrap();
        // The application closes it, and the worker opens one that gets its number.
        services.poller().unwrap().remove(here.as_raw_fd()).unwrap();
        services.watch_own(here.as_raw_fd(), 7).unwrap();
        services.end_all(&mut seat);
        std::io::Write::write_all(&mut &there, b"x").unwrap();
        let mut tokens = Vec::new();
        services.poller().unwrap().wait(0, |token, _| tokens.push(token)).unwrap();
        assert_eq!((tokens, services.watched()), (vec![7], 0));
    }

    #[test]
    fn a_simulation_has_no_descriptors() {
        let (here, _there) = UnixStream::pair().unwrap();
        let error = services(None)
            .watch_for_connection(&mut seat(), here.as_fd(), Interest::Both, 0)
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }
}
