// SPDX-License-Identifier: GPL-2.0

//! Shrinking: passes over the blocks, from the cheapest to the last resort.
//!
//! Whole blocks come before parts of blocks, so that memory blocks with their memmap go first and
//! nothing is allocated only to be thrown away (under `init_on_alloc` the kernel would write zeroes
//! over all of it). Within a class the blocks that are cheapest to empty go first, and of those the
//! highest. Big blocks go as a whole or not at all. The order itself is in [`super::pass`].

use super::pass::is_empty;
use super::pass::is_full;
use super::pass::is_online;
use super::pass::How;
use super::pass::Pass;
use super::pass::PHASES;
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

/// How long memory that has been removed from Linux waits for more, to be unplugged with it, in
/// milliseconds.
const FLUSH_MS: u64 = 100;

/// Below this part of a block, its sub-blocks are taken one by one instead of the whole block:
/// what is left in a block is often what cannot be moved, which is told much faster by asking for
/// these sub-blocks than by trying to empty the block.
const WHOLE_SHARE: u32 = 4;

/// What is under way, and for how long, while more is plugged than requested.
#[derive(Clone, Debug)]
pub(super) struct Shrink {
    pass: Pass,
    /// No pass has come to its end since the request changed, or much memory was freed.
    first_pass: bool,
    /// What has been removed from Linux is to be unplugged before anything else.
    flush: bool,
    /// When the first of it was removed.
    removed_ms: Option<u64>,
}

impl Shrink {
    pub(super) fn new() -> Self {
        Self {
            pass: Pass::new(),
            first_pass: true,
            flush: false,
            removed_ms: None,
        }
    }

    /// Starts over, as if nothing had been tried.
    pub(super) fn start_over(&mut self) {
        self.pass = Pass::new();
        self.first_pass = true;
    }

    /// Starts from the first phase: what an earlier pass has found no longer holds.
    pub(super) fn restart_pass(&mut self) {
        self.pass = Pass::new();
    }

    /// Goes on where the pass was broken off.
    pub(super) fn resume_pass(&mut self) {
        self.pass.resume();
    }

    /// Something was achieved.
    pub(super) fn progress(&mut self) {
        self.pass.progress();
    }

    /// Something in `subs` is in use.
    pub(super) fn handle_take_failed(&mut self, subs: &Range<u32>) {
        self.pass.take_failed(subs);
    }

    /// `subs` are out of the page allocator.
    pub(super) fn handle_taken(&mut self, subs: &Range<u32>) {
        self.pass.take_worked(subs);
    }

    /// A block could not be removed: what has been removed so far need not wait for the others.
    pub(super) fn handle_removal_failed(&mut self) {
        self.flush = true;
    }

    /// A block has been removed.
    pub(super) fn handle_removed(&mut self, now_ms: u64) {
        self.removed_ms.get_or_insert(now_ms);
    }

    /// Whether attempts are brief, as each is one of many.
    pub(super) fn is_brief(&self) -> bool {
        !self.first_pass
    }

    /// Whether what has been removed is not to wait for more.
    fn flush_due(&self, now_ms: u64) -> bool {
        let waits = |since| now_ms.saturating_sub(since) >= FLUSH_MS;
        self.flush || self.removed_ms.is_some_and(waits)
    }
}

