// SPDX-License-Identifier: GPL-2.0

//! What Linux tells about memory blocks going online and offline, by whoever's hand.
//!
//! Linux announces each move and later says how it ended. Between the two the block is marked as
//! moving and the engine leaves it alone; no lock is held in between.

use super::Engine;
use crate::block_map::Flags;
use crate::block_map::InLinux;
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

impl<W: DerefMut<Target = [u64]>> Engine<W> {
    /// MEM_GOING_ONLINE: `block` is about to go online, into ZONE_MOVABLE or another zone.
    pub fn going_online(&mut self, block: u32, movable: bool) -> Verdict {
        let flags = self.map.flags(block);
        if self.map.in_linux(block) != InLinux::Offline || flags.contains(Flags::MOVING) {
            return Verdict::Deny;
        }
        if !self.free_for_others(block) {
            return Verdict::Later;
        }
        // The core has picked the zone by its own policy before anybody was asked, or a udev rule
        // is faster than we are.
        if flags.contains(Flags::WANTED) && !movable {
            return Verdict::Deny;
        }
        self.map.set_flags(block, Flags::MOVING, true);
        Verdict::Allow
    }

    /// MEM_ONLINE. Returns whether the engine should have a look: it is somebody else's doing.
    pub fn online(&mut self, block: u32, movable: bool) -> bool {
        let state = if movable {
            InLinux::Movable
        } else {
            InLinux::Kernel
        };
        let flags = self.map.flags(block) - Flags::MOVING - Flags::WANTED;
        self.map.update(block, state, flags);
        self.moved(block, &[Reason::OfflineLimit, Reason::NotAddressable])
    }

    /// MEM_CANCEL_ONLINE, also for a move that was never announced. Returns as [`Engine::online`].
    pub fn cancel_online(&mut self, block: u32) -> bool {
        if self.map.in_linux(block) == InLinux::Offline {
            self.map.set_flags(block, Flags::MOVING, false);
        }
        self.moved(block, &[Reason::NotAddressable])
    }

    /// MEM_GOING_OFFLINE: `block` is about to be emptied.
    pub fn going_offline(&mut self, block: u32) -> Verdict {
        let flags = self.map.flags(block);
        if !self.map.in_linux(block).online() || flags.contains(Flags::MOVING) {
            return Verdict::Deny;
        }
        if !self.free_for_others(block) {
            return Verdict::Later;
        }
        self.map.set_flags(block, Flags::MOVING, true);
        Verdict::Allow
    }

    /// MEM_OFFLINE. Returns as [`Engine::online`].
    pub fn offline(&mut self, block: u32) -> bool {
        let flags = self.map.flags(block) - Flags::MOVING;
        self.map.update(block, InLinux::Offline, flags);
        self.moved(block, &[Reason::MemoryInUse, Reason::NotAddressable])
    }

    /// MEM_CANCEL_OFFLINE. Returns whether the move had been announced and allowed.
    pub fn cancel_offline(&mut self, block: u32) -> bool {
        let moving =
            self.map.in_linux(block).online() && self.map.flags(block).contains(Flags::MOVING);
        if moving {
            self.map.set_flags(block, Flags::MOVING, false);
            self.moved(block, &[Reason::NotAddressable]);
        }
        moving
    }

    /// `block` has been removed from Linux outside of a step, by a driver that is winding down.
    pub fn gone(&mut self, block: u32) {
        self.map.update(block, InLinux::Absent, Flags::empty());
    }

    /// The state of sub-block `sub` and its neighbours above, up to `end`, for the online-page
    /// callback: whether they may go to the page allocator.
    pub fn same_from(&self, sub: u32, end: u32) -> (bool, Range<u32>) {
        self.map.same_from(sub, end)
    }

    /// A move of `block` has ended, and with it any wait for one of `reasons`: the block was no
    /// candidate for anything meanwhile.
    fn moved(&mut self, block: u32, reasons: &[Reason]) -> bool {
        if self.map.flags(block).contains(Flags::TRANSIT) {
            return false;
        }
        if self
            .waiting
            .is_some_and(|waiting| reasons.contains(&waiting.reason))
        {
            self.waiting = None;
            self.pass = super::Pass::new();
        }
        true
    }
}
