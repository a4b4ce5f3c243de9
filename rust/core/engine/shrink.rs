// SPDX-License-Identifier: GPL-2.0

//! Shrinking: passes over the blocks, from the cheapest to the last resort.
//!
//! Whole blocks come before parts of blocks, so that memory blocks with their memmap go first and
//! nothing is allocated only to be thrown away (under `init_on_alloc` the kernel would write zeroes
//! over all of it). Within a class the blocks that are cheapest to empty go first, and of those the
//! highest. Big blocks go as a whole or not at
//! all.

use super::retry::SpentPass;
use super::Engine;
use super::Environment;
use super::Look;
use super::Operation;
use crate::block_map::Class;
use crate::block_map::Flags;
use crate::block_map::MemoryBlockState;
use crate::migration_budget;
use core::ops::DerefMut;
use core::ops::Range;

/// What is tried on the blocks of a class.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Removing whole blocks that hold no more than what has to go.
    Whole,
    /// Unplugging sub-blocks of offline blocks, which nobody uses.
    Idle,
    /// Taking sub-blocks of online blocks out of the page allocator.
    Parts,
}

/// The order of a pass.
const PHASES: [(Class, How); 19] = [
    (Class::OfflineEmpty, How::Whole),
    (Class::MovableEmpty, How::Whole),
    (Class::KernelEmpty, How::Whole),
    (Class::Incomplete, How::Whole),
    (Class::OfflinePartial, How::Whole),
    (Class::OfflineFull, How::Whole),
    (Class::OfflinePartial, How::Idle),
    (Class::OfflineFull, How::Idle),
    (Class::MovablePartial, How::Whole),
    (Class::KernelPartial, How::Whole),
    (Class::MovableFull, How::Whole),
    (Class::KernelFull, How::Whole),
    (Class::MovablePartial, How::Parts),
    (Class::KernelPartial, How::Parts),
    (Class::MovableFull, How::Parts),
    (Class::KernelFull, How::Parts),
    (Class::OfflineEmpty, How::Whole),
    (Class::MovableEmpty, How::Whole),
    (Class::KernelEmpty, How::Whole),
];

/// The utilization of a block that is online, in 64ths, up to which each sweep of a pass empties it. The
/// utilization is sampled anew in each sweep, and may have fallen: the first block that is taken offline
/// returns the pages on the processors' own lists, which look used, to the page allocator.
const THRESHOLDS: [u64; 5] = [0, 4, 16, 32, 64];

/// The phases that only remove blocks which hold nothing.
const EMPTY_PHASES: usize = 3;

/// How long memory that has been removed from Linux waits for more, to be unplugged with it, in
/// milliseconds.
const FLUSH_MS: u64 = 100;

/// After the first pass since the request changed: how long a pass goes on without achieving
/// anything, in milliseconds, before it is broken off. The next one continues there.
const BUDGET_MS: u64 = 150;

/// Sub-blocks taken at once: the request that has meanwhile changed is not noticed before that is
/// done, and the kernel may have to clear all of it.
const MAX_TAKE: u32 = 8;

/// Below this part of a block, its sub-blocks are taken one by one instead of the whole block:
/// what is left in a block is often what cannot be moved, which is told much faster by asking for
/// these sub-blocks than by trying to empty the block.
const WHOLE_SHARE: u32 = 4;

/// How far a pass has come: each block is tried once.
#[derive(Clone, Debug)]
pub(super) struct Pass {
    phase: usize,
    /// The index in [`THRESHOLDS`] of the sweep under way.
    sweep: usize,
    /// Blocks from here on have been tried in this phase and sweep.
    below: u32,
    /// In [`How::Parts`]: the block whose sub-blocks are being taken. It may have changed its
    /// class since it was found.
    block: Option<u32>,
    /// Sub-blocks from here on have been tried.
    sub_limit: u32,
    /// How many sub-blocks to take at once. Halved when a range is in use, so that a few busy
    /// pages cost a few calls and not one for each sub-block.
    len: u32,
    /// When it last achieved something, or was begun or continued; `None`: when it is next looked
    /// at.
    progress_ms: Option<u64>,
    /// Free memory when it was begun or continued.
    free_then: Option<u64>,
    /// The least free memory since it was begun.
    least_free: Option<u64>,
    /// It has achieved something.
    fruitful: bool,
}

