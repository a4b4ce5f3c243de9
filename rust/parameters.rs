// SPDX-License-Identifier: GPL-2.0

//! The module's parameters.

#[cfg(vmem_test_hooks)]
use crate::linux::memory_block::HIDDEN;
#[cfg(vmem_test_hooks)]
use crate::linux::memory_notifier::SLOW;
use crate::linux::param;
use crate::linux::param::Choice;
use crate::linux::param::Plain;
use kernel::prelude::*;
use virtio_mem_core::emptying::Ways;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::geometry::BigBlocks;

/// Whether online memory may be unplugged. Read before every step.
pub(crate) static UNPLUG_ONLINE: Plain<bool> = Plain::new(true);
param::module_parameter!(
    UNPLUG_ONLINE,
    "unplug_online",
    "bool",
    param::BOOL_OPS,
    0o644,
    "Try to unplug online memory"
);

/// Whether a shrink may have memory swapped out.
pub(crate) static RECLAIM: Plain<bool> = Plain::new(true);
param::module_parameter!(
    RECLAIM,
    "reclaim",
    "bool",
    param::BOOL_OPS,
    0o644,
    "Have memory in use swapped out where a shrink needs it. Default is 1"
);

static EMPTYING: Choice = Choice::new(&[c"auto", c"offline", c"contig"]);
param::module_parameter!(
    EMPTYING,
    "emptying",
    "charp",
    &raw const param::CHOICE_OPS,
    0o644,
    "How memory in use is emptied: auto (whichever way is best, default), offline (by taking it offline only) or contig (as a contiguous range first, always)"
);

/// What `emptying` says.
pub(crate) fn ways() -> Ways {
    match EMPTYING.get() {
        0 => Ways::Auto,
        1 => Ways::Offline,
        _ => Ways::Contiguous,
    }
}

/// Use big-block mode even where sub-blocks would do.
static FORCE_BBM: Plain<bool> = Plain::new(false);
param::module_parameter!(
    FORCE_BBM,
    "force_bbm",
    "bool",
    param::BOOL_OPS,
    0o444,
    "Force Big Block Mode. Default is 0 (auto-selection)"
);

/// The size of a big block, in bytes.
static BBM_BLOCK_SIZE: Plain<c_ulong> = Plain::new(0);
param::module_parameter!(
    BBM_BLOCK_SIZE,
    "bbm_block_size",
    "ulong",
    param::ULONG_OPS,
    0o444,
    "Big Block size in bytes. Default is 0 (auto-detection)."
);

// In a build for tests: hides a memory block.
#[cfg(vmem_test_hooks)]
param::module_parameter!(
    HIDDEN,
    "test_hide",
    "ulong",
    param::ULONG_OPS,
    0o644,
    "For tests: the number of a memory block that is not found"
);

// In a build for tests: as if much had to be moved out of each memory block.
#[cfg(vmem_test_hooks)]
param::module_parameter!(
    SLOW,
    "test_slow_offline",
    "ulong",
    param::ULONG_OPS,
    0o644,
    "For tests: how many ms longer it takes to take a memory block offline"
);

static ONLINE_TYPE: Choice = Choice::new(&[c"movable", c"policy"]);
param::module_parameter!(
    ONLINE_TYPE,
    "online_type",
    "charp",
    &raw const param::CHOICE_OPS,
    0o644,
    "Where added memory goes online: movable (ZONE_MOVABLE, default) or policy (left to the kernel's policy and udev). For devices probed from then on."
);

/// What `online_type` says.
pub(crate) fn onlining() -> Onlining {
    match ONLINE_TYPE.get() {
        0 => Onlining::Movable,
        _ => Onlining::Policy,
    }
}

/// The big blocks that `force_bbm` and `bbm_block_size` ask for.
pub(crate) fn big_blocks() -> BigBlocks {
    BigBlocks {
        force: FORCE_BBM.get(),
        size: BBM_BLOCK_SIZE.get() as u64,
    }
}
