// SPDX-License-Identifier: GPL-2.0

//! How much the kernel can allocate for the metadata of memory that is added.

/// A zone that kernel memory can come from. In pages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Zone {
    /// All that it has for others (`zone_managed_pages()`).
    pub managed: u64,
    /// Free, with what only movable memory can use.
    pub free: u64,
    /// Free, but of CMA, where no kernel memory can be.
    pub free_cma: u64,
    /// Caches of files.
    pub file: u64,
    /// The high watermark, up to which kswapd reclaims.
    pub high: u64,
    /// The minimum watermark, below which only the kernel's emergencies go.
    pub min: u64,
    /// What is kept for those who can use lower zones only (`lowmem_reserve` for ZONE_NORMAL).
    pub reserve: u64,
}

/// Kernel memory that is kept free when more memory is added, as a part of what there is in all...
const KEEP_SHARE: u64 = 64;

/// ... and at least and at most this much, in bytes.
const KEEP: core::ops::RangeInclusive<u64> = (8 << 20)..=(32 << 20);

/// With less than this available in all, a guest needs the memory that it is offered, in bytes.
const NEEDY: u64 = 128 << 20;

/// How much the kernel can allocate for the metadata of more memory without pushing the guest into
/// reclaim: what is free above the high watermarks and half of what caches files, in all zones that
/// kernel memory comes from, less a reserve. In bytes, as are `page`, the size of a page, and
/// `available`, what the kernel calls `MemAvailable`.
///
/// As in the page allocator (`__zone_watermark_ok()`), a zone gives only what it has beyond its
/// watermark and what it keeps for users of lower zones. On machines where all memory is in ZONE_DMA
/// there are no others, and nothing is kept.
///
/// A guest that is short of memory altogether reclaims anyway, and more memory is what ends that:
/// it may spend half of what is above the minimum watermarks. (Where only kernel memory is short, as
/// in a small guest with much in ZONE_MOVABLE, more of that would not help.)
pub fn metadata_room(zones: impl Iterator<Item = Zone>, available: u64, page: u64) -> u64 {
    let (mut managed, mut above_high, mut above_min) = (0_u64, 0_u64, 0_u64);
    for zone in zones {
        let pages = zone
            .free
            .saturating_add(zone.file / 2)
            .saturating_sub(zone.free_cma);
        let above = |mark: u64| pages.saturating_sub(mark.saturating_add(zone.reserve));
        managed = managed.saturating_add(zone.managed);
        above_high = above_high.saturating_add(above(zone.high));
        above_min = above_min.saturating_add(above(zone.min));
    }
    let bytes = |pages: u64| pages.saturating_mul(page);
    let keep = (bytes(managed) / KEEP_SHARE).clamp(*KEEP.start(), *KEEP.end());
    let room = bytes(above_high).saturating_sub(keep);
    if available < NEEDY {
        room.max(bytes(above_min) / 2)
    } else {
        room
    }
}
