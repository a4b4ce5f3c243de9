// SPDX-License-Identifier: GPL-2.0

//! How a device's region is cut up.
//!
//! Linux adds and removes memory in *memory blocks* (128 MiB as a rule), the device plugs and
//! unplugs *device blocks* (2 MiB as a rule). The driver decides about *blocks* and *sub-blocks*:
//!
//! - In sub-block mode a block is a memory block, and a sub-block the smallest unit that both the
//!   device and the page allocator can handle: the larger one of a device block and a pageblock.
//! - In big-block mode, for device blocks as large as a memory block or larger, a block is a *big
//!   block* of one or more memory blocks, and has one sub-block, itself.
//!
//! Only whole, naturally aligned blocks inside the region and inside the range that Linux can
//! address are managed. Blocks, sub-blocks and memory blocks are numbered from the first one.

use crate::wire::Config;
use crate::wire::MAX_BLOCKS_PER_REQUEST;
use core::num::NonZeroU32;
use core::num::NonZeroU64;
use core::ops::Range;

/// Why a device cannot be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// No whole block lies in the region and the addressable range.
    NoWholeBlock,
    /// More sub-blocks or memory blocks than the driver counts (2^32).
    TooLarge,
    /// So small device blocks that a request cannot name all of those of a block.
    DeviceBlockTooSmall,
    /// Linux' memory block or pageblock size is no power of two.
    BlockSizes,
}

impl Unusable {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoWholeBlock => "no whole block lies in its addressable region",
            Self::TooLarge => "region too large",
            Self::DeviceBlockTooSmall => "device blocks too small for blocks of this size",
            Self::BlockSizes => "unexpected memory block or pageblock size",
        }
    }
}

/// What the administrator wants of big blocks (module parameters).
#[derive(Clone, Copy, Debug, Default)]
pub struct BigBlocks {
    /// Big-block mode even where sub-blocks would do (`force_bbm`).
    pub force: bool,
    /// Size of a big block in bytes (`bbm_block_size`); 0: the smallest that is possible.
    pub size: u64,
}

/// Why the wanted size of a big block is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadSize {
    /// It is no power of two.
    NoPowerOfTwo,
    /// It is less than a device block or a memory block.
    TooSmall,
    /// No whole one lies in the region, or a request cannot name all its device blocks.
    TooLarge,
}

impl BadSize {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoPowerOfTwo => "not a power of 2",
            Self::TooSmall => "too small",
            Self::TooLarge => "too large",
        }
    }
}

/// What Linux says about itself, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct LinuxLimits {
    /// `memory_block_size_bytes()`.
    pub memory_block: u64,
    /// The size of a pageblock, the unit in which the page allocator isolates ranges.
    pub pageblock: u64,
    /// First address that can be added (`mhp_get_pluggable_range()`).
    pub first: u64,
    /// Last address that can be added, inclusive.
    pub last: u64,
    /// What Linux allocates to add a memory block (`struct page`s and page tables).
    pub metadata: u64,
}

/// A device's region in numbered blocks, sub-blocks and memory blocks. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    region: u64,
    start: u64,
    blocks: u32,
    // Not zero: dividing by them cannot fail.
    block_size: NonZeroU64,
    memory_block_size: NonZeroU64,
    memory_blocks_per_block: NonZeroU32,
    subs_per_block: NonZeroU32,
    sub_size: NonZeroU64,
    device_blocks_per_sub: NonZeroU64,
    // Not zero either.
    metadata: NonZeroU64,
}

fn nonzero(n: u64) -> Result<NonZeroU64, Unusable> {
    NonZeroU64::new(n).ok_or(Unusable::BlockSizes)
}

fn quotient(n: NonZeroU64, by: NonZeroU64) -> Result<NonZeroU32, Unusable> {
    u32::try_from(n.get() / by)
        .ok()
        .and_then(NonZeroU32::new)
        .ok_or(Unusable::BlockSizes)
}

