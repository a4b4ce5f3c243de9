// SPDX-License-Identifier: GPL-2.0

//! A Linux that hides memory blocks, and adds and removes them behind the driver's back; and what the
//! driver finds when it looks.

use super::Block;
use super::Owner;
use super::Sim;
use super::BLOCK;
use super::SUB;
use std::ops::Range;
use virtio_mem_core::block_map::Flags;
use virtio_mem_core::block_map::MemoryBlockState;
use virtio_mem_core::engine::Failure;
use virtio_mem_core::engine::Outcome;
use virtio_mem_core::guard;
use virtio_mem_core::guard::Sections;
use virtio_mem_core::guard::Usage;
use virtio_mem_core::wire::Request;

impl Sim {
    /// From now on look-ups do not find a memory block, or find it again.
    pub(crate) fn hide(&mut self, block: usize, hidden: bool) {
        self.hidden[block] = hidden;
        self.meddled |= hidden;
    }

    /// A memory block is added, or one that is offline removed, and the driver is not told.
    pub(crate) fn sneak(&mut self, block: usize) {
        self.end_move(true);
        self.blocks[block] = match self.blocks[block] {
            Block::Absent => Block::Offline,
            Block::Offline => Block::Absent,
            Block::Movable | Block::Kernel => return,
        };
        self.meddled = true;
    }

    /// The map loses a memory block that is not being worked on.
    pub(crate) fn forget(&mut self, block: usize) {
        let number = block as u32;
        let map = self.engine.map();
        let flags = map.flags(self.geometry.block_of_memory_block(number));
        if map.is_moving(number) || flags.intersects(Flags::HELD | Flags::TRANSIT) {
            return;
        }
        self.engine.forget(number);
        self.retry();
        self.meddled = true;
    }

    /// Tells the engine what is found of Linux' memory.
    pub(super) fn adopt(&mut self) {
        for (number, block) in self.blocks.iter().enumerate() {
            let state = match block {
                _ if self.hidden[number] => MemoryBlockState::Absent,
                Block::Absent => MemoryBlockState::Absent,
                Block::Offline => MemoryBlockState::Offline,
                Block::Movable => MemoryBlockState::Movable,
                Block::Kernel => MemoryBlockState::Kernel,
            };
            self.engine.handle_found(number as u32, state);
        }
        for sub in 0..self.geometry.subs() {
            let size = (BLOCK / SUB) as usize;
            let online =
                |cell: &usize| self.owner[*cell] != Owner::Nobody && !self.hidden[*cell / size];
            let mut cells = self.cells(&(sub..sub + 1)).filter(online).peekable();
            if cells.peek().is_some() && cells.all(|cell| self.owner[cell] == Owner::Driver) {
                self.engine.handle_found_withheld(sub);
            }
        }
    }

    /// Looks again. A Linux with memory for which no memory block is found is not believed.
    pub(super) fn resync(&mut self) -> Outcome {
        let missing = |(block, hidden): (&Block, &bool)| *hidden && *block != Block::Absent;
        if self.blocks.iter().zip(&self.hidden).any(missing) {
            return Outcome::Failed(Failure::Mismatch);
        }
        self.adopt();
        Outcome::Done
    }

    /// Whether a request is not sent because Linux may use memory that it gives up.
    pub(super) fn guards(&mut self, request: Request) -> bool {
        let found = guard::first_in_use(&self.geometry, &self.config, request, self);
        let Some(addr) = found else {
            return false;
        };
        self.not_sent += 1;
        if !self.meddled {
            self.violate(format!("{request:?} for {addr:#x}, which Linux may use"));
        }
        true
    }

    /// The cells of a range of addresses, in the region.
    fn cells_at(&self, range: &Range<u64>) -> Range<usize> {
        let cell = |addr: u64| ((addr - self.config.addr) / SUB) as usize;
        cell(range.start)..cell(range.end)
    }
}

impl Usage for Sim {
    fn sections(&self, range: Range<u64>) -> Sections {
        let block = ((range.start - self.config.addr) / BLOCK) as usize;
        let owners = &self.owner[self.cells_at(&range)];
        match self.blocks[block] {
            Block::Absent => Sections::Absent,
            Block::Offline => Sections::Offline,
            _ if owners.iter().all(|owner| *owner == Owner::Driver) => Sections::FakeOffline,
            _ => Sections::InUse,
        }
    }

    fn has_system_ram(&self, range: Range<u64>) -> bool {
        let first = (range.start - self.config.addr) / BLOCK;
        let last = (range.end - 1 - self.config.addr) / BLOCK;
        self.blocks[first as usize..=last as usize]
            .iter()
            .any(|block| *block != Block::Absent)
    }

    fn keeps_offline(&self, memory_block: u32) -> bool {
        self.engine.keeps_offline(memory_block)
    }
}
