// SPDX-License-Identifier: GPL-2.0

//! For tests alone: makes the map wrong, as a defect of the driver would.
//!
//! Not in a module that is built without `VMEM_TEST_HOOKS=1`.

use super::Engine;
use crate::block_map::MemoryBlockState;
use core::ops::DerefMut;

impl<W: DerefMut<Target = [u64]>> Engine<W> {
    /// From now on the map says of a memory block that Linux does not have it.
    pub fn forget(&mut self, memory_block: u32) {
        self.map
            .set_memory_block_state(memory_block, MemoryBlockState::Absent, false);
        self.handle_retry();
    }

    /// All is to be unplugged that an earlier kernel has plugged, as if Linux had none of it.
    pub fn require_unplug_all(&mut self) {
        self.unplug_all = true;
        self.handle_retry();
    }
}
