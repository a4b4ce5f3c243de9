// SPDX-License-Identifier: GPL-2.0

//! Shrinking: which blocks go, as a whole or in parts.

use crate::resize;
use crate::world::Block;
use crate::world::Owner;
use crate::world::Policy;
use crate::world::World;
use crate::world::BLOCK;
use crate::world::SUB;
use virtio_mem_core::engine::notify::Verdict;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::engine::Step;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;

#[test]
fn the_cheapest_blocks_go_first() {
    let mut world = World::new(8, Onlining::Movable, Policy::Kernel);
    resize(&mut world, 8 * BLOCK);
    // In use, in eighths of a block; what is in use here cannot be moved.
    for (block, used) in [
        (0, 1),
        (1, 8),
        (2, 0),
        (3, 4),
        (4, 3),
        (5, 0),
        (6, 7),
        (7, 2),
    ] {
        let cells = world.cells_of(block);
        world.owner[cells.start..cells.start + used].fill(Owner::Pinned);
    }
    world.request(0);
    let mut tried = Vec::new();
    while !matches!(world.begin(), Some(Step::Take { .. })) {
        if let Some(Step::Remove { memory_blocks, .. }) = &world.step {
            tried.push(memory_blocks.start);
        }
        world.finish();
    }
    // Those that cost about the same go from above.
    assert_eq!(tried, [5, 2, 7, 0, 4, 3, 6, 1]);
}

#[test]
fn a_block_that_becomes_cheaper_meanwhile_goes_whole() {
    for eighths in [1, 3, 8] {
        let mut world = World::new(2, Onlining::Movable, Policy::Kernel);
        resize(&mut world, 2 * BLOCK);
        let cells = world.cells_of(1);
        world.owner[cells.start..cells.start + eighths].fill(Owner::Pinned);
        world.request(0);
        let mut tried = Vec::new();
        while world.plugged() > 0 {
            let step = world.begin();
            assert!(!matches!(step, Some(Step::Take { .. })), "in parts");
            if let Some(Step::Remove { memory_blocks, .. }) = step {
                tried.push(memory_blocks.start);
                // By then its utilization is below the threshold of the sweep.
                world.owner[cells.clone()].fill(Owner::Buddy);
            }
            world.finish();
        }
        assert_eq!(tried, [0, 1]);
    }
}

#[test]
fn a_range_in_use_is_bisected() {
    let mut world = World::new(1, Onlining::Movable, Policy::Movable);
    resize(&mut world, BLOCK);
    world.owner[5] = Owner::Pinned;
    world.request(0);
    let mut takes = 0;
    while world.engine.status().reason != Reason::MemoryInUse {
        if let Some(Step::Take { .. }) = world.begin() {
            takes += 1;
        }
        world.finish();
    }
    assert_eq!(world.plugged(), SUB);
    assert!(takes <= 9, "{takes} attempts for 8 sub-blocks");
}

#[test]
fn blocks_that_need_not_go_in_parts_any_more_go_whole() {
    let mut world = World::new(16, Onlining::Movable, Policy::Kernel);
    world.free = SUB;
    resize(&mut world, 16 * BLOCK);
    world.owner.fill(Owner::Pinned);
    // A little is free in the first block that is tried.
    let last = world.cells_of(15);
    world.owner[last.start..last.start + 4].fill(Owner::Buddy);
    world.request(0);
    let mut steps = 0;
    while world.plugged() == 16 * BLOCK {
        world.begin();
        world.finish();
        steps += 1;
        assert!(steps < 2000);
    }
    // While it goes on with parts, the guest frees all of its memory.
    let pinned = world.owner.iter_mut().filter(|o| **o == Owner::Pinned);
    pinned.for_each(|owner| *owner = Owner::Buddy);
    world.free = 16 * BLOCK;
    let mut takes = 0;
    while world.plugged() > 0 {
        if let Some(Step::Take { .. }) = world.begin() {
            takes += 1;
        }
        world.finish();
        steps += 1;
        assert!(steps < 2000);
    }
    // What is left of the block that it was at, at most.
    assert!(takes <= 2, "{takes} ranges are taken");
}

#[test]
fn what_cannot_be_cleaned_up_is_settled() {
    let mut world = World::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut world, BLOCK);
    // Nothing of it is plugged in the end, but the block itself stays.
    world.faults.remove_busy = u32::MAX;
    world.request(0);
    world.run(200);
    assert_eq!(world.plugged(), 0);
    assert_ne!(world.blocks[0], Block::Absent);
    let status = world.engine.status();
    assert_eq!(
        (status.state, status.reason),
        (State::Settled, Reason::None)
    );
    assert_eq!(status.retry_at_ms, None);
}

#[test]
fn online_memory_stays_when_unplug_online_is_off() {
    let mut world = World::new(8, Onlining::Movable, Policy::Kernel);
    resize(&mut world, 8 * BLOCK);
    world.unplug_online = false;
    world.request(0);
    world.run(500);
    assert_eq!(world.plugged(), 8 * BLOCK);
    assert!(world.offline(2));
    world.run(500);
    assert_eq!(world.plugged(), 7 * BLOCK);
    assert_eq!(world.blocks[2], Block::Absent);
}

#[test]
fn what_is_half_done_is_known_at_the_end() {
    let mut world = World::new(1, Onlining::Movable, Policy::Movable);
    resize(&mut world, BLOCK);
    world.request(BLOCK - SUB);
    // Until something has been taken from Linux and not unplugged.
    while !matches!(world.begin(), Some(Step::Take { .. })) {
        world.finish();
    }
    let Some(Step::Take { subs }) = world.step.clone() else {
        unreachable!()
    };
    world.finish();
    assert_eq!(world.engine.wind_down(), Some(subs));
    assert_eq!(world.engine.wind_down(), None);
    assert_eq!(world.engine.going_offline(0), Verdict::Allow);
}
