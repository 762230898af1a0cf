//! Random numbers that a seed repeats: xoshiro256++ (Blackman and Vigna, 2019).
//!
//! Fast, small and good enough to pass the known statistical tests; not for keys. It is written
//! out here, and its numbers are part of what a seed means: a crate could change them with a
//! release, and every recorded failure would be lost.

/// A probability in parts per million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chance(u32);

impl Chance {
    /// It does not happen.
    pub const NEVER: Self = Self(0);
    /// It happens.
    pub const ALWAYS: Self = Self(1_000_000);

    /// `ppm` in a million; more than a million is [`ALWAYS`](Self::ALWAYS).
    #[must_use]
    pub const fn per_million(ppm: u32) -> Self {
        Self(if ppm > 1_000_000 { 1_000_000 } else { ppm })
    }

    /// `percent` in a hundred.
    #[must_use]
    pub const fn percent(percent: u32) -> Self {
        Self::per_million(percent.saturating_mul(10_000))
    }
}

/// A stream of random numbers that is a function of its seed.
///
/// Give every part of a scenario its own stream with [`fork`](Rng::fork): then a change in how
/// many numbers one part draws does not change what the others draw.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The stream of `seed`. The state is filled by splitmix64, as the authors advise, so that
    /// neighbouring seeds have unrelated streams.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut mixer = seed;
        Self { state: std::array::from_fn(|_| splitmix64(&mut mixer)) }
    }

    /// An independent stream for the part called `label`. The same label and the same state
    /// give the same stream; this stream is not moved.
    #[must_use]
    pub fn fork(&self, label: u64) -> Self {
        let mut mixer = label;
        let [a, b, c, d] = self.state;
        let mixed = splitmix64(&mut mixer) ^ a ^ b.rotate_left(16) ^ c.rotate_left(32);
        Self::new(mixed ^ d.rotate_left(48))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `limit`, each equally likely; 0 if `limit` is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        // Lemire: multiply, and draw again in the few cases that would make some more likely.
        let threshold = limit.wrapping_neg().checked_rem(limit).unwrap_or(0);
        loop {
            let wide = u128::from(self.next_u64()) * u128::from(limit);
            if (wide as u64) >= threshold {
                return (wide >> 64) as u64;
            }
        }
    }

    /// A number from `low` to `high`, both included; `low` if they are the wrong way round.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        match high.checked_sub(low) {
            None => low,
            Some(u64::MAX) => self.next_u64(),
            Some(span) => low + self.below(span + 1),
        }
    }

    /// True with the given probability. Always draws one number.
    pub fn happens(&mut self, chance: Chance) -> bool {
        self.below(1_000_000) < u64::from(chance.0)
    }

    /// One of `items`, each equally likely; `None` if the list is empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len() as u64) as usize)
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// Puts `items` in a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// One step of splitmix64; also a good mixer of the bits of a word.
pub(super) fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_reference() {
        // The authors' C code, from the state 1, 2, 3, 4.
        let mut rng = Rng { state: [1, 2, 3, 4] };
        let got: [u64; 10] = std::array::from_fn(|_| rng.next_u64());
        assert_eq!(
            got,
            [
                41_943_041,
                58_720_359,
                3_588_806_011_781_223,
                3_591_011_842_654_386,
                9_228_616_714_210_784_205,
                9_973_669_472_204_895_162,
                14_011_001_112_246_962_877,
                12_406_186_145_184_390_807,
                15_849_039_046_786_891_736,
                10_450_023_813_501_588_000,
            ]
        );
        let mut state = 1_234_567;
        let got: [u64; 3] = std::array::from_fn(|_| splitmix64(&mut state));
        assert_eq!(
            got,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn streams_repeat_and_differ() {
        let (mut a, mut b) = (Rng::new(7), Rng::new(7));
        assert!((0..100).all(|_| a.next_u64() == b.next_u64()));
        let first: Vec<u64> = (0..100).map(|seed| Rng::new(seed).next_u64()).collect();
        let forks: Vec<u64> = (0..100).map(|label| a.fork(label).next_u64()).collect();
        for list in [first, forks] {
            let mut unique = list.clone();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), list.len());
        }
        assert_eq!(a.fork(3).next_u64(), a.fork(3).next_u64());
    }

    #[test]
    fn bounds_hold_and_every_value_appears() {
        let mut rng = Rng::new(1);
        let mut seen = [0u32; 7];
        for _ in 0..7000 {
            seen[rng.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|n| (850..1150).contains(n)), "{seen:?}");
        for _ in 0..1000 {
            assert!((3..=5).contains(&rng.between(3, 5)));
        }
        assert_eq!(rng.between(5, 3), 5);
        assert_eq!((rng.below(0), rng.below(1), rng.between(9, 9)), (0, 0, 9));
        rng.between(0, u64::MAX);
        assert_eq!(rng.pick::<u8>(&[]), None);
        assert_eq!(rng.pick(&[8]), Some(&8));
    }

    #[test]
    fn chances_come_true_as_often_as_they_say() {
        let mut rng = Rng::new(2);
        let mut count = |chance| (0..100_000).filter(|_| rng.happens(chance)).count();
        assert_eq!(count(Chance::NEVER), 0);
        assert_eq!(count(Chance::ALWAYS), 100_000);
        assert!((9_700..10_300).contains(&count(Chance::percent(10))));
        assert!((60..140).contains(&count(Chance::per_million(1000))));
        assert_eq!(Chance::percent(300), Chance::ALWAYS);
    }

    #[test]
    fn shuffling_keeps_every_item_and_filling_every_byte() {
        let mut rng = Rng::new(3);
        let mut items: Vec<u32> = (0..50).collect();
        rng.shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
        let mut bytes = [0; 1000];
        rng.fill(&mut bytes);
        assert!(bytes.iter().filter(|b| **b == 0).count() < 20);
    }
}
