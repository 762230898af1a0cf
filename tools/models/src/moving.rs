//! Calls of handles while a connection moves from one worker to another.
//!
//! The address, its count of posts and the end of settling are the library's own source. What the
//! two workers do around it follows `src/exec/lane/moving.rs` step by step.

use crate::address::{Address, Home, Key, Place};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use std::collections::VecDeque;

/// A ring between threads.
struct Ring<T>(Mutex<VecDeque<T>>);

impl<T> Ring<T> {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(VecDeque::new())))
    }

    fn with<R>(&self, body: impl FnOnce(&mut VecDeque<T>) -> R) -> R {
        match self.0.lock() {
            Ok(mut queue) => body(&mut queue),
            Err(_) => panic!("another thread of the model has failed"),
        }
    }

    fn push(&self, value: T) {
        self.with(|queue| queue.push_back(value));
    }

    fn pop(&self) -> Option<T> {
        self.with(VecDeque::pop_front)
    }

    fn len(&self) -> usize {
        self.with(|queue| queue.len())
    }
}

/// What wakes a worker that has found nothing to do: in the library it looks again by itself.
struct Bell {
    rung: Mutex<usize>,
    heard: Condvar,
}

impl Bell {
    fn new() -> Arc<Self> {
        Arc::new(Self { rung: Mutex::new(0), heard: Condvar::new() })
    }

    fn ring(&self) {
        if let Ok(mut rung) = self.rung.lock() {
            *rung += 1;
        }
        self.heard.notify_one();
    }

    /// Waits until it has rung more often than `seen`. Returns how often.
    fn wait(&self, seen: usize) -> usize {
        let Ok(mut rung) = self.rung.lock() else {
            panic!("another thread of the model has failed")
        };
        while *rung == seen {
            rung = match self.heard.wait(rung) {
                Ok(rung) => rung,
                Err(_) => panic!("another thread of the model has failed"),
            };
        }
        *rung
    }
}

/// A call: which thread posted it, and its number there.
type Call = (usize, usize);

/// What the former worker tells the new one.
enum Message {
    Arrive,
    Call(Call),
    Settled,
}

const HERE: Home = Home { worker: 0, key: Key { slot: 3, generation: 1 } };
const THERE: Home = Home { worker: 1, key: Key { slot: 5, generation: 2 } };

/// Two workers, and what lies between them.
struct Host {
    address: std::sync::Arc<Address>,
    inboxes: [Arc<Ring<Call>>; 2],
    told: Arc<Ring<Message>>,
    bells: [Arc<Bell>; 2],
    /// The calls that were carried out, by whichever worker had the connection.
    done: Arc<Ring<Call>>,
}

impl Clone for Host {
    fn clone(&self) -> Self {
        Self {
            address: self.address.clone(),
            inboxes: self.inboxes.clone(),
            told: self.told.clone(),
            bells: self.bells.clone(),
            done: self.done.clone(),
        }
    }
}

impl Host {
    fn new() -> Self {
        let address = Address::at(HERE.worker, HERE.key);
        let inboxes = [Ring::new(), Ring::new()];
        let bells = [Bell::new(), Bell::new()];
        Self { address, inboxes, told: Ring::new(), bells, done: Ring::new() }
    }

    /// What `Handle::post` does.
    fn post(&self, call: Call) {
        let post = self.address.begin_post();
        self.inboxes[usize::from(self.address.worker())].push(call);
        self.address.end_post(post);
        self.bells.iter().for_each(|bell| bell.ring());
    }

    fn tell(&self, message: Message) {
        self.told.push(message);
        self.bells[1].ring();
    }

    /// The worker that has the connection, and gives it away after `before` turns.
    fn give_away(&self, before: usize) {
        for _ in 0..before {
            if let Some(call) = self.inboxes[0].pop() {
                self.done.push(call);
            }
        }
        self.tell(Message::Arrive);
        let mut settling = Address::move_on(self.address.clone(), HERE, THERE);
        let mut seen = 0;
        while !settling.ends(|| self.inboxes[0].len()) {
            match self.inboxes[0].pop() {
                Some(call) => {
                    settling.call_taken();
                    assert_eq!(self.address.place(), Place::At(THERE.worker, THERE.key));
                    self.tell(Message::Call(call));
                }
                None => seen = self.bells[0].wait(seen),
            }
        }
        assert_eq!(self.inboxes[0].len(), 0, "a call would be left behind");
        self.tell(Message::Settled);
    }

    /// The worker that gets it, until all calls are carried out.
    fn take(&self, calls: usize) {
        let mut held = Vec::new();
        let (mut is_here, mut is_settled, mut seen) = (false, false, 0);
        while !(is_settled && self.done.len() == calls) {
            let mut idle = true;
            while let Some(message) = self.told.pop() {
                idle = false;
                match message {
                    Message::Arrive => is_here = true,
                    Message::Call(call) => self.done.push(call),
                    Message::Settled => {
                        is_settled = true;
                        held.drain(..).for_each(|call| self.done.push(call));
                    }
                }
            }
            if let Some(call) = self.inboxes[1].pop() {
                idle = false;
                if !is_here {
                    // It is in the ring: its address was written after it was sent.
                    assert!(matches!(self.told.pop(), Some(Message::Arrive)));
                    is_here = true;
                }
                if is_settled {
                    self.done.push(call);
                } else {
                    held.push(call);
                }
            }
            if idle {
                seen = self.bells[1].wait(seen);
            }
        }
    }
}

/// Some threads post calls while a connection moves after `before` turns of its worker. Every call is
/// carried out once, and those of a thread in their order.
///
/// # Panics
/// If it is not so in one of the interleavings.
pub fn calls_keep_their_order(posters: &'static [usize], before: usize, preemptions: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || {
        let host = Host::new();
        let threads: Vec<_> = posters
            .iter()
            .enumerate()
            .map(|(poster, calls)| {
                let host = host.clone();
                thread::spawn(move || (0..*calls).for_each(|n| host.post((poster, n))))
            })
            .collect();
        let all: usize = posters.iter().sum();
        let giver = {
            let host = host.clone();
            thread::spawn(move || host.give_away(before))
        };
        host.take(all);
        for thread in threads.into_iter().chain([giver]) {
            assert!(thread.join().is_ok());
        }
        let done: Vec<Call> = std::iter::from_fn(|| host.done.pop()).collect();
        for (poster, calls) in posters.iter().enumerate() {
            let of_one: Vec<usize> =
                done.iter().filter(|call| call.0 == poster).map(|call| call.1).collect();
            assert_eq!(of_one, (0..*calls).collect::<Vec<_>>(), "of {done:?}");
        }
    });
}
