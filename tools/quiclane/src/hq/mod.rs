//! Files over bare QUIC: ALPN hq-interop.
//!
//! A client opens a bidirectional stream and sends `GET /path` with a line end and FIN; the
//! server answers with the bytes of the file and FIN. There are no status codes: a file that
//! cannot be had resets the stream ([`Refusal`]).
//!
//! A file is read in pieces of [`PIECE_BYTES`] as the client acknowledges earlier ones. Nothing
//! is mapped: a file that becomes shorter while it is served ends its own transfer, not the
//! process. The threads of `pool` look up and read what is not in memory, so that no disk, FIFO or
//! device holds up a worker. Limits bound what a connection (here) and the process (`budget`) may
//! have under way.

mod budget;
mod pool;
mod store;

pub(crate) use budget::FileCounters;

use crate::error::Failure;
use crate::sys::{self, Wait};
use budget::{Budget, InFlight, OpenFile, Refusal};
use bytes::Bytes;
use pool::{Answers, Job, Outcome, Pool, Work};
use quiclane::exec::ConnectionRef;
use quiclane::{Dir, StreamId};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use store::{Opened, Store, Trouble};

/// The protocol's name.
pub(crate) const ALPN: &str = "hq-interop";
/// The longest request that is read.
const MAX_REQUEST_BYTES: usize = 4096;
/// Bytes of requests that a connection may have waiting, those that are not complete included.
const WAITING_BYTES_MAX: usize = 256 << 10;
/// Files that a connection has open at one time; further requests wait for one to end.
const CONNECTION_OPEN_MAX: usize = 64;
/// Bytes of one read. Below the size from which malloc(3) maps each block by itself.
const PIECE_BYTES: usize = 64 << 10;
/// Bytes of one read when memory is short: each transfer may always have one such piece.
const SMALL_PIECE_BYTES: usize = 16 << 10;
/// The least and the most bytes that a connection has in flight; between them, twice its window.
const CONNECTION_BYTES_MIN: u64 = 256 << 10;
const CONNECTION_BYTES_MAX: u64 = 8 << 20;

const _: () = assert!(SMALL_PIECE_BYTES < PIECE_BYTES);
const _: () = assert!(PIECE_BYTES as u64 * 4 <= CONNECTION_BYTES_MIN);

/// What all connections share: the directory, the threads, the limits.
#[derive(Debug)]
pub(crate) struct FileServer {
    store: Arc<Store>,
    pool: Pool,
    budget: Arc<Budget>,
}

impl FileServer {
    /// Serves what lies below a directory.
    ///
    /// # Errors
    /// The directory cannot be opened, or the kernel is too old.
    pub(crate) fn new(directory: &Path) -> Result<Arc<Self>, Failure> {
        let fail = |error| Failure::file("serve", directory, &error);
        let store = Store::open(directory).map_err(fail)?;
        let budget = Budget::new(sys::raise_descriptors());
        let store = Arc::new(store);
        let pool = Pool::start(&store).map_err(fail)?;
        Ok(Arc::new(Self { store, pool, budget }))
    }

    pub(crate) fn counters(&self) -> FileCounters {
        self.budget.counters()
    }

    /// New requests are refused from now on; those under way go on.
    pub(crate) fn drain(&self) {
        self.budget.drain();
    }
}

/// A complete request that waits for its turn.
struct Waiting {
    stream: StreamId,
    path: String,
    request: InFlight,
}

/// A request that is being answered.
struct Transfer {
    path: String,
    stage: Stage,
    /// Bytes that the client does not have yet.
    buffered: u64,
    _request: InFlight,
}

enum Stage {
    /// A thread looks it up.
    Opening { _right: OpenFile },
    Reading {
        file: Arc<File>,
        at: u64,
        size: u64,
        /// A thread reads the next piece.
        busy: bool,
        _right: OpenFile,
    },
    /// The last piece is on its way.
    Sent,
}

/// The server's part for one connection.
pub(crate) struct Files {
    server: Arc<FileServer>,
    /// Requests that are not complete.
    partial: HashMap<StreamId, Vec<u8>>,
    waiting: VecDeque<Waiting>,
    /// Bytes of both.
    waiting_bytes: usize,
    transfers: HashMap<StreamId, Transfer>,
    /// Transfers with an open file, or about to have one.
    open: usize,
    /// Bytes of all transfers that the client does not have yet.
    buffered: u64,
    /// What threads have done.
    answers: Option<Answers>,
}

impl Files {
    pub(crate) fn new(server: Arc<FileServer>) -> Self {
        Self {
            server,
            partial: HashMap::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            transfers: HashMap::new(),
            open: 0,
            buffered: 0,
            answers: None,
        }
    }

