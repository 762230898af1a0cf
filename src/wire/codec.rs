//! Cursors over bytes, and QUIC's variable-length integers (RFC 9000 §16).
//!
//! A varint's two highest bits are the logarithm of its length: 1, 2, 4 or 8 bytes, of which
//! the rest is the value in network order.
//!
//! ```
//! use quiclane::wire::{Reader, Writer};
//!
//! let mut buffer = [0; 8];
//! let mut writer = Writer::new(&mut buffer);
//! writer.varint(15_293)?;
//! assert_eq!(writer.written(), [0x7b, 0xbd]);
//! assert_eq!(Reader::new(&[0x7b, 0xbd]).varint(), Ok(15_293));
//! # Ok::<(), quiclane::wire::Full>(())
//! ```

use std::error::Error;
use std::fmt;

/// The largest number that a varint can hold: 2^62 - 1.
pub const VARINT_MAX: u64 = (1 << 62) - 1;

/// The largest number of the two-byte form.
const VARINT2_MAX: u64 = (1 << 14) - 1;

/// How many bytes the shortest varint of `value` takes.
#[inline]
#[must_use]
pub(crate) const fn varint_len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// The bytes ended before the value did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated;

impl fmt::Display for Truncated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes end before the value does")
    }
}

impl Error for Truncated {}

/// The value does not fit into what is left of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the buffer has no room for the value")
    }
}

impl Error for Full {}

/// Takes values from the front of a slice. A read that fails takes nothing.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    total: usize,
}

impl<'a> Reader<'a> {
    /// Reads from the first byte of `bytes` on.
    #[inline]
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, total: bytes.len() }
    }

    /// How many bytes were not read yet.
    #[inline]
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// How many bytes were read.
    #[inline]
    #[must_use]
    pub const fn position(&self) -> usize {
        self.total - self.rest.len()
    }

    /// True if all was read.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next byte, which stays unread.
    #[inline]
    #[must_use]
    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// What was not read yet, which stays unread.
    #[inline]
    pub(super) const fn as_slice(&self) -> &'a [u8] {
        self.rest
    }

    /// Reads a byte.
    ///
    /// # Errors
    /// [`Truncated`] at the end.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, Truncated> {
        let (&byte, rest) = self.rest.split_first().ok_or(Truncated)?;
        self.rest = rest;
        Ok(byte)
    }

    /// Reads two bytes in network order.
    ///
    /// # Errors
    /// [`Truncated`] if fewer are left.
    #[inline]
    pub fn u16(&mut self) -> Result<u16, Truncated> {
        self.array().map(u16::from_be_bytes)
    }

    /// Reads four bytes in network order.
    ///
    /// # Errors
    /// [`Truncated`] if fewer are left.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, Truncated> {
        self.array().map(u32::from_be_bytes)
    }

    /// Reads `N` bytes by value.
    ///
    /// # Errors
    /// [`Truncated`] if fewer are left.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or(Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }

    /// Reads a varint; longer forms than needed are legal (RFC 9000 §16).
    ///
    /// # Errors
    /// [`Truncated`] if it does not end within the bytes.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, Truncated> {
        let (&first, rest) = self.rest.split_first().ok_or(Truncated)?;
        if first < 0x40 {
            self.rest = rest;
            return Ok(u64::from(first));
        }
        if first < 0x80 {
            let (&second, rest) = rest.split_first().ok_or(Truncated)?;
            self.rest = rest;
            return Ok(u64::from(first & 0x3f) << 8 | u64::from(second));
        }
        self.varint_wide(first)
    }

    /// The forms of four and eight bytes.
    #[inline]
    fn varint_wide(&mut self, first: u8) -> Result<u64, Truncated> {
        if first < 0xc0 {
            Ok(u64::from(self.u32()? & 0x3fff_ffff))
        } else {
            Ok(u64::from_be_bytes(self.array()?) & VARINT_MAX)
        }
    }

    /// Reads `len` bytes in place.
    ///
    /// # Errors
    /// [`Truncated`] if fewer are left.
    #[inline]
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Truncated> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Reads a varint and as many bytes as it says.
    #[inline]
    pub(super) fn prefixed(&mut self) -> Result<&'a [u8], Truncated> {
        let mut ahead = self.clone();
        let len = usize::try_from(ahead.varint()?).map_err(|_| Truncated)?;
        let bytes = ahead.bytes(len)?;
        *self = ahead;
        Ok(bytes)
    }

    /// Reads all that is left.
    #[inline]
    pub const fn rest(&mut self) -> &'a [u8] {
        let rest = self.rest;
        self.rest = &[];
        rest
    }

    /// Reads zero bytes up to the next byte that is not zero, and tells how many they were.
    #[inline]
    pub(super) fn zeros(&mut self) -> usize {
        /// What a padded Initial is made of: long runs, so a cache line at a time.
        const STRIDE: usize = 64;
        let before = self.rest.len();
        while let Some((line, rest)) = self.rest.split_first_chunk::<STRIDE>() {
            let (words, _) = line.as_chunks::<8>();
            if words.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word)) != 0 {
                break;
            }
            self.rest = rest;
        }
        while let Some((&[0, 0, 0, 0, 0, 0, 0, 0], rest)) = self.rest.split_first_chunk::<8>() {
            self.rest = rest;
        }
        while let Some((0, rest)) = self.rest.split_first() {
            self.rest = rest;
        }
        before - self.rest.len()
    }
}

