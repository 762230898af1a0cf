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
//!
//! Data that is copied lies in blocks: small writes are joined in the last one of the chain, and blocks whose
//! data was acknowledged are kept for the next. What copies take of memory is counted: a block as a whole,
//! however little is in it.

use super::list::NONE;
use super::table::make_room;
use bytes::Bytes;

/// Pieces of a connection that does one thing at a time.
const HOT_PIECES: usize = 2;

/// Bytes of a block of copied data: three datagrams.
pub(super) const BLOCK_BYTES: usize = 4096;
/// Empty blocks that are kept.
const BLOCKS_KEPT: usize = 64;

/// Whose memory data lies in.
#[derive(Debug)]
enum Data {
    /// The application's.
    Lent(Bytes),
    /// A block of ours, which does not grow.
    Copied(Vec<u8>),
}

impl Data {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Lent(data) => data,
            Self::Copied(block) => block,
        }
    }
}

/// A piece of a stream's data.
#[derive(Debug)]
struct Piece {
    data: Data,
    /// Offset of the first byte in its stream.
    start: u64,
    /// The next piece of the stream, or of the free chain.
    next: u32,
    /// It is a copy, made before it came here.
    handed: bool,
}

const _: () = assert!(size_of::<Piece>() == 48, "what is copied makes a piece no larger");

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.data.bytes().len() as u64
    }

    /// Bytes of memory that it takes as a copy.
    fn copied_bytes(&self) -> usize {
        match &self.data {
            Data::Copied(_) => BLOCK_BYTES,
            Data::Lent(data) if self.handed => data.len(),
            Data::Lent(_) => 0,
        }
    }

    /// True if the piece holds no application data.
    fn is_free(&self) -> bool {
        self.data.bytes().is_empty()
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
    /// Empty blocks.
    blocks: Vec<Vec<u8>>,
    /// Bytes of memory that copies take: no more than their bound, which is a `u32`.
    copied_bytes: u32,
}

impl SendBuffer {
    /// An empty buffer without heap.
    pub(super) const fn new() -> Self {
        Self { pieces: Vec::new(), free: NONE, blocks: Vec::new(), copied_bytes: 0 }
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
        self.link(chain, Piece { data: Data::Lent(data), start, next: NONE, handed: false });
    }

    /// As [`push`](Self::push), for a copy that was made before.
    pub(super) fn push_copy(&mut self, chain: &mut Chain, data: Bytes, start: u64) {
        debug_assert!(!data.is_empty(), "an empty piece would stop the cursor");
        self.copied_bytes += data.len() as u32;
        self.link(chain, Piece { data: Data::Lent(data), start, next: NONE, handed: true });
    }

    /// Bytes of memory that copies take.
    pub(super) const fn copied_bytes(&self) -> usize {
        self.copied_bytes as usize
    }

    /// How many bytes can be copied to the end of `chain` before copies take more than `limit` bytes.
    pub(super) fn room(&self, chain: &Chain, limit: usize) -> usize {
        let tail = match self.pieces.get(chain.tail as usize) {
            Some(Piece { data: Data::Copied(block), .. }) => BLOCK_BYTES - block.len(),
            _ => 0,
        };
        tail + limit.saturating_sub(self.copied_bytes()) / BLOCK_BYTES * BLOCK_BYTES
    }

    /// Copies `data`, whose first byte has offset `start` in its stream, to the end of `chain`.
    pub(super) fn append(&mut self, chain: &mut Chain, data: &[u8], start: u64) {
        let (mut data, mut start) = (data, start);
        if let Some(Piece { data: Data::Copied(block), .. }) =
            self.pieces.get_mut(chain.tail as usize)
        {
            let room = BLOCK_BYTES - block.len();
            let (now, later) = data.split_at(room.min(data.len()));
            block.extend_from_slice(now);
            if !now.is_empty() && chain.cursor == NONE {
                chain.cursor = chain.tail;
            }
            (data, start) = (later, start + now.len() as u64);
        }
        for part in data.chunks(BLOCK_BYTES) {
            let block = self.blocks.pop();
            let mut block = block.unwrap_or_else(|| Vec::with_capacity(BLOCK_BYTES));
            block.extend_from_slice(part);
            self.copied_bytes += BLOCK_BYTES as u32;
            self.link(chain, Piece { data: Data::Copied(block), start, next: NONE, handed: false });
            start += part.len() as u64;
        }
    }

    #[inline]
    fn link(&mut self, chain: &mut Chain, piece: Piece) {
        let at = self.take(piece);
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
            let source = &piece.data.bytes()[from..];
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
        self.blocks = Vec::new();
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
    pub(super) fn heap_bytes(&self) -> usize {
        self.pieces.capacity() * size_of::<Piece>()
            + self.blocks.capacity() * size_of::<Vec<u8>>()
            + self.blocks.len() * BLOCK_BYTES
            + self.copied_bytes()
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
        self.copied_bytes -= piece.copied_bytes() as u32;
        let data = std::mem::replace(&mut piece.data, Data::Lent(Bytes::new()));
        piece.next = self.free;
        if let Data::Copied(mut block) = data
            && self.blocks.len() < BLOCKS_KEPT
        {
            block.clear();
            self.blocks.push(block);
        }
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
    fn small_writes_are_joined_and_blocks_are_used_again() {
        let (mut send_buffer, mut chain) = (SendBuffer::new(), Chain::EMPTY);
        let (mut written, mut sent, mut held) = (0u64, 0u64, 0);
        let byte = |at: u64| (at % 251) as u8;
        for round in 0..2_000 {
            let data: Vec<u8> = (written..written + 7).map(byte).collect();
            send_buffer.append(&mut chain, &data, written);
            written += 7;
            if round % 3 == 0 {
                // All but two bytes; and all of it now and then, so that the cursor stands at the end.
                let mut out =
                    vec![0; (written - sent) as usize - if round % 2 == 0 { 2 } else { 0 }];
                send_buffer.copy_next(&mut chain, sent, &mut out);
                assert!(out.iter().zip(sent..).all(|(got, at)| *got == byte(at)));
                sent += out.len() as u64;
                send_buffer.pop_below(&mut chain, sent - 1);
            }
            let memory = send_buffer.heap_bytes();
            assert!(round < 1_500 || memory == held, "{held} bytes, then {memory}");
            held = memory;
        }
        assert!(send_buffer.pieces.len() <= 2);
        let lent = Bytes::from_static(b"lent");
        send_buffer.push(&mut chain, lent, written);
        send_buffer.append(&mut chain, &[1; 2 * BLOCK_BYTES + 1], written + 4);
        send_buffer.clear(&mut chain);
        assert!(send_buffer.heap_bytes() >= 4 * BLOCK_BYTES);
        send_buffer.shrink();
        assert_eq!(send_buffer.heap_bytes(), 0);
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
