// SPDX-License-Identifier: GPL-2.0

//! Random choices that a seed repeats.

use std::ops::Range;

/// xorshift64*: small, and good enough to choose by.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        // Zero is the one state that it never leaves; neighbouring seeds differ in
        // few bits, so the first numbers are thrown away.
        let mut dice = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            dice.next();
        }
        dice
    }

    /// A number of 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number in a range, which must not be empty.
    pub(crate) fn pick(&mut self, range: Range<usize>) -> usize {
        assert!(!range.is_empty());
        let width = range.end - range.start;
        // The upper bits are the better ones; no range here comes near 32 bits.
        let number = usize::try_from(self.next() >> 32).unwrap_or_default();
        range.start + number % width
    }

    /// Whether something happens that does so once in `times`.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.pick(0..times) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::Dice;

    #[test]
    fn all_of_a_range_and_nothing_else() {
        for seed in 0..20 {
            let mut dice = Dice::new(seed);
            let mut seen = [0; 6];
            for _ in 0..600 {
                seen[dice.pick(2..8) - 2] += 1;
            }
            assert!(seen.iter().all(|&times| times > 50), "{seen:?}");
        }
    }

    #[test]
    fn a_seed_repeats_itself() {
        let (mut one, mut other) = (Dice::new(5), Dice::new(5));
        assert!((0..100).all(|_| one.next() == other.next()));
        assert_ne!(Dice::new(5).next(), Dice::new(6).next());
    }
}
