//! The stream of TLS bytes of one encryption level (RFC 9000 §19.6, RFC 9001 §4).

use super::error::{TransportError, code};
use crate::proto::byte_ranges::ByteRanges;
use crate::proto::ranges::RangeSet;

/// Bytes that may wait out of order, RFC 9000 §7.5: at least 4096. A server flight with a
/// large certificate chain fits.
pub(super) const CRYPTO_BUFFER_BYTES: u64 = 64 * 1024;
/// Pieces that may wait out of order.
const CRYPTO_PIECES: usize = 64;
/// Bytes of a ClientHello that are taken from an address that is not validated: what RFC 9000
/// §7.5 asks for. Browsers with post-quantum key shares send 1.8 to 2.5 kB. It is the larger part
/// of the 16 KiB that such a handshake may hold; after a Retry, [`CRYPTO_BUFFER_BYTES`] hold.
pub(super) const UNVALIDATED_HELLO_BYTES: u64 = 4096;
/// ClientHello (RFC 8446 §4).
const CLIENT_HELLO: u8 = 1;
/// Type and length of a TLS message.
const MESSAGE_HEADER_BYTES: usize = 4;

/// A CRYPTO frame beyond what we are ready to buffer: CRYPTO_BUFFER_EXCEEDED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BufferExceeded;

impl From<BufferExceeded> for TransportError {
    fn from(_: BufferExceeded) -> Self {
        Self::new(code::CRYPTO_BUFFER_EXCEEDED, "CRYPTO data beyond the buffer")
    }
}

/// TLS bytes to send: kept until acknowledged, resent when lost.
#[derive(Debug, Default)]
pub(super) struct CryptoSend {
    data: Vec<u8>,
    /// First byte never sent.
    next: usize,
    /// Everything below is acknowledged.
    acked_below: u64,
    /// Ranges acknowledged above: none if nothing was lost or overtaken.
    acked: ByteRanges,
    /// Ranges to send again.
    lost: ByteRanges,
    /// What a probe timeout repeats begins here.
    repeat_from: u64,
}

impl CryptoSend {
    /// Bytes of heap held.
    pub(super) fn heap_bytes(&self) -> usize {
        self.data.capacity() + self.acked.heap_bytes() + self.lost.heap_bytes()
    }

    /// The buffer that TLS writes into.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.data
    }

    /// TLS has written what it will for now.
    pub(super) fn shrink(&mut self) {
        self.data.shrink_to_fit();
    }

    /// Bytes that TLS has written so far.
    pub(super) const fn written(&self) -> u64 {
        self.data.len() as u64
    }

    pub(super) fn has_pending(&self) -> bool {
        self.next < self.data.len() || !self.lost.is_empty()
    }

    /// The next range to send, of at most `room` bytes; repairs go first.
    pub(super) fn take(&mut self, room: usize) -> Option<(u64, &[u8])> {
        if room == 0 {
            return None;
        }
        let (start, end) = match self.lost.first() {
            Some(range) => {
                let end = range.hi.min(range.lo + room as u64);
                self.lost.remove_below(end);
                (range.lo as usize, end as usize)
            }
            None => {
                let end = self.data.len().min(self.next + room);
                (std::mem::replace(&mut self.next, end), end)
            }
        };
        (start < end).then(|| (start as u64, &self.data[start..end]))
    }

    /// `offset..offset + len` was lost: it goes out again, but for what arrived in another packet.
    pub(super) fn on_lost(&mut self, offset: u64, len: u16) {
        self.repeat(offset, offset + u64::from(len));
    }

    /// What was sent and is not acknowledged goes out again. False if there is none.
    pub(super) fn repeat_unacknowledged(&mut self) -> bool {
        self.repeat(0, self.next as u64);
        !self.lost.is_empty()
    }

    /// At most `room` bytes of that go out again: those that follow what was repeated last, or else
    /// the first. A peer may have all but the end, and its acknowledgements may be lost.
    pub(super) fn repeat_some(&mut self, room: u64) {
        let end = self.next as u64;
        if self.acked.uncovered(self.repeat_from.max(self.acked_below), end).next().is_none() {
            self.repeat_from = 0;
        }
        let mut left = room;
        for range in self.acked.uncovered(self.repeat_from.max(self.acked_below), end) {
            let hi = range.hi.min(range.lo + left);
            self.lost.insert(range.lo, hi);
            self.repeat_from = hi;
            left -= hi - range.lo;
            if left == 0 {
                break;
            }
        }
    }

    fn repeat(&mut self, start: u64, end: u64) {
        for range in self.acked.uncovered(start.max(self.acked_below), end) {
            self.lost.insert(range.lo, range.hi);
        }
    }

    /// `offset..offset + len` was acknowledged; true once all is.
    pub(super) fn on_acked(&mut self, offset: u64, len: u16) -> bool {
        let end = offset + u64::from(len);
        self.lost.remove(offset, end);
        if offset > self.acked_below {
            self.acked.insert(offset, end);
            return false;
        }
        self.acked_below = self.acked_below.max(end);
        while let Some(first) = self.acked.first()
            && first.lo <= self.acked_below
        {
            self.acked_below = self.acked_below.max(first.hi);
            self.acked.remove_below(first.hi);
        }
        self.acked_below == self.data.len() as u64
    }

    /// Everything goes out again: a Retry made what was sent void.
    pub(super) fn restart(&mut self) {
        *self = Self { data: std::mem::take(&mut self.data), ..Self::default() };
    }
}

