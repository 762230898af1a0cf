//! What served files may cost, and what they have cost: limits and counters of the process.
//!
//! A piece of a file is counted from when it is read until the stream lets go of it: when the
//! client has it, or when the connection is gone. An open file is counted until its last byte is
//! read. Both have a limit for the process, beyond which every transfer still gets something
//! small: a client that uses up a limit slows the others down, and keeps none of them out.

use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes of pieces in flight, above which a transfer gets small pieces, one at a time.
pub(super) const PROCESS_BYTES_MAX: u64 = 512 << 20;
/// Open files above which a connection gets one at a time.
const PROCESS_OPEN_MAX: u64 = 4096;
/// The part of the process's descriptors that files may take: one in this many.
const DESCRIPTORS_PART: u64 = 2;

/// Why a request got no file, or not all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is not a valid request.
    Malformed,
    /// There is no such file, it may not be read, or it is not a regular file.
    NotFound,
    /// Too many transfers are under way.
    Busy,
    /// The file became shorter, or reading it failed.
    Truncated,
}

impl Refusal {
    /// The reason in words, for the client's user.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Malformed => "not a valid request",
            Self::NotFound => "no such file",
            Self::Truncated => "the file became shorter, or cannot be read",
            Self::Busy => "the server is busy, or about to end",
        }
    }

    /// The error code that the stream is reset with.
    pub(super) const fn code(self) -> u64 {
        match self {
            Self::Malformed => 0x400,
            Self::NotFound => 0x404,
            Self::Truncated => 0x500,
            Self::Busy => 0x503,
        }
    }
}

/// Counters of served files since the start; the first three are gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct FileCounters {
    /// Requests that are not answered in full yet.
    pub(crate) requests_now: u64,
    /// Files that are open.
    pub(crate) open_now: u64,
    /// Bytes that were read and that clients do not have yet.
    pub(crate) bytes_now: u64,
    /// Requests.
    pub(crate) requests: u64,
    /// Bytes read from files.
    pub(crate) bytes: u64,
    /// Requests that were not valid.
    pub(crate) malformed: u64,
    /// Requests for a file that is not below the directory.
    pub(crate) not_found: u64,
    /// Requests that were refused because too many transfers were under way.
    pub(crate) busy: u64,
    /// Transfers that ended early because the file became shorter or could not be read.
    pub(crate) truncated: u64,
    /// Lookups and reads that would have waited for a disk, and were given to a thread.
    pub(crate) waited: u64,
}

/// The limits and counters, shared by all workers. Touched once for each piece of a file.
#[derive(Debug)]
pub(super) struct Budget {
    open_max: u64,
    bytes_max: u64,
    /// New requests are refused.
    draining: AtomicBool,
    requests_now: AtomicU64,
    open_now: AtomicU64,
    bytes_now: AtomicU64,
    requests: AtomicU64,
    bytes: AtomicU64,
    malformed: AtomicU64,
    not_found: AtomicU64,
    busy: AtomicU64,
    truncated: AtomicU64,
    waited: AtomicU64,
}

impl Budget {
    /// Limits for a process that may open this many descriptors.
    pub(super) fn new(descriptors: u64) -> Arc<Self> {
        let open_max = PROCESS_OPEN_MAX.min(descriptors / DESCRIPTORS_PART).max(1);
        Self::with_limits(open_max, PROCESS_BYTES_MAX)
    }

    pub(super) fn with_limits(open_max: u64, bytes_max: u64) -> Arc<Self> {
        let zero = || AtomicU64::new(0);
        Arc::new(Self {
            open_max,
            bytes_max,
            draining: AtomicBool::new(false),
            requests_now: zero(),
            open_now: zero(),
            bytes_now: zero(),
            requests: zero(),
            bytes: zero(),
            malformed: zero(),
            not_found: zero(),
            busy: zero(),
            truncated: zero(),
            waited: zero(),
        })
    }

    pub(super) fn counters(&self) -> FileCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FileCounters {
            requests_now: read(&self.requests_now),
            open_now: read(&self.open_now),
            bytes_now: read(&self.bytes_now),
            requests: read(&self.requests),
            bytes: read(&self.bytes),
            malformed: read(&self.malformed),
            not_found: read(&self.not_found),
            busy: read(&self.busy),
            truncated: read(&self.truncated),
            waited: read(&self.waited),
        }
    }

    /// From now on every new request is refused as busy.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Counts a request until the guard is dropped.
    pub(super) fn request(self: &Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.requests_now.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// The right to open a file. A connection without one always gets its first.
    pub(super) fn open(self: &Arc<Self>, is_first: bool) -> Option<OpenFile> {
        let before = self.open_now.fetch_add(1, Ordering::Relaxed);
        let right = OpenFile(self.clone());
        (before < self.open_max || is_first).then_some(right)
    }

    /// True if pieces have to be small for now.
    pub(super) fn is_short(&self) -> bool {
        self.bytes_now.load(Ordering::Relaxed) >= self.bytes_max
    }

    /// Counts the bytes of a piece until it is dropped.
    pub(super) fn piece(self: &Arc<Self>, data: Vec<u8>) -> Piece {
        let bytes = data.len() as u64;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes_now.fetch_add(bytes, Ordering::Relaxed);
        Piece { data, budget: self.clone() }
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        let counter = match refusal {
            Refusal::Malformed => &self.malformed,
            Refusal::NotFound => &self.not_found,
            Refusal::Busy => &self.busy,
            Refusal::Truncated => &self.truncated,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn waited(&self) {
        self.waited.fetch_add(1, Ordering::Relaxed);
    }
}

/// A request that is not answered in full.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Budget>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.requests_now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The right to have a file open.
#[derive(Debug)]
pub(super) struct OpenFile(Arc<Budget>);

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.0.open_now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A piece of a file in memory.
#[derive(Debug)]
pub(super) struct Piece {
    data: Vec<u8>,
    budget: Arc<Budget>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.budget.bytes_now.fetch_sub(self.data.len() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_process_gives_one_file_to_a_connection_without() {
        let budget = Budget::with_limits(2, 10);
        let held = [budget.open(true).unwrap(), budget.open(false).unwrap()];
        assert!(budget.open(false).is_none());
        assert_eq!(budget.counters().open_now, 2, "a refusal holds nothing");
        let first = budget.open(true).unwrap();
        assert_eq!(budget.counters().open_now, 3);
        drop((held, first));
        assert_eq!(budget.counters().open_now, 0);
    }

    #[test]
    fn a_piece_counts_until_it_is_dropped() {
        let budget = Budget::with_limits(2, 10);
        let piece = budget.piece(vec![1; 10]);
        assert!(budget.is_short());
        drop(piece);
        let counters = budget.counters();
        assert!(!budget.is_short());
        assert_eq!((counters.bytes_now, counters.bytes), (0, 10));
    }

    #[test]
    fn files_leave_descriptors_for_the_rest() {
        assert_eq!(Budget::new(1024).open_max, 512);
        assert_eq!(Budget::new(u64::MAX).open_max, PROCESS_OPEN_MAX);
        assert_eq!(Budget::new(0).open_max, 1);
    }
}
