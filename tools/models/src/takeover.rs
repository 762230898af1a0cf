//! A process takes over from another one, in every order in which things can happen.
//!
//! What is modelled is what `exec/takeover` says to do, with two workers, their queues, kernel sockets and
//! feeds, and datagrams that arrive at any moment. It may end badly for the successor at any moment before it
//! has said that it serves. The states are few thousands to millions, and all of them are visited: this is a search
//! of its own and not loom, since the two processes share no memory, only what the kernel keeps.
//!
//! What must hold: no socket is read by two; each datagram reaches the process that has its connection, and
//! only those are lost that lay in the rings of a successor that died.

use std::collections::HashSet;

const WORKERS: usize = 2;

/// Which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Process {
    Old,
    New,
}

/// What a worker of the old process reads besides its feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Serves {
    Ring,
    Sockets,
    Nothing,
}

/// A step that is left out or done too early, to show that the model finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// None.
    None,
    /// The successor reads the sockets before the predecessor has stopped to.
    ReadsTooEarly,
    /// The predecessor closes its socket with datagrams in its ring.
    LeavesTooEarly,
    /// What is not the successor's own is dropped.
    PassesNothingOn,
    /// The predecessor does not read again what it gave up when the successor has died.
    DoesNotResume,
}

/// A datagram: where it is. All are for connections of the old process, and the last one begins one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Sent,
    Ring(Process, usize),
    Socket(usize),
    Feed(usize),
    Delivered(Process),
    /// It lay in a ring of the process that died.
    DiedWithIt,
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    datagrams: Vec<Place>,
    /// Whose program the device runs.
    program: Process,
    /// Each program's slots: whose AF_XDP socket a queue leads to.
    slots: [[Option<Process>; WORKERS]; 2],
    serves: [Serves; WORKERS],
    /// How far the successor is: nothing, the link taken, and then four steps for each worker.
    step: usize,
    complete: bool,
    dead: bool,
    /// How many workers of the predecessor have resumed, and whether its program is back.
    resumed: Option<usize>,
}

const STEPS: usize = 1 + 4 * WORKERS;

impl State {
    fn new(datagrams: usize) -> Self {
        Self {
            datagrams: vec![Place::Sent; datagrams],
            program: Process::Old,
            slots: [[Some(Process::Old); WORKERS], [None; WORKERS]],
            serves: [Serves::Ring; WORKERS],
            step: 0,
            complete: false,
            dead: false,
            resumed: None,
        }
    }

    /// True if the successor's worker serves its queue, and reads its socket.
    fn new_reads(&self, worker: usize, mistake: Mistake) -> bool {
        let early = usize::from(mistake == Mistake::ReadsTooEarly);
        !self.dead && self.step + early > 4 * (worker + 1)
    }

    fn old_reads(&self, worker: usize) -> bool {
        self.serves[worker] != Serves::Nothing
    }

    /// A datagram has reached a worker of the successor.
    fn judged(&self, datagram: usize, mistake: Mistake, worker: usize) -> Place {
        let begins = datagram + 1 == self.datagrams.len();
        match (begins && self.complete, mistake) {
            (true, _) => Place::Delivered(Process::New),
            (false, Mistake::PassesNothingOn) => Place::Lost,
            (false, _) => Place::Feed(worker),
        }
    }

    /// All that may come next for a datagram.
    fn moves(&self, datagram: usize, mistake: Mistake) -> Vec<Place> {
        match self.datagrams[datagram] {
            Place::Sent => (0..WORKERS).flat_map(|queue| self.arrives(queue)).collect(),
            Place::Ring(Process::Old, _) => vec![Place::Delivered(Process::Old)],
            Place::Ring(Process::New, worker) => vec![self.judged(datagram, mistake, worker)],
            Place::Socket(worker) => {
                let old = self.old_reads(worker).then_some(Place::Delivered(Process::Old));
                let new =
                    self.new_reads(worker, mistake).then(|| self.judged(datagram, mistake, worker));
                old.into_iter().chain(new).collect()
            }
            Place::Feed(_) => vec![Place::Delivered(Process::Old)],
            Place::Delivered(_) | Place::DiedWithIt | Place::Lost => Vec::new(),
        }
    }

    /// Where a datagram may lie that arrives at a queue. What no slot leads anywhere falls to a kernel socket, of
    /// any worker.
    fn arrives(&self, queue: usize) -> Vec<Place> {
        match self.slots[self.program as usize][queue] {
            Some(process) => vec![Place::Ring(process, queue)],
            None => (0..WORKERS).map(Place::Socket).collect(),
        }
    }

