// SPDX-License-Identifier: GPL-2.0

//! Keeping ranges of online memory away from everybody: taken out of the page allocator, or never
//! handed to it.
//!
//! Such pages are PageOffline, so that nobody (dumps, page migration, `/proc/kpageflags`) touches
//! them. The driver holds the only reference. Those that the page allocator has never seen since
//! their memory block went online are PageDirty too: they enter it another way. All of this is
//! kept in the pages alone, as the kernel's own virtio-mem driver keeps it, so that a driver finds
//! what an earlier one has left. To tell them from PageOffline pages of others (balloons), each has
//! a tag in its `private`.
//!
//! All functions may sleep.

use super::raw;
use core::ops::Range;
use kernel::error::to_result;
use kernel::prelude::*;
use virtio_mem_core::emptying::Content;

/// Page frame numbers of memory that Linux has, that is online (but where said otherwise), and that
/// stays so meanwhile.
///
/// # Invariants
///
/// All of the pages have a `struct page`, initialised when their memory block went online.
#[derive(Clone)]
pub(crate) struct Pages(Range<c_ulong>);

impl Pages {
    /// The pages of `size` bytes from `start`, if they exist; see
    /// [`super::hotplug::Region::pages`] for what the caller has to see to.
    pub(super) fn new(start: u64, size: u64) -> Option<Self> {
        let page = kernel::page::PAGE_SIZE as u64;
        let first = c_ulong::try_from(start / page).ok()?;
        let count = c_ulong::try_from(size / page).ok()?;
        let end = first.checked_add(count)?;
        // SAFETY: No preconditions: looks the section up.
        let known = |pfn| !unsafe { raw::vmem_known_page(pfn) }.is_null();
        // A memory section's pages exist together, and a range lies within one memory block.
        (count > 0 && known(first) && known(end.checked_sub(1)?)).then_some(Self(first..end))
    }

    fn each(&self) -> Range<c_ulong> {
        self.0.clone()
    }

    /// Whether the first page, and so the whole memory block, is in ZONE_MOVABLE.
    pub(crate) fn movable(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { raw::vmem_zone_movable(self.0.start) }
    }

    /// Whether they are online, as far as it is known now.
    pub(crate) fn online(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { raw::vmem_section_online(self.0.start) }
    }

    /// What the pages are used for, from one look in every `stride` pages.
    pub(crate) fn content(&self, stride: usize) -> Content {
        let mut content = Content::default();
        let step = (stride.max(1) as u64).saturating_mul(kernel::page::PAGE_SIZE as u64);
        for pfn in self.each().step_by(stride.max(1)) {
            // SAFETY: By the type invariant. Racy, as any look at the allocator's state is.
            let part = match unsafe { raw::vmem_page_use(pfn) } {
                raw::vmem_use_VMEM_USE_NONE => continue,
                raw::vmem_use_VMEM_USE_CLEAN => &mut content.clean,
                raw::vmem_use_VMEM_USE_OURS => &mut content.unplugged,
                raw::vmem_use_VMEM_USE_POOLED => &mut content.pooled,
                _ => &mut content.other,
            };
            *part = part.saturating_add(step);
        }
        content
    }

    /// Migrates and drops what is in the pages, but for what is held by others. They can be used again at
    /// once. `EBUSY`: one page of them had to be taken first, and none could be. A fatal signal ends it
    /// (`EINTR`).
    pub(crate) fn empty(&self) -> Result {
        // SAFETY: By the type invariant.
        to_result(unsafe { raw::vmem_empty_range(self.0.start, self.0.end) })
    }

    /// Whether all of the pages are PageOffline with our tag. (Of each pageblock one page is looked
    /// at: less is never kept away.)
    pub(crate) fn are_withheld(&self) -> bool {
        // SAFETY: No preconditions.
        let pageblock = unsafe { raw::vmem_pageblock_bytes() } as usize / kernel::page::PAGE_SIZE;
        self.each()
            .step_by(pageblock.max(1))
            .all(|pfn| Self(pfn..pfn + 1).are_fake_offline())
    }

    /// Whether each of the pages is PageOffline with our tag.
    pub(crate) fn are_fake_offline(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { raw::vmem_pages_claimed(self.0.start, self.0.end) }
    }

    /// Whether all of the pages are PageOffline and may be what an earlier driver has left, which the
    /// kernel's own does with nothing in `private`. So does a balloon on kernels without
    /// `BALLOON_MIGRATION`: to be believed only of memory that is taken over, and that the device says it
    /// does not have.
    pub(crate) fn are_left_offline(&self) -> bool {
        self.each().all(|pfn| {
            // SAFETY: By the type invariant.
            unsafe {
                raw::vmem_page_offline(pfn)
                    && (raw::vmem_page_tagged(pfn) || raw::vmem_page_untouched(pfn))
            }
        })
    }

