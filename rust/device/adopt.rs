// SPDX-License-Identifier: GPL-2.0

//! Finding out what Linux has of a device, and telling the engine.

use super::Device;
use super::Engine;
use crate::linux::memory_block;
use crate::linux::memory_block::Found;
use kernel::prelude::*;
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel::time::Instant;
use kernel::time::Monotonic;
use virtio_mem_core::block_map::MemoryBlockState;
use virtio_mem_core::guard::Sections;

/// How often [`Device::adopt`] looks whether a memory block still moves, in milliseconds.
const ADOPT_POLL_MS: i64 = 20;

impl Device {
    /// Tells the engine what Linux has of this device; with the memory notifier and the online-page
    /// callback registered, after [`Engine::take_over`] and before the first step, or for a
    /// [`virtio_mem_core::engine::Step::Resync`]. Returns how many memory blocks Linux has.
    ///
    /// A memory block that moves is waited for until Linux announces the move, or where it did so before
    /// the memory notifier was registered, until that is over; for `patience_ms` in all.
    ///
    /// `EBUSY`: a memory block goes on moving. `EEXIST`: Linux has memory for which it has no memory
    /// block, which is logged. Either way the engine may have been told of some blocks, and is not to go
    /// on without the others. May sleep.
    pub(crate) fn adopt(&self, patience_ms: i64) -> Result<u32> {
        let begun = Instant::now();
        let mut count = 0_u32;
        for number in 0..self.geometry.memory_blocks() {
            let state = self.settled_state(number, begun, patience_ms)?;
            count = count.saturating_add(u32::from(state != MemoryBlockState::Absent));
            self.with_engine(|engine| engine.handle_found(number, state));
        }
        for block in 0..self.geometry.blocks() {
            self.with_engine(|engine| self.adopt_withheld(engine, block));
        }
        Ok(count)
    }

    /// The state of a memory block, when it does not move, for [`Device::adopt`], which has `begun`.
    fn settled_state(
        &self,
        number: u32,
        begun: Instant<Monotonic>,
        patience_ms: i64,
    ) -> Result<MemoryBlockState> {
        let addr = self.geometry.memory_block_addr(number);
        let size = self.geometry.memory_block_size();
        loop {
            match memory_block::state(addr, size)? {
                Found::Nothing => return self.absent(addr, size),
                Found::Offline => return Ok(MemoryBlockState::Offline),
                Found::Online => return Ok(self.online_state(number)),
                Found::Moving => {}
            }
            // Whoever moves it may be waiting for us by now, and not go on before we know.
            let told = self.with_engine(|engine| engine.map().memory_block_state(number));
            if told != MemoryBlockState::Absent {
                return Ok(told);
            }
            if begun.elapsed().as_millis() >= patience_ms {
                return Err(EBUSY);
            }
            fsleep(Delta::from_millis(ADOPT_POLL_MS));
        }
    }

    /// Makes sure that Linux has no memory where it has no memory block.
    fn absent(&self, addr: u64, size: u64) -> Result<MemoryBlockState> {
        let range = addr..addr.saturating_add(size);
        if self.region.sections(&range) == Sections::Absent && !self.region.has_system_ram(range) {
            return Ok(MemoryBlockState::Absent);
        }
        dev_err!(
            self.dev(),
            "no memory block found at {:#x}, where Linux has memory\n",
            addr
        );
        Err(EEXIST)
    }

    /// The state of a memory block that is online, or about to be.
    pub(super) fn online_state(&self, number: u32) -> MemoryBlockState {
        let addr = self.geometry.memory_block_addr(number);
        let pages = self.region.pages(addr, self.geometry.memory_block_size());
        if pages.is_some_and(|pages| pages.movable()) {
            MemoryBlockState::Movable
        } else {
            MemoryBlockState::Kernel
        }
    }

    /// Tells the engine which sub-blocks of `block` the earlier driver kept away from Linux.
    fn adopt_withheld(&self, engine: &mut Engine, block: u32) {
        for sub in self.geometry.subs_of(block) {
            let end = self.geometry.sub_addr(sub.saturating_add(1));
            let mut addr = self.geometry.sub_addr(sub);
            // In pieces that lie in one memory block.
            let (mut any, mut all) = (false, true);
            while addr < end && all {
                let Some(number) = self.geometry.memory_block_at(addr) else {
                    return;
                };
                let next = self.geometry.memory_block_addr(number.saturating_add(1));
                let stop = next.min(end);
                if engine.map().memory_block_state(number).online() {
                    any = true;
                    all = self
                        .region
                        .pages(addr, stop.saturating_sub(addr))
                        .is_some_and(|pages| pages.are_withheld());
                }
                addr = stop;
            }
            if any && all {
                engine.handle_found_withheld(sub);
            }
        }
    }
}
