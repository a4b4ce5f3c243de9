// SPDX-License-Identifier: GPL-2.0

//! Waiting for memory in use, and what ends that.

use crate::resize;
use crate::settle;
use crate::sim::Block;
use crate::sim::Owner;
use crate::sim::Policy;
use crate::sim::Sim;
use crate::sim::BLOCK;
use crate::sim::SUB;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::engine::Step;
use virtio_mem_core::engine::WATCH_MS;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;

#[test]
fn busy_memory_is_skipped_and_retried_when_memory_is_freed() {
    let mut sim = Sim::new(16, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, 16 * BLOCK);
    // One pinned sub-block in each block: all the others can go.
    for block in 0..16 {
        let subs = sim.cells_of(block);
        sim.owner[subs.start + 2] = Owner::Pinned;
    }
    sim.request(0);
    sim.run(2000);
    assert_eq!(sim.violation, None);
    assert_eq!(sim.plugged(), 16 * SUB);
    let status = sim.engine.status();
    assert_eq!(
        (status.state, status.reason),
        (State::Waiting, Reason::MemoryInUse)
    );
    // Nothing is tried while nothing changes: only looks once a second, within the backoff.
    let started = sim.now_ms;
    let mut looks = 0;
    while sim.begin().is_none() {
        looks += 1;
        assert!(looks < 100);
    }
    assert!(sim.now_ms - started >= 1000 * (looks - 1));
    for owner in &mut sim.owner {
        if *owner == Owner::Pinned {
            *owner = Owner::Buddy;
        }
    }
    sim.run(2000);
    sim.free += 16 * SUB;
    let freed = sim.now_ms;
    settle(&mut sim);
    assert_eq!(sim.plugged(), 0);
    assert!(sim.now_ms - freed <= 1000, "{} ms late", sim.now_ms - freed);
}

#[test]
fn memory_freed_during_a_pass_starts_another() {
    let mut sim = Sim::new(16, Onlining::Movable, Policy::Kernel);
    sim.free = SUB;
    resize(&mut sim, 16 * BLOCK);
    sim.owner.fill(Owner::Pinned);
    sim.request(0);
    // Everything is tried in vain, and all of it becomes free at the last moment.
    let (mut tried, mut steps) = (false, 0);
    while !tried {
        tried = matches!(sim.begin(), Some(Step::Take { subs }) if subs.start == 0);
        sim.finish();
        steps += 1;
        assert!(steps < 2000);
    }
    sim.owner.fill(Owner::Buddy);
    sim.free = 16 * BLOCK;
    let freed = sim.now_ms;
    settle(&mut sim);
    assert_eq!(sim.plugged(), 0);
    assert!(sim.now_ms - freed <= 1000);
}

#[test]
fn a_retry_does_not_wait() {
    let mut sim = Sim::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, 4 * BLOCK);
    sim.owner.fill(Owner::Pinned);
    sim.remove_ms = 700;
    sim.request(0);
    sim.run(2000);
    let status = sim.engine.status();
    assert_eq!(status.state, State::Waiting);
    assert!(status.attempts > 0);
    // It waits for long by now, and would not look at what is no longer pinned.
    let at = status.retry_at_ms.expect("a time");
    assert!(at > sim.now_ms + 1_000);
    sim.owner.fill(Owner::Buddy);
    let started = sim.now_ms;
    sim.retry();
    settle(&mut sim);
    assert_eq!(sim.plugged(), 0);
    assert!(sim.now_ms < started + 4 * 700 + 1_000);
    // The next request is counted anew.
    resize(&mut sim, BLOCK);
    assert_eq!(sim.engine.status().attempts, 0);
}

#[test]
fn waiting_for_pinned_memory_costs_little() {
    let mut sim = Sim::new(16, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, 16 * BLOCK);
    sim.owner.fill(Owner::Pinned);
    sim.remove_ms = 700;
    sim.request(0);
    // The first pass tries everything.
    while sim.engine.status().reason != Reason::MemoryInUse {
        sim.begin();
        sim.finish();
    }
    assert!(sim.now_ms >= 16 * 700);
    let (started, mut busy) = (sim.now_ms, 0);
    while sim.now_ms - started < 3_600_000 {
        if sim.begin().is_some() {
            let before = sim.now_ms;
            sim.finish();
            busy += sim.now_ms - before;
        }
    }
    let waited = sim.now_ms - started;
    assert!(busy * 1_000 < waited, "{busy} of {waited} ms");
    // And all blocks get their turn, whichever of them can go.
    let first = sim.cells_of(0);
    sim.owner[first].fill(Owner::Buddy);
    let last = sim.now_ms;
    while sim.blocks[0] != Block::Absent {
        sim.begin();
        sim.finish();
        assert!(sim.now_ms - last < 20 * 1_000_000);
    }
}

/// All memory is pinned, and has been tried `attempts` times: the next will be in a while.
fn resting(remove_ms: u64, attempts: u32) -> Sim {
    let mut sim = Sim::new(16, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, 16 * BLOCK);
    sim.owner.fill(Owner::Pinned);
    sim.remove_ms = remove_ms;
    sim.request(0);
    while sim.engine.status().attempts < attempts {
        sim.begin();
        sim.finish();
    }
    let retry_at = sim.engine.status().retry_at_ms.expect("a time");
    assert!(retry_at > sim.now_ms + 3 * WATCH_MS);
    assert!(sim.begin().is_none());
    sim
}

/// Another attempt is made within two looks.
fn soon_tried(sim: &mut Sim) {
    let started = sim.now_ms;
    while sim.begin().is_none() {}
    assert_eq!(sim.violation, None);
    assert!(sim.now_ms - started <= 2 * WATCH_MS);
}

#[test]
fn a_little_that_is_freed_waits_for_the_rest_only() {
    // With each attempt it rests longer, but for now less long than until the next one.
    let mut sim = resting(1, 3);
    sim.free += 8 * SUB;
    soon_tried(&mut sim);
}

#[test]
fn much_that_is_freed_is_tried_at_once() {
    let mut sim = resting(700, 4);
    // A quarter of what is to go.
    sim.free += 4 * BLOCK;
    soon_tried(&mut sim);
}

#[test]
fn memory_that_comes_and_goes_does_not_keep_it_busy() {
    let mut sim = Sim::new(16, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, 16 * BLOCK);
    sim.owner.fill(Owner::Pinned);
    sim.remove_ms = 700;
    sim.request(0);
    let (mut busy, mut started) = (0, None);
    for round in 0..4_000_u64 {
        // Less than a block, but more than nothing.
        sim.free = (1 << 30) + (round % 2) * 8 * SUB.min(BLOCK - 1);
        let before = sim.now_ms;
        if sim.begin().is_some() {
            sim.finish();
            busy += sim.now_ms - before;
        } else if started.is_none() {
            (started, busy) = (Some(sim.now_ms), 0);
        }
    }
    let waited = sim.now_ms - started.unwrap();
    assert!(
        waited > 1_000_000 && busy * 200 < waited,
        "{busy} of {waited} ms"
    );
    assert_eq!(sim.violation, None);
}
