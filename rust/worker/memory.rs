// SPDX-License-Identifier: GPL-2.0

//! The steps in which memory blocks and sub-blocks come to Linux, and go.

use super::Worker;
use crate::events::STOP;
use crate::events::URGENT;
use crate::linux::hotplug;
use crate::linux::memory_block;
use crate::linux::memory_block::Stored;
use crate::parameters;
use core::ops::Range;
use kernel::prelude::*;
use kernel::time::Instant;
use kernel::time::Monotonic;
use virtio_mem_core::emptying;
use virtio_mem_core::emptying::Content;
use virtio_mem_core::emptying::Room;
use virtio_mem_core::emptying::Way;
use virtio_mem_core::engine::Failure;
use virtio_mem_core::engine::Outcome;
use virtio_mem_core::migration_budget;

/// How often the device hotplug lock is tried for; each time takes 5 ms (the kernel's
/// `lock_device_hotplug_sysfs()`).
const ONLINE_TRIES: u32 = 400;

/// How often a single sub-block is tried for in one attempt. Pages are often pinned for a moment.
const TAKE_TRIES: u32 = 3;

/// How long looking at all memory blocks again waits for those that move, in milliseconds. It is tried
/// again, and meanwhile nothing else is done.
const RESYNC_PATIENCE_MS: i64 = 1_000;

/// How much may be swapped out for a shrink, in bytes.
fn swap() -> u64 {
    if parameters::RECLAIM.get() {
        emptying::swappable(hotplug::free_swap())
    } else {
        0
    }
}

/// How much memory is free, or can be made free, in bytes.
pub(super) fn reclaimable_memory() -> u64 {
    hotplug::available_memory().saturating_add(swap())
}

impl Worker {
    pub(super) fn add(&self, memory_block: u32) -> Outcome {
        let geometry = self.device.geometry();
        // One at a time, also of a big block: the kernel would map an aligned GiB with a single
        // entry, and would not split that when a memory block of it is removed.
        let addr = geometry.memory_block_addr(memory_block);
        let size = geometry.memory_block_size();
        let result = self.device.region().add(addr, size);
        self.report.added(result);
        match result {
            Ok(()) => Outcome::Done,
            Err(ENOMEM) => Outcome::Failed(Failure::NoMemory),
            // Linux has it, or another resource at its place.
            Err(EEXIST) => Outcome::Failed(Failure::Mismatch),
            Err(_) => Outcome::Failed(Failure::Refused),
        }
    }

    /// Finds out anew what Linux has.
    pub(super) fn resync(&self) -> Outcome {
        match self.device.adopt(RESYNC_PATIENCE_MS) {
            Ok(_) => Outcome::Done,
            Err(ENOMEM) => Outcome::Failed(Failure::NoMemory),
            Err(EBUSY) => Outcome::Failed(Failure::Busy),
            Err(_) => Outcome::Failed(Failure::Mismatch),
        }
    }

    pub(super) fn online(&self, memory_block: u32) -> Outcome {
        let (geometry, events) = (self.device.geometry(), self.device.events());
        let addr = geometry.memory_block_addr(memory_block);
        let size = geometry.memory_block_size();
        for _ in 0..ONLINE_TRIES {
            match memory_block::online_movable(addr, size) {
                Stored::Done => return Outcome::Done,
                Stored::Again if !events.is_set(STOP) => {}
                Stored::Again => return Outcome::Failed(Failure::Interrupted),
                Stored::Refused(ENOMEM) => return Outcome::Failed(Failure::NoMemory),
                // Online already, too.
                Stored::Refused(_) => return Outcome::Failed(Failure::Refused),
            }
        }
        Outcome::Failed(Failure::Busy)
    }

    /// One look at every so many pages tells how much of a range is in use.
    fn stride(&self) -> usize {
        let bytes = migration_budget::look_bytes(self.device.geometry().block_size());
        usize::try_from(bytes).unwrap_or(usize::MAX) / kernel::page::PAGE_SIZE
    }

    /// About how many bytes of an online memory block are in use, or unplugged.
    pub(super) fn look(&self, memory_block: u32) -> u64 {
        let content = self.content_of(
            &(memory_block..memory_block.saturating_add(1)),
            self.stride(),
        );
        content.map_or(u64::MAX, |content| {
            content.used().saturating_add(content.unplugged)
        })
    }

