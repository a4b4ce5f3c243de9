// SPDX-License-Identifier: GPL-2.0

//! Deciding which pages reach the page allocator when a memory block goes online.
//!
//! The kernel has one callback for that, so that all devices of the driver share it. Pages of
//! nobody's region are handed on as if there was no callback.
//!
//! Lock order: `CALLBACK` -> `mem_hotplug_lock` -> `FILTERS` -> what the filters take. The
//! callback runs under `mem_hotplug_lock`, which `set_online_page_callback()` takes too: one lock
//! for both would deadlock.

use super::pages::Pages;
use super::raw;
use core::ops::Range;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Who decides for a range of addresses.
pub(crate) trait Filter: Send + Sync {
    /// Whether the memory at `addr` may be used, and up to which address (at most `end`) the
    /// answer is the same. Called while a memory block goes online, with the device and memory
    /// hotplug locks held; may sleep.
    fn usable(&self, addr: u64, end: u64) -> (bool, u64);
}

struct Entry {
    range: Range<u64>,
    filter: Arc<dyn Filter>,
}

kernel::sync::global_lock! {
    // SAFETY: Initialised by `init`, before anything else here is called.
    unsafe(uninit) static CALLBACK: Mutex<usize> = 0;
}

kernel::sync::global_lock! {
    // SAFETY: As above.
    unsafe(uninit) static FILTERS: Mutex<KVec<Entry>> = KVec::new();
}

/// Prepares the locks; to be called once, when the module is loaded.
pub(crate) fn init() {
    // SAFETY: Called once, by the module's initialisation.
    unsafe {
        CALLBACK.init();
        FILTERS.init();
    }
}

/// A filter that is asked as long as this lives. Its memory must not go online any more when it is
/// dropped, unless all of it may be used.
pub(crate) struct Registration {
    start: u64,
}

impl Registration {
    /// Registers `filter` for a range of addresses that no other filter has. `EINVAL`: another
    /// driver has set the kernel's callback. May sleep.
    pub(crate) fn new(range: Range<u64>, filter: Arc<dyn Filter>) -> Result<Self> {
        let start = range.start;
        let mut users = CALLBACK.lock();
        FILTERS.lock().push(Entry { range, filter }, GFP_KERNEL)?;
        // From here on dropping undoes what was done.
        let registration = Self { start };
        if *users == 0 {
            // SAFETY: The callback is restored before the module goes away.
            let result = to_result(unsafe { raw::set_online_page_callback(Some(callback)) });
            if result.is_err() {
                // `Drop` takes the lock, and has no callback to restore.
                core::mem::forget(registration);
                remove(start);
                return Err(EINVAL);
            }
        }
        *users = users.saturating_add(1);
        Ok(registration)
    }
}

/// Whether there is a filter for a part of `range`.
pub(crate) fn is_filtered(range: &Range<u64>) -> bool {
    FILTERS
        .lock()
        .iter()
        .any(|entry| entry.range.start < range.end && range.start < entry.range.end)
}

fn remove(start: u64) {
    let mut filters = FILTERS.lock();
    filters.retain(|entry| entry.range.start != start);
    if filters.is_empty() {
        // Statics are not dropped when the module goes: its memory would be lost.
        *filters = KVec::new();
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut users = CALLBACK.lock();
        *users = users.saturating_sub(1);
        if *users == 0 {
            // SAFETY: Set by `new`. Waits for callers, by the memory hotplug lock.
            unsafe { raw::restore_online_page_callback(Some(callback)) };
        }
        remove(self.start);
    }
}

extern "C" fn callback(page: *mut raw::page, order: c_uint) {
    // SAFETY: The core calls with a valid page.
    let pfn = unsafe { raw::vmem_page_to_pfn(page) } as u64;
    let page_size = kernel::page::PAGE_SIZE as u64;
    let start = pfn.saturating_mul(page_size);
    let end = start.saturating_add(page_size << order);
    // Asked without the lock: filters take locks of their own.
    let filter = FILTERS
        .lock()
        .iter()
        .find(|entry| entry.range.start < end && start < entry.range.end)
        .map(|entry| entry.filter.clone());
    let Some(filter) = filter else {
        // SAFETY: What would have been called without us.
        unsafe { raw::generic_online_page(page, order) };
        return;
    };
    let mut addr = start;
    while addr < end {
        let (usable, stop) = filter.usable(addr, end);
        // In naturally aligned pieces, which sub-blocks are anyway.
        let left = stop.min(end).saturating_sub(addr).max(page_size);
        let largest = 1 << left.checked_ilog2().unwrap_or(0);
        let alignment = addr & addr.wrapping_neg();
        let size = alignment.min(largest).max(page_size);
        if let Some(pages) = Pages::new(addr, size) {
            if usable {
                pages.admit();
            } else {
                pages.withhold();
            }
        }
        addr = addr.saturating_add(size);
    }
}
