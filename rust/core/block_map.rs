// SPDX-License-Identifier: GPL-2.0

//! Which sub-blocks are plugged, and how Linux uses the memory blocks.
//!
//! Every block (a memory block, or a big block of several) is filed in the [`Class`] that its state
//! puts it in, so that the next candidate for any kind of work is found without looking at all
//! blocks. A block that somebody works on is filed nowhere until that work ends.
//!
//! All of it lives in one array of words that the caller provides: for 1 TiB in memory blocks of
//! 128 MiB and sub-blocks of 2 MiB, 95 KiB.

use crate::block_set;
use crate::block_set::to_usize;
use crate::block_set::BlockSet;
use crate::geometry::Geometry;
use bitflags::bitflags;
use core::ops::DerefMut;
use core::ops::Range;
use static_assertions::const_assert;

/// What Linux does with a memory block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryBlockState {
    /// It does not know it.
    Absent,
    /// Added, not in use.
    Offline,
    /// Online in ZONE_MOVABLE.
    Movable,
    /// Online in a zone for kernel memory too.
    Kernel,
}

impl MemoryBlockState {
    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Offline => "offline",
            Self::Movable => "movable",
            Self::Kernel => "kernel",
        }
    }

    /// Whether the page allocator has it.
    pub fn online(self) -> bool {
        matches!(self, Self::Movable | Self::Kernel)
    }
}

bitflags! {
    /// Who works on a block right now, what is still to be done for it, and what has been tried.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags: u8 {
        /// The engine's current step changes its sub-blocks.
        const HELD = 1 << 0;
        /// The engine's current step adds a memory block of it, brings one online or removes some.
        const TRANSIT = 1 << 1;
        /// The driver added memory blocks of it and has yet to bring them online.
        const WANTED = 1 << 2;
        /// The pass of a shrink that last came across it has tried to empty it.
        const TRIED = 1 << 3;
        /// Linux has refused to add it or to bring it online: others come first.
        const REFUSED = 1 << 4;
        /// A big block that Linux uses and the device has, as it says, not all of: to be removed.
        const LOST = 1 << 5;
    }
}

/// The two low bits of a memory block's byte.
const STATE_MASK: u8 = 0b11;

/// In a memory block's byte: Linux is bringing it online or offline, and is between a pair of
/// memory notifier calls.
const MOVING: u8 = 1 << 2;
const_assert!(MOVING & STATE_MASK == 0);

bitflags! {
    /// What there is among the memory blocks of a block.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Seen: u8 {
        const ABSENT = 1 << 0;
        const OFFLINE = 1 << 1;
        const MOVABLE = 1 << 2;
        const KERNEL = 1 << 3;
        const MOVING = 1 << 4;
    }
}

impl Seen {
    /// The state of the whole: that of the memory block that is hardest to get back.
    fn state(self) -> MemoryBlockState {
        if self.contains(Self::KERNEL) {
            MemoryBlockState::Kernel
        } else if self.contains(Self::MOVABLE) {
            MemoryBlockState::Movable
        } else if self.contains(Self::OFFLINE) {
            MemoryBlockState::Offline
        } else {
            MemoryBlockState::Absent
        }
    }
}

/// Where a block is filed. Empty, partial and full tell how much of it is plugged. A big block is
/// in the kernel zone class if one of its memory blocks is there, else in a movable class if one is
/// there, and offline if none of them is online.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing plugged, not in Linux.
    Unused,
    /// Something plugged, not in Linux.
    PluggedNotAdded,
    /// In Linux, offline.
    OfflineEmpty,
    /// In Linux, offline.
    OfflinePartial,
    /// In Linux, offline.
    OfflineFull,
    /// Online in ZONE_MOVABLE.
    MovableEmpty,
    /// Online in ZONE_MOVABLE.
    MovablePartial,
    /// Online in ZONE_MOVABLE.
    MovableFull,
    /// Online in a kernel zone.
    KernelEmpty,
    /// Online in a kernel zone.
    KernelPartial,
    /// Online in a kernel zone.
    KernelFull,
    /// Has something offline that waits to be brought online by the driver (besides one of the
    /// other classes). Not of those that Linux has refused.
    Wanted,
    /// Linux has refused it (besides one of the other classes, but never an unused or wanted one).
    Refused,
    /// Plugged, and Linux has only some of its memory blocks (big blocks only).
    Incomplete,
}

impl Class {
    const COUNT: usize = 14;

    fn index(self) -> usize {
        match self {
            Self::Unused => 0,
            Self::PluggedNotAdded => 1,
            Self::OfflineEmpty => 2,
            Self::OfflinePartial => 3,
            Self::OfflineFull => 4,
            Self::MovableEmpty => 5,
            Self::MovablePartial => 6,
            Self::MovableFull => 7,
            Self::KernelEmpty => 8,
            Self::KernelPartial => 9,
            Self::KernelFull => 10,
            Self::Wanted => 11,
            Self::Incomplete => 12,
            Self::Refused => 13,
        }
    }
}

