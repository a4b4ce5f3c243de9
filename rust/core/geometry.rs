// SPDX-License-Identifier: GPL-2.0

//! How a device's region is cut up.
//!
//! Linux adds and removes memory in *memory blocks* (128 MiB as a rule), the device plugs and
//! unplugs *device blocks* (2 MiB as a rule). The driver tracks *sub-blocks*: the smallest unit
//! that both the device and the page allocator can handle, which is the larger one of a device
//! block and a pageblock. Only whole memory blocks inside the region and inside the range that
//! Linux can address are managed; memory blocks and sub-blocks are numbered from the first one.

use crate::wire::Config;
use crate::wire::MAX_BLOCKS_PER_REQUEST;
use core::num::NonZeroU32;
use core::num::NonZeroU64;
use core::ops::Range;

/// Why a device cannot be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// No whole memory block lies in the region and the addressable range.
    NoWholeBlock,
    /// Device blocks larger than a memory block.
    DeviceBlockTooLarge,
    /// More sub-blocks than the driver counts (2^32).
    TooLarge,
    /// So small device blocks that a request cannot name all of those of a memory block.
    DeviceBlockTooSmall,
    /// Linux' memory block or pageblock size is no power of two.
    BlockSizes,
}

impl Unusable {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoWholeBlock => "no whole memory block lies in its addressable region",
            Self::DeviceBlockTooLarge => "device blocks larger than a memory block",
            Self::TooLarge => "region too large",
            Self::DeviceBlockTooSmall => "device blocks too small for memory blocks of this size",
            Self::BlockSizes => "unexpected memory block or pageblock size",
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
}

/// A device's region in numbered memory blocks and sub-blocks. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    region: u64,
    start: u64,
    blocks: u32,
    // Not zero: dividing by them cannot fail.
    block_size: NonZeroU64,
    subs_per_block: NonZeroU32,
    sub_size: NonZeroU64,
    device_blocks_per_sub: NonZeroU64,
}

impl Geometry {
    /// Cuts the region of `config`, which must have passed [`Config::check`].
    pub fn new(config: &Config, linux: &LinuxLimits) -> Result<Self, Unusable> {
        if !linux.memory_block.is_power_of_two() || !linux.pageblock.is_power_of_two() {
            return Err(Unusable::BlockSizes);
        }
        let nonzero = |n| NonZeroU64::new(n).ok_or(Unusable::BlockSizes);
        let block_size = nonzero(linux.memory_block)?;
        let sub_size = nonzero(config.block_size.max(linux.pageblock))?;
        if sub_size > block_size {
            return Err(Unusable::DeviceBlockTooLarge);
        }
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
        let subs_per_block = u32::try_from(block_size.get() / sub_size)
            .ok()
            .and_then(NonZeroU32::new)
            .ok_or(Unusable::BlockSizes)?;
        let blocks = u32::try_from(end.saturating_sub(start)).map_err(|_| Unusable::TooLarge)?;
        blocks
            .checked_mul(subs_per_block.get())
            .ok_or(Unusable::TooLarge)?;
        Ok(Self {
            region: config.addr,
            start: start.saturating_mul(block_size.get()),
            blocks,
            block_size,
            subs_per_block,
            sub_size,
            device_blocks_per_sub: nonzero(sub_size.get() / nonzero(config.block_size)?)?,
        })
    }

    /// Number of memory blocks.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Number of sub-blocks in all.
    pub fn subs(&self) -> u32 {
        self.blocks.saturating_mul(self.subs_per_block.get())
    }

    /// Number of sub-blocks in a memory block, at least 1.
    pub fn subs_per_block(&self) -> u32 {
        self.subs_per_block.get()
    }

    /// Size of a memory block.
    pub fn block_size(&self) -> u64 {
        self.block_size.get()
    }

    /// Size of a sub-block.
    pub fn sub_size(&self) -> u64 {
        self.sub_size.get()
    }

    /// Start address of a memory block.
    pub fn block_addr(&self, block: u32) -> u64 {
        self.start
            .saturating_add(u64::from(block).saturating_mul(self.block_size()))
    }

    /// Start address of a sub-block.
    pub fn sub_addr(&self, sub: u32) -> u64 {
        self.start
            .saturating_add(u64::from(sub).saturating_mul(self.sub_size()))
    }

    /// The memory block that holds `addr`, if it is a managed one.
    pub fn block_at(&self, addr: u64) -> Option<u32> {
        let offset = addr.checked_sub(self.start)?;
        let block = u32::try_from(offset / self.block_size).ok()?;
        (block < self.blocks).then_some(block)
    }

    /// The sub-block that holds `addr`, if it is a managed one.
    pub fn sub_at(&self, addr: u64) -> Option<u32> {
        self.block_at(addr)?;
        u32::try_from(addr.checked_sub(self.start)? / self.sub_size).ok()
    }

    /// The memory block of a sub-block.
    pub fn block_of(&self, sub: u32) -> u32 {
        sub / self.subs_per_block
    }

    /// The sub-blocks of a memory block.
    pub fn subs_of(&self, block: u32) -> Range<u32> {
        let first = block.saturating_mul(self.subs_per_block());
        first..first.saturating_add(self.subs_per_block())
    }

    /// How many of the memory blocks lie wholly inside a usable region of `usable` bytes.
    pub fn usable_blocks(&self, usable: u64) -> u32 {
        let end = self.region.saturating_add(usable);
        let whole = end.saturating_sub(self.start) / self.block_size;
        u32::try_from(whole).unwrap_or(u32::MAX).min(self.blocks)
    }

    /// How many whole memory blocks a size allows.
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