/// Puts values at the front of the unwritten part of a slice. A write that does not fit writes
/// nothing.
#[derive(Debug)]
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    position: usize,
}

impl<'a> Writer<'a> {
    /// Writes from the first byte of `buffer` on.
    #[inline]
    #[must_use]
    pub const fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, position: 0 }
    }

    /// How many bytes were written.
    #[inline]
    #[must_use]
    pub const fn position(&self) -> usize {
        self.position
    }

    /// How many bytes can still be written.
    #[inline]
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.buffer.len() - self.position
    }

    /// What was written.
    #[inline]
    #[must_use]
    pub fn written(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.position]
    }

    /// The part that is not written yet. The caller fills it, and then says how much with
    /// [`advance`](Self::advance).
    #[inline]
    #[must_use]
    pub(crate) fn rest_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.position..]
    }

    /// Counts `len` bytes, put there through `rest_mut`, as written.
    ///
    /// # Panics
    /// If fewer bytes remain.
    #[inline]
    pub fn advance(&mut self, len: usize) {
        assert!(len <= self.remaining(), "advanced past the end of the buffer");
        self.position += len;
    }

    /// Forgets what was written from `position` on.
    ///
    /// # Panics
    /// If less was written.
    #[inline]
    pub fn truncate(&mut self, position: usize) {
        assert!(position <= self.position, "truncated beyond what was written");
        self.position = position;
    }

    /// The next `N` bytes, counted as written.
    #[inline]
    fn claim<const N: usize>(&mut self) -> Result<&mut [u8; N], Full> {
        let slot = self.buffer[self.position..].first_chunk_mut::<N>().ok_or(Full)?;
        self.position += N;
        Ok(slot)
    }

    /// Writes a byte.
    ///
    /// # Errors
    /// [`Full`] at the end.
    #[inline]
    pub fn u8(&mut self, value: u8) -> Result<(), Full> {
        *self.claim()? = [value];
        Ok(())
    }

    /// Writes two bytes in network order.
    ///
    /// # Errors
    /// [`Full`] if fewer are left.
    #[inline]
    pub fn u16(&mut self, value: u16) -> Result<(), Full> {
        *self.claim()? = value.to_be_bytes();
        Ok(())
    }

    /// Writes four bytes in network order.
    ///
    /// # Errors
    /// [`Full`] if fewer are left.
    #[inline]
    pub fn u32(&mut self, value: u32) -> Result<(), Full> {
        *self.claim()? = value.to_be_bytes();
        Ok(())
    }

    /// Writes the shortest varint of `value`, which must not pass [`VARINT_MAX`] (in a release
    /// build a larger value is written as the maximum).
    ///
    /// # Errors
    /// [`Full`] if it does not fit.
    #[inline]
    pub fn varint(&mut self, value: u64) -> Result<(), Full> {
        // Most are frame types and short lengths.
        if value <= 0x3f {
            *self.claim()? = [value as u8];
            return Ok(());
        }
        self.varint_wide(value)
    }

    /// The forms of two, four and eight bytes.
    fn varint_wide(&mut self, value: u64) -> Result<(), Full> {
        match value {
            0..=0x3fff => *self.claim()? = (value as u16 | 0x4000).to_be_bytes(),
            0x4000..=0x3fff_ffff => *self.claim()? = (value as u32 | 0x8000_0000).to_be_bytes(),
            _ => {
                debug_assert!(value <= VARINT_MAX, "no varint holds {value}");
                *self.claim()? = (value.min(VARINT_MAX) | 0b11 << 62).to_be_bytes();
            }
        }
        Ok(())
    }

    /// Writes the two-byte varint of `value`, at most 16,383, which
    /// [`patch_length`](super::packet::patch_length) may replace later.
    ///
    /// # Errors
    /// [`Full`] if fewer than two bytes are left.
    #[inline]
    pub(crate) fn varint2(&mut self, value: u64) -> Result<(), Full> {
        *self.claim()? = encode_varint2(value);
        Ok(())
    }

    /// Writes `bytes`.
    ///
    /// # Errors
    /// [`Full`] if they do not fit.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let slot = self.buffer[self.position..].get_mut(..bytes.len()).ok_or(Full)?;
        slot.copy_from_slice(bytes);
        self.position += bytes.len();
        Ok(())
    }

    /// Writes the length of `bytes` as a varint, and `bytes`.
    #[inline]
    pub(super) fn prefixed(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.whole(|w| {
            w.varint(bytes.len() as u64)?;
            w.bytes(bytes)
        })
    }

    /// Does all of `write` or, if something does not fit, none of it.
    #[inline]
    pub(super) fn whole<T>(
        &mut self,
        write: impl FnOnce(&mut Self) -> Result<T, Full>,
    ) -> Result<T, Full> {
        let start = self.position;
        let result = write(self);
        if result.is_err() {
            self.position = start;
        }
        result
    }
}

