//! The client's part of a measurement: what each connection does.

use super::args::Scenario;
use super::{CHUNK, CHUNK_BYTES, HEADER_BYTES, LENT_MAX, STATUS_REQUEST};
use bytes::Bytes;
use hdrhistogram::Histogram;
use quiclane::CloseReason;
use quiclane::exec::{ConnectFailure, ConnectionRef, Handler, WorkerRef};
use quiclane::time::Instant;
use quiclane::{Dir, StreamId};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;

/// Longest time that a histogram tells apart.
const MAX_LATENCY_NS: u64 = 60_000_000_000;

/// What every connection of a run does.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) scenario: Scenario,
    pub(crate) streams: usize,
    pub(crate) up: u64,
    pub(crate) down: u64,
    /// Only what happens while this is set counts for percentiles.
    pub(crate) measuring: AtomicBool,
    /// No new requests: the end is near.
    pub(crate) stopping: AtomicBool,
}

/// What one connection has done: written by its worker alone, read by the main thread.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) bytes: AtomicU64,
    pub(crate) requests: AtomicU64,
}

/// What connections tell the main thread.
pub(crate) enum News {
    Connected { handshake_ns: u64 },
    Failed(String),
    Latencies(Box<Histogram<u64>>),
    Status(String),
}

/// The application of a connection.
pub(crate) struct PerfClient {
    plan: Arc<Plan>,
    tally: Arc<Tally>,
    news: Sender<News>,
    started: Option<Instant>,
    begun: std::time::Instant,
    sent_at: HashMap<StreamId, Instant>,
    latencies: Option<Box<Histogram<u64>>>,
    /// A request as it goes out, header and filling.
    request: Bytes,
    over: bool,
}

impl PerfClient {
    pub(crate) fn new(
        plan: &Arc<Plan>,
        tally: &Arc<Tally>,
        news: &Sender<News>,
        begun: std::time::Instant,
    ) -> Self {
        let filling = plan.up.saturating_sub(HEADER_BYTES as u64).min(CHUNK_BYTES as u64) as usize;
        let mut request = plan.down.to_be_bytes().to_vec();
        if matches!(plan.scenario, Scenario::Rps | Scenario::Latency) {
            request.extend_from_slice(&CHUNK[..filling]);
        }
        let latencies = Histogram::new_with_bounds(1, MAX_LATENCY_NS, 3).ok().map(Box::new);
        Self {
            plan: Arc::clone(plan),
            tally: Arc::clone(tally),
            news: news.clone(),
            started: None,
            begun,
            sent_at: HashMap::new(),
            latencies,
            request: request.into(),
            over: false,
        }
    }

    fn tell(&self, news: News) {
        // The main thread stops listening when it has heard enough.
        let _nobody = self.news.send(news);
    }

    fn fail(&mut self, why: String) {
        if !self.over && !self.plan.stopping.load(Ordering::Relaxed) {
            self.over = true;
            self.tell(News::Failed(why));
        }
    }

    /// Opens a stream with a request.
    fn ask(&mut self, connection: &mut ConnectionRef<'_>) {
        if self.plan.stopping.load(Ordering::Relaxed) {
            return;
        }
        // At the stream limit the next `streams_available` goes on.
        let Ok(stream) = connection.open(Dir::Bi) else { return };
        let last = self.plan.scenario != Scenario::Upload;
        if let Err(e) = connection.send(stream, self.request.clone(), last) {
            return self.fail(e.to_string());
        }
        self.sent_at.insert(stream, connection.now());
        self.top_up(connection, stream);
    }

    /// An upload lends more, as long as less than a bound is under way.
    fn top_up(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId) {
        if self.plan.scenario != Scenario::Upload {
            return;
        }
        let mut lent = connection.buffered(stream);
        while lent < LENT_MAX {
            lent += CHUNK_BYTES as u64;
            if connection.send(stream, Bytes::from_static(&CHUNK), false).is_err() {
                return;
            }
        }
    }

    fn answered(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId) {
        add(&self.tally.requests, 1);
        if let Some(sent) = self.sent_at.remove(&stream)
            && self.plan.measuring.load(Ordering::Relaxed)
            && let Some(h) = &mut self.latencies
        {
            h.saturating_record(connection.now().ns_since(sent));
        }
        self.ask(connection);
    }
}

/// Only one thread writes: a plain addition in two halves.
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}

impl Handler for PerfClient {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _resumed: bool) {
        self.started = Some(connection.now());
        let handshake_ns = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.tell(News::Connected { handshake_ns });
        if self.plan.scenario == Scenario::Hps {
            add(&self.tally.requests, 1);
            self.over = true;
            connection.close(0, Bytes::new());
            return;
        }
        for _ in 0..self.plan.streams {
            self.ask(connection);
        }
    }

    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        add(&self.tally.bytes, data.len() as u64);
        if fin {
            self.answered(connection, stream);
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
        if self.plan.scenario == Scenario::Upload {
            add(&self.tally.bytes, bytes);
            self.top_up(connection, stream);
        }
    }

    fn streams_available(&mut self, connection: &mut ConnectionRef<'_>, _dir: Dir) {
        while self.sent_at.len() < self.plan.streams {
            let before = self.sent_at.len();
            self.ask(connection);
            if self.sent_at.len() == before {
                return;
            }
        }
    }

    fn not_connected(&mut self, _: &mut WorkerRef<'_>, failure: ConnectFailure) {
        self.fail(failure.to_string());
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, reason: CloseReason) {
        if let Some(h) = self.latencies.take()
            && !h.is_empty()
        {
            self.tell(News::Latencies(h));
        }
        self.fail(reason.to_string());
    }
}

/// A connection that asks the server what it has spent, whenever it is woken.
pub(crate) struct StatusClient {
    news: Sender<News>,
    answer: Vec<u8>,
}

impl StatusClient {
    pub(crate) fn new(news: &Sender<News>) -> Self {
        Self { news: news.clone(), answer: Vec::new() }
    }

    fn ask(&mut self, connection: &mut ConnectionRef<'_>) {
        self.answer.clear();
        let request = Bytes::copy_from_slice(&STATUS_REQUEST.to_be_bytes());
        if let Ok(stream) = connection.open(Dir::Bi) {
            let _ = connection.send(stream, request, true);
        }
    }
}

impl Handler for StatusClient {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _resumed: bool) {
        self.ask(connection);
    }

    fn woken(&mut self, connection: &mut ConnectionRef<'_>, _token: u64) {
        self.ask(connection);
    }

    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        self.answer.extend_from_slice(data);
        // Another server takes the question for a size and would send for ever.
        if self.answer.first() != Some(&b'{') || self.answer.len() > 4096 {
            let _ = connection.stop_sending(stream, 0);
        } else if fin {
            let text = String::from_utf8_lossy(&self.answer).into_owned();
            let _nobody = self.news.send(News::Status(text));
        }
        data.len()
    }
}
