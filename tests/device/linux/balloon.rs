// SPDX-License-Identifier: GPL-2.0

//! Pages that are taken away from Linux as a balloon does on kernels without `BALLOON_MIGRATION`:
//! PageOffline, with nothing in `private`.

use super::raw;
use core::ops::Range;
use kernel::error::to_result;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

/// The pages.
///
/// # Invariants
///
/// The pages from `start` to `end` were allocated by `vmem_test_inflate`, and not freed since.
pub(crate) struct Balloon {
    start: c_ulong,
    end: c_ulong,
}

impl Balloon {
    /// Takes all pages in a range of addresses. `EBUSY`: some of them cannot be migrated. May sleep.
    pub(crate) fn new(range: Range<u64>) -> Result<Self> {
        let page = PAGE_SIZE as u64;
        let start = c_ulong::try_from(range.start / page)?;
        let end = c_ulong::try_from(range.end / page)?;
        // SAFETY: Looks at what the range is before it allocates it (`pfn_to_online_page`).
        to_result(unsafe { raw::vmem_test_inflate(start, end) })?;
        // INVARIANT: Allocated above.
        Ok(Self { start, end })
    }

    /// Whether all pages are as they were left.
    pub(crate) fn is_intact(&self) -> bool {
        let intact = |pfn| {
            // SAFETY: By the type invariant the pages are there.
            unsafe { raw::vmem_page_offline(pfn) && raw::vmem_page_untouched(pfn) }
        };
        (self.start..self.end).all(intact)
    }
}

impl Drop for Balloon {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { raw::vmem_test_deflate(self.start, self.end) };
    }
}
