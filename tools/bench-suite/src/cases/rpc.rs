//! RPC: a stream per request, 100 bytes up and 1,000 down, round-robin over connections.
//!
//! At most a batch of requests is under way, one per connection: with one connection it is a
//! ping-pong, with 10,000 each connection rests for 10,000 requests before its next, long
//! enough for its state to leave the caches and for delayed acknowledgements to be due. A
//! request takes [`REQUEST_NS`] of virtual time, 100,000 a second, as on a busy core.

use super::Runner;
use crate::Failure;
use crate::meter::{Mode, Sample};
use crate::pair::Pair;
use crate::stack::{BATCH_DATAGRAMS, Client, Setup, Stack};

/// Virtual time that passes per request.
const REQUEST_NS: u64 = 10_000;
/// Requests per connection before anything counts.
const WARM_UP_PER_CONNECTION: u64 = 4;
/// Requests before anything counts, at least.
const WARM_UP_REQUESTS: u64 = 2_000;
/// Exchanges until a batch of requests counts as lost.
const MAX_TURNS: u32 = 10_000;

/// The case on a stack.
pub(crate) struct Rpc<S: Stack> {
    pair: Pair<S>,
    connections: usize,
    next: usize,
}

impl<S: Stack> Rpc<S> {
    /// Connects all and warms them up.
    pub(crate) fn start(setup: &Setup, connections: usize) -> Result<Self, Failure> {
        let mut pair = Pair::<S>::new(setup)?;
        pair.connect(connections)?;
        let mut case = Self { pair, connections, next: 0 };
        let warm_up = (connections as u64 * WARM_UP_PER_CONNECTION).max(WARM_UP_REQUESTS);
        case.slice(warm_up, true)?;
        Ok(case)
    }

    /// One batch of requests, answered.
    fn batch(&mut self) -> Result<u64, Failure> {
        let count = self.connections.min(BATCH_DATAGRAMS);
        let (first, connections) = (self.next, self.connections);
        let wanted = self.pair.client.responses() + count as u64;
        self.pair.act(|client, now_ns| {
            for offset in 0..count {
                client.request(now_ns, (first + offset) % connections);
            }
        });
        self.next = (first + count) % connections;
        for _ in 0..MAX_TURNS {
            self.pair.turn(REQUEST_NS * count as u64);
            if self.pair.client.responses() >= wanted {
                return Ok(count as u64);
            }
        }
        Err(format!("{}: a response does not come", S::NAME).into())
    }
}

impl<S: Stack> Runner for Rpc<S> {
    fn slice(&mut self, operations: u64, warm_up: bool) -> Result<Sample, Failure> {
        self.pair.meter.take();
        self.pair.meter.mode = if warm_up { Mode::Off } else { Mode::Time };
        let mut done = 0;
        while done < operations {
            let count = self.batch()?;
            self.pair.meter.unit(count);
            done += count;
        }
        self.pair.meter.mode = Mode::Off;
        let sample = self.pair.meter.take();
        if S::REAL_TIME {
            // Timers that are pending now would be overdue in the next slice.
            self.pair.quiesce();
        }
        Ok(sample)
    }
}
