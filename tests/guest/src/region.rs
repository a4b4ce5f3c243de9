// SPDX-License-Identifier: GPL-2.0

//! A stretch of memory with a content of its own, of which pages come and go.

use std::io;

use crate::mapping::Mapping;
use crate::mapping::PageSize;
use crate::mapping::HUGE;
use crate::mapping::PAGE;
use crate::pattern;

/// A mapping some of whose pages are in use.
pub(crate) struct Region {
    memory: Mapping,
    seed: u64,
    /// For each page whether it has been filled, and not given back since.
    filled: Vec<bool>,
}

/// What a check has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Pages looked at.
    pub(crate) pages: u64,
    /// Pages that were not as they had been left.
    pub(crate) changed: u64,
}

impl std::ops::AddAssign for Found {
    fn add_assign(&mut self, other: Self) {
        self.pages += other.pages;
        self.changed += other.changed;
    }
}

impl Region {
    /// An empty region of `huge` times 2 MiB.
    pub(crate) fn new(huge: usize, seed: u64, pages: PageSize) -> io::Result<Self> {
        let memory = Mapping::reserve(huge * HUGE)?;
        // A kernel without huge pages refuses, and has small ones.
        let _ = memory.resize_pages(pages);
        let filled = vec![false; memory.pages()];
        Ok(Self {
            memory,
            seed,
            filled,
        })
    }

    /// The number of pages, in use or not.
    pub(crate) fn pages(&self) -> usize {
        self.memory.pages()
    }

    /// How many bytes of memory it has, at most.
    pub(crate) fn size(&self) -> usize {
        self.pages() * PAGE
    }

    /// Fills those of `count` pages from `first` on that are not in use. What the
    /// kernel gives has to be zero.
    pub(crate) fn fill(&mut self, first: usize, count: usize) -> Found {
        let mut found = Found::default();
        for index in first..first + count {
            if !self.filled[index] {
                found.pages += 1;
                if self.memory.page(index).iter().any(|&word| word != 0) {
                    found.changed += 1;
                }
                pattern::fill(self.memory.page_mut(index), self.seed, index);
                self.filled[index] = true;
            }
        }
        found
    }

    /// Writes other content to all pages in use.
    pub(crate) fn rewrite(&mut self, seed: u64) -> Found {
        let found = self.check();
        self.seed = seed;
        for index in 0..self.pages() {
            if self.filled[index] {
                pattern::fill(self.memory.page_mut(index), seed, index);
            }
        }
        found
    }

    /// Gives `count` pages from `first` on back. A huge page is split by it.
    pub(crate) fn punch(&mut self, first: usize, count: usize) -> io::Result<()> {
        self.memory.give_back(first, count)?;
        self.filled[first..first + count].fill(false);
        Ok(())
    }

    /// Checks all pages in use.
    pub(crate) fn check(&self) -> Found {
        let mut found = Found::default();
        for index in 0..self.pages() {
            if self.filled[index] {
                found.pages += 1;
                if !pattern::intact(self.memory.page(index), self.seed, index) {
                    found.changed += 1;
                }
            }
        }
        found
    }

    /// Moves all pages to other addresses.
    pub(crate) fn relocate(&mut self) -> io::Result<()> {
        self.memory.relocate()
    }

    /// Has the kernel use pages of another size, as far as it likes to.
    pub(crate) fn resize_pages(&self, pages: PageSize) {
        // It may have no huge page, or know nothing of them.
        let _ = self.memory.resize_pages(pages);
    }
}

#[cfg(test)]
mod tests {
    use super::Found;
    use super::Region;
    use crate::mapping::PageSize;

    fn found(pages: u64) -> Found {
        Found { pages, changed: 0 }
    }

    #[test]
    fn content_stays_through_all_that_is_done_to_it() {
        let mut region = Region::new(2, 3, PageSize::Huge).expect("4 MiB of memory");
        assert_eq!(region.check(), found(0));
        assert_eq!(region.fill(0, region.pages()), found(1024));
        region.punch(100, 50).expect("madvise");
        assert_eq!(region.check(), found(974));
        region.relocate().expect("mremap");
        assert_eq!(region.check(), found(974));
        region.resize_pages(PageSize::Collapse);
        assert_eq!(region.rewrite(4), found(974));
        // What was given back comes back as zeroes.
        assert_eq!(region.fill(90, 70), found(50));
        assert_eq!(region.check(), found(1024));
    }

    #[test]
    fn a_changed_page_is_found() {
        let mut region = Region::new(1, 3, PageSize::Small).expect("2 MiB of memory");
        region.fill(0, 10);
        region.memory.page_mut(4)[511] ^= 1;
        assert_eq!(region.check().changed, 1);
        // Not zero where the kernel is to give it anew.
        region.memory.page_mut(20)[0] = 1;
        assert_eq!(region.fill(10, 20).changed, 1);
    }
}
