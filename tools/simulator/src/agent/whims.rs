//! Calls that no plan needs, within any callback: row 73 of the attacks.
//!
//! After its own work a callback may be followed by a call that is allowed at any time, and changes nothing that
//! the plan counts on: memory given back, a timer set and taken back, keys updated, work posted to oneself. One
//! side of some connections closes in its so-manieth callback, whichever that is.

use super::{Agent, FrontHandler, KIND_SHIFT, NEVER, OwnHandler, lock};
use crate::run::Planted;
use quiclane::datapath::sim::Rng;
use quiclane::exec::{ConnectionRef, HandleError};
use quiclane::time::{Instant, SECOND_NS};
use quiclane::{Dir, StreamId};
use std::collections::VecDeque;
use std::time::Duration;

/// How long a call that was posted may be under way: a worker takes it in one of its next turns.
const POSTED_NS: u64 = SECOND_NS;

/// What one side of a connection does of itself.
#[derive(Clone, Debug)]
pub(crate) struct WhimPlan {
    /// After one in so many callbacks; 0 for none.
    pub(crate) one_in: u64,
    /// It closes after so many callbacks.
    pub(crate) closes_after: Option<u64>,
    pub(crate) seed: u64,
}

/// What it has done.
pub(super) struct Whims {
    plan: WhimPlan,
    rng: Rng,
    callbacks: u64,
    /// Calls that were posted through a handle, in their order: number and time.
    posted: VecDeque<(u64, Instant)>,
    next: u64,
    /// Calls that were spawned.
    spawned: VecDeque<u64>,
}

impl Whims {
    pub(super) fn new(plan: WhimPlan) -> Self {
        let rng = Rng::new(plan.seed);
        let (posted, spawned) = (VecDeque::new(), VecDeque::new());
        Self { plan, rng, callbacks: 0, posted, next: 0, spawned }
    }
}

impl FrontHandler {
    /// Runs a callback of the connection.
    pub(crate) fn call<R>(
        &self,
        c: &mut ConnectionRef<'_>,
        body: impl FnOnce(&mut Agent, &mut ConnectionRef<'_>) -> R,
    ) -> R {
        self.agent().call(c, body)
    }
}

impl OwnHandler {
    /// Runs a callback of a stream with a handler of its own.
    pub(crate) fn call<R>(
        &self,
        c: &mut ConnectionRef<'_>,
        body: impl FnOnce(&mut Agent, &mut ConnectionRef<'_>) -> R,
    ) -> R {
        self.agent().call(c, body)
    }
}

impl Agent {
    /// Runs a callback, and what follows of itself.
    fn call<R>(
        &mut self,
        c: &mut ConnectionRef<'_>,
        body: impl FnOnce(&mut Self, &mut ConnectionRef<'_>) -> R,
    ) -> R {
        let result = body(self, c);
        self.whim(c);
        result
    }

    /// A callback is over.
    fn whim(&mut self, c: &mut ConnectionRef<'_>) {
        let whims = &mut self.whims;
        whims.callbacks += 1;
        if whims.plan.closes_after == Some(whims.callbacks) && !c.is_closed() {
            self.close(c);
        } else if whims.plan.one_in > 0 && whims.rng.below(whims.plan.one_in) == 0 {
            let which = whims.rng.below(8);
            self.follow(c, which);
        }
    }

    fn follow(&mut self, c: &mut ConnectionRef<'_>, which: u64) {
        match which {
            0 => c.shrink(),
            1 => self.look_at_streams(c),
            2 => {
                let soon = Duration::from_nanos(self.whims.rng.below(SECOND_NS));
                let timer = c.set_timer(soon, NEVER << KIND_SHIFT);
                if !c.is_closed() && !c.cancel_timer(timer) {
                    self.complain("a timer that was just set cannot be taken back");
                }
            }
            3 => {
                c.update_keys();
            }
            // A connection that is to end idle would not.
            4 if !self.plan.ends_idle => {
                let every = Duration::from_millis(self.whims.rng.between(200, 3_000));
                c.set_keep_alive(Some(every));
            }
            5 => self.spawn(c),
            _ => self.post(c, which == 6),
        }
    }

    /// Asks for what may be asked of any stream, open or not.
    fn look_at_streams(&mut self, c: &mut ConnectionRef<'_>) {
        let count = self.streams.len().max(1) as u64;
        let any = self.streams.keys().nth(self.whims.rng.below(count) as usize).copied();
        for id in [any.unwrap_or_default(), self.whims.rng.below(1 << 20)].map(StreamId::from_raw) {
            let held = self.streams.get(&id.raw()).map_or(0, |s| s.sent);
            let streams = c.streams();
            if streams.buffered(id) > held {
                self.complain(format_args!("more is buffered of {id:?} than was sent"));
            }
            let _ = c.streams().received(id);
        }
        let _ = [Dir::Bi, Dir::Uni].map(|dir| c.streams().available(dir));
    }

    /// Has a closure run after this callback.
    fn spawn(&mut self, c: &mut ConnectionRef<'_>) {
        let (me, number) = (self.me.clone(), self.whims.next);
        self.whims.next += 1;
        self.whims.spawned.push_back(number);
        c.spawn(move |c| {
            let Some(agent) = me.upgrade() else { return };
            let mut agent = lock(&agent);
            let expected = agent.whims.spawned.pop_front();
            if expected != Some(number) {
                agent.complain(format_args!("closure {number} runs, {expected:?} was next"));
            }
            agent.whim(c);
        });
    }

    /// Posts to itself, as another thread would.
    fn post(&mut self, c: &mut ConnectionRef<'_>, wakes: bool) {
        let (me, number, handle) = (self.me.clone(), self.whims.next, c.handle());
        let posted = match wakes {
            true if self.planted == Some(Planted::LostCalls) => Ok(()),
            true => handle.wake(number),
            false => handle.run(move |c| {
                if let Some(agent) = me.upgrade() {
                    lock(&agent).call(c, |agent, _| agent.posted(number));
                }
            }),
        };
        match posted {
            Ok(()) => {
                self.whims.next += 1;
                self.whims.posted.push_back((number, c.now()));
            }
            Err(HandleError::Full) => {}
            Err(HandleError::Closed) if c.is_closed() => {}
            Err(error) => self.complain(format_args!("posted to oneself: {error}")),
        }
    }

    /// A call that was posted is carried out: in its order.
    pub(crate) fn posted(&mut self, number: u64) {
        self.told("posted", number, 0);
        let expected = self.whims.posted.pop_front();
        if expected.map(|(number, _)| number) != Some(number) {
            self.complain(format_args!("call {number} is carried out, {expected:?} was next"));
        }
    }

    /// The connection is about to be closed, with all work done.
    pub(super) fn check_posted(&self, now: Instant) {
        if let Some((number, at)) = self.whims.posted.front()
            && now.ns_since(*at) > POSTED_NS
        {
            self.complain(format_args!(
                "call {number} was posted at {at:?}, and never carried out"
            ));
        }
    }
}