impl Geometry {
    /// Cuts the region of `config`, which must have passed [`Config::check`], as `big` wants it.
    /// Where its size is of no use, the default is taken and the reason returned.
    pub fn new(
        config: &Config,
        linux: &LinuxLimits,
        big: &BigBlocks,
    ) -> Result<(Self, Option<BadSize>), Unusable> {
        if !linux.memory_block.is_power_of_two() || !linux.pageblock.is_power_of_two() {
            return Err(Unusable::BlockSizes);
        }
        let sub_size = config.block_size.max(linux.pageblock);
        if sub_size < linux.memory_block && !big.force {
            let geometry = Self::cut(config, linux, linux.memory_block, sub_size)?;
            return Ok((geometry, None));
        }
        let least = config.block_size.max(linux.memory_block);
        let bad = match big.size {
            0 => None,
            size if !size.is_power_of_two() => Some(BadSize::NoPowerOfTwo),
            size if size < least => Some(BadSize::TooSmall),
            size => match Self::cut(config, linux, size, size) {
                Ok(geometry) => return Ok((geometry, None)),
                Err(_) => Some(BadSize::TooLarge),
            },
        };
        Ok((Self::cut(config, linux, least, least)?, bad))
    }

    fn cut(
        config: &Config,
        linux: &LinuxLimits,
        block_size: u64,
        sub_size: u64,
    ) -> Result<Self, Unusable> {
        let memory_block_size = nonzero(linux.memory_block)?;
        let (block_size, sub_size) = (nonzero(block_size)?, nonzero(sub_size)?);
        let region_end = config.addr.saturating_add(config.region_size);
        let end = region_end.min(linux.last.saturating_add(1)) / block_size;
        // Rounded up.
        let start = config.addr.max(linux.first).saturating_sub(1) / block_size;
        let start = start.saturating_add(u64::from(config.addr.max(linux.first) != 0));
        if end <= start {
            return Err(Unusable::NoWholeBlock);
        }
        if block_size.get() / nonzero(config.block_size)? > MAX_BLOCKS_PER_REQUEST {
            return Err(Unusable::DeviceBlockTooSmall);
        }
        let subs_per_block = quotient(block_size, sub_size)?;
        let memory_blocks_per_block = quotient(block_size, memory_block_size)?;
        let blocks = u32::try_from(end.saturating_sub(start)).map_err(|_| Unusable::TooLarge)?;
        blocks
            .checked_mul(subs_per_block.get())
            .and(blocks.checked_mul(memory_blocks_per_block.get()))
            .ok_or(Unusable::TooLarge)?;
        Ok(Self {
            region: config.addr,
            start: start.saturating_mul(block_size.get()),
            blocks,
            block_size,
            memory_block_size,
            memory_blocks_per_block,
            subs_per_block,
            sub_size,
            device_blocks_per_sub: nonzero(sub_size.get() / nonzero(config.block_size)?)?,
            metadata: nonzero(linux.metadata.max(1))?,
        })
    }

    /// Whether this is big-block mode.
    pub fn is_big(&self) -> bool {
        self.sub_size == self.block_size
    }

    /// Number of memory blocks in all.
    pub fn memory_blocks(&self) -> u32 {
        self.blocks
            .saturating_mul(self.memory_blocks_per_block.get())
    }

    /// Number of memory blocks in a block, at least 1.
    pub fn memory_blocks_per_block(&self) -> u32 {
        self.memory_blocks_per_block.get()
    }

    /// The same, for dividing by it.
    pub fn per_block(&self) -> NonZeroU32 {
        self.memory_blocks_per_block
    }

    /// Size of a memory block.
    pub fn memory_block_size(&self) -> u64 {
        self.memory_block_size.get()
    }

    /// Start address of a memory block.
    pub fn memory_block_addr(&self, memory_block: u32) -> u64 {
        let offset = u64::from(memory_block).saturating_mul(self.memory_block_size());
        self.start.saturating_add(offset)
    }

    /// The memory block that holds `addr`, if it is a managed one.
    pub fn memory_block_at(&self, addr: u64) -> Option<u32> {
        let offset = addr.checked_sub(self.start)?;
        let memory_block = u32::try_from(offset / self.memory_block_size).ok()?;
        (memory_block < self.memory_blocks()).then_some(memory_block)
    }