/// The two-byte form of a number up to 16,383.
#[inline]
pub(super) fn encode_varint2(value: u64) -> [u8; 2] {
    debug_assert!(value <= VARINT2_MAX, "no two-byte varint holds {value}");
    (value.min(VARINT2_MAX) as u16 | 0x4000).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn varints_of_rfc_9000_appendix_a_1() {
        let known: [(&[u8], u64); 5] = [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ];
        for (bytes, value) in known {
            let mut reader = Reader::new(bytes);
            assert_eq!(reader.varint(), Ok(value));
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn a_varint_cut_short_takes_nothing() {
        for whole in [&[0x7b, 0xbd][..], &[0x9d, 0x7f, 0x3e, 0x7d], &[0xc2, 0, 0, 0, 0, 0, 0, 1]] {
            for cut in 0..whole.len() {
                let mut reader = Reader::new(&whole[..cut]);
                assert_eq!(reader.varint(), Err(Truncated));
                assert_eq!(reader.position(), 0);
            }
        }
    }

    #[test]
    fn lengths_change_at_the_powers_of_two() {
        for (largest, len) in [(0x3f, 1), (0x3fff, 2), (0x3fff_ffff, 4), (VARINT_MAX, 8)] {
            assert_eq!(varint_len(largest), len);
            if largest < VARINT_MAX {
                assert_eq!(varint_len(largest + 1), len * 2);
            }
        }
    }

    #[test]
    fn a_write_that_does_not_fit_writes_nothing() {
        let mut buffer = [0; 3];
        let mut writer = Writer::new(&mut buffer);
        writer.u8(1).unwrap();
        assert_eq!(writer.u32(2), Err(Full));
        assert_eq!(writer.varint(0x4000), Err(Full));
        assert_eq!(writer.bytes(&[0; 3]), Err(Full));
        assert_eq!(writer.prefixed(&[7, 8]), Err(Full));
        assert_eq!(writer.position(), 1);
        writer.u16(0x0203).unwrap();
        assert_eq!(writer.u8(4), Err(Full));
        assert_eq!(writer.written(), [1, 2, 3]);
    }

    #[test]
    fn a_two_byte_varint_is_patched_in_place() {
        let mut buffer = [0; 6];
        let mut writer = Writer::new(&mut buffer);
        writer.u8(9).unwrap();
        writer.varint2(0).unwrap();
        writer.rest_mut()[0] = 8;
        writer.advance(1);
        crate::wire::packet::patch_length(writer.written(), 1, 16_383);
        assert_eq!(writer.written(), [9, 0x7f, 0xff, 8]);
        writer.truncate(1);
        assert_eq!((writer.position(), writer.remaining()), (1, 5));
    }

    #[test]
    fn zeros_end_at_the_first_other_byte() {
        for zeros in 0..100 {
            for tail in [&[][..], &[1], &[0xff, 0, 0, 0]] {
                let bytes = [&vec![0; zeros], tail].concat();
                let mut reader = Reader::new(&bytes);
                assert_eq!(reader.zeros(), zeros);
                assert_eq!(reader.rest(), tail);
            }
        }
    }

    proptest! {
        #[test]
        fn varints_come_back(value in 0..=VARINT_MAX, shift in 0..62u32, tail in 0..4usize) {
            let value = value >> shift;
            let mut buffer = vec![0; varint_len(value) + tail];
            let mut writer = Writer::new(&mut buffer);
            writer.varint(value).unwrap();
            prop_assert_eq!(writer.position(), varint_len(value));
            let mut reader = Reader::new(&buffer);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.remaining(), tail);
        }

        #[test]
        fn every_read_is_total(bytes in prop::collection::vec(any::<u8>(), 0..40), n in 0..50usize) {
            let mut reader = Reader::new(&bytes);
            let _ = reader.varint();
            let _ = reader.prefixed();
            let _ = reader.u16();
            let _ = reader.u32();
            let _ = reader.bytes(n);
            prop_assert_eq!(reader.position() + reader.remaining(), bytes.len());
            let at = reader.position();
            prop_assert_eq!(reader.peek(), bytes.get(at).copied());
            prop_assert_eq!(reader.rest(), &bytes[at..]);
        }
    }
}
