// SPDX-License-Identifier: GPL-2.0

//! What must hold at any time.

use super::Owner;
use super::World;
use virtio_mem_core::block_map::Flags;

impl World {
    pub(super) fn violate(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    /// No more than has to go may be taken from Linux: so many sub-blocks, besides what is on its
    /// way already.
    pub(super) fn check_taken(&mut self, subs: u32) {
        let map = self.engine.map();
        let wanted = self.geometry.subs_in(self.engine.config().requested_size);
        let (excess, going) = (map.plugged().saturating_sub(wanted), map.loose() + subs);
        if subs > 0 && going > excess && !self.confused && !self.doubt {
            self.violate(format!("takes {going} sub-blocks from Linux for {excess}"));
        }
    }

    /// Whether Linux uses memory that is not plugged.
    pub(crate) fn uses_unplugged(&self) -> Option<usize> {
        let used = |cell: &usize| matches!(self.owner[*cell], Owner::Buddy | Owner::Pinned);
        (0..self.device.len()).find(|cell| used(cell) && !self.device[*cell])
    }

    /// What must hold after every step.
    pub(crate) fn check(&mut self) {
        if self.doubt {
            return;
        }
        if let Some(cell) = self.uses_unplugged() {
            self.violate(format!("cell {cell} is unplugged and in use"));
        }
        for sub in 0..self.geometry.subs() {
            let map = self.engine.map();
            let block = self.geometry.block_of(sub);
            // A held block may be in doubt: the device is being asked.
            let held = map.flags(block).contains(Flags::HELD) || self.engine.is_taking_over();
            let plugged = self.device[self.cells(&(sub..sub + 1))].contains(&true);
            if map.is_plugged(sub) && !plugged && !held && self.step.is_none() {
                self.violate(format!("sub-block {sub} is unplugged but believed plugged"));
            }
        }
    }
}
