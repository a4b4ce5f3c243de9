// SPDX-License-Identifier: GPL-2.0

//! The step under way, as the engine remembers it, and the blocks that it works on.

use super::Engine;
use super::Step;
use crate::block_map::Flags;
use crate::wire::Request;
use core::ops::DerefMut;
use core::ops::Range;

/// What the step under way is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Nothing,
    ReadConfig,
    UnplugAll,
    /// Plugging these; if their block is online they are handed to Linux next.
    Plug(Range<u32>),
    /// Taking these from Linux, to unplug them next.
    Take(Range<u32>),
    /// Unplugging what was taken from Linux.
    UnplugTaken(Range<u32>),
    /// Unplugging what Linux does not use: its block is offline or not added.
    UnplugIdle(Range<u32>),
    /// Handing these to Linux, then asking about the rest.
    Give(Range<u32>, Range<u32>),
    /// Asking about the first sub-blocks, which the device left in doubt, then about the rest.
    Ask(Range<u32>, Range<u32>),
    /// Asking what the device has, to compare it with the map.
    Audit(Range<u32>),
    /// Seeing to it that Linux does not use what the device does not have.
    Withdraw(Range<u32>),
    /// These are memory blocks.
    Add(u32),
    Online(u32),
    Remove(Range<u32>),
    /// Finding out anew what Linux has.
    Resync,
    /// Looking at more blocks, when others have had their turn.
    Look,
}

impl<W: DerefMut<Target = [u64]>> Engine<W> {
    /// Notes what is being done, marks the blocks that it works on, and says it as a step.
    pub(super) fn start(&mut self, operation: Operation) -> Step {
        let geometry = *self.map.geometry();
        let range = |subs: &Range<u32>| {
            let blocks = geometry.device_blocks(subs.end.saturating_sub(subs.start));
            (geometry.sub_addr(subs.start), blocks)
        };
        let step = match &operation {
            Operation::Nothing => Step::wait(None),
            Operation::Look => return Step::wait(Some(0)),
            Operation::ReadConfig => {
                self.config.begin_reading();
                Step::ReadConfig
            }
            Operation::UnplugAll => Step::Send(Request::UnplugAll),
            Operation::Plug(subs) => {
                let (addr, blocks) = range(subs);
                Step::Send(Request::Plug { addr, blocks })
            }
            Operation::UnplugTaken(subs) | Operation::UnplugIdle(subs) => {
                let (addr, blocks) = range(subs);
                Step::Send(Request::Unplug { addr, blocks })
            }
            Operation::Ask(subs, _) | Operation::Audit(subs) => {
                let (addr, blocks) = range(subs);
                Step::Send(Request::State { addr, blocks })
            }
            Operation::Resync => Step::Resync,
            Operation::Take(subs) => Step::Take { subs: subs.clone() },
            Operation::Withdraw(subs) => Step::Withdraw { subs: subs.clone() },
            Operation::Give(subs, _) => Step::Give { subs: subs.clone() },
            Operation::Add(memory_block) => Step::Add {
                memory_block: *memory_block,
            },
            Operation::Online(memory_block) => Step::Online {
                memory_block: *memory_block,
            },
            Operation::Remove(memory_blocks) => Step::Remove {
                memory_blocks: memory_blocks.clone(),
                online: memory_blocks
                    .clone()
                    .any(|number| self.map.memory_block_state(number).online()),
                brief: self.shrink.is_brief(),
            },
        };
        match &operation {
            Operation::Plug(subs)
            | Operation::Take(subs)
            | Operation::Withdraw(subs)
            | Operation::UnplugIdle(subs) => self.hold(subs, true),
            Operation::Add(memory_block) => self.start_adding(*memory_block),
            Operation::Online(memory_block) => self.set_transit(*memory_block, true),
            Operation::Remove(memory_blocks) => self.set_transit(memory_blocks.start, true),
            _ => {}
        }
        self.operation = operation;
        step
    }

    /// Keeps others from taking the memory blocks offline that the step under way removes, while these are
    /// emptied. Returns whether that can be: not when one of them is on its way already. Ends with
    /// [`Engine::end_emptying`].
    #[must_use]
    pub fn begin_emptying(&mut self, memory_blocks: &Range<u32>) -> bool {
        let Operation::Remove(removed) = &self.operation else {
            return false;
        };
        if removed != memory_blocks
            || memory_blocks
                .clone()
                .any(|number| self.map.is_moving(number))
        {
            return false;
        }
        self.hold_memory_block(memory_blocks.start, true);
        true
    }

    /// Lets them go offline again, by whoever's hand; those who wait for that are to be told.
    pub fn end_emptying(&mut self, memory_blocks: &Range<u32>) {
        self.hold_memory_block(memory_blocks.start, false);
    }

    fn hold_memory_block(&mut self, memory_block: u32, held: bool) {
        let block = self.map.geometry().block_of_memory_block(memory_block);
        self.map.set_flags(block, Flags::HELD, held);
    }

    /// Marks the block of a memory block as on its way into Linux or out of it, or not any more.
    pub(super) fn set_transit(&mut self, memory_block: u32, on: bool) {
        let block = self.map.geometry().block_of_memory_block(memory_block);
        self.map.set_flags(block, Flags::TRANSIT, on);
    }

    /// Marks the blocks of `subs` as worked on, or as free for others again.
    pub(super) fn hold(&mut self, subs: &Range<u32>, held: bool) {
        if subs.is_empty() {
            return;
        }
        let geometry = *self.map.geometry();
        let last = geometry.block_of(subs.end.saturating_sub(1));
        for block in geometry.block_of(subs.start)..=last {
            self.map.set_flags(block, Flags::HELD, held);
        }
    }
}