/// How much of a CRYPTO stream is taken in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes beyond what TLS was given that may wait.
    pub(super) window_bytes: u64,
    /// The stream ends here at the latest.
    pub(super) end: u64,
    /// TLS is given the first message only once all of it is there. What it joins itself is
    /// memory that we do not see, and twice as much as there are bytes.
    pub(super) whole_message: bool,
}

impl Bounds {
    /// For a peer whose address is known.
    pub(super) const VALIDATED: Self =
        Self { window_bytes: CRYPTO_BUFFER_BYTES, end: u64::MAX, whole_message: false };
    /// For what a client says first: anyone can say it, from any address.
    pub(super) const UNVALIDATED_HELLO: Self = Self {
        window_bytes: UNVALIDATED_HELLO_BYTES,
        end: UNVALIDATED_HELLO_BYTES,
        whole_message: true,
    };
    /// The same, after Retry or with a token.
    pub(super) const VALIDATED_HELLO: Self = Self { whole_message: true, ..Self::VALIDATED };
}

/// TLS bytes received: handed on in order.
#[derive(Debug)]
pub(super) struct CryptoRecv {
    /// Bytes handed to TLS.
    read: u64,
    /// What waits, from `read` on: each byte once, however often it came.
    held: Vec<u8>,
    /// The offsets in `held` that are filled.
    filled: RangeSet,
}

impl Default for CryptoRecv {
    fn default() -> Self {
        Self { read: 0, held: Vec::new(), filled: RangeSet::new(CRYPTO_PIECES) }
    }
}

impl CryptoRecv {
    /// Bytes that TLS was given.
    pub(super) const fn read_bytes(&self) -> u64 {
        self.read
    }

    /// True if TLS was given all of `offset..offset + len`, and there is any.
    pub(super) const fn has_read(&self, offset: u64, len: usize) -> bool {
        len > 0 && offset + len as u64 <= self.read
    }

    /// True if something waits for what comes before it, or for the rest of its message.
    pub(super) const fn has_waiting(&self) -> bool {
        !self.held.is_empty()
    }

    /// Bytes of heap held.
    pub(super) fn heap_bytes(&self) -> usize {
        self.held.capacity() + self.filled.heap_bytes()
    }

