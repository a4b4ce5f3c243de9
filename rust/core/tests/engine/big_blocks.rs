// SPDX-License-Identifier: GPL-2.0

//! Device blocks that are larger than Linux's memory blocks.

use crate::resize;
use crate::settle;
use crate::sim::Block;
use crate::sim::Owner;
use crate::sim::Policy;
use crate::sim::Sim;
use crate::sim::BLOCK;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::engine::Step;
use virtio_mem_core::geometry::BigBlocks;
use virtio_mem_core::vocabulary::Reason;

/// A simulation of big blocks of two memory blocks.
fn big_sim(blocks: u64, onlining: Onlining, policy: Policy) -> Sim {
    let big = BigBlocks {
        force: true,
        size: 2 * BLOCK,
    };
    Sim::with(blocks, onlining, policy, &big)
}

#[test]
fn big_blocks_follow_in_their_steps() {
    for policy in [Policy::Offline, Policy::Kernel, Policy::Movable] {
        let mut sim = big_sim(16, Onlining::Movable, policy);
        for (size, got) in [(1, 0), (2, 2), (15, 14), (16, 16), (5, 4), (1, 0)] {
            sim.request(size * BLOCK);
            settle(&mut sim);
            assert_eq!(sim.plugged(), got * BLOCK);
            let online = sim.blocks.iter().filter(|b| **b == Block::Movable);
            assert_eq!(online.count() as u64, got);
        }
    }
}

#[test]
fn a_big_block_in_use_stays_whole() {
    let mut sim = big_sim(4, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, 4 * BLOCK);
    let pinned = sim.cells_of(1).start;
    sim.owner[pinned] = Owner::Pinned;
    sim.request(0);
    sim.run(100);
    // What had gone offline of it before is online again.
    assert_eq!(sim.violation, None);
    assert_eq!(sim.plugged(), 2 * BLOCK);
    assert_eq!(
        sim.blocks,
        [Block::Movable, Block::Movable, Block::Absent, Block::Absent]
    );
    sim.owner[pinned] = Owner::Buddy;
    sim.free += 2 * BLOCK;
    settle(&mut sim);
    assert_eq!(sim.plugged(), 0);
}

#[test]
fn a_big_block_that_was_added_in_part_is_completed_or_goes() {
    for size in [2 * BLOCK, 0] {
        let mut sim = big_sim(4, Onlining::Movable, Policy::Kernel);
        sim.request(2 * BLOCK);
        while !matches!(sim.begin(), Some(Step::Add { memory_block: 1 })) {
            sim.finish();
        }
        sim.faults.add_no_memory = 5;
        sim.finish();
        sim.run(3);
        assert_eq!(sim.plugged(), 2 * BLOCK);
        assert_eq!(sim.blocks[..2], [Block::Movable, Block::Absent]);
        assert_eq!(sim.engine.status().reason, Reason::NoMemory);
        resize(&mut sim, size);
        let state = if size == 0 {
            Block::Absent
        } else {
            Block::Movable
        };
        assert_eq!(sim.blocks[..2], [state, state]);
    }
}