impl Pass {
    pub(super) fn new() -> Self {
        Self {
            phase: 0,
            sweep: 0,
            below: u32::MAX,
            block: None,
            sub_limit: u32::MAX,
            len: u32::MAX,
            progress_ms: None,
            free_then: None,
            least_free: None,
            fruitful: false,
        }
    }

    /// Something was achieved.
    pub(super) fn progress(&mut self) {
        self.progress_ms = None;
        self.fruitful = true;
    }

    /// Goes on where it was broken off, or starts again where it had come to its end.
    pub(super) fn resume(&mut self) {
        if PHASES.len() <= self.phase {
            *self = Self::new();
        }
        self.progress_ms = None;
    }

    /// For how long nothing has been achieved, in milliseconds.
    fn fruitless_ms(&mut self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(*self.progress_ms.get_or_insert(now_ms))
    }

    fn next_phase(&mut self) {
        *self = Self {
            phase: self.phase.saturating_add(1),
            progress_ms: self.progress_ms,
            free_then: self.free_then,
            least_free: self.least_free,
            fruitful: self.fruitful,
            ..Self::new()
        };
    }

    /// How much free memory there is that was not there when less of it was used: what is left for
    /// last may no longer be the best that can be done.
    fn freed(&mut self, free: u64) -> u64 {
        let least = free.min(self.least_free.unwrap_or(free));
        self.least_free = Some(least);
        free.saturating_sub(least)
    }

    /// Whether it has come to where blocks go in parts.
    fn in_parts(&self) -> bool {
        matches!(PHASES.get(self.phase), Some((_, How::Parts)))
    }

    fn next_block(&mut self) {
        self.block = None;
        self.sub_limit = u32::MAX;
        self.len = u32::MAX;
    }

    /// Something in `subs` is in use.
    pub(super) fn take_failed(&mut self, subs: &Range<u32>) {
        let len = subs.end.saturating_sub(subs.start);
        self.sub_limit = if len > 1 { subs.end } else { subs.start };
        self.len = (len / 2).max(1);
    }

    /// `subs` are out of the page allocator.
    pub(super) fn take_worked(&mut self, subs: &Range<u32>) {
        self.sub_limit = subs.start;
        self.len = self.len.saturating_mul(2);
    }
}

impl<W: DerefMut<Target = [u64]>> Engine<W> {
    /// The next thing to do when more is plugged than requested; `None` (then `waiting` is set) if
    /// there is nothing for now.
    pub(super) fn shrink(&mut self, env: &Environment, look: Look<'_>) -> Option<Operation> {
        let excess = self.map.plugged().saturating_sub(self.target());
        let plugged_not_added = self.map.plugged_not_added();
        let more = excess.saturating_sub(plugged_not_added);
        let lump = self
            .batch
            .blocks()
            .saturating_mul(self.map.geometry().subs_per_block());
        let waits = self
            .loose_since_ms
            .is_some_and(|since| env.now_ms.saturating_sub(since) >= FLUSH_MS);
        if plugged_not_added > 0 && (more == 0 || self.flush || waits || plugged_not_added >= lump)
        {
            if let Some(operation) = self.unplug_loose(excess) {
                return Some(operation);
            }
        }
        self.flush = false;
        if plugged_not_added == 0 {
            self.loose_since_ms = None;
        }
        if let Some(operation) = self.go_on(more, env, look) {
            return Some(operation);
        }
        if let Some(operation) = self.unplug_loose(excess) {
            return Some(operation);
        }
        self.wait_for_memory(env);
        None
    }

    /// Begins a new pass with the next step that shrinks.
    pub(super) fn begin_pass(&mut self) {
        self.pass = Pass::new();
    }

    /// How much more free memory than before makes a pass from the beginning worthwhile.
    fn plenty(&self) -> u64 {
        let geometry = self.map.geometry();
        let excess = self.map.plugged().saturating_sub(self.target());
        geometry.block_size().max(geometry.size_of(excess / 4))
    }

    /// Waits until memory that is in use may no longer be.
    pub(super) fn wait_for_memory(&mut self, env: &Environment) {
        let pass = SpentPass {
            fruitless_ms: self.pass.fruitless_ms(env.now_ms),
            // What was freed while the pass went on counts too.
            free: self.pass.free_then.unwrap_or(env.free).min(env.free),
            plenty: self.plenty(),
            some: self.map.geometry().sub_size().saturating_mul(8),
        };
        self.retry.wait_for_memory(&pass, env);
        self.pass.free_then = None;
        self.first_pass = false;
    }

