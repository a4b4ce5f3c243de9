// SPDX-License-Identifier: GPL-2.0

//! RAM that the kernel was told not to use (`mem=`), and what became of it since.
//!
//! It stays mapped, apart from the kernel's own mapping, when memory in it is added to Linux.

use super::memory_notifier::Event;
use super::memory_notifier::Listener;
use super::raw;
use core::num::NonZeroU64;
use core::ops::Range;
use core::ptr::NonNull;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::new_mutex;
use kernel::sync::Arc;
use kernel::sync::Mutex;

/// Bytes of a word of the content.
const WORD: u64 = 8;

/// As many words are gone through without looking whether others want the processor.
const STRETCH: u64 = 1 << 16;

/// The memory.
///
/// # Invariants
///
/// `base` is the start of a mapping of all of `range`, whose ends are page aligned, that stays
/// until this is dropped.
#[pin_data(PinnedDrop)]
pub(crate) struct Hidden {
    range: Range<u64>,
    base: NonNull<u64>,
    memory_block: NonZeroU64,
    /// Which memory blocks are online, or on their way there or from there. It is held while pages
    /// are looked at: a memory block's pages do not go away before its bit has been cleared.
    #[pin]
    online: Mutex<KVVec<bool>>,
}

// SAFETY: The mapping can be used from any thread. Those who use the memory, among them everybody
// in the guest, do so by plain accesses of words, as devices do.
unsafe impl Send for Hidden {}
// SAFETY: As above.
unsafe impl Sync for Hidden {}

/// Whether Linux has any of this as system RAM.
fn is_added(range: &Range<u64>) -> bool {
    let size = range.end.saturating_sub(range.start);
    // SAFETY: No preconditions: looks at the resource tree.
    let found = unsafe {
        raw::region_intersects(
            range.start,
            size as usize,
            raw::IORESOURCE_SYSTEM_RAM as c_ulong,
            raw::IORES_DESC_NONE as c_ulong,
        )
    };
    found != raw::REGION_DISJOINT as c_int
}

impl Hidden {
    /// Maps the memory, which nobody else may use. May sleep.
    pub(crate) fn new(range: Range<u64>) -> Result<Arc<Self>> {
        // SAFETY: No preconditions.
        let memory_block = u64::try_from(unsafe { raw::memory_block_size_bytes() })?;
        let memory_block = NonZeroU64::new(memory_block).ok_or(EINVAL)?;
        let page = PAGE_SIZE as u64;
        let size = range.end.checked_sub(range.start).ok_or(EINVAL)?;
        if size == 0 || range.start % page != 0 || size % page != 0 {
            return Err(EINVAL);
        }
        if is_added(&range) {
            return Err(EBUSY);
        }
        let blocks = usize::try_from((range.end / memory_block).saturating_add(1))?;
        let online = KVVec::from_elem(false, blocks, GFP_KERNEL)?;
        // SAFETY: No part of the range is memory that the kernel uses.
        let base =
            unsafe { raw::memremap(range.start, usize::try_from(size)?, raw::VMEM_MEMREMAP_WB) };
        let base = NonNull::new(base.cast()).ok_or(ENOMEM)?;
        // INVARIANT: Mapped above, to be unmapped by `drop`.
        Arc::pin_init(
            pin_init!(Self {
                range,
                base,
                memory_block,
                online <- new_mutex!(online),
            }),
            GFP_KERNEL,
        )
    }

    /// Its addresses.
    pub(crate) fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Calls `f` for the words of a part of the memory, so many at a time, until it says which of
    /// them it has been looking for; the address of that.
    fn stretches(
        &self,
        range: Range<u64>,
        mut f: impl FnMut(*mut u64, usize) -> Option<usize>,
    ) -> Option<u64> {
        let range = range.start.max(self.range.start)..range.end.min(self.range.end);
        let mut first = range.start.saturating_sub(self.range.start) / WORD;
        let end = range.end.saturating_sub(self.range.start) / WORD;
        while first < end {
            // SAFETY: Called without locks that forbid to sleep.
            unsafe { raw::vmem_test_cond_resched() };
            let count = STRETCH.min(end.saturating_sub(first));
            // SAFETY: By the type invariant, as the range has been confined.
            let place = unsafe { self.base.as_ptr().add(first as usize) };
            if let Some(found) = f(place, count as usize) {
                let word = first.saturating_add(found as u64);
                return Some(self.range.start.saturating_add(word.saturating_mul(WORD)));
            }
            first = first.saturating_add(count);
        }
        None
    }

    /// Writes `value` all over a part of the memory. May sleep.
    pub(crate) fn fill(&self, range: Range<u64>, value: u64) {
        self.stretches(range, |place, count| {
            // SAFETY: `stretches` gives a part of the mapping.
            unsafe { raw::vmem_test_fill(place, value, count) };
            None
        });
    }

    /// The first address at which there is something else than `value`. May sleep.
    pub(crate) fn find_other(&self, range: Range<u64>, value: u64) -> Option<u64> {
        const LINE: usize = 8;
        self.stretches(range, |place, count| {
            // SAFETY: `stretches` gives a part of the mapping.
            let word = |index: usize| unsafe { place.add(index).read_volatile() };
            let mut at = 0;
            // Processors are slow where this runs: without a branch for each word.
            while at + LINE <= count {
                let mut other = 0;
                for index in 0..LINE {
                    other |= word(at + index) ^ value;
                }
                if other != 0 {
                    break;
                }
                at += LINE;
            }
            (at..count).find(|index| word(*index) != value)
        })
    }

    /// The first address whose page is online and not PageOffline. May sleep.
    pub(crate) fn find_used(&self, range: Range<u64>) -> Option<u64> {
        let page = PAGE_SIZE as u64;
        let online = self.online.lock();
        let mut addr = range.start;
        while addr < range.end {
            let number = addr / self.memory_block;
            let end = number
                .saturating_add(1)
                .saturating_mul(self.memory_block.get());
            let end = end.min(range.end);
            if online.get(number as usize).copied().unwrap_or(false) {
                while addr < end {
                    // SAFETY: The pages of a memory block are initialised before its notifiers are
                    // told that it goes online (`move_pfn_range_to_zone`), and are not freed before
                    // they have been told that it went offline (`remove_memory` refuses to while it
                    // is online), for which `notify` would have needed the lock that is held here.
                    if !unsafe { raw::vmem_page_offline((addr / page) as c_ulong) } {
                        return Some(addr);
                    }
                    addr = addr.saturating_add(page);
                }
            }
            addr = end;
        }
        None
    }
}

impl Listener for Hidden {
    fn notify(&self, event: Event, start: u64, size: u64) -> Result {
        let online = match event {
            Event::GoingOnline => true,
            Event::CancelOnline | Event::Offline => false,
            Event::Online | Event::GoingOffline | Event::CancelOffline => return Ok(()),
        };
        let end = start.saturating_add(size);
        let mut blocks = self.online.lock();
        for number in start / self.memory_block..=end.saturating_sub(1) / self.memory_block {
            if let Some(place) = blocks.get_mut(number as usize) {
                *place = online;
            }
        }
        Ok(())
    }
}

#[pinned_drop]
impl PinnedDrop for Hidden {
    fn drop(self: Pin<&mut Self>) {
        if is_added(&self.range) {
            // To undo a mapping the kernel (`memtype_free`) looks up the pages of what is RAM by
            // now, as if all of the range was. Better this mapping stays.
            return;
        }
        // SAFETY: Mapped by `new`, and used by nobody any more.
        unsafe { raw::memunmap(self.base.as_ptr().cast()) };
    }
}
