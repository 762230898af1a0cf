//! The Internet checksum (RFC 1071).
//!
//! The sum of 16-bit words in one's complement does not care in which order the bytes of each word
//! stand, so the words are read as this machine reads them and the result is written the same way.
//! It does not care for the width of the words either: 32 bits at a time go into 64-bit lanes, which
//! cannot overflow below 16 GiB, and the carries are folded in once at the end.

/// Bytes added per step: eight words of 64 bits, two lanes each. The compiler keeps them in vector
/// registers; 32 was slower and 128 spilled.
const STEP_BYTES: usize = 64;

/// Sum of `bytes` as words in memory order, padded with a zero; not folded. Sums of pieces add up
/// if all pieces but the last have an even length.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    let (steps, tail) = bytes.as_chunks::<STEP_BYTES>();
    let mut low = [0u64; STEP_BYTES / 8];
    let mut high = [0u64; STEP_BYTES / 8];
    for step in steps {
        let (words, _) = step.as_chunks::<8>();
        for (lane, word) in words.iter().enumerate() {
            let word = u64::from_ne_bytes(*word);
            low[lane] += word & 0xffff_ffff;
            high[lane] += word >> 32;
        }
    }
    let lanes = low.iter().sum::<u64>() + high.iter().sum::<u64>();
    lanes + sum_short(tail)
}

/// As [`sum`], for less than a step.
#[inline]
fn sum_short(bytes: &[u8]) -> u64 {
    let (words, tail) = bytes.as_chunks::<4>();
    let total: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    last[..tail.len()].copy_from_slice(tail);
    total + u64::from(u32::from_ne_bytes(last))
}

/// Folds a sum into 16 bits. Over data that includes a correct checksum the result is `0xffff`; the
/// checksum of data is the complement, to be written in memory order.
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}