    /// What is in those of some memory blocks that are online, of which one page in every `stride` is
    /// looked at.
    fn content_of(&self, memory_blocks: &Range<u32>, stride: usize) -> Option<Content> {
        let geometry = self.device.geometry();
        let mut content = Content::default();
        for number in memory_blocks.clone() {
            let addr = geometry.memory_block_addr(number);
            let size = geometry.memory_block_size();
            let pages = self.device.region().pages(addr, size)?;
            if pages.online() {
                content = content.and(&pages.content(stride));
            }
        }
        Some(content)
    }

    /// What there is besides what is to be emptied.
    fn room(&self) -> Room {
        Room {
            free: hotplug::free_memory(),
            available: hotplug::available_memory(),
            swap: swap(),
            excess: self.device.with_engine(|engine| engine.excess_bytes()),
            nodes: hotplug::has_several_nodes(),
        }
    }

    pub(super) fn remove(&self, memory_blocks: &Range<u32>, online: bool, brief: bool) -> Outcome {
        let mut used = 0;
        if online {
            used = match self.prepare(memory_blocks) {
                Ok(used) => used,
                Err(failure) => return Outcome::Failed(failure),
            };
        }
        if brief {
            // As if it was empty: just the time that it takes to find out that it can go.
            used = 0;
        }
        let (first, late) = self.attempt_removal(memory_blocks, online, brief, used);
        if late && !brief {
            // Later, what was migrated would have been filled again.
            return self.attempt_removal(memory_blocks, online, brief, used).0;
        }
        first
    }

    /// Decides how to empty memory blocks that are online, and does what comes before they are taken
    /// offline. Returns how much of them is in use then, in bytes.
    fn prepare(&self, memory_blocks: &Range<u32>) -> Result<u64, Failure> {
        let stride = self.stride();
        let content = self
            .content_of(memory_blocks, stride)
            .ok_or(Failure::Busy)?;
        let geometry = self.device.geometry();
        let count = memory_blocks.end.saturating_sub(memory_blocks.start);
        let size = u64::from(count)
            .saturating_mul(geometry.memory_block_size())
            .saturating_sub(content.unplugged);
        let room = self.room();
        let requested = self
            .device
            .with_engine(|engine| engine.config().requested_size);
        let way = self
            .emptying
            .lock()
            .way(&content, size, &room, requested, parameters::ways());
        if way.ok_or(Failure::Busy)? == Way::Offline {
            return Ok(content.used());
        }
        self.empty(memory_blocks, &content)?;
        let left = self
            .content_of(memory_blocks, stride)
            .ok_or(Failure::Busy)?;
        if !emptying::may_go_offline(&left, size, &room) {
            return Err(Failure::Busy);
        }
        Ok(left.used())
    }

    /// Empties memory blocks that are online as contiguous ranges, which stay online
    /// meanwhile. What could not be migrated stays.
    fn empty(&self, memory_blocks: &Range<u32>, content: &Content) -> Result<(), Failure> {
        if !self
            .device
            .with_engine(|engine| engine.begin_emptying(memory_blocks))
        {
            return Err(Failure::Busy);
        }
        let result = self.empty_held(memory_blocks, content);
        self.device
            .with_engine(|engine| engine.end_emptying(memory_blocks));
        self.device.notify_changed();
        result
    }