/// How what is plugged stands in Linux: see [`BlockMap::standing`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Sub-blocks plugged in blocks that are online in ZONE_MOVABLE.
    pub movable: u32,
    /// Sub-blocks plugged in blocks that are, at least in part, online in another zone.
    pub kernel: u32,
    /// Sub-blocks plugged in blocks that are offline.
    pub offline: u32,
    /// Sub-blocks plugged in blocks that Linux does not have.
    pub not_added: u32,
    /// Memory blocks that Linux has.
    pub added: u32,
}

/// The map; `W` is the array of words.
#[cfg_attr(not(MODULE), derive(Clone))]
pub struct BlockMap<W> {
    geometry: Geometry,
    words: W,
    plugged: u32,
    plugged_not_added: u32,
    offline: u32,
}

impl<W: DerefMut<Target = [u64]>> BlockMap<W> {
    /// Words that the map of such a region needs.
    pub fn words_needed(geometry: &Geometry) -> usize {
        let bits = to_usize(geometry.subs().div_ceil(64));
        let bytes = to_usize(geometry.memory_blocks().div_ceil(8))
            .saturating_add(to_usize(geometry.blocks().div_ceil(8)));
        let sets = block_set::words_needed(geometry.blocks()).saturating_mul(Class::COUNT);
        bits.saturating_add(bytes).saturating_add(sets)
    }

    /// A map with everything unplugged and unknown to Linux. `words` must be
    /// [`BlockMap::words_needed`] long; blocks for which there are no words are never used.
    pub fn new(geometry: Geometry, mut words: W) -> Self {
        words.fill(0);
        let mut map = Self {
            geometry,
            words,
            plugged: 0,
            plugged_not_added: 0,
            offline: 0,
        };
        for block in 0..geometry.blocks() {
            map.file(block, true);
        }
        map
    }

    /// The geometry that the map was made for.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Sub-blocks plugged in all.
    pub fn plugged(&self) -> u32 {
        self.plugged
    }

    /// Sub-blocks plugged in blocks that Linux does not have.
    pub fn plugged_not_added(&self) -> u32 {
        self.plugged_not_added
    }

    /// Memory blocks that Linux has and does not use.
    pub fn offline(&self) -> u32 {
        self.offline
    }

    /// How what is plugged stands in Linux. Looks at every block.
    pub fn standing(&self) -> Standing {
        let mut standing = Standing::default();
        for block in 0..self.geometry.blocks() {
            let sum = match self.state_of(block) {
                MemoryBlockState::Absent => &mut standing.not_added,
                MemoryBlockState::Offline => &mut standing.offline,
                MemoryBlockState::Movable => &mut standing.movable,
                MemoryBlockState::Kernel => &mut standing.kernel,
            };
            *sum = sum.saturating_add(self.plugged_in(block));
        }
        let added = |number: &u32| self.memory_block_state(*number) != MemoryBlockState::Absent;
        let count = (0..self.geometry.memory_blocks()).filter(added).count();
        standing.added = u32::try_from(count).unwrap_or(u32::MAX);
        standing
    }

    fn byte(&self, index: usize) -> u8 {
        let word = self.words.get(index / 8).copied().unwrap_or(0);
        let [b0, b1, b2, b3, b4, b5, b6, b7] = word.to_le_bytes();
        match index % 8 {
            0 => b0,
            1 => b1,
            2 => b2,
            3 => b3,
            4 => b4,
            5 => b5,
            6 => b6,
            _ => b7,
        }
    }

    fn set_byte(&mut self, index: usize, byte: u8) {
        if let Some(word) = self.words.get_mut(index / 8) {
            let shift = 8 * (index % 8);
            *word = (*word & !(0xff << shift)) | (u64::from(byte) << shift);
        }
    }

    /// Where the byte of a memory block is, counted in bytes.
    fn memory_block_byte(&self, memory_block: u32) -> usize {
        to_usize(self.geometry.subs().div_ceil(64))
            .saturating_mul(8)
            .saturating_add(to_usize(memory_block))
    }

    /// Where the byte of a block is, counted in bytes.
    fn block_byte(&self, block: u32) -> usize {
        let before = self.geometry.memory_blocks().div_ceil(8).saturating_mul(8);
        self.memory_block_byte(before)
            .saturating_add(to_usize(block))
    }

    /// What Linux does with a memory block.
    pub fn memory_block_state(&self, memory_block: u32) -> MemoryBlockState {
        match self.byte(self.memory_block_byte(memory_block)) & STATE_MASK {
            0 => MemoryBlockState::Absent,
            1 => MemoryBlockState::Offline,
            2 => MemoryBlockState::Movable,
            _ => MemoryBlockState::Kernel,
        }
    }

