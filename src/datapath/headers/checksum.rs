//! The Internet checksum (RFC 1071).
//!
//! The sum of 16-bit words in one's complement does not care in which order the bytes of each word
//! stand, so the words are read as this machine reads them and the result is written the same way.
//! It does not care for the width of the words either: 64 bits at a time are added, each carry goes
//! into a second register, and both are folded once at the end.

/// Words added per step, each to a sum of its own, so that one addition need not wait for the
/// carry of the other. Measured over 1,400 bytes: two sums 34 ns, lanes of 32 bits 55 ns, and 45 ns
/// with AVX2; more sums gain nothing.
const SUMS: usize = 2;
const STEP_BYTES: usize = 8 * SUMS;

/// Sum of `bytes` as words in memory order, padded with a zero; below 2^34, not folded further.
/// Sums of pieces add up if all pieces but the last have an even length.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    let (steps, tail) = bytes.as_chunks::<STEP_BYTES>();
    let mut sums = [0u128; SUMS];
    for step in steps {
        let (words, _) = step.as_chunks::<8>();
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum += u128::from(u64::from_ne_bytes(*word));
        }
    }
    // The high half counts carries, of which there are as many as words at most.
    let total: u128 = sums.iter().sum();
    halves(total as u64) + (total >> 64) as u64 + sum_tail(tail)
}

/// As [`sum`], for less than a step.
#[inline]
fn sum_tail(bytes: &[u8]) -> u64 {
    let (words, tail) = bytes.as_chunks::<8>();
    let total: u64 = words.iter().map(|word| halves(u64::from_ne_bytes(*word))).sum();
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    total + halves(u64::from_ne_bytes(last))
}

const fn halves(word: u64) -> u64 {
    (word >> 32) + (word & 0xffff_ffff)
}

/// Folds a sum into 16 bits. Over data that includes a correct checksum the result is `0xffff`; the
/// checksum of data is the complement, to be written in memory order.
#[must_use]
pub(crate) const fn fold(sum: u64) -> u16 {
    // Any 64 bits fold to 33, to 32, to 17, to 16 and to 16 without a carry.
    let sum = halves(halves(sum));
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}
