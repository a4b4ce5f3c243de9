// SPDX-License-Identifier: GPL-2.0

//! Finding out what Linux has of the device's memory: when a driver takes over, and when the map
//! was found wrong.

use super::Engine;
use super::Environment;
use super::Failure;
use super::Operation;
use crate::block_map::Flags;
use crate::block_map::MemoryBlockState;
use core::ops::DerefMut;

impl<W: DerefMut<Target = [u64]>> Engine<W> {
    /// Linux has memory of the device from an earlier life of the driver, which is to be kept. To
    /// be called before anything else, and followed by [`Engine::handle_found`] for each memory
    /// block.
    pub fn take_over(&mut self) {
        self.unplug_all = false;
        self.audit.begin_taking_over();
    }

    /// What Linux has is not what the map says: before anything else is done it is looked at again
    /// ([`super::Step::Resync`]), and the device is asked about all blocks, as when a driver takes
    /// over.
    pub(super) fn resync(&mut self, env: &Environment) {
        self.take_over();
        self.retry.resync(env);
    }

    /// Linux has been looked at again, or could not be.
    pub(super) fn handle_resynced(&mut self, failure: Option<Failure>, env: &Environment) {
        match failure {
            None => self.retry.resync_done(),
            Some(_) => self.retry.resync_failed(env),
        }
    }

    /// Linux has `memory_block` in this state, as was found after [`Engine::take_over`] or for a
    /// [`super::Step::Resync`]. Of its sub-blocks all are believed to be plugged where Linux may use
    /// them, until the device has been asked.
    pub fn handle_found(&mut self, memory_block: u32, state: MemoryBlockState) {
        if self.map.is_moving(memory_block) {
            // The memory notifier tells how that ends.
            return;
        }
        let geometry = *self.map.geometry();
        let block = geometry.block_of_memory_block(memory_block);
        let news = self.is_news(memory_block, state);
        if news {
            self.map.set_memory_block_state(memory_block, state, false);
            let stale = Flags::WANTED | Flags::TRIED | Flags::REFUSED | Flags::LOST;
            self.map.set_flags(block, stale, false);
        }
        if state.online() || (news && state == MemoryBlockState::Offline) {
            self.map.set_plugged(geometry.subs_of(block), true);
        }
    }

    /// A move of `memory_block` is announced, which was in `state` until now. It does not begin before
    /// all is known, so [`Engine::handle_found`] need not wait for its end.
    pub fn handle_announced(&mut self, memory_block: u32, state: MemoryBlockState) {
        if self.audit.is_taking_over() && self.is_news(memory_block, state) {
            self.handle_found(memory_block, state);
        }
    }

    /// Whether the map is to be changed to `state` for `memory_block`. When a driver takes over, what
    /// the memory notifier has told before is newer.
    fn is_news(&self, memory_block: u32, state: MemoryBlockState) -> bool {
        let known = self.map.memory_block_state(memory_block);
        known != state && (known == MemoryBlockState::Absent || self.operation == Operation::Resync)
    }

    /// The pages of sub-block `sub` are out of the page allocator, where its memory blocks are
    /// online: the earlier life of the driver kept them away from Linux. After
    /// [`Engine::handle_found`].
    pub fn handle_found_withheld(&mut self, sub: u32) {
        self.map.set_plugged(sub..sub.saturating_add(1), false);
    }

    /// Whether it is not known yet what an earlier life of the driver left.
    pub fn is_taking_over(&self) -> bool {
        self.audit.is_taking_over()
    }
}
