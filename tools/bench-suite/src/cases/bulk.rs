//! Bulk: one connection, one stream from client to server, never empty.

use super::Runner;
use crate::Failure;
use crate::meter::{Mode, Sample};
use crate::pair::Pair;
use crate::stack::{Client, Server, Setup, Stack};

/// The virtual time of an exchange of a full batch: 32 packets of 1,472 bytes each
/// 50 us is 7.5 Gb/s, so timers and round trips see a fast network.
const TURN_NS: u64 = 50_000;
/// Packets before anything counts: slow start is over and every buffer has its size.
const WARM_UP_PACKETS: u64 = 20_000;

/// The case on a stack.
pub(crate) struct Bulk<S: Stack> {
    pair: Pair<S>,
    mtu: u64,
}

impl<S: Stack> Bulk<S> {
    /// Connects and warms up.
    pub(crate) fn start(setup: &Setup) -> Result<Self, Failure> {
        let mut pair = Pair::<S>::new(setup)?;
        pair.connect(1)?;
        pair.act(|client, now_ns| client.start_bulk(now_ns, 0));
        let mut case = Self { pair, mtu: setup.mtu.into() };
        case.slice(WARM_UP_PACKETS, true)?;
        Ok(case)
    }
}

impl<S: Stack> Runner for Bulk<S> {
    fn slice(&mut self, operations: u64, warm_up: bool) -> Result<Sample, Failure> {
        let pair = &mut self.pair;
        pair.meter.take();
        pair.meter.mode = if warm_up { Mode::Off } else { Mode::Time };
        let (sent_before, received_before) = (pair.sent_up, pair.server.received_bytes());
        let mut idle = 0;
        while pair.sent_up - sent_before < operations {
            let before = pair.sent_up;
            idle = if pair.turn(TURN_NS) == 0 { idle + 1 } else { 0 };
            pair.meter.unit(pair.sent_up - before);
            if idle > 10_000_000 {
                return Err(format!("{}: bulk makes no progress", S::NAME).into());
            }
        }
        pair.meter.mode = Mode::Off;
        let sent = pair.sent_up - sent_before;
        let received = pair.server.received_bytes() - received_before;
        // All packets are full and arrived: otherwise the figure is not per packet of `mtu`.
        if received < sent * (self.mtu - 60) * 99 / 100 {
            return Err(format!("{}: {received} bytes in {sent} packets", S::NAME).into());
        }
        Ok(pair.meter.take())
    }
}
