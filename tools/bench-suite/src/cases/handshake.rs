//! Handshakes: connect, until both sides are done and send nothing more; then close.
//!
//! Everything from `connect` to silence is measured, with the tickets and connection ids that a stack
//! sends by default. Closing is not.

use super::Runner;
use crate::Failure;
use crate::meter::{Mode, Sample};
use crate::pair::Pair;
use crate::stack::{Client, Endpoint, Setup, Stack};

/// The virtual time of an exchange.
const TURN_NS: u64 = 100_000;
/// Handshakes before anything counts; the first one gets a ticket.
const WARM_UP_HANDSHAKES: u64 = 8;
/// Exchanges until a handshake counts as failed.
const MAX_TURNS: u32 = 10_000;

/// The case on a stack.
pub(crate) struct Handshake<S: Stack> {
    pair: Pair<S>,
    resume: bool,
}

impl<S: Stack> Handshake<S> {
    /// Warms up.
    pub(crate) fn start(setup: &Setup, resume: bool) -> Result<Self, Failure> {
        let mut case = Self { pair: Pair::new(setup)?, resume };
        case.slice(WARM_UP_HANDSHAKES, true)?;
        Ok(case)
    }

    fn handshake(&mut self) -> Result<(), Failure> {
        let pair = &mut self.pair;
        let wanted = pair.client.handshakes() + 1;
        pair.act(|client, now_ns| client.connect(now_ns))?;
        for _ in 0..MAX_TURNS {
            let moved = pair.turn(TURN_NS);
            let done = pair.client.handshakes() >= wanted && pair.server.handshakes() >= wanted;
            if done && moved == 0 {
                return Ok(());
            }
        }
        Err(format!("{}: a handshake does not come to an end", S::NAME).into())
    }
}

impl<S: Stack> Runner for Handshake<S> {
    fn slice(&mut self, operations: u64, warm_up: bool) -> Result<Sample, Failure> {
        self.pair.meter.take();
        let resumptions_before = self.pair.client.resumptions();
        for _ in 0..operations {
            self.pair.meter.mode = if warm_up { Mode::Off } else { Mode::Time };
            self.handshake()?;
            self.pair.meter.unit(1);
            self.pair.meter.mode = Mode::Off;
            self.pair.forget();
        }
        let resumed = self.pair.client.resumptions() - resumptions_before;
        if !warm_up && resumed != if self.resume { operations } else { 0 } {
            return Err(format!("{}: {resumed} of {operations} resumed", S::NAME).into());
        }
        Ok(self.pair.meter.take())
    }
}
