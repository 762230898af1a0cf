//! The client's part of a measurement: what each connection does.
//!
//! A connection does nothing after its handshake until it is woken with [`GO`]: all connections of a
//! run begin together. Then it either keeps a number of requests open (a closed loop), or sends one
//! whenever it is woken with the intended send time of the request (an open loop, see `pacer.rs`).

use super::args::Scenario;
use super::settings::Settings;
use super::tally::{Tally, Window};
use super::{BUFFERED_MAX, CHUNK, CHUNK_BYTES, HEADER_BYTES};
use crate::identity::explained;
use bytes::Bytes;
use quiclane::CloseReason;
use quiclane::exec::{ClientConfig, ConnectFailure, ConnectionRef, Handler, WorkerRef};
use quiclane::{Dir, StreamId};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// Wakes a connection to begin. Greater than every intended send time.
pub(crate) const GO: u64 = u64::MAX;
/// Wakes a connection to close.
pub(crate) const CLOSE: u64 = u64::MAX - 1;
/// How many connections that ended early report their reason, on each worker.
const REASONS_MAX: u64 = 16;
/// How many handshakes of hps may fail, each followed by another, before a run ends.
pub(crate) const FAILURES_MAX: u64 = 1000;

/// What every connection of a run does, and where it reports.
pub(crate) struct Plan {
    pub(crate) settings: Settings,
    pub(crate) server: SocketAddr,
    pub(crate) server_name: String,
    pub(crate) config: ClientConfig,
    pub(crate) window: Window,
    /// For each worker.
    pub(crate) tallies: Vec<Tally>,
    pub(crate) messages: Sender<Message>,
    /// The size of the response, and filling up to one piece.
    pub(crate) request: Bytes,
}

impl Plan {
    /// The first bytes of a request.
    pub(crate) fn request(settings: &Settings) -> Bytes {
        let filling = settings.up.saturating_sub(HEADER_BYTES as u64).min(CHUNK_BYTES as u64);
        let mut request = settings.down.to_be_bytes().to_vec();
        request.extend_from_slice(&CHUNK[..filling as usize]);
        request.into()
    }

    pub(crate) fn tally(&self, worker: usize) -> &Tally {
        // One for each worker.
        &self.tallies[worker % self.tallies.len()]
    }

    /// Begins a handshake of hps.
    pub(crate) fn connect_from(self: &Arc<Self>, worker: &mut WorkerRef<'_>) {
        let now = worker.now().as_nanos();
        let tally = self.tally(worker.number());
        tally.asked(&self.window, now);
        tally.left(now, 1);
        let client = PerfClient::new(self, now);
        worker.connect(self.server, &self.server_name, &self.config, client);
    }
}

/// What connections report to the main thread.
pub(crate) enum Message {
    Connected { handshake_ns: u64 },
    Failed(String),
}

/// The application of a connection.
pub(crate) struct PerfClient {
    plan: Arc<Plan>,
    /// When the handshake began.
    begun: u64,
    is_connected: bool,
    /// The run has closed it: what follows does not count.
    is_over: bool,
    /// Open requests, with their intended send times.
    out: VecDeque<(StreamId, u64)>,
    /// Intended send times of requests that are due.
    due: VecDeque<u64>,
}

impl PerfClient {
    pub(crate) fn new(plan: &Arc<Plan>, begun: u64) -> Self {
        Self {
            plan: Arc::clone(plan),
            begun,
            is_connected: false,
            is_over: false,
            out: VecDeque::new(),
            due: VecDeque::new(),
        }
    }

    fn is_hps(&self) -> bool {
        self.plan.settings.scenario == Scenario::Hps
    }

    fn tell(&self, message: Message) {
        // Fails only if the main thread has stopped listening.
        let _unheard = self.plan.messages.send(message);
    }

    /// The connection ended, or never began, without a close from this side.
    fn fail(&mut self, worker: usize, why: String) -> u64 {
        self.is_over = true;
        let ended = self.plan.tally(worker).ended_early();
        if ended <= REASONS_MAX {
            self.tell(Message::Failed(why));
        }
        ended
    }

    /// Sends what is due.
    fn fill(&mut self, connection: &mut ConnectionRef<'_>) {
        let plan = Arc::clone(&self.plan);
        let now = connection.now().as_nanos();
        let tally = plan.tally(connection.worker());
        while self.out.len() < plan.settings.streams {
            let intended = match (plan.settings.rate, self.due.front()) {
                (Some(_), Some(intended)) => *intended,
                (None, _) if !plan.window.is_over(now) => now,
                _ => return,
            };
            // At the stream limit the next `streams_available` goes on.
            let Ok(stream) = connection.streams().open(Dir::Bi) else { return };
            if !self.send(connection, stream) {
                return;
            }
            match plan.settings.rate {
                Some(_) => drop(self.due.pop_front()),
                None => tally.asked(&plan.window, intended),
            }
            self.out.push_back((stream, intended));
            tally.left(now, self.out.len());
        }
    }

