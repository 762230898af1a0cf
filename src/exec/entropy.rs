//! Random bytes for values that must not be guessed: connection ids, tokens, seeds.
//!
//! A worker takes them from the kernel, a block at a time; a simulation from a seed, so that a
//! run can be repeated.

use super::sys;

/// Bytes taken from the kernel at once: 16 answers' worth for one system call.
const BLOCK_BYTES: usize = 512;

/// A source of random bytes.
#[derive(Debug)]
pub(super) enum Entropy {
    /// The kernel's.
    System {
        /// The bytes that were taken from the kernel.
        block: Box<[u8; BLOCK_BYTES]>,
        /// How much of the block has been used.
        used: usize,
    },
    /// A sequence that follows from a seed: for simulations only.
    Seeded(u64),
}

impl Entropy {
    /// The kernel's random bytes.
    #[must_use]
    pub(super) fn system() -> Self {
        Self::System { block: Box::new([0; BLOCK_BYTES]), used: BLOCK_BYTES }
    }

    /// A sequence that follows from `seed`.
    #[must_use]
    pub(super) fn seeded(seed: u64) -> Self {
        Self::Seeded(seed)
    }

    /// The next `N` bytes.
    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= BLOCK_BYTES) };
        match self {
            Self::System { block, used } => {
                if *used + N > BLOCK_BYTES {
                    sys::random(&mut block[..]);
                    *used = 0;
                }
                let taken = &mut block[*used..*used + N];
                *used += N;
                let bytes = std::array::from_fn(|at| taken[at]);
                taken.fill(0); // Bytes that were given out are not kept.
                bytes
            }
            Self::Seeded(state) => {
                let mut word = [0; 8];
                std::array::from_fn(|at| {
                    if at % 8 == 0 {
                        word = wyrand(state).to_le_bytes();
                    }
                    word[at % 8]
                })
            }
        }
    }

    /// The next 64 bits.
    pub(super) fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}

/// A small generator of good statistical quality and no secrecy.
fn wyrand(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0xa076_1d64_78bd_642f);
    let wide = u128::from(*state) * u128::from(*state ^ 0xe703_7ed1_a0b4_28db);
    (wide >> 64) as u64 ^ wide as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_bytes_again() {
        let (mut a, mut b) = (Entropy::seeded(7), Entropy::seeded(7));
        assert_eq!(a.bytes::<20>(), b.bytes::<20>());
        assert_eq!(a.number(), b.number());
        assert_ne!(a.number(), Entropy::seeded(8).number());
    }

    #[test]
    fn the_kernel_never_repeats_itself_over_a_block() {
        let mut entropy = Entropy::system();
        let mut seen: Vec<[u8; 16]> = (0..100).map(|_| entropy.bytes()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 100);
        assert!(!seen.contains(&[0; 16]));
    }
}