    /// Whether Linux is bringing a memory block online or offline.
    pub fn is_moving(&self, memory_block: u32) -> bool {
        self.byte(self.memory_block_byte(memory_block)) & MOVING != 0
    }

    /// Changes the state of a memory block, and files its block accordingly.
    pub fn set_memory_block_state(
        &mut self,
        memory_block: u32,
        state: MemoryBlockState,
        moving: bool,
    ) {
        if memory_block >= self.geometry.memory_blocks() {
            return;
        }
        let block = self.geometry.block_of_memory_block(memory_block);
        self.file(block, false);
        if self.memory_block_state(memory_block) == MemoryBlockState::Offline {
            self.offline = self.offline.saturating_sub(1);
        }
        let number = match state {
            MemoryBlockState::Absent => 0,
            MemoryBlockState::Offline => 1,
            MemoryBlockState::Movable => 2,
            MemoryBlockState::Kernel => 3,
        };
        let byte = if moving { number | MOVING } else { number };
        self.set_byte(self.memory_block_byte(memory_block), byte);
        if state == MemoryBlockState::Offline {
            self.offline = self.offline.saturating_add(1);
        }
        self.file(block, true);
    }

    fn seen(&self, block: u32) -> Seen {
        let mut seen = Seen::empty();
        for memory_block in self.geometry.memory_blocks_of(block) {
            seen |= match self.memory_block_state(memory_block) {
                MemoryBlockState::Absent => Seen::ABSENT,
                MemoryBlockState::Offline => Seen::OFFLINE,
                MemoryBlockState::Movable => Seen::MOVABLE,
                MemoryBlockState::Kernel => Seen::KERNEL,
            };
            seen.set(
                Seen::MOVING,
                seen.contains(Seen::MOVING) || self.is_moving(memory_block),
            );
        }
        seen
    }

    /// What Linux does with a block: the state of that of its memory blocks which is hardest to get
    /// back.
    pub fn state_of(&self, block: u32) -> MemoryBlockState {
        self.seen(block).state()
    }

    /// The first memory block of a block that is in this state.
    pub fn find(&self, block: u32, state: MemoryBlockState) -> Option<u32> {
        self.geometry
            .memory_blocks_of(block)
            .find(|memory_block| self.memory_block_state(*memory_block) == state)
    }

    /// Whether Linux is moving something of a block.
    pub fn moves(&self, block: u32) -> bool {
        self.seen(block).contains(Seen::MOVING)
    }

    /// Who works on a block.
    pub fn flags(&self, block: u32) -> Flags {
        Flags::from_bits_truncate(self.byte(self.block_byte(block)))
    }

    /// Changes the flags of a block, and files it accordingly.
    pub fn set_flags(&mut self, block: u32, flags: Flags, on: bool) {
        if block >= self.geometry.blocks() {
            return;
        }
        self.file(block, false);
        let mut all = self.flags(block);
        all.set(flags, on);
        self.set_byte(self.block_byte(block), all.bits());
        self.file(block, true);
    }

    /// Puts `block` into the sets and sums that it belongs to, or takes it out of them.
    fn file(&mut self, block: u32, member: bool) {
        let (seen, flags) = (self.seen(block), self.flags(block));
        let plugged = self.plugged_in(block);
        let add = |sum: u32, n: u32| {
            if member {
                sum.saturating_add(n)
            } else {
                sum.saturating_sub(n)
            }
        };
        self.plugged = add(self.plugged, plugged);
        if seen.state() == MemoryBlockState::Absent {
            self.plugged_not_added = add(self.plugged_not_added, plugged);
        }
        if flags.intersects(Flags::HELD | Flags::TRANSIT | Flags::LOST)
            || seen.contains(Seen::MOVING)
        {
            return;
        }
        let full = plugged == self.geometry.subs_per_block();
        let class = match (seen.state(), plugged) {
            (MemoryBlockState::Absent, 0) => Class::Unused,
            (MemoryBlockState::Absent, _) => Class::PluggedNotAdded,
            (MemoryBlockState::Offline, 0) => Class::OfflineEmpty,
            (MemoryBlockState::Movable, 0) => Class::MovableEmpty,
            (MemoryBlockState::Kernel, 0) => Class::KernelEmpty,
            (_, _) if seen.contains(Seen::ABSENT) => Class::Incomplete,
            (MemoryBlockState::Offline, _) if full => Class::OfflineFull,
            (MemoryBlockState::Offline, _) => Class::OfflinePartial,
            (MemoryBlockState::Movable, _) if full => Class::MovableFull,
            (MemoryBlockState::Movable, _) => Class::MovablePartial,
            (MemoryBlockState::Kernel, _) if full => Class::KernelFull,
            (MemoryBlockState::Kernel, _) => Class::KernelPartial,
        };
        let refused = flags.contains(Flags::REFUSED);
        if refused {
            self.set_member(Class::Refused, block, member);
        }
        if !refused || class != Class::Unused {
            self.set_member(class, block, member);
        }
        if seen.contains(Seen::OFFLINE) && flags.contains(Flags::WANTED) && !refused {
            self.set_member(Class::Wanted, block, member);
        }
    }