    /// Sends a whole request; of an upload, up to the bound of the send buffer. False if the
    /// stream takes nothing.
    fn send(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId) -> bool {
        let request = self.plan.request.clone();
        if self.plan.settings.scenario == Scenario::Upload {
            let is_sent = connection.streams().send(stream, request, false).is_ok();
            self.top_up(connection, stream);
            return is_sent;
        }
        let mut left = self.plan.settings.up - request.len() as u64;
        let mut is_sent = connection.streams().send(stream, request, left == 0).is_ok();
        while is_sent && left > 0 {
            let piece = left.min(CHUNK_BYTES as u64);
            left -= piece;
            let data = Bytes::from_static(&CHUNK[..piece as usize]);
            is_sent = connection.streams().send(stream, data, left == 0).is_ok();
        }
        is_sent
    }

    /// Fills the send buffer of an upload up to its bound.
    fn top_up(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId) {
        let mut streams = connection.streams();
        let mut buffered = streams.buffered(stream);
        while buffered < BUFFERED_MAX {
            buffered += CHUNK_BYTES as u64;
            if streams.send(stream, Bytes::from_static(&CHUNK), false).is_err() {
                return;
            }
        }
    }

    /// Ends the open request of a stream. Returns its intended send time.
    fn take(&mut self, stream: StreamId) -> Option<u64> {
        let at = self.out.iter().position(|(other, _)| *other == stream)?;
        self.out.remove(at).map(|(_, intended)| intended)
    }

    /// Gives up the open requests.
    fn abandon(&mut self, worker: usize, now: u64) {
        let Plan { window, settings, .. } = &*self.plan;
        let tally = self.plan.tally(worker);
        if !settings.counts_requests() {
            return;
        }
        for (_, intended) in self.out.drain(..) {
            tally.abandoned(window, now, intended, true);
        }
        for intended in self.due.drain(..) {
            tally.abandoned(window, now, intended, false);
        }
    }

    /// A handshake of hps is over: the next begins.
    fn succeed(&self, connection: &mut ConnectionRef<'_>) {
        if !self.plan.window.is_over(connection.now().as_nanos()) {
            self.plan.connect_from(&mut connection.on_worker());
        }
    }
}

impl Handler for PerfClient {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _resumed: bool) {
        let now = connection.now().as_nanos();
        let plan = Arc::clone(&self.plan);
        let tally = plan.tally(connection.worker());
        self.is_connected = true;
        tally.connected();
        if self.is_hps() {
            tally.heard(&plan.window, now, 0);
            tally.answered(&plan.window, now, self.begun);
            self.is_over = true;
            connection.close(0, Bytes::new());
            self.succeed(connection);
        } else {
            self.tell(Message::Connected { handshake_ns: now.saturating_sub(self.begun) });
        }
    }

    fn woken(&mut self, connection: &mut ConnectionRef<'_>, token: u64) {
        match token {
            GO => {}
            CLOSE => {
                self.is_over = true;
                return connection.close(0, Bytes::new());
            }
            intended => self.due.push_back(intended),
        }
        self.fill(connection);
    }

    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        let now = connection.now().as_nanos();
        let plan = &*self.plan;
        plan.tally(connection.worker()).heard(&plan.window, now, data.len() as u64);
        if fin && let Some(intended) = self.take(stream) {
            let plan = &*self.plan;
            plan.tally(connection.worker()).answered(&plan.window, now, intended);
            self.fill(connection);
        }
        data.len()
    }

    fn acknowledged(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        bytes: u64,
        _fin: bool,
    ) {
        let plan = &*self.plan;
        if plan.settings.scenario == Scenario::Upload {
            let now = connection.now().as_nanos();
            plan.tally(connection.worker()).heard(&plan.window, now, bytes);
            self.top_up(connection, stream);
        }
    }

    fn stream_reset(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId, _code: u64) {
        if let Some(intended) = self.take(stream) {
            let plan = &*self.plan;
            let tally = plan.tally(connection.worker());
            tally.heard(&plan.window, connection.now().as_nanos(), 0);
            tally.refused(&plan.window, intended);
            self.fill(connection);
        }
    }

    fn streams_available(&mut self, connection: &mut ConnectionRef<'_>, _dir: Dir, _count: u64) {
        // Before the start no request is open or due: this is no reason to begin.
        if !self.out.is_empty() || !self.due.is_empty() {
            self.fill(connection);
        }
    }

    fn not_connected(&mut self, worker: &mut WorkerRef<'_>, failure: ConnectFailure) {
        let number = worker.number();
        if self.is_hps() {
            let plan = &*self.plan;
            let now = worker.now().as_nanos();
            plan.tally(number).abandoned(&plan.window, now, self.begun, true);
        }
        self.fail(number, failure.to_string());
    }

    fn closed(&mut self, connection: &mut ConnectionRef<'_>, reason: CloseReason) {
        let (worker, now) = (connection.worker(), connection.now().as_nanos());
        self.plan.tally(worker).closed(self.is_connected, &connection.stats());
        self.abandon(worker, now);
        if self.is_hps() && !self.is_connected {
            let plan = &*self.plan;
            plan.tally(worker).abandoned(&plan.window, now, self.begun, true);
        }
        if self.is_over || self.plan.window.is_closing() {
            return;
        }
        let failures = self.fail(worker, explained(&reason));
        if self.is_hps() && failures < FAILURES_MAX {
            self.succeed(connection);
        }
    }
}
