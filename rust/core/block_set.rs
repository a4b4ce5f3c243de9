// SPDX-License-Identifier: GPL-2.0

//! A set of numbers below a fixed limit, with cheap searches from both ends.
//!
//! A bitmap with a summary bitmap above it (a bit for each word that is not zero): finding a
//! neighbour costs a few operations however sparse the set is, up to a quarter of a million
//! numbers, and one more per 4096 numbers beyond.
//!
//! The set does not own its words, so that many of them can share one allocation.

/// Words that a set of the numbers below `limit` needs.
pub fn words_needed(limit: u32) -> usize {
    let lower = to_usize(limit.div_ceil(64));
    lower.saturating_add(lower.div_ceil(64))
}

/// Lossless on every machine that Linux runs on with memory hotplug.
pub(crate) fn to_usize(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn to_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A view of a set's words; see [`words_needed`].
#[derive(Clone, Copy)]
pub struct BlockSet<W> {
    words: W,
    limit: u32,
}

impl<'a> BlockSet<&'a [u64]> {
    /// A set for searching.
    pub fn new(words: &'a [u64], limit: u32) -> Self {
        Self { words, limit }
    }

    fn word(&self, index: usize) -> u64 {
        self.words.get(index).copied().unwrap_or(0)
    }

    fn lower_len(&self) -> usize {
        to_usize(self.limit.div_ceil(64))
    }

    /// Whether `n` is in the set.
    pub fn contains(&self, n: u32) -> bool {
        n < self.limit && self.word(to_usize(n / 64)) & (1 << (n % 64)) != 0
    }

    /// The smallest number in the set.
    pub fn first(&self) -> Option<u32> {
        self.at_or_above(0)
    }

    /// The largest number in the set.
    pub fn last(&self) -> Option<u32> {
        self.below(self.limit)
    }

    /// The smallest number in the set that is at least `n`.
    pub fn at_or_above(&self, n: u32) -> Option<u32> {
        if n >= self.limit {
            return None;
        }
        let index = to_usize(n / 64);
        let here = self.word(index) & (u64::MAX << (n % 64));
        if here != 0 {
            return Some(bit_number(index, here.trailing_zeros()));
        }
        let lower = self.lower_len();
        let next = index.checked_add(1)?;
        let mut summary = next / 64;
        let mut mask = u64::MAX << (next % 64);
        while summary < lower.div_ceil(64) {
            let word = self.word(lower.checked_add(summary)?) & mask;
            if word != 0 {
                let index = to_usize(bit_number(summary, word.trailing_zeros()));
                return Some(bit_number(index, self.word(index).trailing_zeros()));
            }
            summary = summary.checked_add(1)?;
            mask = u64::MAX;
        }
        None
    }

    /// The largest number in the set that is less than `n`.
    pub fn below(&self, n: u32) -> Option<u32> {
        let top = n.min(self.limit).checked_sub(1)?;
        let index = to_usize(top / 64);
        let here = self.word(index) & (u64::MAX >> (63 - top % 64));
        if here != 0 {
            return Some(bit_number(index, 63 - here.leading_zeros()));
        }
        let lower = self.lower_len();
        let previous = index.checked_sub(1)?;
        let mut summary = previous / 64;
        let mut mask = u64::MAX >> (63 - previous % 64);
        loop {
            let word = self.word(lower.checked_add(summary)?) & mask;
            if word != 0 {
                let index = to_usize(bit_number(summary, 63 - word.leading_zeros()));
                return Some(bit_number(index, 63 - self.word(index).leading_zeros()));
            }
            summary = summary.checked_sub(1)?;
            mask = u64::MAX;
        }
    }
}

/// The number that bit `bit` of word `index` stands for.
fn bit_number(index: usize, bit: u32) -> u32 {
    to_u32(index).saturating_mul(64).saturating_add(bit)
}

impl<'a> BlockSet<&'a mut [u64]> {
    /// A set for changing.
    pub fn new_mut(words: &'a mut [u64], limit: u32) -> Self {
        Self { words, limit }
    }

    /// Puts `n` in or takes it out. Numbers not below the limit are ignored.
    pub fn set(&mut self, n: u32, member: bool) {
        if n >= self.limit {
            return;
        }
        let index = to_usize(n / 64);
        let Some(word) = self.words.get_mut(index) else {
            return;
        };
        if member {
            *word |= 1 << (n % 64);
        } else {
            *word &= !(1 << (n % 64));
        }
        let empty = *word == 0;
        let summary = to_usize(self.limit.div_ceil(64)).saturating_add(index / 64);
        if let Some(word) = self.words.get_mut(summary) {
            if empty {
                *word &= !(1 << (index % 64));
            } else {
                *word |= 1 << (index % 64);
            }
        }
    }
}
