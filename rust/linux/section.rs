// SPDX-License-Identifier: GPL-2.0

//! Memory sections: what Linux has at an address, whatever anybody believes that it has.
//!
//! C header: [`include/linux/mmzone.h`](srctree/include/linux/mmzone.h)

use super::pages::Pages;
use super::raw;
use core::ops::Range;
use kernel::prelude::*;
use virtio_mem_core::guard::Sections;

/// The pieces of a range of addresses that lie in one memory section each.
fn pieces(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    // SAFETY: No preconditions.
    let pages = unsafe { raw::vmem_section_pages() } as u64;
    let section = pages.saturating_mul(kernel::page::PAGE_SIZE as u64);
    let mut at = range.start;
    core::iter::from_fn(move || {
        let start = at;
        let inside = start.checked_rem(section)?;
        at = start
            .saturating_add(section.saturating_sub(inside))
            .min(end);
        (start < end).then_some(start..at)
    })
}

/// The number of the page at `addr`; `None`: there can be none.
fn page_at(addr: u64) -> Option<c_ulong> {
    c_ulong::try_from(addr / kernel::page::PAGE_SIZE as u64).ok()
}

/// Whether Linux has memory sections for all of a range of addresses. Takes no lock.
pub(super) fn all_present(range: &Range<u64>) -> bool {
    // SAFETY: No preconditions: finds nothing where there is no section.
    let present = |pfn| unsafe { raw::vmem_section_present(pfn) };
    pieces(range).all(|piece| page_at(piece.start).is_some_and(present))
}

/// What Linux has in a range of addresses that lies in one memory block. In a memory section that is
/// online each page of the range is looked at. Takes no lock.
///
/// What is found stays so while the caller keeps memory from being added, removed, and moved there:
/// in a driver's own region, by being the one that carries out its steps.
pub(super) fn sections(range: &Range<u64>) -> Sections {
    let (mut absent, mut offline, mut fake_offline) = (false, false, false);
    for piece in pieces(range) {
        if !all_present(&piece) {
            absent = true;
            continue;
        }
        // SAFETY: No preconditions: says no where there is no section.
        if !page_at(piece.start).is_some_and(|pfn| unsafe { raw::vmem_section_online(pfn) }) {
            offline = true;
            continue;
        }
        let pages = Pages::new(piece.start, piece.end.saturating_sub(piece.start));
        if !pages.is_some_and(|pages| pages.are_fake_offline()) {
            return Sections::InUse;
        }
        fake_offline = true;
    }
    match (absent, offline, fake_offline) {
        (_, false, false) => Sections::Absent,
        (false, true, false) => Sections::Offline,
        (false, false, true) => Sections::FakeOffline,
        // No memory block is like that.
        _ => Sections::InUse,
    }
}
