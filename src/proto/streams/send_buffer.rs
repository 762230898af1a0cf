//! What applications send: one arena of pieces for all streams of a connection.
//!
//! ```text
//!            head                cursor        tail
//!             v                    v            v
//! stream A: [ 0..900 ] -> [ 900..2300 ] -> [ 2300..2400 ] -> none
//!               ^ acked          ^ next: first byte never sent
//! ```
//!
//! A stream's pieces are a chain through the arena, so that a stream owns three indices
//! and no memory, and what one stream gives back the next one takes up warm. The `cursor` stands
//! at the piece of the next unsent byte: finding it costs nothing. What is sent again is found
//! from a hint that the stream keeps while it repairs, and that follows the lost ranges upwards.

use super::list::NONE;
use super::table::make_room;
use bytes::Bytes;

/// Pieces of a connection that does one thing at a time.
const HOT_PIECES: usize = 2;

/// A piece of a stream's data.
#[derive(Debug)]
struct Piece {
    data: Bytes,
    /// Offset of the first byte in its stream.
    start: u64,
    /// The next piece of the stream, or of the free chain.
    next: u32,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.data.len() as u64
    }

    /// True if the piece holds no application data.
    fn is_free(&self) -> bool {
        self.data.is_empty()
    }
}

/// A stream's chain of pieces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    head: u32,
    tail: u32,
    /// The piece that holds the next byte to be sent for the first time.
    cursor: u32,
}

impl Chain {
    /// No pieces.
    pub(super) const EMPTY: Self = Self { head: NONE, tail: NONE, cursor: NONE };

    /// True if the chain holds no data.
    #[cfg(test)]
    pub(super) const fn is_empty(&self) -> bool {
        self.head == NONE
    }
}

/// All pieces of a connection.
#[derive(Debug)]
pub(super) struct SendBuffer {
    pieces: Vec<Piece>,
    free: u32,
}

impl SendBuffer {
    /// An empty buffer without heap.
    pub(super) const fn new() -> Self {
        Self { pieces: Vec::new(), free: NONE }
    }

    /// Bytes that [`hot_memory`](Self::hot_memory) names at most.
    pub(super) const HOT_BYTES: usize = HOT_PIECES * size_of::<Piece>();

    /// Names the memory of the pieces that are used first.
    pub(super) fn hot_memory(&self, each: &mut impl FnMut(*const u8, usize)) {
        let pieces = &self.pieces[..self.pieces.len().min(HOT_PIECES)];
        each(pieces.as_ptr().cast(), size_of_val(pieces));
    }

    /// Appends `data`, whose first byte has offset `start` in its stream, to `chain`.
    #[inline]
    pub(super) fn push(&mut self, chain: &mut Chain, data: Bytes, start: u64) {
        debug_assert!(!data.is_empty(), "an empty piece would stop the cursor");
        let at = self.take(Piece { data, start, next: NONE });
        if chain.tail == NONE {
            chain.head = at;
        } else {
            self.pieces[chain.tail as usize].next = at;
        }
        chain.tail = at;
        if chain.cursor == NONE {
            chain.cursor = at;
        }
    }

    /// Gives back every piece that lies wholly below `acked`.
    #[inline]
    pub(super) fn pop_below(&mut self, chain: &mut Chain, acked: u64) {
        while let Some(piece) = self.pieces.get(chain.head as usize) {
            if piece.end() > acked {
                return;
            }
            let gone = chain.head;
            chain.head = piece.next;
            if chain.head == NONE {
                chain.tail = NONE;
            }
            self.give(gone);
        }
    }

    /// Gives back all of a chain.
    pub(super) fn clear(&mut self, chain: &mut Chain) {
        let mut at = chain.head;
        while let Some(piece) = self.pieces.get(at as usize) {
            let next = piece.next;
            self.give(at);
            at = next;
        }
        *chain = Chain::EMPTY;
    }

    /// Fills `out` with the bytes at `offset`, which are the next that were never sent, and
    /// moves the cursor past them.
    #[inline]
    pub(super) fn copy_next(&self, chain: &mut Chain, offset: u64, out: &mut [u8]) {
        chain.cursor = self.copy(chain.cursor, offset, out);
    }

    /// Fills `out` with bytes at `offset` that were sent before. The search starts at `hint`,
    /// which is `NONE` or a piece that this function left there, unless pieces were given back
    /// since.
    pub(super) fn copy_again(&self, chain: &Chain, hint: &mut u32, offset: u64, out: &mut [u8]) {
        let near = self.pieces.get(*hint as usize).is_some_and(|piece| piece.start <= offset);
        let mut at = if near { *hint } else { chain.head };
        while let Some(piece) = self.pieces.get(at as usize) {
            if piece.end() > offset {
                break;
            }
            at = piece.next;
        }
        *hint = at;
        self.copy(at, offset, out);
    }

    /// Copies from the piece `at`, which holds `offset`, on; returns the piece of the byte after.
    #[inline]
    fn copy(&self, mut at: u32, mut offset: u64, mut out: &mut [u8]) -> u32 {
        while !out.is_empty() {
            let Some(piece) = self.pieces.get(at as usize) else {
                debug_assert!(false, "more bytes to send than were written");
                break;
            };
            let from = (offset - piece.start) as usize;
            let source = &piece.data[from..];
            let n = source.len().min(out.len());
            let (now, later) = out.split_at_mut(n);
            now.copy_from_slice(&source[..n]);
            offset += n as u64;
            out = later;
            if n == source.len() {
                at = piece.next;
            }
        }
        at
    }

