//! A client and a server of one stack, the wire between them, and their time.
//!
//! Time is virtual unless the stack reads clocks itself. One turn is one exchange:
//!
//! ```text
//!   client.transmit --up--> server.receive, server.transmit --down--> client.receive
//!          \_______________ half a turn ______________/  \____ half a turn ____/
//! ```

use std::time::Instant;

use crate::meter::{End, Meter, Mode};
use crate::stack::{BATCH_DATAGRAMS, Client, Endpoint, Setup, Stack};
use crate::wire::Wire;
use crate::{Failure, clock};

/// The least time that passes when neither side has anything to send.
const IDLE_TURN_NS: u64 = 1_000_000;
/// Turns without progress until a case is given up.
const MAX_IDLE_TURNS: u32 = 1_000_000;
/// Turns with nothing on the wire after which a pair counts as quiet. With a millisecond each
/// that is longer than a delayed acknowledgement waits (25 ms).
const QUIET_TURNS: u32 = 30;
/// The time of a turn while the meter is off.
const UNMEASURED_TURN_NS: u64 = 100_000;

/// Both sides of a stack.
pub(crate) struct Pair<S: Stack> {
    /// The side that connects.
    pub(crate) client: S::Client,
    /// The side that accepts.
    pub(crate) server: S::Server,
    /// The costs of each side.
    pub(crate) meter: Meter,
    /// Datagrams that the client sent.
    pub(crate) sent_up: u64,
    up: Wire,
    down: Wire,
    now_ns: u64,
    started: Instant,
}

impl<S: Stack> Pair<S> {
    /// A pair without connections.
    pub(crate) fn new(setup: &Setup) -> Result<Self, Failure> {
        let started = clock::now();
        let (client, server) = S::pair(setup)?;
        let (up, down) = (Wire::default(), Wire::default());
        Ok(Self { client, server, meter: Meter::new(), sent_up: 0, up, down, now_ns: 0, started })
    }

    /// The time of the pair, `ns` later if it is virtual.
    pub(crate) fn pass(&mut self, ns: u64) -> u64 {
        self.now_ns = if S::REAL_TIME {
            clock::now().duration_since(self.started).as_nanos() as u64
        } else {
            self.now_ns + ns
        };
        self.now_ns
    }

    /// The client's application does something: `work` gets the client and the time.
    pub(crate) fn act<R>(&mut self, work: impl FnOnce(&mut S::Client, u64) -> R) -> R {
        let (now_ns, client) = (self.now_ns, &mut self.client);
        self.meter.section(End::Client, || work(client, now_ns))
    }

    /// One exchange that takes `turn_ns`; returns how many datagrams went either way.
    pub(crate) fn turn(&mut self, turn_ns: u64) -> usize {
        let (now_ns, client, up) = (self.now_ns, &mut self.client, &mut self.up);
        self.meter.section(End::Client, || client.transmit(now_ns, up, BATCH_DATAGRAMS));
        let went_up = self.up.len();
        self.sent_up += went_up as u64;
        let now_ns = self.pass(turn_ns / 2);
        self.server.stage(&mut self.up);
        let (server, down) = (&mut self.server, &mut self.down);
        self.meter.section(End::Server, || {
            server.receive(now_ns);
            server.transmit(now_ns, down, BATCH_DATAGRAMS);
        });
        let went_down = self.down.len();
        let now_ns = self.pass(turn_ns / 2);
        if went_down > 0 {
            self.client.stage(&mut self.down);
            let client = &mut self.client;
            self.meter.section(End::Client, || client.receive(now_ns));
        }
        went_up + went_down
    }

    /// Takes turns until `done`; lets time pass when nothing moves.
    pub(crate) fn until(
        &mut self,
        what: &str,
        done: impl Fn(&S::Client, &S::Server) -> bool,
    ) -> Result<(), Failure> {
        let mut idle = 0;
        while !done(&self.client, &self.server) {
            if self.turn(UNMEASURED_TURN_NS) == 0 {
                idle += 1;
                self.pass(IDLE_TURN_NS);
            } else {
                idle = 0;
            }
            if idle > MAX_IDLE_TURNS {
                return Err(format!("{}: {what} does not come to an end", S::NAME).into());
            }
        }
        Ok(())
    }

    /// Takes turns until nothing moves any more; the time is not measured.
    pub(crate) fn quiesce(&mut self) {
        let mode = self.meter.mode;
        if mode == Mode::Time {
            self.meter.mode = Mode::Off;
        }
        let mut quiet = 0;
        while quiet < QUIET_TURNS {
            let moved = self.turn(UNMEASURED_TURN_NS) > 0;
            quiet = if moved { 0 } else { quiet + 1 };
            if !moved {
                self.pass(IDLE_TURN_NS);
            }
        }
        self.meter.mode = mode;
    }

    /// Lets time pass in which no application does anything, with turns for due timers.
    pub(crate) fn rest(&mut self, ns: u64) {
        let end = self.now_ns + ns;
        while self.now_ns < end {
            self.turn(UNMEASURED_TURN_NS);
            self.pass(IDLE_TURN_NS);
        }
    }

    /// Opens `count` connections, one after the other, and waits until all are quiet.
    pub(crate) fn connect(&mut self, count: usize) -> Result<(), Failure> {
        for _ in 0..count {
            let wanted = self.client.handshakes() + 1;
            self.act(|client, now_ns| client.connect(now_ns))?;
            self.until("a handshake", |c, s| c.handshakes() >= wanted && s.handshakes() >= wanted)?;
        }
        self.quiesce();
        Ok(())
    }

    /// Both sides forget their connections.
    pub(crate) fn forget(&mut self) {
        self.client.forget_all(self.now_ns);
        self.server.forget_all(self.now_ns);
    }
}
