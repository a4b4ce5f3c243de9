// SPDX-License-Identifier: GPL-2.0

//! Device blocks that are larger than Linux's memory blocks.

use crate::resize;
use crate::settle;
use crate::world::Block;
use crate::world::Owner;
use crate::world::Policy;
use crate::world::World;
use crate::world::BLOCK;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::engine::Step;
use virtio_mem_core::geometry::BigBlocks;
use virtio_mem_core::vocabulary::Reason;

/// A world of big blocks of two memory blocks.
fn big_world(blocks: u64, onlining: Onlining, policy: Policy) -> World {
    let big = BigBlocks {
        force: true,
        size: 2 * BLOCK,
    };
    World::with(blocks, onlining, policy, &big)
}

#[test]
fn big_blocks_follow_in_their_steps() {
    for policy in [Policy::Offline, Policy::Kernel, Policy::Movable] {
        let mut world = big_world(16, Onlining::Movable, policy);
        for (size, got) in [(1, 0), (2, 2), (15, 14), (16, 16), (5, 4), (1, 0)] {
            world.request(size * BLOCK);
            settle(&mut world);
            assert_eq!(world.plugged(), got * BLOCK);
            let online = world.blocks.iter().filter(|b| **b == Block::Movable);
            assert_eq!(online.count() as u64, got);
        }
    }
}

#[test]
fn a_big_block_in_use_stays_whole() {
    let mut world = big_world(4, Onlining::Movable, Policy::Kernel);
    resize(&mut world, 4 * BLOCK);
    let pinned = world.cells_of(1).start;
    world.owner[pinned] = Owner::Pinned;
    world.request(0);
    world.run(100);
    // What had gone offline of it before is online again.
    assert_eq!(world.violation, None);
    assert_eq!(world.plugged(), 2 * BLOCK);
    assert_eq!(
        world.blocks,
        [Block::Movable, Block::Movable, Block::Absent, Block::Absent]
    );
    world.owner[pinned] = Owner::Buddy;
    world.free += 2 * BLOCK;
    settle(&mut world);
    assert_eq!(world.plugged(), 0);
}

#[test]
fn a_big_block_that_was_added_in_part_is_completed_or_goes() {
    for size in [2 * BLOCK, 0] {
        let mut world = big_world(4, Onlining::Movable, Policy::Kernel);
        world.request(2 * BLOCK);
        while !matches!(world.begin(), Some(Step::Add { memory_block: 1 })) {
            world.finish();
        }
        world.faults.add_no_memory = 5;
        world.finish();
        world.run(3);
        assert_eq!(world.plugged(), 2 * BLOCK);
        assert_eq!(world.blocks[..2], [Block::Movable, Block::Absent]);
        assert_eq!(world.engine.status().reason, Reason::NoMemory);
        resize(&mut world, size);
        let state = if size == 0 {
            Block::Absent
        } else {
            Block::Movable
        };
        assert_eq!(world.blocks[..2], [state, state]);
    }
}
