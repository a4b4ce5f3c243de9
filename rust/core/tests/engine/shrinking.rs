// SPDX-License-Identifier: GPL-2.0

//! Shrinking: which blocks go, as a whole or in parts.

use crate::resize;
use crate::sim::Block;
use crate::sim::Owner;
use crate::sim::Policy;
use crate::sim::Sim;
use crate::sim::BLOCK;
use crate::sim::SUB;
use virtio_mem_core::engine::notify::StaysOnline;
use virtio_mem_core::engine::notify::Verdict;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::engine::Step;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;

#[test]
fn the_cheapest_blocks_go_first() {
    let mut sim = Sim::new(8, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, 8 * BLOCK);
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
        let cells = sim.cells_of(block);
        sim.owner[cells.start..cells.start + used].fill(Owner::Pinned);
    }
    sim.request(0);
    let mut tried = Vec::new();
    while !matches!(sim.begin(), Some(Step::Take { .. })) {
        if let Some(Step::Remove { memory_blocks, .. }) = &sim.step {
            tried.push(memory_blocks.start);
        }
        sim.finish();
    }
    // Those that cost about the same go from above.
    assert_eq!(tried, [5, 2, 7, 0, 4, 3, 6, 1]);
}

#[test]
fn a_block_that_becomes_cheaper_meanwhile_goes_whole() {
    for eighths in [1, 3, 8] {
        let mut sim = Sim::new(2, Onlining::Movable, Policy::Kernel);
        resize(&mut sim, 2 * BLOCK);
        let cells = sim.cells_of(1);
        sim.owner[cells.start..cells.start + eighths].fill(Owner::Pinned);
        sim.request(0);
        let mut tried = Vec::new();
        while sim.plugged() > 0 {
            let step = sim.begin();
            assert!(!matches!(step, Some(Step::Take { .. })), "in parts");
            if let Some(Step::Remove { memory_blocks, .. }) = step {
                tried.push(memory_blocks.start);
                // By then its utilization is below the threshold of the sweep.
                sim.owner[cells.clone()].fill(Owner::Buddy);
            }
            sim.finish();
        }
        assert_eq!(tried, [0, 1]);
    }
}

#[test]
fn a_range_in_use_is_bisected() {
    let mut sim = Sim::new(1, Onlining::Movable, Policy::Movable);
    resize(&mut sim, BLOCK);
    sim.owner[5] = Owner::Pinned;
    sim.request(0);
    let mut takes = 0;
    while sim.engine.status().reason != Reason::MemoryInUse {
        if let Some(Step::Take { .. }) = sim.begin() {
            takes += 1;
        }
        sim.finish();
    }
    assert_eq!(sim.plugged(), SUB);
    assert!(takes <= 9, "{takes} attempts for 8 sub-blocks");
}

#[test]
fn blocks_that_need_not_go_in_parts_any_more_go_whole() {
    let mut sim = Sim::new(16, Onlining::Movable, Policy::Kernel);
    sim.free = SUB;
    resize(&mut sim, 16 * BLOCK);
    sim.owner.fill(Owner::Pinned);
    // A little is free in the first block that is tried.
    let last = sim.cells_of(15);
    sim.owner[last.start..last.start + 4].fill(Owner::Buddy);
    sim.request(0);
    let mut steps = 0;
    while sim.plugged() == 16 * BLOCK {
        sim.begin();
        sim.finish();
        steps += 1;
        assert!(steps < 2000);
    }
    // While it goes on with parts, the guest frees all of its memory.
    let pinned = sim.owner.iter_mut().filter(|o| **o == Owner::Pinned);
    pinned.for_each(|owner| *owner = Owner::Buddy);
    sim.free = 16 * BLOCK;
    let mut takes = 0;
    while sim.plugged() > 0 {
        if let Some(Step::Take { .. }) = sim.begin() {
            takes += 1;
        }
        sim.finish();
        steps += 1;
        assert!(steps < 2000);
    }
    // What is left of the block that it was at, at most.
    assert!(takes <= 2, "{takes} ranges are taken");
}

#[test]
fn what_cannot_be_cleaned_up_is_settled() {
    let mut sim = Sim::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, BLOCK);
    // Nothing of it is plugged in the end, but the block itself stays.
    sim.faults.remove_busy = u32::MAX;
    sim.request(0);
    sim.run(200);
    assert_eq!(sim.plugged(), 0);
    assert_ne!(sim.blocks[0], Block::Absent);
    let status = sim.engine.status();
    assert_eq!(
        (status.state, status.reason),
        (State::Settled, Reason::None)
    );
    assert_eq!(status.retry_at_ms, None);
}

#[test]
fn online_memory_stays_when_unplug_online_is_off() {
    let mut sim = Sim::new(8, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, 8 * BLOCK);
    sim.unplug_online = false;
    sim.request(0);
    sim.run(500);
    assert_eq!(sim.plugged(), 8 * BLOCK);
    assert!(sim.offline(2));
    sim.run(500);
    assert_eq!(sim.plugged(), 7 * BLOCK);
    assert_eq!(sim.blocks[2], Block::Absent);
}

#[test]
fn what_is_half_done_is_known_at_the_end() {
    let mut sim = Sim::new(1, Onlining::Movable, Policy::Movable);
    resize(&mut sim, BLOCK);
    sim.request(BLOCK - SUB);
    // Until something has been taken from Linux and not unplugged.
    while !matches!(sim.begin(), Some(Step::Take { .. })) {
        sim.finish();
    }
    let Some(Step::Take { subs }) = sim.step.clone() else {
        unreachable!()
    };
    sim.finish();
    assert_eq!(sim.engine.wind_down(), Some(subs));
    assert_eq!(sim.engine.wind_down(), None);
    assert_eq!(sim.engine.handle_going_offline(0), Verdict::Allow);
}

#[test]
fn cancelled_offlining_wakes_the_thread_unless_its_own_step_began_it() {
    let mut sim = Sim::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, 4 * BLOCK);
    sim.request(3 * BLOCK);
    let removed = (0..100).find_map(|_| match sim.begin() {
        Some(Step::Remove { memory_blocks, .. }) => Some(memory_blocks.start),
        _ => {
            sim.finish();
            None
        }
    });
    let own = removed.unwrap();
    let other = (own + 1) % 4;
    for (number, wake) in [(own, false), (other, true)] {
        for reclaim in [true, false] {
            if reclaim {
                let verdict = sim.engine.handle_going_offline(number);
                assert_eq!(verdict, Verdict::Allow);
            }
            let stays = sim.engine.handle_cancel_offline(number);
            assert_eq!(stays, StaysOnline { reclaim, wake });
        }
    }
}

#[test]
fn a_block_that_is_emptied_goes_offline_by_no_other_hand() {
    let mut sim = Sim::new(2, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, 2 * BLOCK);
    let whole = 1..2;
    // There is no step for it.
    assert!(!sim.engine.begin_emptying(&whole));
    sim.request(BLOCK);
    while !matches!(sim.begin(), Some(Step::Remove { .. })) {
        sim.finish();
    }
    assert!(!sim.engine.begin_emptying(&(0..1)), "not of another block");
    assert!(sim.engine.begin_emptying(&whole));
    assert_eq!(sim.engine.handle_going_offline(1), Verdict::Later);
    sim.engine.end_emptying(&whole);
    assert_eq!(sim.engine.handle_going_offline(1), Verdict::Allow);
    // It is on its way.
    assert!(!sim.engine.begin_emptying(&whole));
    assert_eq!(sim.engine.handle_going_offline(0), Verdict::Allow);
}
