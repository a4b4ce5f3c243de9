// SPDX-License-Identifier: GPL-2.0

//! Growing: first what is plugged already, then partly plugged blocks, then new ones.

use super::Engine;
use super::Environment;
use super::Onlining;
use super::Operation;
use crate::block_map::Class;
use crate::block_map::Flags;
use crate::block_map::MemoryBlockState;
use crate::vocabulary::Reason;
use core::num::NonZeroU32;
use core::ops::DerefMut;
use core::ops::Range;

/// Blocks that can take more, in the order in which they do.
const FILL_ORDER: [Class; 6] = [
    Class::MovablePartial,
    Class::KernelPartial,
    Class::OfflinePartial,
    Class::MovableEmpty,
    Class::KernelEmpty,
    Class::OfflineEmpty,
];

impl<W: DerefMut<Target = [u64]>> Engine<W> {
    /// The next thing to do when no more is plugged than requested; `None` if there is nothing, or
    /// (then `waiting` is set) nothing for now.
    pub(super) fn next_to_grow(&mut self, env: &Environment) -> Option<Operation> {
        if let Some(memory_block) = self.next_to_online() {
            return Some(Operation::Online(memory_block));
        }
        if let Some(memory_block) = self.next_to_complete() {
            return self.add_if_affordable(memory_block, 1, env);
        }
        if let Some(block) = self.next_to_add() {
            let count = self.map.geometry().memory_blocks_per_block();
            if self.offline_room() < count {
                // Blocks have gone offline since these were plugged.
                self.wait_for_others(Reason::OfflineLimit, env);
                self.retry.set_release_unusable(true);
                return None;
            }
            let first = self.map.geometry().memory_blocks_of(block).start;
            return self.add_if_affordable(first, count, env);
        }
        let missing = self.target().checked_sub(self.map.plugged())?;
        if missing == 0 {
            // What is plugged is all that is wanted: it has to be what Linux has refused.
            if self.clear_refused() && self.has_unused() {
                self.retry.wait_after_failure(Reason::OnliningRefused, env);
            }
            return None;
        }
        let geometry = *self.map.geometry();
        // The last block may be usable in part: devices are generous by 256 MiB or less with what
        // they let be used beyond the requested size, and a memory block may have 2 GiB.
        let usable = geometry.usable_subs(self.config().usable_region_size);
        // A big block of which nothing is plugged is removed first (see below).
        let fill = (geometry.memory_blocks_per_block() == 1).then_some(FILL_ORDER);
        for class in fill.into_iter().flatten() {
            let Some(block) = self.map.class(class).first() else {
                continue;
            };
            if let Some(subs) = self.map.unplugged_run(block, missing) {
                let most = subs.start.saturating_add(self.portion.most());
                let subs = subs.start..subs.end.min(usable).min(most);
                if !subs.is_empty() {
                    return Some(Operation::Plug(subs));
                }
            }
        }
        if geometry.memory_blocks_per_block() > 1 {
            if let Some(operation) = self.next_empty(env) {
                return Some(operation);
            }
        }
        self.next_to_plug(missing, usable, env)
    }

    /// Nothing can be done for now but with what Linux has refused, if there is such: that it is
    /// given another try after a while.
    fn wait_for_others(&mut self, reason: Reason, env: &Environment) {
        if self.clear_refused() {
            self.retry.wait_after_failure(reason, env);
        } else {
            self.retry.wait_for_change(reason, env);
        }
    }

    /// Plugs the sub-blocks, below `usable`, of a run of new blocks, which are added one by one after
    /// that.
    fn next_to_plug(&mut self, missing: u32, usable: u32, env: &Environment) -> Option<Operation> {
        let geometry = *self.map.geometry();
        let unused = self.map.class(Class::Unused);
        let is_usable = |block: &u32| geometry.subs_of(*block).start < usable;
        let Some(first) = unused.first().filter(is_usable) else {
            if geometry.memory_blocks_per_block() > 1 && self.has_empty() {
                // What is left of big blocks, which are removed before they are used again.
                self.wait_for_memory(env);
            } else {
                self.wait_for_others(Reason::NotAddressable, env);
            }
            return None;
        };
        let mut room = self.offline_room() / geometry.per_block();
        if room == 0 {
            self.wait_for_others(Reason::OfflineLimit, env);
            return None;
        }
        if self.onlining == Onlining::Movable {
            // None of them stays offline for longer than it takes.
            room = u32::MAX;
        }
        let affordable = geometry.memory_blocks_for(env.metadata_room) / geometry.per_block();
        if affordable == 0 {
            self.retry.wait_for_change(Reason::NoMemory, env);
            return None;
        }
        let missing = missing.min(affordable.saturating_mul(geometry.subs_per_block()));
        if let Some(subs) = self.plug_from_above(first, missing, usable) {
            return Some(Operation::Plug(subs));
        }
        let most = geometry.max_subs_per_request().min(missing);
        let most = most.min(self.portion.most()).min(
            self.batch
                .blocks()
                .min(room)
                .saturating_mul(geometry.subs_per_block()),
        );
        let start = geometry.subs_of(first).start;
        let mut end = start;
        let mut block = first;
        while is_usable(&block) && unused.contains(block) && end.saturating_sub(start) < most {
            end = geometry.subs_of(block).end;
            block = block.saturating_add(1);
        }
        let end = end.min(start.saturating_add(most)).min(usable);
        (start < end).then_some(Operation::Plug(start..end))
    }

