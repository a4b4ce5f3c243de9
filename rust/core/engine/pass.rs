// SPDX-License-Identifier: GPL-2.0

//! The order in which blocks are emptied when the guest shrinks, and how far that has come.

use crate::block_map::Class;
use core::ops::Range;

/// What is tried on the blocks of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Removing whole blocks that hold no more than what has to go.
    Whole,
    /// Unplugging sub-blocks of offline blocks, which are not in use.
    Idle,
    /// Taking sub-blocks of online blocks out of the page allocator.
    Parts,
}

/// The order of a pass.
pub(super) const PHASES: [(Class, How); 19] = [
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

/// Whether nothing is plugged of the blocks of a class that Linux has.
pub(super) fn is_empty(class: Class) -> bool {
    matches!(
        class,
        Class::OfflineEmpty | Class::MovableEmpty | Class::KernelEmpty
    )
}

/// Whether all is plugged of the blocks of a class that Linux has.
pub(super) fn is_full(class: Class) -> bool {
    matches!(
        class,
        Class::OfflineFull | Class::MovableFull | Class::KernelFull
    )
}

/// Whether the blocks of a class have to be taken offline. (Of an incomplete block what Linux has
/// may be offline.)
pub(super) fn is_online(class: Class) -> bool {
    !matches!(
        class,
        Class::OfflineEmpty | Class::OfflinePartial | Class::OfflineFull | Class::Incomplete
    )
}

/// After the first pass since the request changed: how long a pass goes on without achieving
/// anything, in milliseconds, before it is broken off. The next one continues there.
const BUDGET_MS: u64 = 150;

/// Sub-blocks taken at once: the request that has meanwhile changed is not noticed before that is
/// done, and the kernel may have to clear all of it.
const MAX_TAKE: u32 = 8;

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
    pub(super) fn fruitless_ms(&mut self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(*self.progress_ms.get_or_insert(now_ms))
    }

    /// What is tried on which blocks. `None`: it has come to its end.
    pub(super) fn phase(&self) -> Option<(Class, How)> {
        PHASES.get(self.phase).copied()
    }

    pub(super) fn next_phase(&mut self) {
        *self = Self {
            phase: self.phase.saturating_add(1),
            progress_ms: self.progress_ms,
            free_then: self.free_then,
            least_free: self.least_free,
            fruitful: self.fruitful,
            ..Self::new()
        };
    }

    /// It goes on, with so much free memory.
    pub(super) fn go_on(&mut self, free: u64) {
        self.free_then.get_or_insert(free);
    }

    /// It ends, or is broken off, with `free` memory. Returns the least that it could count on: what
    /// was freed while it went on is news too.
    pub(super) fn stop(&mut self, free: u64) -> u64 {
        self.free_then.take().unwrap_or(free).min(free)
    }

    /// Whether it has gone on for long enough without achieving anything.
    pub(super) fn is_spent(&mut self, now_ms: u64) -> bool {
        self.fruitless_ms(now_ms) > BUDGET_MS
    }

    /// Starts again if so much memory is free that was not when more of it was used: what is left
    /// for last may no longer be the best that can be done. Whole blocks go much faster than their
    /// parts, where there is room again for what is in them. Only what has been achieved pays for
    /// going over them once more.
    pub(super) fn restart_if_freed(&mut self, free: u64, plenty: u64) {
        let least = free.min(self.least_free.unwrap_or(free));
        self.least_free = Some(least);
        let in_parts = matches!(self.phase(), Some((_, How::Parts)));
        if self.fruitful && in_parts && free.saturating_sub(least) >= plenty {
            *self = Self::new();
        }
    }

    /// Blocks from here on have been tried in this phase and sweep.
    pub(super) fn below(&self) -> u32 {
        self.below
    }

    /// `block` is tried next.
    pub(super) fn try_block(&mut self, block: u32) {
        self.below = block;
    }

    /// Goes over the blocks of the phase once more; returns whether there is a threshold for that.
    pub(super) fn next_sweep(&mut self) -> bool {
        self.sweep = self.sweep.saturating_add(1);
        self.below = u32::MAX;
        self.sweep < THRESHOLDS.len()
    }

    /// The utilization, in 64ths, up to which blocks are emptied in this sweep.
    pub(super) fn threshold(&self) -> u64 {
        THRESHOLDS.get(self.sweep).copied().unwrap_or(64)
    }

    pub(super) fn is_first_sweep(&self) -> bool {
        self.sweep == 0
    }

    /// The block whose sub-blocks are being taken.
    pub(super) fn block(&self) -> Option<u32> {
        self.block
    }

    /// The sub-blocks of `block` are taken next.
    pub(super) fn begin_block(&mut self, block: u32) {
        self.below = block;
        self.block = Some(block);
    }

    /// Sub-blocks from here on have been tried.
    pub(super) fn sub_limit(&self) -> u32 {
        self.sub_limit
    }

    /// How many sub-blocks to take at once; one at least.
    pub(super) fn take_at_once(&self) -> u32 {
        self.len.clamp(1, MAX_TAKE)
    }

    /// No more sub-blocks of the block are taken.
    pub(super) fn end_block(&mut self) {
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
