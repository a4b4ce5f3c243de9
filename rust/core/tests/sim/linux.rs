// SPDX-License-Identifier: GPL-2.0

//! Linux: memory blocks that are added, go online and offline and are removed, by anybody's hand.

use super::take;
use super::Sim;
use super::METADATA;
use super::SUB;
use std::ops::Range;
use virtio_mem_core::engine::notify::Verdict;
use virtio_mem_core::engine::Failure;
use virtio_mem_core::engine::Outcome;

/// Who has a cell: as much memory as a device block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nobody: its memory block is not online.
    Nobody,
    /// The page allocator; movable content at most.
    Buddy,
    /// Somebody who does not let it go.
    Pinned,
    /// The driver (PageOffline).
    Driver,
}

/// What Linux does with a memory block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    Absent,
    Offline,
    Movable,
    Kernel,
}

/// A memory block that Linux is bringing online or offline, between the first and the last call of
/// the memory notifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    Online(usize, bool),
    Offline(usize),
}

/// The default online policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Offline,
    Kernel,
    Movable,
}

impl Sim {
    pub(super) fn add(&mut self, block: usize) -> Outcome {
        if take(&mut self.faults.add_no_memory) {
            return Outcome::Failed(Failure::NoMemory);
        }
        if self.never_added == Some(block) || take(&mut self.faults.add_refused) {
            return Outcome::Failed(Failure::Refused);
        }
        if self.room_then < METADATA {
            self.violate(format!(
                "added block {block} without memory for its metadata"
            ));
        }
        if self.blocks[block] != Block::Absent {
            if !self.meddled {
                self.violate(format!("added block {block} twice"));
            }
            return Outcome::Failed(Failure::Mismatch);
        }
        self.metadata_room = self.metadata_room.saturating_sub(METADATA);
        self.blocks[block] = Block::Offline;
        match self.policy {
            Policy::Offline => false,
            Policy::Kernel => self.online(block, false),
            Policy::Movable => self.online(block, true),
        };
        Outcome::Done
    }

    /// Brings a memory block online, by anybody's hand.
    pub(crate) fn online(&mut self, block: usize, movable: bool) -> bool {
        self.begin_online(block, movable) && self.end_move(true)
    }

    /// Begins to; false: it cannot be.
    pub(crate) fn begin_online(&mut self, block: usize, movable: bool) -> bool {
        self.end_move(true);
        if self.blocks[block] != Block::Offline {
            return false;
        }
        let number = block as u32;
        if self.engine.handle_going_online(number, movable).verdict != Verdict::Allow {
            let wake = self.engine.handle_cancel_online(number);
            self.ring(wake);
            return false;
        }
        self.moving = Some(Move::Online(block, movable));
        true
    }

    /// What has begun comes to its end if it is to and if it can; returns whether it did.
    pub(crate) fn end_move(&mut self, go_on: bool) -> bool {
        match self.moving.take() {
            None => false,
            Some(Move::Online(block, movable)) if go_on => self.end_online(block, movable),
            Some(Move::Online(block, _)) => {
                let wake = self.engine.handle_cancel_online(block as u32);
                self.ring(wake);
                false
            }
            Some(Move::Offline(block)) => self.end_offline(block, go_on),
        }
    }

    fn end_online(&mut self, block: usize, movable: bool) -> bool {
        let number = block as u32;
        for cell in self.cells_of(block) {
            let sub = self
                .geometry
                .sub_at(self.config.addr + cell as u64 * SUB)
                .unwrap();
            let (plugged, _) = self.engine.same_from(sub, sub + 1);
            self.owner[cell] = if plugged { Owner::Buddy } else { Owner::Driver };
        }
        self.blocks[block] = if movable {
            Block::Movable
        } else {
            Block::Kernel
        };
        let wake = self.engine.handle_online(number, movable);
        self.ring(wake);
        self.check();
        true
    }

    /// Takes a memory block offline, by anybody's hand.
    pub(crate) fn offline(&mut self, block: usize) -> bool {
        self.begin_offline(block) && self.end_move(true)
    }