    /// Removes blocks that hold nothing, when nothing else is to do.
    pub(super) fn clean_up(&mut self, env: &Environment) -> Option<Operation> {
        let operation = self.next_to_clean(env);
        if operation.is_none() && self.has_empty() {
            self.wait_for_memory(env);
        }
        operation
    }

    /// Whether there are blocks that hold nothing.
    pub(super) fn has_empty(&self) -> bool {
        let mut empty = PHASES.iter().take(EMPTY_PHASES);
        empty.any(|(class, _)| self.any(*class))
    }

    /// The next removal of a block that holds nothing.
    pub(super) fn next_to_clean(&mut self, env: &Environment) -> Option<Operation> {
        if !self.has_empty() {
            return None;
        }
        // Nothing is looked at.
        self.go_on(0, env, &|_| 0)
    }

    /// Unplugs what is plugged but not in Linux, as many as `most` neighbours at once, from above.
    pub(super) fn unplug_loose(&mut self, most: u32) -> Option<Operation> {
        let geometry = *self.map.geometry();
        let plugged_not_added = self.map.class(Class::PluggedNotAdded);
        let most = most
            .min(
                self.batch
                    .blocks()
                    .saturating_mul(geometry.subs_per_block()),
            )
            .min(geometry.max_subs_per_request());
        let mut block = plugged_not_added.last()?;
        let mut run = self.map.plugged_run_below(block, u32::MAX, most)?;
        // One at a time also means: not the end of one with the beginning of the next. Some devices
        // refuse requests that cross a boundary of theirs.
        while self.batch.blocks() > 1 && run.start == geometry.subs_of(block).start {
            let room = most.saturating_sub(run.end.saturating_sub(run.start));
            let Some(previous) = block
                .checked_sub(1)
                .filter(|b| plugged_not_added.contains(*b))
            else {
                break;
            };
            match self.map.plugged_run_below(previous, u32::MAX, room) {
                Some(more) if more.end == run.start => run.start = more.start,
                _ => break,
            }
            block = previous;
        }
        Some(Operation::UnplugIdle(run))
    }

    /// Goes on with the pass, looking for something to do that frees at most `more` sub-blocks.
    fn go_on(&mut self, more: u32, env: &Environment, look: Look<'_>) -> Option<Operation> {
        let fruitless = self.pass.fruitless_ms(env.now_ms);
        self.pass.free_then.get_or_insert(env.free);
        if !self.first_pass && fruitless > BUDGET_MS {
            return None;
        }
        // Whole blocks go much faster than their parts, where there is room again for what is in
        // them. Only what has been achieved pays for going over them once more.
        let freed = self.pass.freed(env.free);
        if self.pass.fruitful && self.pass.in_parts() && freed >= self.plenty() {
            self.begin_pass();
        }
        loop {
            let (class, how) = *PHASES.get(self.pass.phase)?;
            // Of an incomplete block what Linux has may be offline.
            let online = !matches!(
                class,
                Class::OfflineEmpty
                    | Class::OfflinePartial
                    | Class::OfflineFull
                    | Class::Incomplete
            );
            if online && !env.unplug_online {
                self.pass.next_phase();
                continue;
            }
            let found = match how {
                How::Whole => self.next_whole(class, more, env.unplug_online, look),
                How::Idle => self.next_idle(class, more),
                How::Parts => self.next_parts(class, more),
            };
            if found.is_some() {
                return found;
            }
            self.pass.next_phase();
        }
    }

