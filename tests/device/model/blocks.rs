// SPDX-License-Identifier: GPL-2.0

//! Which blocks are plugged, and what the driver can know of that.

use super::Store;
use core::ops::Range;

/// What is kept of each block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bit {
    /// It is plugged.
    Plugged,
    /// The driver was told that it is, by the last answer about it.
    Told,
    /// The driver cannot know: an answer was missing, or none, or a lie.
    Unsure,
    /// The driver was told that it is plugged when it was not: what is in it proves nothing.
    Tainted,
}

const KINDS: usize = 4;

/// The blocks of a region, by number.
pub struct Blocks<S: Store> {
    words: S::Of<u64>,
    count: u32,
}

impl<S: Store> Blocks<S> {
    /// All of them unplugged; `None` without memory.
    pub fn new(count: u32) -> Option<Self> {
        let words = usize::try_from(count).ok()?.div_ceil(64);
        Some(Self {
            words: S::make(0, words.checked_mul(KINDS)?)?,
            count,
        })
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The word and the mask of a bit.
    fn place(&self, bit: Bit, block: u32) -> (usize, u64) {
        let kind = match bit {
            Bit::Plugged => 0,
            Bit::Told => 1,
            Bit::Unsure => 2,
            Bit::Tainted => 3,
        };
        let index = usize::try_from(block).unwrap_or(usize::MAX);
        let each = self.words.len() / KINDS;
        (
            (index / 64).saturating_add(each.saturating_mul(kind)),
            1 << (index % 64),
        )
    }

    /// Reads a bit; that of a block which does not exist is not set.
    pub fn get(&self, bit: Bit, block: u32) -> bool {
        let (word, mask) = self.place(bit, block);
        block < self.count && self.words.get(word).is_some_and(|word| word & mask != 0)
    }

    /// Writes a bit of some blocks.
    pub fn set(&mut self, bit: Bit, blocks: Range<u32>, value: bool) {
        for block in blocks.start..blocks.end.min(self.count) {
            let (word, mask) = self.place(bit, block);
            if let Some(word) = self.words.get_mut(word) {
                *word = if value { *word | mask } else { *word & !mask };
            }
        }
    }

    /// The first of some blocks that has, or has not, a bit set.
    pub fn find(&self, bit: Bit, value: bool, blocks: Range<u32>) -> Option<u32> {
        let mut blocks = blocks;
        blocks.find(|block| self.get(bit, *block) == value)
    }

    /// How many blocks have a bit set.
    pub fn count(&self, bit: Bit) -> u32 {
        let set = (0..self.count).filter(|block| self.get(bit, *block));
        u32::try_from(set.count()).unwrap_or(u32::MAX)
    }

    /// Whether the driver knows of a block that it is plugged, or that it is not.
    pub fn known(&self, block: u32, plugged: bool) -> bool {
        !self.get(Bit::Unsure, block) && self.get(Bit::Told, block) == plugged
    }

    /// How many blocks the driver knows to be plugged.
    pub fn known_plugged(&self) -> u32 {
        let known = (0..self.count).filter(|block| self.known(*block, true));
        u32::try_from(known.count()).unwrap_or(u32::MAX)
    }

    /// The driver is told of some blocks that they are plugged, or that they are not.
    pub fn tell(&mut self, blocks: Range<u32>, plugged: bool) {
        self.set(Bit::Told, blocks.clone(), plugged);
        self.set(Bit::Unsure, blocks.clone(), false);
        if plugged {
            for block in blocks {
                if !self.get(Bit::Plugged, block) {
                    self.set(Bit::Tainted, block..block.saturating_add(1), true);
                }
            }
        }
    }
}