    /// Gives unused memory back.
    pub(super) fn shrink(&mut self) {
        while self.pieces.last().is_some_and(Piece::is_free) {
            self.pieces.pop();
        }
        self.pieces.shrink_to_fit();
        self.free = NONE;
        for (at, piece) in self.pieces.iter_mut().enumerate().rev() {
            if piece.is_free() {
                piece.next = self.free;
                self.free = at as u32;
            }
        }
    }

    /// Bytes of heap held, without the application's data.
    pub(super) const fn heap_bytes(&self) -> usize {
        self.pieces.capacity() * size_of::<Piece>()
    }

    #[inline]
    fn take(&mut self, piece: Piece) -> u32 {
        let at = self.free;
        if let Some(place) = self.pieces.get_mut(at as usize) {
            self.free = place.next;
            *place = piece;
            return at;
        }
        make_room(&mut self.pieces);
        self.pieces.push(piece);
        (self.pieces.len() - 1) as u32
    }

    #[inline]
    fn give(&mut self, at: u32) {
        let piece = &mut self.pieces[at as usize];
        piece.data = Bytes::new();
        piece.next = self.free;
        self.free = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lend(send_buffer: &mut SendBuffer, chain: &mut Chain, start: u64, data: &'static [u8]) {
        send_buffer.push(chain, Bytes::from_static(data), start);
    }

    #[test]
    fn the_cursor_follows_first_sends_across_pieces() {
        let (mut send_buffer, mut chain) = (SendBuffer::new(), Chain::EMPTY);
        lend(&mut send_buffer, &mut chain, 0, b"abc");
        lend(&mut send_buffer, &mut chain, 3, b"de");
        let mut out = [0; 4];
        send_buffer.copy_next(&mut chain, 0, &mut out);
        assert_eq!(&out, b"abcd");
        let mut out = [0; 1];
        send_buffer.copy_next(&mut chain, 4, &mut out);
        assert_eq!(&out, b"e");
        assert_eq!(chain.cursor, NONE);
        lend(&mut send_buffer, &mut chain, 5, b"f");
        send_buffer.copy_next(&mut chain, 5, &mut out);
        assert_eq!(&out, b"f");
    }

    #[test]
    fn bytes_return_to_their_owner_as_soon_as_they_are_below() {
        let (mut send_buffer, mut chain) = (SendBuffer::new(), Chain::EMPTY);
        let owner = Bytes::from(vec![7; 1000]);
        send_buffer.push(&mut chain, owner.slice(..600), 0);
        send_buffer.push(&mut chain, owner.slice(600..), 600);
        send_buffer.pop_below(&mut chain, 599);
        assert!(!owner.is_unique());
        send_buffer.pop_below(&mut chain, 600);
        assert_eq!(send_buffer.pieces.iter().filter(|piece| piece.is_free()).count(), 1);
        send_buffer.pop_below(&mut chain, 1000);
        assert!(owner.is_unique() && chain.is_empty());
    }

    #[test]
    fn sending_again_finds_bytes_upwards_and_downwards() {
        let (mut send_buffer, mut chain) = (SendBuffer::new(), Chain::EMPTY);
        let text: Vec<u8> = (0..100).collect();
        for (i, piece) in text.chunks(7).enumerate() {
            send_buffer.push(&mut chain, Bytes::copy_from_slice(piece), i as u64 * 7);
        }
        let mut hint = NONE;
        for at in [10usize, 50, 51, 3, 98] {
            let mut out = [0; 2];
            send_buffer.copy_again(&chain, &mut hint, at as u64, &mut out);
            assert_eq!(out, text[at..at + 2]);
        }
    }

    #[test]
    fn pieces_are_reused_and_shrink_gives_all_back() {
        let (mut send_buffer, mut a, mut b) = (SendBuffer::new(), Chain::EMPTY, Chain::EMPTY);
        lend(&mut send_buffer, &mut a, 0, b"a");
        send_buffer.clear(&mut a);
        let held = send_buffer.heap_bytes();
        for _ in 0..10 {
            lend(&mut send_buffer, &mut b, 0, b"b");
            send_buffer.clear(&mut b);
        }
        assert_eq!(send_buffer.heap_bytes(), held);
        send_buffer.shrink();
        assert_eq!(send_buffer.heap_bytes(), 0);
    }

    #[test]
    fn shrinking_keeps_what_is_lent() {
        let (mut send_buffer, mut a, mut b) = (SendBuffer::new(), Chain::EMPTY, Chain::EMPTY);
        for at in 0..100 {
            lend(&mut send_buffer, &mut a, at, b"a");
            if at == 20 {
                lend(&mut send_buffer, &mut b, 0, b"bee");
            }
        }
        send_buffer.clear(&mut a);
        send_buffer.shrink();
        assert_eq!(send_buffer.pieces.len(), 22);
        let mut out = [0; 3];
        send_buffer.copy_next(&mut b, 0, &mut out);
        assert_eq!(&out, b"bee");
        for at in 0..30 {
            lend(&mut send_buffer, &mut a, at, b"c");
        }
        assert_eq!(send_buffer.pieces.len(), 31);
    }
}
