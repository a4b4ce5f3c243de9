// SPDX-License-Identifier: GPL-2.0

//! What must hold at any time.

use super::Doubt;
use super::Owner;
use super::Sim;
use super::SUB;
use virtio_mem_core::block_map::Flags;

impl Sim {
    pub(super) fn violate(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    /// No more than has to go may be taken from Linux: so many sub-blocks, besides what is on its
    /// way already.
    pub(super) fn check_taken(&mut self, subs: u32) {
        let map = self.engine.map();
        let wanted = self.geometry.subs_in(self.engine.config().requested_size);
        let (excess, going) = (
            map.plugged().saturating_sub(wanted),
            map.plugged_not_added() + subs,
        );
        let misled = self.confused || self.meddled || self.doubtful();
        if subs > 0 && going > excess && !misled {
            self.violate(format!("takes {going} sub-blocks from Linux for {excess}"));
        }
    }

    /// Whether Linux uses memory that is not plugged.
    pub(crate) fn uses_unplugged(&self) -> Option<usize> {
        (0..self.device.len()).find(|cell| self.used(*cell) && !self.device[*cell])
    }

    fn used(&self, cell: usize) -> bool {
        matches!(self.owner[cell], Owner::Buddy | Owner::Pinned)
    }

    /// Whether the device has misled the driver about anything.
    pub(crate) fn doubtful(&self) -> bool {
        self.doubt.iter().any(|doubt| *doubt != Doubt::None)
    }

    /// What the driver has been told the truth about, and has put right, is in doubt no longer.
    fn settle_doubts(&mut self) {
        for cell in 0..self.doubt.len() {
            let sub = cell as u32 / (self.geometry.sub_size() / SUB) as u32;
            let right = self.engine.map().is_plugged(sub) == self.device[cell];
            let fine = right && (self.device[cell] || !self.used(cell));
            if self.doubt[cell] == Doubt::Told && fine {
                self.doubt[cell] = Doubt::None;
            }
        }
    }

    /// What must hold after every step.
    pub(crate) fn check(&mut self) {
        self.settle_doubts();
        for cell in 0..self.device.len() {
            if self.used(cell) && !self.device[cell] && self.doubt[cell] == Doubt::None {
                self.violate(format!("cell {cell} is unplugged and in use"));
            }
        }
        for sub in 0..self.geometry.subs() {
            let map = self.engine.map();
            let block = self.geometry.block_of(sub);
            // A held block may be in doubt: the device is being asked.
            let held = map.flags(block).contains(Flags::HELD) || self.engine.is_taking_over();
            let cells = self.cells(&(sub..sub + 1));
            let plugged = self.device[cells.clone()].contains(&true);
            let excused = held || self.doubt[cells].iter().any(|doubt| *doubt != Doubt::None);
            if map.is_plugged(sub) && !plugged && !excused && self.step.is_none() {
                self.violate(format!("sub-block {sub} is unplugged but believed plugged"));
            }
        }
    }
}