    /// Begins to; false: it cannot be.
    pub(crate) fn begin_offline(&mut self, block: usize) -> bool {
        self.end_move(true);
        if !matches!(self.blocks[block], Block::Movable | Block::Kernel) {
            return false;
        }
        if self.engine.handle_going_offline(block as u32) != Verdict::Allow {
            let stays = self.engine.handle_cancel_offline(block as u32);
            assert!(!stays.reclaim);
            self.ring(stays.wake);
            return false;
        }
        self.moving = Some(Move::Offline(block));
        true
    }

    fn end_offline(&mut self, block: usize, go_on: bool) -> bool {
        let (number, cells) = (block as u32, self.cells_of(block));
        if !go_on || self.owner[cells.clone()].contains(&Owner::Pinned) {
            let stays = self.engine.handle_cancel_offline(number);
            assert!(stays.reclaim);
            self.ring(stays.wake);
            return false;
        }
        self.owner[cells].fill(Owner::Nobody);
        self.blocks[block] = Block::Offline;
        let wake = self.engine.handle_offline(number);
        self.ring(wake);
        true
    }

    /// All or none: those that went offline come online again if another cannot.
    pub(super) fn remove(&mut self, numbers: &Range<u32>) -> Outcome {
        let block = self.geometry.block_of_memory_block(numbers.start);
        // What is offline Linux does not use.
        let online =
            |number| matches!(self.blocks[number as usize], Block::Movable | Block::Kernel);
        if numbers.clone().any(online) {
            self.check_taken(self.engine.map().plugged_in(block));
        }
        if take(&mut self.faults.remove_busy) {
            return Outcome::Failed(Failure::Busy);
        }
        let blocks = numbers.start as usize..numbers.end as usize;
        if self.blocks[blocks.clone()].contains(&Block::Absent) {
            if !self.meddled {
                self.violate(format!("removed blocks {blocks:?} twice"));
            }
            return Outcome::Failed(Failure::Mismatch);
        }
        let mut undo = Vec::new();
        for block in blocks.clone() {
            let before = self.blocks[block];
            if before == Block::Offline {
                continue;
            }
            if !self.offline(block) {
                self.now_ms += self.remove_ms;
                for (block, before) in undo {
                    self.online(block, before == Block::Movable);
                }
                return Outcome::Failed(Failure::Interrupted);
            }
            undo.push((block, before));
        }
        for block in blocks {
            self.blocks[block] = Block::Absent;
            self.metadata_room = self.metadata_room.saturating_add(METADATA);
        }
        Outcome::Done
    }

    /// Takes sub-blocks out of the page allocator.
    pub(super) fn take(&mut self, subs: &Range<u32>) -> Outcome {
        self.check_taken(subs.end - subs.start);
        if take(&mut self.faults.take_busy) {
            return Outcome::Failed(Failure::Busy);
        }
        let cells = self.cells(subs);
        for cell in cells.clone() {
            match self.owner[cell] {
                Owner::Buddy => {}
                Owner::Pinned => return Outcome::Failed(Failure::Busy),
                other => self.violate(format!("took cell {cell} from {other:?}")),
            }
        }
        self.owner[cells].fill(Owner::Driver);
        Outcome::Done
    }

    /// Takes sub-blocks out of use that the device does not have.
    pub(super) fn withdraw(&mut self, subs: &Range<u32>) -> Outcome {
        if take(&mut self.faults.withdraw_busy) {
            return Outcome::Failed(Failure::Busy);
        }
        let cells = self.cells(subs);
        if self.owner[cells.clone()].contains(&Owner::Pinned) {
            return Outcome::Failed(Failure::Busy);
        }
        self.owner[cells].fill(Owner::Driver);
        Outcome::Done
    }

    /// Hands sub-blocks to the page allocator.
    pub(super) fn give(&mut self, subs: &Range<u32>) -> Outcome {
        for cell in self.cells(subs) {
            if self.owner[cell] != Owner::Driver {
                self.violate(format!("gave cell {cell} of {:?}", self.owner[cell]));
            }
            self.owner[cell] = Owner::Buddy;
        }
        Outcome::Done
    }
}