    pub(crate) fn data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) {
        if stream.dir() == Dir::Uni {
            return;
        }
        let mut request = self.partial.remove(&stream).unwrap_or_default();
        self.waiting_bytes -= request.len();
        request.extend_from_slice(data);
        if request.len() > MAX_REQUEST_BYTES {
            return self.refuse(connection, stream, Refusal::Malformed);
        }
        if self.waiting_bytes + request.len() > WAITING_BYTES_MAX {
            return self.refuse(connection, stream, Refusal::Busy);
        }
        if !fin {
            self.waiting_bytes += request.len();
            self.partial.insert(stream, request);
            return;
        }
        let Some(path) = requested_path(&request) else {
            return self.refuse(connection, stream, Refusal::Malformed);
        };
        if self.server.budget.is_draining() {
            return self.refuse(connection, stream, Refusal::Busy);
        }
        self.waiting_bytes += path.len();
        let request = self.server.budget.request();
        self.waiting.push_back(Waiting { stream, path: path.to_owned(), request });
        self.start(connection);
    }

    /// The client has `bytes` more of an answer, with `fin` all of it.
    pub(crate) fn acknowledged(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        bytes: u64,
        fin: bool,
    ) {
        if let Some(transfer) = self.transfers.get_mut(&stream) {
            let had = transfer.buffered.min(bytes);
            transfer.buffered -= had;
            self.buffered -= had;
        }
        if fin {
            self.forget(stream);
        } else {
            self.fill(connection, stream);
        }
        self.start(connection);
    }

    /// Threads have done something.
    pub(crate) fn woken(&mut self, connection: &mut ConnectionRef<'_>) {
        let Some(answers) = &self.answers else { return };
        for (stream, outcome) in pool::take(answers) {
            match outcome {
                Outcome::Opened(Ok(opened)) => self.begin(connection, stream, opened),
                Outcome::Opened(Err(refusal)) | Outcome::Read(Err(refusal)) => {
                    self.refuse(connection, stream, refusal);
                }
                Outcome::Read(Ok(data)) => {
                    if let Some(Transfer { stage: Stage::Reading { busy, .. }, .. }) =
                        self.transfers.get_mut(&stream)
                    {
                        *busy = false;
                        self.send(connection, stream, data);
                        self.fill(connection, stream);
                    }
                }
            }
        }
        self.start(connection);
    }

    /// The stream is over, or the client wants no answer any more.
    pub(crate) fn gone(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId) {
        self.forget(stream);
        self.start(connection);
    }

    fn forget(&mut self, stream: StreamId) {
        if let Some(request) = self.partial.remove(&stream) {
            self.waiting_bytes -= request.len();
        }
        if let Some(transfer) = self.transfers.remove(&stream) {
            self.buffered -= transfer.buffered;
            self.open -= usize::from(!matches!(transfer.stage, Stage::Sent));
        } else if let Some(at) = self.waiting.iter().position(|waiting| waiting.stream == stream)
            && let Some(waiting) = self.waiting.remove(at)
        {
            self.waiting_bytes -= waiting.path.len();
        }
    }

    fn refuse(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId, refusal: Refusal) {
        self.server.budget.refused(refusal);
        if refusal == Refusal::Truncated
            && let Some(transfer) = self.transfers.get(&stream)
        {
            let path = &transfer.path;
            tracing::warn!("{path:?} became shorter, or cannot be read: its transfer was ended");
        }
        self.forget(stream);
        // Errors mean that there is nothing left to refuse.
        let _ = connection.streams().stop_sending(stream, refusal.code());
        let _ = connection.streams().reset(stream, refusal.code());
    }

    /// Begins with requests that wait, as far as files may be opened.
    fn start(&mut self, connection: &mut ConnectionRef<'_>) {
        while self.open < CONNECTION_OPEN_MAX && !self.waiting.is_empty() {
            let Some(right) = self.server.budget.open(self.open == 0) else { return };
            let Some(Waiting { stream, path, request }) = self.waiting.pop_front() else { return };
            self.waiting_bytes -= path.len();
            let found = self.server.store.file(&path, Wait::No);
            let stage = Stage::Opening { _right: right };
            let transfer = Transfer { path, stage, buffered: 0, _request: request };
            match found {
                Ok(opened) => {
                    self.open += 1;
                    self.transfers.insert(stream, transfer);
                    self.begin(connection, stream, opened);
                }
                Err(Trouble::WouldWait) => {
                    self.open += 1;
                    let work = Work::Open(transfer.path.clone());
                    self.transfers.insert(stream, transfer);
                    self.post(connection, stream, work);
                }
                Err(Trouble::Refused(refusal)) => self.refuse(connection, stream, refusal),
            }
        }
    }

    /// A file was opened for a request that waits for it.
    fn begin(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId, opened: Opened) {
        let Some(transfer) = self.transfers.get_mut(&stream) else { return };
        let Opened { file, size } = opened;
        if size == 0 {
            transfer.stage = Stage::Sent;
            self.open -= 1;
            // An error here, and below, means that the client wants the answer no more.
            let _ = connection.streams().send(stream, Bytes::new(), true);
            return;
        }
        if let Stage::Opening { _right } = std::mem::replace(&mut transfer.stage, Stage::Sent) {
            let file = Arc::new(file);
            transfer.stage = Stage::Reading { file, at: 0, size, busy: false, _right };
        }
        self.fill(connection, stream);
    }

    /// Reads on, as long as more may be in flight.
    fn fill(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId) {
        loop {
            let Some(transfer) = self.transfers.get(&stream) else { return };
            let Stage::Reading { file, at, size, busy: false, .. } = &transfer.stage else {
                return;
            };
            let Some(len) = self.next_piece(connection, transfer) else { return };
            let (at, len) = (*at, len.min(usize::try_from(*size - *at).unwrap_or(len)));
            match store::read(file, at, len, Wait::No) {
                Ok(data) => self.send(connection, stream, data),
                Err(Trouble::WouldWait) => {
                    let work = Work::Read { file: file.clone(), at, len };
                    return self.post(connection, stream, work);
                }
                Err(Trouble::Refused(refusal)) => {
                    return self.refuse(connection, stream, refusal);
                }
            }
        }
    }

    /// How much to read next for a transfer; nothing as long as enough is in flight.
    fn next_piece(&self, connection: &ConnectionRef<'_>, transfer: &Transfer) -> Option<usize> {
        let all = 2 * connection.stats().window_bytes;
        let all = all.clamp(CONNECTION_BYTES_MIN, CONNECTION_BYTES_MAX);
        let share = (all / self.open.max(1) as u64).max(PIECE_BYTES as u64);
        if self.buffered < all && transfer.buffered < share && !self.server.budget.is_short() {
            Some(PIECE_BYTES)
        } else {
            (transfer.buffered == 0).then_some(SMALL_PIECE_BYTES)
        }
    }

    /// Hands the next piece to the stream.
    fn send(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId, data: Vec<u8>) {
        let Some(transfer) = self.transfers.get_mut(&stream) else { return };
        let Stage::Reading { at, size, .. } = &mut transfer.stage else { return };
        let bytes = data.len() as u64;
        *at += bytes;
        let last = *at >= *size;
        transfer.buffered += bytes;
        self.buffered += bytes;
        if last {
            // The file is closed here.
            transfer.stage = Stage::Sent;
            self.open -= 1;
        }
        let piece = Bytes::from_owner(self.server.budget.piece(data));
        if connection.streams().send(stream, piece, last).is_err() {
            self.forget(stream);
        }
    }

    /// Gives a thread of the pool the work that would make this one wait.
    fn post(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId, work: Work) {
        self.server.budget.waited();
        if let Some(Transfer { stage: Stage::Reading { busy, .. }, .. }) =
            self.transfers.get_mut(&stream)
        {
            *busy = true;
        }
        let answers = self.answers.get_or_insert_default().clone();
        self.server.pool.post(Job { work, stream, answers, handle: connection.handle() });
    }
}

/// What a stream of an answer was reset with, in words.
pub(crate) fn meaning(code: u64) -> String {
    let known = [Refusal::Malformed, Refusal::NotFound, Refusal::Truncated, Refusal::Busy];
    let words = known.into_iter().find(|refusal| refusal.code() == code).map(Refusal::words);
    format!("{} (code 0x{code:x})", words.unwrap_or("unknown reason"))
}

/// The answer of a server without a directory.
pub(crate) fn refuse_all(connection: &mut ConnectionRef<'_>, stream: StreamId) {
    let code = Refusal::NotFound.code();
    let _ = connection.streams().stop_sending(stream, code);
    let _ = connection.streams().reset(stream, code);
}

/// The path of `GET /path`, with or without a line end.
fn requested_path(request: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(request).ok()?;
    text.strip_prefix("GET ")?.trim_end_matches(['\r', '\n']).strip_prefix('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_a_path() {
        assert_eq!(requested_path(b"GET /a/b\r\n"), Some("a/b"));
        assert_eq!(requested_path(b"GET /a"), Some("a"));
        assert_eq!(requested_path(b"PUT /a"), None);
        assert_eq!(requested_path(b"GET a"), None);
        assert_eq!(requested_path(&[0xff, 0xfe]), None);
    }
}