    /// The memory blocks of a block.
    pub fn memory_blocks_of(&self, block: u32) -> Range<u32> {
        let count = self.memory_blocks_per_block();
        let first = block.saturating_mul(count);
        first..first.saturating_add(count)
    }

    /// The block of a memory block.
    pub fn block_of_memory_block(&self, memory_block: u32) -> u32 {
        memory_block / self.memory_blocks_per_block
    }

    /// Number of blocks.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Number of sub-blocks in all.
    pub fn subs(&self) -> u32 {
        self.blocks.saturating_mul(self.subs_per_block.get())
    }

    /// Number of sub-blocks in a block, at least 1.
    pub fn subs_per_block(&self) -> u32 {
        self.subs_per_block.get()
    }

    /// Size of a block.
    pub fn block_size(&self) -> u64 {
        self.block_size.get()
    }

    /// Size of a sub-block.
    pub fn sub_size(&self) -> u64 {
        self.sub_size.get()
    }

    /// Start address of a sub-block.
    pub fn sub_addr(&self, sub: u32) -> u64 {
        self.start
            .saturating_add(u64::from(sub).saturating_mul(self.sub_size()))
    }

    /// The sub-block that holds `addr`, if it is a managed one.
    pub fn sub_at(&self, addr: u64) -> Option<u32> {
        self.memory_block_at(addr)?;
        u32::try_from(addr.checked_sub(self.start)? / self.sub_size).ok()
    }

    /// The block of a sub-block.
    pub fn block_of(&self, sub: u32) -> u32 {
        sub / self.subs_per_block
    }

    /// The sub-blocks of a block.
    pub fn subs_of(&self, block: u32) -> Range<u32> {
        let first = block.saturating_mul(self.subs_per_block());
        first..first.saturating_add(self.subs_per_block())
    }

    /// How many of the sub-blocks lie wholly inside a usable region of `usable` bytes.
    pub fn usable_subs(&self, usable: u64) -> u32 {
        self.subs_in(self.usable_part(usable)).min(self.subs())
    }

    /// How much of a usable region of `usable` bytes lies beyond the first block's start.
    fn usable_part(&self, usable: u64) -> u64 {
        self.region
            .saturating_add(usable)
            .saturating_sub(self.start)
    }

    /// How many memory blocks can be added when `room` bytes are there for what Linux has to
    /// allocate for them.
    pub fn memory_blocks_for(&self, room: u64) -> u32 {
        u32::try_from(room / self.metadata).unwrap_or(u32::MAX)
    }

    /// How many whole memory blocks a size allows.
    pub fn memory_blocks_in(&self, size: u64) -> u32 {
        u32::try_from(size / self.memory_block_size).unwrap_or(u32::MAX)
    }

    /// How many whole blocks a size allows.
    pub fn blocks_in(&self, size: u64) -> u32 {
        u32::try_from(size / self.block_size).unwrap_or(u32::MAX)
    }

    /// How many sub-blocks a size allows without exceeding it.
    pub fn subs_in(&self, size: u64) -> u32 {
        u32::try_from(size / self.sub_size).unwrap_or(u32::MAX)
    }

    /// The size of `subs` sub-blocks.
    pub fn size_of(&self, subs: u32) -> u64 {
        u64::from(subs).saturating_mul(self.sub_size())
    }

    /// Size of the device's blocks in bytes.
    pub fn device_block_size(&self) -> u64 {
        self.sub_size.get() / self.device_blocks_per_sub
    }

    /// The most sub-blocks that one request can name.
    pub fn max_subs_per_request(&self) -> u32 {
        let max = MAX_BLOCKS_PER_REQUEST / self.device_blocks_per_sub;
        u32::try_from(max).unwrap_or(u32::MAX).max(1)
    }

    /// The device blocks of `subs` sub-blocks, at most what a request can name.
    pub fn device_blocks(&self, subs: u32) -> u16 {
        u16::try_from(u64::from(subs).saturating_mul(self.device_blocks_per_sub.get()))
            .unwrap_or(u16::MAX)
    }
}