    /// Tags pages that are ours, or takes the tag away before others get them.
    pub(crate) fn tag(&self, tagged: bool) {
        for pfn in self.each() {
            // SAFETY: By the type invariant; nobody else has the page.
            unsafe { raw::vmem_tag_page(pfn, tagged) };
        }
    }

    /// Takes the pages out of the page allocator, migrating what can be migrated. All or nothing.
    pub(crate) fn take(&self) -> Result {
        // SAFETY: By the type invariant.
        to_result(unsafe { raw::vmem_alloc_contig_range(self.0.start, self.0.end) })?;
        // SAFETY: The pages are ours since the allocation.
        unsafe { raw::vmem_claim_pages(self.0.start, self.0.end) };
        self.adjust_managed(false);
        Ok(())
    }

    /// Hands to the page allocator what was taken from it or withheld.
    pub(crate) fn give(&self) {
        self.tag(false);
        // SAFETY: No preconditions.
        let pageblock = unsafe { raw::vmem_pageblock_bytes() } / kernel::page::PAGE_SIZE as u64;
        // No larger than a sub-block, whose pages all have the same history.
        let max = pageblock.checked_ilog2().unwrap_or(0);
        let count = self.0.end - self.0.start;
        let aligned = (self.0.start | count).trailing_zeros();
        let order = max.min(aligned);
        let step = 1_usize << order;
        for pfn in self.each().step_by(step) {
            // SAFETY: By the type invariant.
            let fresh = unsafe { raw::vmem_page_dirty(pfn) };
            let piece = Self(pfn..pfn + step as c_ulong);
            if fresh {
                piece.give_fresh(order);
            } else {
                piece.give_back();
            }
        }
    }

    /// Hands over pages that the allocator has never seen.
    fn give_fresh(&self, order: u32) {
        for pfn in self.each() {
            // SAFETY: By the type invariant; nobody else has the page.
            unsafe { raw::vmem_clear_page_dirty(pfn) };
        }
        // SAFETY: A naturally aligned range of pages as the core initialised them for going
        // online, which is what this function takes (it clears PageOffline too).
        unsafe { raw::generic_online_page(raw::vmem_pfn_to_page(self.0.start), order) };
    }

    /// Returns what [`Pages::take`] took.
    fn give_back(&self) {
        for pfn in self.each() {
            // SAFETY: The page is ours.
            unsafe { raw::vmem_clear_page_offline(pfn) };
        }
        // SAFETY: Allocated by `take`; each page has our reference alone.
        unsafe { raw::free_contig_range(self.0.start, self.0.end - self.0.start) };
        self.adjust_managed(true);
    }

    fn adjust_managed(&self, more: bool) {
        let count = (self.0.end - self.0.start) as c_long;
        let delta = if more { count } else { -count };
        // SAFETY: By the type invariant; all pages are of one zone.
        unsafe { raw::adjust_managed_page_count(raw::vmem_pfn_to_page(self.0.start), delta) };
    }

    /// While their memory block goes online: lets the page allocator have the pages.
    pub(super) fn admit(&self) {
        let order = (self.0.end - self.0.start).trailing_zeros();
        // SAFETY: Only the online-page callback calls this, with a naturally aligned part of the
        // range that it was called with.
        unsafe { raw::generic_online_page(raw::vmem_pfn_to_page(self.0.start), order) };
    }

    /// While their memory block goes online: withholds the pages from the page allocator.
    pub(super) fn withhold(&self) {
        // SAFETY: No preconditions.
        unsafe { raw::page_offline_begin() };
        for pfn in self.each() {
            // The core has made the page PageOffline.
            // SAFETY: By the type invariant; nobody else has the page yet.
            unsafe { raw::vmem_set_page_dirty(pfn) };
        }
        // SAFETY: Begun above.
        unsafe { raw::page_offline_end() };
        self.tag(true);
    }

    /// While their memory block goes offline: gives up the references on pages that are ours, so
    /// that offlining skips them. Returns whether all of them were the last ones; somebody else
    /// who has one would keep the block from going offline.
    pub(crate) fn release(&self) -> bool {
        let mut last = true;
        for pfn in self.each() {
            // SAFETY: The page is ours, and with our reference its count is not zero.
            last &= unsafe { raw::vmem_page_unref(pfn) };
        }
        last
    }

    /// When their memory block does not go offline after all: undoes [`Pages::release`].
    pub(crate) fn reclaim(&self) {
        for pfn in self.each() {
            // SAFETY: The page is PageOffline with a count of zero, so nobody else takes it.
            unsafe { raw::vmem_page_ref(pfn) };
        }
    }
}
