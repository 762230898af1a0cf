//! How many streams each side may open (RFC 9000 §4.6).

use crate::wire::{Dir, VARINT_MAX};

/// No count of streams exceeds this: ids would not fit (RFC 9000 §4.6).
pub(super) const STREAMS_MAX: u64 = 1 << 60;

/// Flow-control limits in the shape of the transport parameters (RFC 9000 §18.2).
///
/// "Local" and "remote" are seen from the endpoint that states the limits:
/// `stream_data_bidi_local` is for the streams that this endpoint opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// initial_max_data.
    pub data: u64,
    /// initial_max_stream_data_bidi_local.
    pub stream_data_bidi_local: u64,
    /// initial_max_stream_data_bidi_remote.
    pub stream_data_bidi_remote: u64,
    /// initial_max_stream_data_uni.
    pub stream_data_uni: u64,
    /// initial_max_streams_bidi.
    pub streams_bidi: u64,
    /// initial_max_streams_uni.
    pub streams_uni: u64,
}

/// What [`Limits`] say of single streams.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StreamWindows {
    pub(super) bidi_local: u64,
    pub(super) bidi_remote: u64,
    pub(super) uni: u64,
}

impl From<&Limits> for StreamWindows {
    fn from(limits: &Limits) -> Self {
        Self {
            bidi_local: limits.stream_data_bidi_local,
            bidi_remote: limits.stream_data_bidi_remote,
            uni: limits.stream_data_uni,
        }
    }
}

/// Bounds that an endpoint sets itself, and that its peer is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes that [`StreamsRef::send_copy`](super::StreamsRef::send_copy) buffers of one stream.
    pub send_copy_bytes: u32,
    /// Bytes of memory that copies take of all streams together, 4,096 at least:
    /// [`StreamsRef::send_copy`](super::StreamsRef::send_copy) fills blocks of that size.
    pub connection_send_copy_bytes: u32,
    /// Streams of one kind that [`StreamsRef::grant_streams`](super::StreamsRef::grant_streams) lets the
    /// peer have open.
    pub open_streams: u32,
    /// How large a stream's window may grow, in bytes.
    pub stream_window: u64,
    /// How large the connection's window may grow, in bytes.
    pub connection_window: u64,
}

impl Default for Bounds {
    /// As `TransportConfig` has them, and windows that do not grow.
    fn default() -> Self {
        Self {
            send_copy_bytes: 256 << 10,
            connection_send_copy_bytes: 4 << 20,
            open_streams: 10_000,
            stream_window: 0,
            connection_window: 0,
        }
    }
}

impl Limits {
    /// The count of streams for `dir`.
    pub(super) fn streams(&self, dir: Dir) -> u64 {
        match dir {
            Dir::Bi => self.streams_bidi,
            Dir::Uni => self.streams_uni,
        }
        .min(STREAMS_MAX)
    }

    /// The limits with nothing beyond what a varint holds.
    pub(super) fn clamped(mut self) -> Self {
        for bytes in [
            &mut self.data,
            &mut self.stream_data_bidi_local,
            &mut self.stream_data_bidi_remote,
            &mut self.stream_data_uni,
        ] {
            *bytes = (*bytes).min(VARINT_MAX);
        }
        self.streams_bidi = self.streams(Dir::Bi);
        self.streams_uni = self.streams(Dir::Uni);
        self
    }
}

/// The streams of one kind that we open.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Opening {
    /// How many were opened; the index of the next.
    pub(super) count: u64,
    /// How many the peer allows.
    pub(super) max: u64,
    /// How many are closed for good.
    pub(super) closed: u64,
    /// The application wanted one more than the peer allows.
    pub(super) wanted: bool,
}

impl Opening {
    /// How many more can be opened.
    pub(super) const fn left(&self) -> u64 {
        self.max.saturating_sub(self.count)
    }

    /// Takes a new limit; says whether the application was waiting for it.
    pub(super) fn raise(&mut self, max: u64) -> bool {
        self.max = self.max.max(max);
        let unblocked = self.wanted && self.count < self.max;
        if unblocked {
            self.wanted = false;
        }
        unblocked
    }
}

/// The streams of one kind that the peer opens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepting {
    /// One past the largest index used by the peer: all below count as open or closed.
    pub(super) count: u64,
    /// How many we have allowed.
    pub(super) max: u64,
    /// How many are closed for good.
    pub(super) closed: u64,
    /// How many may be open at a time.
    pub(super) limit: u64,
}

impl Accepting {
    /// At most `limit` streams at a time.
    pub(super) const fn new(limit: u64) -> Self {
        Self { count: 0, max: limit, closed: 0, limit }
    }

    /// True if the peer should be told that it may open more: a quarter of the limit closed
    /// since it was told last. Credit comes back only when a stream is gone on both sides, so
    /// opening and resetting in a loop (CVE-2023-44487) holds what it opened.
    pub(super) fn update_due(&self) -> bool {
        self.target() - self.max >= (self.limit / 4).max(1)
    }

    /// Moves `max` to what may be granted now, and returns it.
    pub(super) fn grant(&mut self) -> u64 {
        self.max = self.target();
        self.max
    }

    /// Lets `more` be open at a time, as long as it are not more than `most`. True if the peer can be
    /// told of them.
    pub(super) fn raise(&mut self, more: u64, most: u64) -> bool {
        let limit = self.limit.saturating_add(more).min(most.min(STREAMS_MAX));
        self.limit = self.limit.max(limit);
        self.has_more()
    }

    /// True if the next MAX_STREAMS has a higher limit than the last.
    pub(super) fn has_more(&self) -> bool {
        self.target() > self.max
    }

    fn target(&self) -> u64 {
        (self.closed + self.limit).min(STREAMS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attack_29_credit_comes_back_in_batches_for_closed_streams_only() {
        let mut accepting = Accepting::new(100);
        accepting.count = 100;
        assert!(!accepting.update_due());
        accepting.closed = 24;
        assert!(!accepting.update_due());
        accepting.closed = 25;
        assert!(accepting.update_due());
        assert_eq!(accepting.grant(), 125);
        assert!(!accepting.update_due());
    }

    #[test]
    fn extreme_limits_hold() {
        let mut one = Accepting::new(1);
        one.closed = 1;
        assert!(one.update_due());
        assert!(!Accepting::new(0).update_due());
        let mut all = Accepting::new(STREAMS_MAX);
        all.closed = STREAMS_MAX;
        assert!(!all.update_due());
        assert_eq!(all.grant(), STREAMS_MAX);
        let huge = Limits { data: u64::MAX, streams_bidi: u64::MAX, ..Limits::default() };
        assert_eq!((huge.clamped().data, huge.clamped().streams_bidi), (VARINT_MAX, STREAMS_MAX));
    }

    #[test]
    fn more_is_granted_up_to_a_bound() {
        let mut accepting = Accepting::new(10);
        assert!(accepting.raise(5, 100));
        assert_eq!((accepting.grant(), accepting.limit), (15, 15));
        assert!(!accepting.raise(0, 100));
        assert!(accepting.raise(u64::MAX, 20));
        assert_eq!(accepting.grant(), 20);
        assert!(!accepting.raise(1, 5), "a bound below takes nothing back");
        assert_eq!(accepting.limit, 20);
    }

    #[test]
    fn a_waiting_application_is_told_once() {
        let mut opening = Opening { count: 5, max: 5, closed: 0, wanted: true };
        assert!(!opening.raise(4));
        assert!(opening.raise(6));
        assert!(!opening.raise(7));
    }
}