    /// The next step of the successor, if it can be taken.
    fn advance(&self, mistake: Mistake) -> Option<Self> {
        if self.dead || self.complete {
            return None;
        }
        let mut next = self.clone();
        if self.step == STEPS {
            next.complete = true;
            return Some(next);
        }
        next.step += 1;
        let Some(after_link) = self.step.checked_sub(1) else {
            next.slots[Process::New as usize] = self.slots[Process::Old as usize];
            next.program = Process::New;
            return Some(next);
        };
        let (worker, part) = (after_link / 4, after_link % 4);
        let lies = |place: &Place| *place == Place::Ring(Process::Old, worker);
        match part {
            0 => next.slots[Process::New as usize][worker] = None,
            1 if mistake != Mistake::LeavesTooEarly && self.datagrams.iter().any(lies) => {
                return None;
            }
            1 => {
                next.serves[worker] = Serves::Sockets;
                next.slots.iter_mut().for_each(|program| program[worker] = None);
                next.datagrams
                    .iter_mut()
                    .filter(|place| lies(place))
                    .for_each(|p| *p = Place::Lost);
            }
            2 => next.slots[Process::New as usize][worker] = Some(Process::New),
            _ => next.serves[worker] = Serves::Nothing,
        }
        Some(next)
    }

    /// The successor dies, before it has said that it serves.
    fn die(&self) -> Option<Self> {
        if self.dead || self.complete || self.step == 0 {
            return None;
        }
        let mut next = self.clone();
        next.dead = true;
        for program in &mut next.slots {
            program.iter_mut().filter(|slot| **slot == Some(Process::New)).for_each(|s| *s = None);
        }
        for place in &mut next.datagrams {
            if matches!(place, Place::Ring(Process::New, _)) {
                *place = Place::DiedWithIt;
            }
        }
        Some(next)
    }

    /// The predecessor puts things back.
    fn resume(&self, mistake: Mistake) -> Option<Self> {
        if !self.dead || mistake == Mistake::DoesNotResume {
            return None;
        }
        let mut next = self.clone();
        match self.resumed {
            None => {
                next.program = Process::Old;
                next.resumed = Some(0);
            }
            Some(worker) if worker < WORKERS => {
                next.serves[worker] = Serves::Ring;
                next.slots[Process::Old as usize][worker] = Some(Process::Old);
                next.resumed = Some(worker + 1);
            }
            Some(_) => return None,
        }
        Some(next)
    }

    fn successors(&self, mistake: Mistake) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        all.extend(self.advance(mistake));
        all.extend(self.die());
        all.extend(self.resume(mistake));
        for datagram in 0..self.datagrams.len() {
            for place in self.moves(datagram, mistake) {
                let mut next = self.clone();
                next.datagrams[datagram] = place;
                all.push(next);
            }
        }
        all
    }

    /// What is wrong with it.
    fn fault(&self, mistake: Mistake, ends: bool) -> Option<String> {
        let both = |worker| {
            let reads = self.old_reads(worker) && self.new_reads(worker, mistake);
            // Its order to stop is the last step for a worker.
            reads.then(|| format!("both processes read the socket of worker {worker}: {self:?}"))
        };
        let lost = self.datagrams.contains(&Place::Lost);
        let stays = ends
            && self
                .datagrams
                .iter()
                .any(|place| !matches!(place, Place::Delivered(_) | Place::DiedWithIt));
        (0..WORKERS)
            .find_map(both)
            .or_else(|| lost.then(|| format!("a datagram is lost: {self:?}")))
            .or_else(|| stays.then(|| format!("a datagram reaches nobody: {self:?}")))
    }
}

/// Visits every state that `datagrams` datagrams and a takeover can come to. Returns how many there are.
///
/// # Errors
/// Something is wrong with one of them, which is shown.
pub fn every_state(datagrams: usize, mistake: Mistake) -> Result<usize, String> {
    let mut seen = HashSet::new();
    let mut left = vec![State::new(datagrams)];
    while let Some(state) = left.pop() {
        if !seen.insert(state.clone()) {
            continue;
        }
        let next = state.successors(mistake);
        if let Some(fault) = state.fault(mistake, next.is_empty()) {
            return Err(fault);
        }
        left.extend(next);
    }
    Ok(seen.len())
}
