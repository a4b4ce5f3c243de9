// SPDX-License-Identifier: GPL-2.0

//! How hard to try to empty memory that is in use.

/// Left to the guest when memory is migrated, in bytes, besides a part of the range: see
/// [`room_for`].
const RESERVE: u64 = 8 << 20;

/// The part of a range's size that is left too.
const RESERVE_SHARE: u64 = 4;

/// How many pages are looked at before others have their turn with the engine, at most. A page takes an
/// emulated processor some microseconds.
const MAX_LOOKS: u64 = 4_096;

/// One look tells of so much memory, in bytes, where that is not too many looks for a block.
const LOOK_BYTES: u64 = 256 << 10;

/// Of how much of a block of `block_size` bytes one look at a page has to tell, in bytes.
pub fn look_bytes(block_size: u64) -> u64 {
    LOOK_BYTES.max(block_size.div_ceil(MAX_LOOKS))
}

/// How many blocks of `block_size` bytes are looked at before others have their turn: one at least.
pub fn blocks_at_once(block_size: u64) -> u32 {
    let looks = block_size.div_ceil(look_bytes(block_size)).max(1);
    u32::try_from(MAX_LOOKS / looks).unwrap_or(u32::MAX).max(1)
}

/// Whether `used` bytes of a range of `size` bytes can go elsewhere, when `free` bytes are free or
/// easily freed in the whole guest, the rest of the range included.
///
/// Without room migration would end half way, the kernel would warn of failed allocations, and the
/// guest's last free memory would go for it. `used` is an estimate, and the guest goes on
/// allocating meanwhile: the larger the range, the more has to be left.
pub fn room_for(used: u64, size: u64, free: u64) -> bool {
    let elsewhere = free.saturating_sub(size.saturating_sub(used));
    let needed = used
        .saturating_add(RESERVE)
        .saturating_add(size / RESERVE_SHARE);
    used == 0 || needed <= elsewhere
}

/// How often the time for an attempt is doubled at most: an empty memory block has up to 6.4 s.
const MOST_DOUBLINGS: u32 = 5;

/// The machine is as fast as was thought when an attempt needed less than this part of its time.
const FAST: u64 = 4;

/// How long attempts to empty memory may take, on a machine that may have little time for its
/// guest.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttemptDeadline {
    doublings: u32,
}

impl AttemptDeadline {
    /// How long one attempt to empty `memory_blocks` memory blocks may take, in milliseconds, when
    /// `used` bytes of them have to be migrated.
    ///
    /// The kernel goes over a whole block before it looks at the clock, and an attempt that is cut
    /// off between the last migrated page and the next look has been for nothing. So the time grows
    /// with the work: 200 ms are ten times what an idle memory block takes on a slow emulated CPU,
    /// 25 ms for a MiB several times what migration takes there.
    ///
    /// Of several memory blocks the kernel empties one after the other, each into those that follow,
    /// and makes all of them available again when it does not come to the end: where time is short,
    /// as much is left to do after each attempt as before.
    pub fn deadline_ms(&self, used: u64, memory_blocks: u32) -> u64 {
        let migration = (used >> 20).saturating_mul(25);
        let once = u64::from(memory_blocks)
            .saturating_mul(200)
            .saturating_add(migration);
        once.saturating_mul(1 << self.doublings)
    }

    /// An attempt that had `limit_ms` was cut off after `took_ms`, with `left` bytes in use still.
    /// Returns whether another one at once may do it.
    ///
    /// With nothing in use any more the time was all that it wanted, and those that follow get more
    /// of it. Where something is, more time may be a waste: it may be what cannot be moved. But when
    /// the limit had passed long before the kernel looked at the clock, it has gone over the block
    /// only once, if at all, and a page that is busy for a moment is enough to make that be for
    /// nothing.
    pub fn cut_off(&mut self, took_ms: u64, limit_ms: u64, left: u64) -> bool {
        if left == 0 {
            self.doublings = self.doublings.saturating_add(1).min(MOST_DOUBLINGS);
            return true;
        }
        took_ms > limit_ms.saturating_add(limit_ms / 4)
    }

    /// An attempt that had `limit_ms` has come to its end after `took_ms`.
    pub fn done(&mut self, took_ms: u64, limit_ms: u64) {
        if took_ms < limit_ms / FAST {
            self.doublings = self.doublings.saturating_sub(1);
        }
    }
}
