//! The stream of TLS bytes of one encryption level (RFC 9000 §19.6, RFC 9001 §4).

use std::collections::BTreeMap;

/// Bytes that may wait out of order, RFC 9000 §7.5: at least 4096. A server flight with a
/// large certificate chain fits.
pub(super) const CRYPTO_BUFFER_BYTES: u64 = 64 * 1024;
/// Pieces that may wait out of order: what is refused beyond is sent again.
const CRYPTO_PIECES: usize = 64;

/// A CRYPTO frame beyond what we are ready to buffer: CRYPTO_BUFFER_EXCEEDED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BufferExceeded;

/// TLS bytes to send: kept until acknowledged, resent when lost.
#[derive(Debug, Default)]
pub(super) struct CryptoSend {
    data: Vec<u8>,
    /// First byte never sent.
    next: usize,
    /// Ranges acknowledged.
    acked: Ranges,
    /// Ranges to send again.
    lost: Ranges,
}

/// Ranges of bytes, sorted, disjoint, not adjacent. There are at most as many as frames were sent.
#[derive(Debug, Default)]
struct Ranges(Vec<(usize, usize)>);

impl Ranges {
    fn insert(&mut self, start: usize, end: usize) {
        let mut all = std::mem::take(&mut self.0);
        all.push((start, end));
        all.sort_unstable();
        for (s, e) in all {
            match self.0.last_mut() {
                Some(last) if last.1 >= s => last.1 = last.1.max(e),
                _ => self.0.push((s, e)),
            }
        }
    }

    fn remove(&mut self, start: usize, end: usize) {
        for (s, e) in std::mem::take(&mut self.0) {
            let parts = [(s, e.min(start)), (s.max(end), e)];
            self.0.extend(parts.into_iter().filter(|(s, e)| s < e));
        }
    }
}

impl CryptoSend {
    /// The buffer that TLS writes into.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.data
    }

    pub(super) fn has_pending(&self) -> bool {
        self.next < self.data.len() || !self.lost.0.is_empty()
    }

    /// The next range to send, of at most `room` bytes; repairs go first.
    pub(super) fn take(&mut self, room: usize) -> Option<(u64, &[u8])> {
        if room == 0 {
            return None;
        }
        let (start, end) = match self.lost.0.first_mut() {
            Some(range) => {
                let end = range.1.min(range.0 + room);
                let start = std::mem::replace(&mut range.0, end);
                if range.0 == range.1 {
                    self.lost.0.remove(0);
                }
                (start, end)
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
        let start = offset as usize;
        self.repeat(start, start + usize::from(len));
    }

    /// What was sent and is not acknowledged goes out again. False if there is none.
    pub(super) fn repeat_unacknowledged(&mut self) -> bool {
        self.repeat(0, self.next);
        !self.lost.0.is_empty()
    }

    fn repeat(&mut self, start: usize, end: usize) {
        self.lost.insert(start, end);
        for &(s, e) in &self.acked.0 {
            self.lost.remove(s, e);
        }
    }

    /// `offset..offset + len` was acknowledged; true once all is.
    pub(super) fn on_acked(&mut self, offset: u64, len: u16) -> bool {
        let start = offset as usize;
        let end = start + usize::from(len);
        self.acked.insert(start, end);
        self.lost.remove(start, end);
        self.acked.0.first() == Some(&(0, self.data.len()))
    }

    /// Everything goes out again: a Retry made what was sent void.
    pub(super) fn restart(&mut self) {
        self.next = 0;
        self.acked.0.clear();
        self.lost.0.clear();
    }
}

/// TLS bytes received: handed on in order.
#[derive(Debug, Default)]
pub(super) struct CryptoRecv {
    /// Bytes handed to TLS.
    read: u64,
    pieces: BTreeMap<u64, Vec<u8>>,
}

impl CryptoRecv {
    /// Bytes that TLS was given.
    #[cfg(test)]
    pub(super) const fn read_bytes(&self) -> u64 {
        self.read
    }

    /// True if TLS was given all of `offset..offset + len`, and there is any.
    pub(super) const fn has_read(&self, offset: u64, len: usize) -> bool {
        len > 0 && offset + len as u64 <= self.read
    }

    /// Takes a frame in and hands what is in order to `tls`.
    pub(super) fn receive<E>(
        &mut self,
        offset: u64,
        data: &[u8],
        mut tls: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Result<(), E>, BufferExceeded> {
        let end = offset + data.len() as u64;
        if end > self.read + CRYPTO_BUFFER_BYTES {
            return Err(BufferExceeded);
        }
        if end <= self.read {
            return Ok(Ok(()));
        }
        if offset > self.read {
            return self.buffer(offset, data).map(Ok);
        }
        let fresh = &data[(self.read - offset) as usize..];
        self.read = end;
        if let Err(e) = tls(fresh) {
            return Ok(Err(e));
        }
        while let Some((&at, piece)) = self.pieces.first_key_value() {
            if at > self.read {
                break;
            }
            let piece_end = at + piece.len() as u64;
            let skip = (self.read - at) as usize;
            let result = if skip < piece.len() { tls(&piece[skip..]) } else { Ok(()) };
            self.read = self.read.max(piece_end);
            self.pieces.pop_first();
            if let Err(e) = result {
                return Ok(Err(e));
            }
        }
        Ok(Ok(()))
    }

    fn buffer(&mut self, offset: u64, data: &[u8]) -> Result<(), BufferExceeded> {
        if let Some(piece) = self.pieces.get(&offset)
            && piece.len() >= data.len()
        {
            return Ok(());
        }
        if self.pieces.len() >= CRYPTO_PIECES {
            return Err(BufferExceeded);
        }
        self.pieces.insert(offset, data.to_vec());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn feed(r: &mut CryptoRecv, offset: u64, data: &[u8], out: &mut Vec<u8>) {
        let sink = |b: &[u8]| -> Result<(), Infallible> {
            out.extend_from_slice(b);
            Ok(())
        };
        assert_eq!(r.receive(offset, data, sink), Ok(Ok(())));
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
        assert!(r.receive(1, &[0; 4096], ok).is_ok());
        assert_eq!(r.receive(CRYPTO_BUFFER_BYTES, b"x", ok), Err(BufferExceeded));
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
}
