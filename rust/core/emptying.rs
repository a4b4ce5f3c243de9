// SPDX-License-Identifier: GPL-2.0

//! How a range of memory that is in use is emptied: decided from what is in it, from what room there
//! is elsewhere, and from whether the guest has one node or several.
//!
//! The kernel has two ways, with different effects, of which neither is right for everything:
//!
//! | | offlining (`offline_pages()`) | as a contiguous range (`alloc_contig_range()`) |
//! | --- | --- | --- |
//! | clean page cache | is migrated, page by page | is dropped |
//! | where pages go | to any other node but their own, if there is one | to their own node first |
//! | free pages of a hugetlb pool | leave the pool | are replaced |
//! | where there is no room | warns | is silent |
//! | migrates | in large batches | a few pages at a time |

use crate::migration_budget;

/// What is in a range, in bytes, as far as samples tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Page cache that has nothing to be written.
    pub clean: u64,
    /// Pages of a hugetlb pool, whether they are used or not.
    pub pooled: u64,
    /// What else is in use.
    pub other: u64,
    /// What is not plugged.
    pub unplugged: u64,
}

impl Content {
    /// All that is in use, and plugged.
    pub fn used(&self) -> u64 {
        self.clean
            .saturating_add(self.pooled)
            .saturating_add(self.other)
    }

    /// With what is in another range.
    #[must_use]
    pub fn and(&self, more: &Self) -> Self {
        Self {
            clean: self.clean.saturating_add(more.clean),
            pooled: self.pooled.saturating_add(more.pooled),
            other: self.other.saturating_add(more.other),
            unplugged: self.unplugged.saturating_add(more.unplugged),
        }
    }
}

/// What there is besides the range, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Free memory of the whole guest.
    pub free: u64,
    /// What the kernel shows as MemAvailable: that, and what can be dropped.
    pub available: u64,
    /// What can be swapped out, where the driver may have that done: see [`swappable`].
    pub swap: u64,
    /// How much the guest still has to give up, the range included.
    pub excess: u64,
    /// Whether more than one node has memory.
    pub nodes: bool,
}

/// How much is counted on to be swapped out when `free` bytes of swap are free. Some of them may be on
/// zram, or in zswap, whose pages are only compressed.
pub fn swappable(free: u64) -> u64 {
    free / 2
}

/// How to empty a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By taking it offline.
    Offline,
    /// As a contiguous range first; then what is left, if anything, by taking it offline.
    Contiguous,
}

/// Which ways may be used (module parameter `emptying`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ways {
    /// Whichever is best.
    Auto,
    /// Offlining only.
    Offline,
    /// A contiguous range first, always.
    Contiguous,
}

/// What is remembered from one range to the next while a request is met.
#[derive(Clone, Copy, Debug, Default)]
pub struct Emptying {
    /// The request, in bytes, that page cache was dropped for.
    dropping_for: Option<u64>,
}

/// Of what is used, that many parts have to be clean page cache for it to be dropped ...
const MOSTLY: u64 = 3;

/// ... out of so many.
const ALL: u64 = 4;

/// After a range was emptied as a contiguous one, the part of it that may be in use still for it to be
/// taken offline, by which that goes to another node.
const LEFT: u64 = 128;

impl Emptying {
    /// How to empty a range of `size` bytes, for a request of `requested` bytes. `None`: there is no room
    /// for what is in it.
    pub fn way(
        &mut self,
        content: &Content,
        size: u64,
        room: &Room,
        requested: u64,
        ways: Ways,
    ) -> Option<Way> {
        let used = content.used();
        if used == 0 {
            return Some(Way::Offline);
        }
        let fits = |moved, available| migration_budget::room_for(moved, size, available);
        let unclean = used.saturating_sub(content.clean);
        // In their order: the first that is true decides.
        let way = match ways {
            Ways::Offline => Way::Offline,
            Ways::Contiguous => Way::Contiguous,
            // The pool would shrink.
            Ways::Auto if content.pooled > 0 => Way::Contiguous,
            // All of it would go to another node.
            Ways::Auto if room.nodes => Way::Contiguous,
            Ways::Auto if self.is_to_be_dropped(content, room, requested) => Way::Contiguous,
            // Whoever swaps is not to be warned of for each allocation that fails.
            Ways::Auto if !fits(used, room.available) => Way::Contiguous,
            Ways::Auto => Way::Offline,
        };
        match way {
            Way::Offline => fits(used, room.available),
            Way::Contiguous => fits(unclean, room.available.saturating_add(room.swap)),
        }
        .then_some(way)
    }

    /// Whether page cache in the range is dropped rather than migrated. Where what the guest has to give
    /// up does not fit into its free memory, with all that is in use there, some page cache has to go, and
    /// what is migrated would only be moved about until it is reclaimed. What has been dropped makes room,
    /// but says no better what of the rest is worth being kept: so it is for all of a request.
    fn is_to_be_dropped(&mut self, content: &Content, room: &Room, requested: u64) -> bool {
        if content.clean / MOSTLY < content.used() / ALL {
            return false;
        }
        if room.excess > room.free {
            self.dropping_for = Some(requested);
        }
        self.dropping_for == Some(requested)
    }
}

/// Whether a range of `size` bytes with that content, which was emptied as a contiguous range, may be
/// taken offline.
pub fn may_go_offline(content: &Content, size: u64, room: &Room) -> bool {
    let used = content.used();
    if content.pooled > 0 {
        return false;
    }
    !room.nodes || used <= size / LEFT
}

/// How long emptying a range with that content as a contiguous one may take, in milliseconds. What is
/// dropped takes a fiftieth of what is migrated; memory may have to be swapped out for that.
pub fn limit_ms(content: &Content) -> u64 {
    let migrated = content.pooled.saturating_add(content.other) >> 20;
    LEAST_MS.saturating_add(migrated.saturating_mul(EACH_MIB_MS))
}

/// See [`limit_ms`].
const LEAST_MS: u64 = 1_000;

/// See [`limit_ms`].
const EACH_MIB_MS: u64 = 100;