    fn empty_held(&self, memory_blocks: &Range<u32>, content: &Content) -> Result<(), Failure> {
        let (geometry, events) = (self.device.geometry(), self.device.events());
        let limit_ms = emptying::limit_ms(content);
        // From above: so each goes to where it can stay.
        for number in memory_blocks.clone().rev() {
            let addr = geometry.memory_block_addr(number);
            let size = geometry.memory_block_size();
            let pages = self.device.region().pages(addr, size);
            let pages = pages.filter(|pages| pages.online());
            let Some(pages) = pages else {
                continue;
            };
            match events.attempt(limit_ms, URGENT, || pages.empty()) {
                Err(EINTR) => return Err(Failure::Interrupted),
                Err(ENOMEM) => return Err(Failure::Busy),
                // Some of it is held by others.
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// One attempt to remove memory blocks of which `used` bytes have to be migrated, and whether it
    /// was cut off although it lacked nothing but time.
    fn attempt_removal(
        &self,
        memory_blocks: &Range<u32>,
        online: bool,
        brief: bool,
        used: u64,
    ) -> (Outcome, bool) {
        let (geometry, events) = (self.device.geometry(), self.device.events());
        let count = memory_blocks.end.saturating_sub(memory_blocks.start);
        let addr = geometry.memory_block_addr(memory_blocks.start);
        let size = u64::from(count).saturating_mul(geometry.memory_block_size());
        let limit_ms = self.deadline.lock().deadline_ms(used, count);
        // Migration takes longer than what would be won.
        let _expedited = (used == 0).then(hotplug::Expedited::begin);
        let begun = Instant::<Monotonic>::now();
        let result = events.attempt(limit_ms, URGENT, || {
            self.device.region().remove(addr, size, online)
        });
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(0);
        let outcome = match result {
            Ok(()) => {
                // What is offline goes fast on any machine.
                if online {
                    self.deadline.lock().done(took_ms, limit_ms);
                }
                Outcome::Done
            }
            Err(EINTR) if online && !events.is_set(URGENT) => {
                let left = self.content_of(memory_blocks, 1).map(|left| left.used());
                // That a brief attempt goes over much memory once says nothing.
                let late = left.is_some_and(|left| {
                    (left == 0 || !brief) && self.deadline.lock().cut_off(took_ms, limit_ms, left)
                });
                return (Outcome::Failed(Failure::Interrupted), late);
            }
            Err(EINTR) => Outcome::Failed(Failure::Interrupted),
            Err(ENOMEM) => Outcome::Failed(Failure::NoMemory),
            Err(ENOENT) => Outcome::Failed(Failure::Mismatch),
            Err(_) => Outcome::Failed(Failure::Busy),
        };
        (outcome, false)
    }

    /// Sees to it that Linux does not use memory that the device does not have.
    pub(super) fn withdraw(&self, subs: &Range<u32>) -> Outcome {
        let geometry = self.device.geometry();
        let Some(pages) = self.device.pages(subs) else {
            return Outcome::Failed(Failure::Refused);
        };
        if pages.are_fake_offline() {
            return Outcome::Done;
        }
        // Later, pages without a mark may be a balloon's.
        let taking_over = self.device.with_engine(|engine| engine.is_taking_over());
        if taking_over && pages.are_left_offline() {
            // By an earlier driver.
            pages.tag(true);
            return Outcome::Done;
        }
        let taken = pages.take();
        dev_err!(
            self.device.dev(),
            "memory in use from {:#x} to {:#x} is not plugged in the device: {}\n",
            geometry.sub_addr(subs.start),
            geometry.sub_addr(subs.end),
            if taken.is_ok() {
                "withdrawn, what was in it is lost"
            } else {
                "it could not be withdrawn, and is tried for again"
            }
        );
        match taken {
            Ok(()) => Outcome::Done,
            Err(ENOMEM) => Outcome::Failed(Failure::NoMemory),
            Err(_) => Outcome::Failed(Failure::Busy),
        }
    }

    pub(super) fn take(&self, subs: &Range<u32>) -> Outcome {
        let geometry = self.device.geometry();
        let count = subs.end.saturating_sub(subs.start);
        let size = geometry.size_of(count);
        let Some(pages) = self.device.pages(subs) else {
            return Outcome::Failed(Failure::Refused);
        };
        let used = pages.content(self.stride()).used();
        if !migration_budget::room_for(used, size, reclaimable_memory()) {
            return Outcome::Failed(Failure::Busy);
        }
        let tries = if count == 1 && pages.movable() {
            TAKE_TRIES
        } else {
            1
        };
        for _ in 0..tries {
            match pages.take() {
                Ok(()) => return Outcome::Done,
                Err(ENOMEM) => return Outcome::Failed(Failure::NoMemory),
                Err(_) if self.device.events().is_set(URGENT) => {
                    return Outcome::Failed(Failure::Interrupted)
                }
                Err(_) => {}
            }
        }
        Outcome::Failed(Failure::Busy)
    }
}