impl<W: DerefMut<Target = [u64]>> Engine<W> {
    /// The next thing to do when more is plugged than requested; `None` (then `waiting` is set) if
    /// there is nothing for now.
    pub(super) fn next_to_shrink(
        &mut self,
        env: &Environment,
        look: Look<'_>,
    ) -> Option<Operation> {
        let excess = self.map.plugged().saturating_sub(self.target());
        let plugged_not_added = self.map.plugged_not_added();
        let more = excess.saturating_sub(plugged_not_added);
        let lump = self
            .batch
            .blocks()
            .saturating_mul(self.map.geometry().subs_per_block());
        let due = self.shrink.flush_due(env.now_ms);
        if plugged_not_added > 0 && (more == 0 || due || plugged_not_added >= lump) {
            if let Some(operation) = self.next_not_added(excess) {
                return Some(operation);
            }
        }
        self.shrink.flush = false;
        if plugged_not_added == 0 {
            self.shrink.removed_ms = None;
        }
        if let Some(operation) = self.next_of_pass(more, env, look) {
            return Some(operation);
        }
        if let Some(operation) = self.next_not_added(excess) {
            return Some(operation);
        }
        self.wait_for_memory(env);
        None
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
            fruitless_ms: self.shrink.pass.fruitless_ms(env.now_ms),
            free: self.shrink.pass.stop(env.free),
            plenty: self.plenty(),
            some: self.map.geometry().sub_size().saturating_mul(8),
        };
        self.retry.wait_for_memory(&pass, env);
        self.shrink.first_pass = false;
    }

    /// Removes blocks that hold nothing, when nothing else is to do.
    pub(super) fn next_to_clean_up(&mut self, env: &Environment) -> Option<Operation> {
        let operation = self.next_empty(env);
        if operation.is_none() && self.has_empty() {
            self.wait_for_memory(env);
        }
        operation
    }

    /// Whether there are blocks that hold nothing.
    pub(super) fn has_empty(&self) -> bool {
        let mut classes = PHASES.iter().map(|(class, _)| *class);
        classes.any(|class| is_empty(class) && self.any(class))
    }

    /// The next removal of a block that holds nothing.
    pub(super) fn next_empty(&mut self, env: &Environment) -> Option<Operation> {
        if !self.has_empty() {
            return None;
        }
        // Nothing is looked at.
        self.next_of_pass(0, env, &|_| 0)
    }

    /// Unplugs what is plugged but not in Linux, as many as `most` neighbours at once, from above.
    pub(super) fn next_not_added(&mut self, most: u32) -> Option<Operation> {
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
    fn next_of_pass(&mut self, more: u32, env: &Environment, look: Look<'_>) -> Option<Operation> {
        let plenty = self.plenty();
        let spent = self.shrink.pass.is_spent(env.now_ms);
        self.shrink.pass.go_on(env.free);
        if self.shrink.is_brief() && spent {
            return None;
        }
        self.shrink.pass.restart_if_freed(env.free, plenty);
        loop {
            let (class, how) = self.shrink.pass.phase()?;
            if is_online(class) && !env.unplug_online {
                self.shrink.pass.next_phase();
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
            self.shrink.pass.next_phase();
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
        let empty = is_empty(class);
        if (is_full(class) && more < geometry.subs_per_block()) || (more == 0 && !empty) {
            return None;
        }
        let (mut looks, most) = (
            0_u32,
            migration_budget::blocks_at_once(geometry.block_size()),
        );
        loop {
            let below = self.shrink.pass.below();
            let Some(block) = self.map.class(class).below(below) else {
                if empty || !self.shrink.pass.next_sweep() {
                    return None;
                }
                continue;
            };
            self.shrink.pass.try_block(block);
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
        if before && !self.shrink.pass.is_first_sweep() {
            return false;
        }
        let threshold = self.shrink.pass.threshold();
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
        let block = self.map.class(class).below(self.shrink.pass.below())?;
        // Not skipped: what is left in it may have to go too.
        let run = self.map.plugged_run_below(block, u32::MAX, more)?;
        Some(Operation::UnplugIdle(run))
    }

    fn next_parts(&mut self, class: Class, more: u32) -> Option<Operation> {
        if more == 0 || self.map.geometry().memory_blocks_per_block() > 1 {
            return None;
        }
        loop {
            let block = match self.shrink.pass.block() {
                Some(block) => block,
                None => {
                    let block = self.map.class(class).below(self.shrink.pass.below())?;
                    self.shrink.pass.begin_block(block);
                    block
                }
            };
            let mine = self.map.state_of(block).online()
                && (self.map.flags(block) - Flags::TRIED).is_empty()
                && !self.map.moves(block);
            let most = more.min(self.shrink.pass.take_at_once());
            let run = self
                .map
                .plugged_run_below(block, self.shrink.pass.sub_limit(), most)
                .filter(|_| mine);
            match run {
                Some(run) => return Some(Operation::Take(run)),
                None => self.shrink.pass.end_block(),
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