    /// Takes a frame in and hands what is in order to `tls`.
    pub(super) fn receive<E>(
        &mut self,
        offset: u64,
        data: &[u8],
        bounds: Bounds,
        mut tls: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Result<(), E>, BufferExceeded> {
        let end = offset + data.len() as u64;
        if end > bounds.end.min(self.read.saturating_add(bounds.window_bytes)) {
            return Err(BufferExceeded);
        }
        if end <= self.read {
            return Ok(Ok(()));
        }
        let whole_message = bounds.whole_message && self.read == 0;
        if offset <= self.read && self.held.is_empty() && !whole_message {
            let fresh = &data[(self.read - offset) as usize..];
            self.read = end;
            return Ok(tls(fresh));
        }
        self.hold(offset, data)?;
        let ready = self.ready();
        if ready == 0 || whole_message && !is_whole(&self.held[..ready], bounds)? {
            return Ok(Ok(()));
        }
        let mut held = std::mem::take(&mut self.held);
        self.read += ready as u64;
        self.filled.remove_below(self.read);
        let result = tls(&held[..ready]);
        held.drain(..ready);
        held.shrink_to_fit();
        self.held = held;
        Ok(result)
    }

    /// Copies what is new in a frame that has to wait.
    fn hold(&mut self, offset: u64, data: &[u8]) -> Result<(), BufferExceeded> {
        let fresh = self.read.saturating_sub(offset) as usize;
        let (offset, data) = (offset.max(self.read), &data[fresh.min(data.len())..]);
        let Some(last) = (offset + data.len() as u64).checked_sub(1).filter(|l| *l >= offset)
        else {
            return Ok(());
        };
        self.filled.insert(offset, last).map_err(|_| BufferExceeded)?;
        let at = (offset - self.read) as usize;
        let need = at + data.len();
        if need > self.held.len() {
            self.held.reserve_exact(need - self.held.len());
            self.held.resize(need, 0);
        }
        self.held[at..need].copy_from_slice(data);
        Ok(())
    }

    /// How many bytes are there in order.
    fn ready(&self) -> usize {
        let first = self.filled.iter().next();
        first
            .filter(|range| range.0 == self.read)
            .map_or(0, |range| (range.1 + 1 - self.read) as usize)
    }
}

/// True if the first message of the stream, of which `bytes` are there, is complete, or is
/// nothing that TLS would wait for.
fn is_whole(bytes: &[u8], bounds: Bounds) -> Result<bool, BufferExceeded> {
    let &[kind, high, middle, low, ref body @ ..] = bytes else { return Ok(false) };
    let len = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
    if kind != CLIENT_HELLO {
        return Ok(true);
    }
    if (len + MESSAGE_HEADER_BYTES) as u64 > bounds.end.min(bounds.window_bytes) {
        return Err(BufferExceeded);
    }
    Ok(body.len() >= len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::convert::Infallible;

    fn feed(r: &mut CryptoRecv, offset: u64, data: &[u8], out: &mut Vec<u8>) {
        let sink = |b: &[u8]| -> Result<(), Infallible> {
            out.extend_from_slice(b);
            Ok(())
        };
        assert_eq!(r.receive(offset, data, Bounds::VALIDATED, sink), Ok(Ok(())));
    }

    #[test]
    fn what_probes_repeat_goes_round_all_that_is_not_acknowledged() {
        let mut send = CryptoSend::default();
        send.buffer().extend([0; 100]);
        while send.take(40).is_some() {}
        send.on_acked(40, 20);
        let mut repeated = |room: u64| -> Vec<(u64, usize)> {
            send.repeat_some(room);
            std::iter::from_fn(|| send.take(100).map(|(at, data)| (at, data.len()))).collect()
        };
        assert_eq!(repeated(30), [(0, 30)]);
        assert_eq!(repeated(30), [(30, 10), (60, 20)]);
        assert_eq!(repeated(30), [(80, 20)]);
        assert_eq!(repeated(30), [(0, 30)]);
        assert_eq!(repeated(1_000), [(30, 10), (60, 40)]);
        send.on_acked(0, 40);
        send.on_acked(60, 40);
        send.repeat_some(1_000);
        assert!(!send.has_pending());
    }

    #[test]
    fn bytes_are_handed_on_in_order_whatever_the_order_of_arrival() {
        let mut r = CryptoRecv::default();
        let mut out = Vec::new();
        feed(&mut r, 4, b"efgh", &mut out);
        feed(&mut r, 2, b"cdef", &mut out);
        assert!(out.is_empty());
        feed(&mut r, 0, b"abc", &mut out);
        feed(&mut r, 0, b"abcdefgh", &mut out);
        assert_eq!(out, b"abcdefgh");
    }

    #[test]
    fn a_gap_beyond_the_buffer_is_refused_and_4096_bytes_are_accepted() {
        // RFC 9000 §7.5.
        let mut r = CryptoRecv::default();
        let ok = |_: &[u8]| -> Result<(), Infallible> { Ok(()) };
        assert!(r.receive(1, &[0; 4096], Bounds::VALIDATED, ok).is_ok());
        let far = r.receive(CRYPTO_BUFFER_BYTES, b"x", Bounds::VALIDATED, ok);
        assert_eq!(far, Err(BufferExceeded));
    }

    #[test]
    fn pieces_that_overlap_are_held_once() {
        let mut r = CryptoRecv::default();
        let mut out = Vec::new();
        for at in 1..2_000u64 {
            let all: Vec<u8> = (at..at + 100).map(|n| n as u8).collect();
            feed(&mut r, at, &all, &mut out);
        }
        assert!(r.heap_bytes() <= 2_200, "{} bytes", r.heap_bytes());
        feed(&mut r, 0, &[0], &mut out);
        assert!((0..2_099u64).map(|n| n as u8).eq(out.iter().copied()));
        assert_eq!(r.heap_bytes(), 0, "nothing waits");
    }

    #[test]
    fn a_client_hello_is_handed_on_in_one_piece_and_within_its_bound() {
        let hello: Vec<u8> = [&[1, 0, 4, 0][..], &[7; 1024]].concat();
        let bounds = Bounds::UNVALIDATED_HELLO;
        let mut calls = Vec::new();
        let mut r = CryptoRecv::default();
        for (n, piece) in hello.chunks(100).enumerate() {
            let sink = |b: &[u8]| -> Result<(), Infallible> {
                calls.push(b.to_vec());
                Ok(())
            };
            assert_eq!(r.receive(n as u64 * 100, piece, bounds, sink), Ok(Ok(())));
        }
        assert_eq!(calls, [hello]);
        let refuse = |bytes: &[u8], offset| {
            CryptoRecv::default().receive(offset, bytes, bounds, |_| -> Result<(), ()> { Err(()) })
        };
        assert_eq!(refuse(&[1, 0, 16, 0], 0), Err(BufferExceeded), "4100 bytes are announced");
        assert_eq!(refuse(&[1, 0, 15, 252], 0), Ok(Ok(())), "4096 bytes");
        assert_eq!(refuse(&[9; 96], 4001), Err(BufferExceeded));
        assert_eq!(refuse(&[9; 96], 4000), Ok(Ok(())));
        assert_eq!(refuse(&[2, 0, 0, 9], 0), Ok(Err(())), "TLS says what is wrong with it");
    }

    #[test]
    fn lost_ranges_go_out_again_before_new_bytes() {
        let mut s = CryptoSend::default();
        s.buffer().extend_from_slice(b"0123456789");
        assert_eq!(s.take(4), Some((0, &b"0123"[..])));
        assert_eq!(s.take(4), Some((4, &b"4567"[..])));
        s.on_lost(4, 4);
        s.on_lost(0, 4);
        assert_eq!(s.take(6), Some((0, &b"012345"[..])));
        assert_eq!(s.take(6), Some((6, &b"67"[..])));
        assert_eq!(s.take(6), Some((8, &b"89"[..])));
        assert_eq!(s.take(6), None);
        assert!(!s.has_pending());
        s.restart();
        assert_eq!(s.take(99).map(|(o, d)| (o, d.len())), Some((0, 10)));
    }

    #[test]
    fn what_was_acknowledged_is_not_sent_again() {
        let mut s = CryptoSend::default();
        s.buffer().extend_from_slice(b"0123456789");
        assert_eq!(s.take(99).map(|(o, d)| (o, d.len())), Some((0, 10)));
        s.on_lost(0, 10);
        assert!(!s.on_acked(2, 3), "before it goes out again");
        assert_eq!(s.take(99), Some((0, &b"01"[..])));
        assert_eq!(s.take(99), Some((5, &b"56789"[..])));
        assert!(!s.on_acked(5, 4));
        s.on_lost(0, 10);
        assert_eq!(s.take(99), Some((0, &b"01"[..])));
        assert_eq!(s.take(99), Some((9, &b"9"[..])));
        assert!(!s.on_acked(2, 3) && !s.on_acked(0, 2));
        assert!(s.repeat_unacknowledged());
        assert_eq!(s.take(99), Some((9, &b"9"[..])));
        assert!(s.on_acked(9, 1), "all of it");
        assert!(!s.repeat_unacknowledged());
        s.on_lost(0, 10);
        assert!(!s.has_pending());
    }
    proptest! {
        #[test]
        fn sends_and_repeats_as_sets_of_bytes_do(
            steps in prop::collection::vec((0..5u8, 0..64usize), 1..120),
        ) {
            const LEN: usize = 200;
            let mut s = CryptoSend::default();
            s.buffer().extend((0..LEN).map(|n| n as u8));
            let (mut lost, mut acked) = (BTreeSet::new(), BTreeSet::new());
            let (mut next, mut frames) = (0, Vec::new());
            for (kind, n) in steps {
                let frame = frames.get(n % frames.len().max(1)).copied();
                match (kind, frame) {
                    (0 | 1, _) => {
                        let start = lost.first().copied().unwrap_or(next);
                        let goes = |at: &usize| lost.is_empty() || lost.contains(at);
                        let end = start + (start..LEN).take(n).take_while(goes).count();
                        let data: Vec<u8> = (start..end).map(|n| n as u8).collect();
                        let expected = (start < end).then_some((start as u64, &data[..]));
                        prop_assert_eq!(s.take(n), expected);
                        if start < end {
                            lost.retain(|at| *at >= end);
                            next = next.max(end);
                            frames.push((start, end));
                        }
                    }
                    (2, Some((start, end))) => {
                        acked.extend(start..end);
                        lost.retain(|at| !acked.contains(at));
                        let all = s.on_acked(start as u64, (end - start) as u16);
                        prop_assert_eq!(all, acked.len() == LEN);
                    }
                    (3, Some((start, end))) => {
                        lost.extend((start..end).filter(|at| !acked.contains(at)));
                        s.on_lost(start as u64, (end - start) as u16);
                    }
                    (4, _) => {
                        lost.extend((0..next).filter(|at| !acked.contains(at)));
                        prop_assert_eq!(s.repeat_unacknowledged(), !lost.is_empty());
                    }
                    _ => {}
                }
                prop_assert_eq!(s.has_pending(), !lost.is_empty() || next < LEN);
            }
        }
    }
}
