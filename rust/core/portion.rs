// SPDX-License-Identifier: GPL-2.0

//! How much to ask for at once: of a host that may have room for a part only, and of a device that
//! may refuse ranges of several blocks.

use crate::geometry::Geometry;

/// The size of the next PLUG request, in sub-blocks. A device answers BUSY to a request that it
/// cannot meet as a whole (virtio 1.3, 5.15.6.2), and does not say how much it could give.
///
/// Half of what was refused is asked for at once, then half of that, until one sub-block is refused
/// too: that takes twice as many requests as the number of sub-blocks has binary digits, at most.
/// After a pause the next request is for one sub-block, with which a host that is still busy has the
/// least to do, and twice as much follows each that is granted.
#[derive(Clone, Copy, Debug)]
pub struct Portion {
    most: u32,
    /// Twice as much as `most` was refused just now.
    halving: bool,
}

impl Portion {
    /// As much as there is to ask for.
    pub const ALL: Self = Self {
        most: u32::MAX,
        halving: false,
    };

    /// At most so many sub-blocks; one at least.
    pub fn most(&self) -> u32 {
        self.most
    }

    /// The host has given `asked` sub-blocks.
    pub fn granted(&mut self, asked: u32) {
        if asked < self.most {
            // It says nothing about this many.
            return;
        }
        if self.halving && self.most > 1 {
            self.most /= 2;
        } else {
            self.halving = false;
            self.most = self.most.saturating_mul(2);
        }
    }

    /// The host is too busy for `asked` sub-blocks; returns whether fewer are to be tried at once.
    #[must_use]
    pub fn refused(&mut self, asked: u32) -> bool {
        self.halving = asked > 1;
        self.most = (asked / 2).max(1);
        self.halving
    }
}

/// How many blocks are plugged or unplugged with one request, at most.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    blocks: u32,
    most: u32,
}

impl Batch {
    /// The size of a full batch, in bytes. With more the host would see memory arrive or leave in
    /// larger lumps than it needs to; with less an exit to the host would come with every block.
    const BYTES: u64 = 2 << 30;

    /// A full batch.
    pub fn new(geometry: &Geometry) -> Self {
        let most = geometry.blocks_in(Self::BYTES).max(1);
        Self { blocks: most, most }
    }

    /// One at least.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// The device has done what a request asked for.
    pub fn granted(&mut self) {
        self.blocks = self.blocks.saturating_mul(2).min(self.most);
    }

    /// The device has refused a request, as some do where a range crosses a boundary of theirs;
    /// returns whether it is to be tried again at once, block by block.
    #[must_use]
    pub fn refused(&mut self) -> bool {
        let several = self.blocks > 1;
        self.blocks = 1;
        several
    }
}