    fn next_whole(
        &mut self,
        class: Class,
        more: u32,
        unplug_online: bool,
        look: Look<'_>,
    ) -> Option<Operation> {
        let geometry = *self.map.geometry();
        let full = matches!(
            class,
            Class::OfflineFull | Class::MovableFull | Class::KernelFull
        );
        let empty = matches!(
            class,
            Class::OfflineEmpty | Class::MovableEmpty | Class::KernelEmpty
        );
        if (full && more < geometry.subs_per_block()) || (more == 0 && !empty) {
            return None;
        }
        let (mut looks, most) = (
            0_u32,
            migration_budget::blocks_at_once(geometry.block_size()),
        );
        loop {
            let Some(block) = self.map.class(class).below(self.pass.below) else {
                self.pass.sweep = self.pass.sweep.checked_add(1)?;
                self.pass.below = u32::MAX;
                if empty || self.pass.sweep >= THRESHOLDS.len() {
                    return None;
                }
                continue;
            };
            self.pass.below = block;
            let plugged = self.map.plugged_in(block);
            let online = self.map.state_of(block).online();
            let few = plugged < geometry.subs_per_block() / WHOLE_SHARE;
            if plugged > more || (online && ((few && !empty) || !unplug_online)) {
                continue;
            }
            if empty || self.is_within_threshold(block, plugged, look) {
                return self.removal_of(block).map(Operation::Remove);
            }
            looks = looks.saturating_add(u32::from(online));
            if looks >= most {
                return Some(Operation::Look);
            }
        }
    }

    /// Whether the utilization of `block` is within the threshold of the sweep under way, so that it is to be
    /// emptied. Each block is tried once in a pass.
    fn is_within_threshold(&mut self, block: u32, plugged: u32, look: Look<'_>) -> bool {
        let before = self.map.flags(block).contains(Flags::TRIED);
        // Each pass begins with a sweep in which what an earlier one has tried does not count.
        if before && self.pass.sweep > 0 {
            return false;
        }
        let threshold = THRESHOLDS.get(self.pass.sweep).copied().unwrap_or(64);
        let within = self.utilization_of(block, plugged, look) <= threshold;
        if within != before {
            self.map.set_flags(block, Flags::TRIED, within);
        }
        within
    }

    /// The utilization of `block`: how many 64ths of it are in use. What is not plugged counts as unused.
    fn utilization_of(&self, block: u32, plugged: u32, look: Look<'_>) -> u64 {
        let geometry = self.map.geometry();
        let used = geometry
            .memory_blocks_of(block)
            .filter(|number| self.map.memory_block_state(*number).online())
            .fold(0_u64, |sum, number| sum.saturating_add(look(number)));
        // What is unplugged of it looks used too.
        let withheld = geometry.size_of(geometry.subs_per_block().saturating_sub(plugged));
        let share = used.saturating_sub(withheld).saturating_mul(64);
        // Rounded up, so that a block with any page in use has to be emptied.
        share.div_ceil(geometry.block_size().max(1)).min(64)
    }

    fn next_idle(&mut self, class: Class, more: u32) -> Option<Operation> {
        if self.map.geometry().memory_blocks_per_block() > 1 {
            return None;
        }
        let block = self.map.class(class).below(self.pass.below)?;
        // Not skipped: what is left in it may have to go too.
        let run = self.map.plugged_run_below(block, u32::MAX, more)?;
        Some(Operation::UnplugIdle(run))
    }

    fn next_parts(&mut self, class: Class, more: u32) -> Option<Operation> {
        if more == 0 || self.map.geometry().memory_blocks_per_block() > 1 {
            return None;
        }
        loop {
            let block = match self.pass.block {
                Some(block) => block,
                None => {
                    let block = self.map.class(class).below(self.pass.below)?;
                    self.pass.below = block;
                    self.pass.block = Some(block);
                    block
                }
            };
            let mine = self.map.state_of(block).online()
                && (self.map.flags(block) - Flags::TRIED).is_empty()
                && !self.map.moves(block);
            let most = more.min(self.pass.len.max(1)).min(MAX_TAKE);
            let run = self
                .map
                .plugged_run_below(block, self.pass.sub_limit, most)
                .filter(|_| mine);
            match run {
                Some(run) => return Some(Operation::Take(run)),
                None => self.pass.next_block(),
            }
        }
    }

    /// The memory blocks of `block` to be removed from Linux at once: all, or where Linux has only
    /// some of them, one. `None`: it has none.
    pub(super) fn removal_of(&self, block: u32) -> Option<Range<u32>> {
        let all = self.map.geometry().memory_blocks_of(block);
        if self.map.find(block, MemoryBlockState::Absent).is_none() {
            return Some(all);
        }
        let one = all.rev().find(|memory_block| {
            self.map.memory_block_state(*memory_block) != MemoryBlockState::Absent
        })?;
        Some(one..one.saturating_add(1))
    }
}
