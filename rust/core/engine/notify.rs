// SPDX-License-Identifier: GPL-2.0

//! What Linux tells about memory blocks going online and offline, by whoever's hand.
//!
//! Linux announces each move and later says how it ended. Between the two the block is marked as
//! moving and the engine leaves it alone; no lock is held in between.

use super::Engine;
use crate::block_map::Flags;
use crate::block_map::MemoryBlockState;
use crate::vocabulary::Reason;
use core::ops::DerefMut;
use core::ops::Range;

/// The answer to an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go ahead.
    Allow,
    /// Not this block, or not into this zone.
    Deny,
    /// The current step changes this very block; ask again when it is done.
    Later,
}

/// The answer to the announcement that a memory block is about to go online.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoingOnline {
    /// Whether it may.
    pub verdict: Verdict,
    /// Whether people are to hear of it if it may not. A block that the driver itself brings online
    /// next is refused to others as a matter of course.
    pub log_refusal: bool,
}

/// What follows from a memory block that stays online.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaysOnline {
    /// Whether its going offline had been announced and allowed: the pages of its unplugged
    /// sub-blocks are to be withheld again.
    pub reclaim: bool,
    /// Whether the engine should have a look: the move was not part of a step of its own.
    pub wake: bool,
}

impl<W: DerefMut<Target = [u64]>> Engine<W> {
    /// MEM_GOING_ONLINE: a memory block is about to go online, into ZONE_MOVABLE or another zone.
    pub fn handle_going_online(&mut self, memory_block: u32, movable: bool) -> GoingOnline {
        let wanted = self.flags_around(memory_block).contains(Flags::WANTED);
        GoingOnline {
            verdict: self.may_go_online(memory_block, movable),
            log_refusal: !wanted,
        }
    }

    fn may_go_online(&mut self, memory_block: u32, movable: bool) -> Verdict {
        let flags = self.flags_around(memory_block);
        let wanted = flags.contains(Flags::WANTED);
        match self.going(memory_block, false) {
            // Linux did not want it, and it is about to be removed. (What is online of a big block
            // comes back when the rest cannot go.)
            Verdict::Allow
                if flags.contains(Flags::REFUSED | Flags::TRANSIT)
                    && self.state_around(memory_block) == MemoryBlockState::Offline =>
            {
                Verdict::Deny
            }
            // The core has picked the zone by its own policy before anybody was asked, or a udev
            // rule is faster than we are.
            Verdict::Allow if wanted && !movable => Verdict::Deny,
            Verdict::Allow => {
                self.map
                    .set_memory_block_state(memory_block, MemoryBlockState::Offline, true);
                Verdict::Allow
            }
            verdict => verdict,
        }
    }

    /// MEM_ONLINE. Returns whether the engine should have a look: it is somebody else's doing.
    pub fn handle_online(&mut self, memory_block: u32, movable: bool) -> bool {
        let state = if movable {
            MemoryBlockState::Movable
        } else {
            MemoryBlockState::Kernel
        };
        self.map.set_memory_block_state(memory_block, state, false);
        let block = self.map.geometry().block_of_memory_block(memory_block);
        if self.map.find(block, MemoryBlockState::Offline).is_none() {
            self.map
                .set_flags(block, Flags::WANTED | Flags::REFUSED, false);
        }
        self.handle_moved(memory_block, &[])
    }

    /// MEM_CANCEL_ONLINE, also for a move that was never announced. Returns as
    /// [`Engine::handle_online`].
    pub fn handle_cancel_online(&mut self, memory_block: u32) -> bool {
        if self.map.memory_block_state(memory_block) == MemoryBlockState::Offline {
            self.map
                .set_memory_block_state(memory_block, MemoryBlockState::Offline, false);
        }
        self.handle_moved(memory_block, &[])
    }

    /// MEM_GOING_OFFLINE: a memory block is about to be emptied.
    pub fn handle_going_offline(&mut self, memory_block: u32) -> Verdict {
        let state = self.map.memory_block_state(memory_block);
        let verdict = self.going(memory_block, true);
        if verdict == Verdict::Allow {
            self.map.set_memory_block_state(memory_block, state, true);
        }
        verdict
    }

    /// MEM_OFFLINE. Returns as [`Engine::handle_online`].
    pub fn handle_offline(&mut self, memory_block: u32) -> bool {
        self.map
            .set_memory_block_state(memory_block, MemoryBlockState::Offline, false);
        self.handle_moved(memory_block, &[Reason::MemoryInUse])
    }

    /// MEM_CANCEL_OFFLINE, also for a move that was never announced.
    pub fn handle_cancel_offline(&mut self, memory_block: u32) -> StaysOnline {
        let state = self.map.memory_block_state(memory_block);
        let reclaim = state.online() && self.map.is_moving(memory_block);
        if reclaim {
            self.map.set_memory_block_state(memory_block, state, false);
            self.handle_moved(memory_block, &[]);
        }
        let own = self.flags_around(memory_block).contains(Flags::TRANSIT);
        StaysOnline {
            reclaim,
            wake: !own,
        }
    }

    /// A memory block has been removed from Linux outside of a step, by a driver that is winding
    /// down.
    pub fn handle_gone(&mut self, memory_block: u32) {
        self.map
            .set_memory_block_state(memory_block, MemoryBlockState::Absent, false);
    }

    /// The state of sub-block `sub` and its neighbours above, up to `end`, for the online-page
    /// callback: whether they may go to the page allocator.
    pub fn same_from(&self, sub: u32, end: u32) -> (bool, Range<u32>) {
        self.map.same_from(sub, end)
    }

    /// Whether a memory block that is online (or not) may move.
    fn going(&self, memory_block: u32, online: bool) -> Verdict {
        let state = self.map.memory_block_state(memory_block);
        let flags = self.flags_around(memory_block);
        if self.audit.is_taking_over() && !flags.contains(Flags::TRANSIT) {
            // Nothing is known about its sub-blocks.
            return Verdict::Later;
        }
        if state == MemoryBlockState::Absent
            || state.online() != online
            || self.map.is_moving(memory_block)
        {
            return Verdict::Deny;
        }
        if flags.contains(Flags::HELD) {
            return Verdict::Later;
        }
        Verdict::Allow
    }

    /// Whether `memory_block` is kept offline for as long as the step under way lasts: it is offline, and
    /// [`Engine::handle_going_online`] refuses it. For [`crate::guard::Usage::keeps_offline`].
    pub fn keeps_offline(&self, memory_block: u32) -> bool {
        self.map.memory_block_state(memory_block) == MemoryBlockState::Offline
            && !self.map.is_moving(memory_block)
            && self.flags_around(memory_block).contains(Flags::HELD)
    }

    /// The state of a memory block's block.
    fn state_around(&self, memory_block: u32) -> MemoryBlockState {
        let geometry = self.map.geometry();
        self.map
            .state_of(geometry.block_of_memory_block(memory_block))
    }

    /// The flags of a memory block's block.
    fn flags_around(&self, memory_block: u32) -> Flags {
        let geometry = self.map.geometry();
        self.map.flags(geometry.block_of_memory_block(memory_block))
    }

    /// A move of a memory block has ended, and with it any wait for one of `reasons`, or for a block
    /// to grow with: its block was no candidate for anything meanwhile.
    fn handle_moved(&mut self, memory_block: u32, reasons: &[Reason]) -> bool {
        if self.flags_around(memory_block).contains(Flags::TRANSIT) {
            return false;
        }
        self.stop_waiting_for(&[Reason::OfflineLimit, Reason::NotAddressable]);
        self.stop_waiting_for(reasons);
        true
    }
}
