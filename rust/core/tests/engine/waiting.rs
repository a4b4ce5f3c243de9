// SPDX-License-Identifier: GPL-2.0

//! Waiting for memory in use, and what ends that.

use crate::resize;
use crate::settle;
use crate::world::Block;
use crate::world::Owner;
use crate::world::Policy;
use crate::world::World;
use crate::world::BLOCK;
use crate::world::SUB;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::engine::Step;
use virtio_mem_core::engine::WATCH_MS;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;

#[test]
fn busy_memory_is_skipped_and_retried_when_memory_is_freed() {
    let mut world = World::new(16, Onlining::Movable, Policy::Kernel);
    resize(&mut world, 16 * BLOCK);
    // One pinned sub-block in each block: all the others can go.
    for block in 0..16 {
        let subs = world.cells_of(block);
        world.owner[subs.start + 2] = Owner::Pinned;
    }
    world.request(0);
    world.run(2000);
    assert_eq!(world.violation, None);
    assert_eq!(world.plugged(), 16 * SUB);
    let status = world.engine.status();
    assert_eq!(
        (status.state, status.reason),
        (State::Waiting, Reason::MemoryInUse)
    );
    // Nothing is tried while nothing changes: only looks once a second, within the backoff.
    let started = world.now_ms;
    let mut looks = 0;
    while world.begin().is_none() {
        looks += 1;
        assert!(looks < 100);
    }
    assert!(world.now_ms - started >= 1000 * (looks - 1));
    for owner in &mut world.owner {
        if *owner == Owner::Pinned {
            *owner = Owner::Buddy;
        }
    }
    world.run(2000);
    world.free += 16 * SUB;
    let freed = world.now_ms;
    settle(&mut world);
    assert_eq!(world.plugged(), 0);
    assert!(
        world.now_ms - freed <= 1000,
        "{} ms late",
        world.now_ms - freed
    );
}

#[test]
fn memory_freed_during_a_pass_starts_another() {
    let mut world = World::new(16, Onlining::Movable, Policy::Kernel);
    world.free = SUB;
    resize(&mut world, 16 * BLOCK);
    world.owner.fill(Owner::Pinned);
    world.request(0);
    // Everything is tried in vain, and all of it becomes free at the last moment.
    let (mut tried, mut steps) = (false, 0);
    while !tried {
        tried = matches!(world.begin(), Some(Step::Take { subs }) if subs.start == 0);
        world.finish();
        steps += 1;
        assert!(steps < 2000);
    }
    world.owner.fill(Owner::Buddy);
    world.free = 16 * BLOCK;
    let freed = world.now_ms;
    settle(&mut world);
    assert_eq!(world.plugged(), 0);
    assert!(world.now_ms - freed <= 1000);
}

#[test]
fn a_retry_does_not_wait() {
    let mut world = World::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut world, 4 * BLOCK);
    world.owner.fill(Owner::Pinned);
    world.remove_ms = 700;
    world.request(0);
    world.run(2000);
    let status = world.engine.status();
    assert_eq!(status.state, State::Waiting);
    assert!(status.attempts > 0);
    // It waits for long by now, and would not look at what is no longer pinned.
    let at = status.retry_at_ms.expect("a time");
    assert!(at > world.now_ms + 1_000);
    world.owner.fill(Owner::Buddy);
    let started = world.now_ms;
    world.retry();
    settle(&mut world);
    assert_eq!(world.plugged(), 0);
    assert!(world.now_ms < started + 4 * 700 + 1_000);
    // The next request is counted anew.
    resize(&mut world, BLOCK);
    assert_eq!(world.engine.status().attempts, 0);
}

#[test]
fn waiting_for_pinned_memory_costs_little() {
    let mut world = World::new(16, Onlining::Movable, Policy::Kernel);
    resize(&mut world, 16 * BLOCK);
    world.owner.fill(Owner::Pinned);
    world.remove_ms = 700;
    world.request(0);
    // The first pass tries everything.
    while world.engine.status().reason != Reason::MemoryInUse {
        world.begin();
        world.finish();
    }
    assert!(world.now_ms >= 16 * 700);
    let (started, mut busy) = (world.now_ms, 0);
    while world.now_ms - started < 3_600_000 {
        if world.begin().is_some() {
            let before = world.now_ms;
            world.finish();
            busy += world.now_ms - before;
        }
    }
    let waited = world.now_ms - started;
    assert!(busy * 1_000 < waited, "{busy} of {waited} ms");
    // And all blocks get their turn, whichever of them can go.
    let first = world.cells_of(0);
    world.owner[first].fill(Owner::Buddy);
    let last = world.now_ms;
    while world.blocks[0] != Block::Absent {
        world.begin();
        world.finish();
        assert!(world.now_ms - last < 20 * 1_000_000);
    }
}

/// All memory is pinned, and has been tried `attempts` times: the next will be in a while.
fn resting(remove_ms: u64, attempts: u32) -> World {
    let mut world = World::new(16, Onlining::Movable, Policy::Kernel);
    resize(&mut world, 16 * BLOCK);
    world.owner.fill(Owner::Pinned);
    world.remove_ms = remove_ms;
    world.request(0);
    while world.engine.status().attempts < attempts {
        world.begin();
        world.finish();
    }
    let retry_at = world.engine.status().retry_at_ms.expect("a time");
    assert!(retry_at > world.now_ms + 3 * WATCH_MS);
    assert!(world.begin().is_none());
    world
}

/// Another attempt is made within two looks.
fn soon_tried(world: &mut World) {
    let started = world.now_ms;
    while world.begin().is_none() {}
    assert_eq!(world.violation, None);
    assert!(world.now_ms - started <= 2 * WATCH_MS);
}

#[test]
fn a_little_that_is_freed_waits_for_the_rest_only() {
    // With each attempt it rests longer, but for now less long than until the next one.
    let mut world = resting(1, 3);
    world.free += 8 * SUB;
    soon_tried(&mut world);
}

#[test]
fn much_that_is_freed_is_tried_at_once() {
    let mut world = resting(700, 4);
    // A quarter of what is to go.
    world.free += 4 * BLOCK;
    soon_tried(&mut world);
}

#[test]
fn memory_that_comes_and_goes_does_not_keep_it_busy() {
    let mut world = World::new(16, Onlining::Movable, Policy::Kernel);
    resize(&mut world, 16 * BLOCK);
    world.owner.fill(Owner::Pinned);
    world.remove_ms = 700;
    world.request(0);
    let (mut busy, mut started) = (0, None);
    for round in 0..4_000_u64 {
        // Less than a block, but more than nothing.
        world.free = (1 << 30) + (round % 2) * 8 * SUB.min(BLOCK - 1);
        let before = world.now_ms;
        if world.begin().is_some() {
            world.finish();
            busy += world.now_ms - before;
        } else if started.is_none() {
            (started, busy) = (Some(world.now_ms), 0);
        }
    }
    let waited = world.now_ms - started.unwrap();
    assert!(
        waited > 1_000_000 && busy * 200 < waited,
        "{busy} of {waited} ms"
    );
    assert_eq!(world.violation, None);
}