    /// What to plug of the new blocks that are needed, if they are more than one request is for,
    /// within which [`Engine::next_to_add`] sees to the order: the highest one, the lowest, and then
    /// from above to below.
    ///
    /// Once ZONE_MOVABLE spans a range that no other zone spans, the kernel brings blocks in it
    /// online into that zone by itself, under any online policy but `online_kernel` and
    /// `auto-movable`. With the highest and the lowest block there first, all others need no second
    /// pass over their struct pages. And for each block the kernel looks at all pageblocks of the
    /// zone up to its first hole (`set_zone_contiguous()`): from below to above that would be all
    /// that have been added before.
    fn plug_from_above(&self, first: u32, missing: u32, usable: u32) -> Option<Range<u32>> {
        let geometry = self.map.geometry();
        let per_block = NonZeroU32::new(geometry.subs_per_block())?;
        let unused = self.map.class(Class::Unused);
        // Whole blocks: where part of one is needed, that is left for the last request. It is of the
        // lowest block, or of one above all these, where less than the whole of that is usable.
        let last = first.checked_add(missing.checked_sub(1)? / per_block)?;
        let top = [Some(last), last.checked_sub(1)]
            .into_iter()
            .flatten()
            .find(|block| unused.contains(*block) && geometry.subs_of(*block).end <= usable)?;
        if self.onlining != Onlining::Movable || top.saturating_sub(first) < self.batch.blocks() {
            return None;
        }
        let blocks = self.batch.blocks().min(self.portion.most() / per_block);
        if blocks == 0 {
            return None;
        }
        if !self.movable_from(top) {
            return Some(geometry.subs_of(top));
        }
        if !self.movable_until(first) {
            return Some(geometry.subs_of(first));
        }
        let most = blocks.min(geometry.max_subs_per_request() / per_block);
        let mut start = top;
        while let Some(block) = start.checked_sub(1) {
            if top.saturating_sub(block) >= most || !unused.contains(block) {
                break;
            }
            start = block;
        }
        Some(geometry.subs_of(start).start..geometry.subs_of(top).end)
    }

    /// How many memory blocks more may be offline.
    fn offline_room(&self) -> u32 {
        self.max_offline.saturating_sub(self.map.offline())
    }

    /// The next memory block that the driver has to bring online.
    fn next_to_online(&self) -> Option<u32> {
        let block = self.map.class(Class::Wanted).first()?;
        self.map.find(block, MemoryBlockState::Offline)
    }

    /// The next memory block to be added of a big block that Linux has a part of.
    fn next_to_complete(&self) -> Option<u32> {
        let block = self.not_refused(Class::Incomplete)?;
        self.map.find(block, MemoryBlockState::Absent)
    }

    /// The first block of a class that Linux has not refused.
    fn not_refused(&self, class: Class) -> Option<u32> {
        let (class, refused) = (self.map.class(class), self.map.class(Class::Refused));
        let mut block = class.first()?;
        while refused.contains(block) {
            block = class.at_or_above(block.checked_add(1)?)?;
        }
        Some(block)
    }

    /// Removing a block that Linux has refused to bring online, if there is one of which nothing is
    /// in use.
    pub(super) fn next_refused(&self) -> Option<Operation> {
        let refused = self.map.class(Class::Refused);
        let mut block = refused.first()?;
        while self.map.state_of(block) != MemoryBlockState::Offline {
            block = refused.at_or_above(block.checked_add(1)?)?;
        }
        self.removal_of(block).map(Operation::Remove)
    }

    /// What Linux has refused may be tried again; returns whether there was any.
    pub(super) fn clear_refused(&mut self) -> bool {
        let mut any = false;
        while let Some(block) = self.map.class(Class::Refused).first() {
            self.map.set_flags(block, Flags::REFUSED, false);
            any = true;
        }
        any
    }

    /// Adds a memory block, if the guest can pay for this one and as many in all as `count`.
    fn add_if_affordable(
        &mut self,
        memory_block: u32,
        count: u32,
        env: &Environment,
    ) -> Option<Operation> {
        let affordable = self.map.geometry().memory_blocks_for(env.metadata_room);
        if affordable < count {
            self.cannot_take(Reason::NoMemory, env);
            return None;
        }
        Some(Operation::Add(memory_block))
    }

    /// Whether `block` or one above it is in ZONE_MOVABLE.
    fn movable_from(&self, block: u32) -> bool {
        [Class::MovableFull, Class::MovablePartial]
            .iter()
            .any(|class| self.map.class(*class).at_or_above(block).is_some())
    }

    /// Whether `block` or one below it is in ZONE_MOVABLE.
    fn movable_until(&self, block: u32) -> bool {
        [Class::MovableFull, Class::MovablePartial]
            .iter()
            .any(|class| self.map.class(*class).first().is_some_and(|b| b <= block))
    }

    /// Which of the plugged blocks to add next: see [`Engine::plug_from_above`].
    fn next_to_add(&self) -> Option<u32> {
        let first = self.not_refused(Class::PluggedNotAdded)?;
        let last = self.map.class(Class::PluggedNotAdded).last()?;
        let top = self.onlining == Onlining::Movable
            && !self.map.class(Class::Refused).contains(last)
            && (self.movable_until(first) || !self.movable_from(last));
        Some(if top { last } else { first })
    }

    /// Linux may bring a memory block online before the add returns: it must look offline by then.
    pub(super) fn start_adding(&mut self, memory_block: u32) {
        let block = self.map.geometry().block_of_memory_block(memory_block);
        let mut flags = Flags::TRANSIT;
        flags.set(Flags::WANTED, self.onlining == Onlining::Movable);
        self.map.set_flags(block, flags, true);
        self.map
            .set_memory_block_state(memory_block, MemoryBlockState::Offline, false);
    }
}