    fn class_words(&self, class: Class) -> Range<usize> {
        let blocks = self.geometry.blocks();
        let per_set = block_set::words_needed(blocks);
        let start = (self.block_byte(blocks).div_ceil(8))
            .saturating_add(per_set.saturating_mul(class.index()));
        start..start.saturating_add(per_set)
    }

    fn set_member(&mut self, class: Class, block: u32, member: bool) {
        let (range, blocks) = (self.class_words(class), self.geometry.blocks());
        if let Some(words) = self.words.get_mut(range) {
            BlockSet::new_mut(words, blocks).set(block, member);
        }
    }

    /// The blocks of a class.
    pub fn class(&self, class: Class) -> BlockSet<&[u64]> {
        let words = self.words.get(self.class_words(class)).unwrap_or(&[]);
        BlockSet::new(words, self.geometry.blocks())
    }

    /// The bits of sub-blocks `64 * index` and following.
    fn bits(&self, index: u32) -> u64 {
        self.words.get(to_usize(index)).copied().unwrap_or(0)
    }

    /// Whether a sub-block is plugged.
    pub fn is_plugged(&self, sub: u32) -> bool {
        sub < self.geometry.subs() && self.bits(sub / 64) & (1 << (sub % 64)) != 0
    }

    /// How many sub-blocks of `block` are plugged.
    pub fn plugged_in(&self, block: u32) -> u32 {
        let range = self.geometry.subs_of(block);
        let mut sum = 0_u32;
        let mut sub = range.start;
        while sub < range.end {
            let take = (64 - sub % 64).min(range.end.saturating_sub(sub));
            let bits = (self.bits(sub / 64) >> (sub % 64)) & (u64::MAX >> (64 - take));
            sum = sum.saturating_add(bits.count_ones());
            sub = sub.saturating_add(take);
        }
        sum
    }

    /// Notes that the sub-blocks `range` are plugged, or no longer are.
    pub fn set_plugged(&mut self, range: Range<u32>, plugged: bool) {
        let range = range.start..range.end.min(self.geometry.subs());
        if range.is_empty() {
            return;
        }
        let first = self.geometry.block_of(range.start);
        let last = self.geometry.block_of(range.end.saturating_sub(1));
        for block in first..=last {
            self.file(block, false);
            let subs = self.geometry.subs_of(block);
            for sub in subs.start.max(range.start)..subs.end.min(range.end) {
                if let Some(word) = self.words.get_mut(to_usize(sub / 64)) {
                    if plugged {
                        *word |= 1 << (sub % 64);
                    } else {
                        *word &= !(1 << (sub % 64));
                    }
                }
            }
            self.file(block, true);
        }
    }

    /// The sub-blocks from `sub` on, up to `end`, that are in the same state as `sub`.
    pub fn same_from(&self, sub: u32, end: u32) -> (bool, Range<u32>) {
        let plugged = self.is_plugged(sub);
        let mut stop = sub.saturating_add(1);
        while stop < end && self.is_plugged(stop) == plugged {
            stop = stop.saturating_add(1);
        }
        (plugged, sub..stop)
    }

    /// The first run of unplugged sub-blocks of `block`, at most `max` long.
    pub fn unplugged_run(&self, block: u32, max: u32) -> Option<Range<u32>> {
        let subs = self.geometry.subs_of(block);
        let first = subs.clone().find(|sub| !self.is_plugged(*sub))?;
        let (_, run) = self.same_from(first, subs.end.min(first.saturating_add(max)));
        (max > 0).then_some(run)
    }

    /// The last run of plugged sub-blocks of `block` below `limit`, at most `max` long.
    pub fn plugged_run_below(&self, block: u32, limit: u32, max: u32) -> Option<Range<u32>> {
        let subs = self.geometry.subs_of(block);
        let end = limit.min(subs.end);
        let last = (subs.start..end).rev().find(|sub| self.is_plugged(*sub))?;
        let stop = last.saturating_add(1);
        let mut start = last;
        while start > subs.start
            && stop.saturating_sub(start) < max
            && self.is_plugged(start.saturating_sub(1))
        {
            start = start.saturating_sub(1);
        }
        (max > 0).then_some(start..stop)
    }
}
