// SPDX-License-Identifier: GPL-2.0

//! The engine against simulated devices and a simulated Linux.

mod cases;
mod world;

use cases::config;
use proptest::prelude::*;
use virtio_mem_core::engine::notify::Verdict;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::engine::Step;
use virtio_mem_core::geometry::BigBlocks;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;
use virtio_mem_core::wire::Request;
use world::history::calm_down;
use world::history::play;
use world::history::wrong;
use world::history::Event;
use world::history::Kind;
use world::Block;
use world::Faults;
use world::Owner;
use world::Policy;
use world::World;
use world::BLOCK;
use world::MANNERS;
use world::METADATA;
use world::MIB;
use world::SUB;

fn settle(world: &mut World) {
    let steps = world.run(20_000);
    assert_eq!(world.violation, None);
    assert!(
        steps < 20_000,
        "does not settle: {:?}",
        world.engine.status()
    );
}

fn resize(world: &mut World, size: u64) {
    world.request(size);
    settle(world);
    assert_eq!(world.plugged(), size);
    assert_eq!(world.engine.plugged_size(), size);
}

#[test]
fn follows_odd_sizes_both_ways() {
    let mut world = World::new(16, Onlining::Movable, Policy::Kernel);
    for size in [2, 0, 14, 16, 18, 254, 256, 130, 30, 32, 6, 0] {
        resize(&mut world, size * MIB);
        let online = world.blocks.iter().filter(|b| **b == Block::Movable);
        assert_eq!(online.count() as u64, (size * MIB).div_ceil(BLOCK));
    }
}

#[test]
fn everything_goes_to_zone_movable_under_any_policy() {
    for policy in [Policy::Offline, Policy::Kernel, Policy::Movable] {
        let mut world = World::new(8, Onlining::Movable, policy);
        resize(&mut world, 100 * MIB);
        for block in &world.blocks {
            assert!(
                matches!(block, Block::Movable | Block::Absent),
                "{policy:?}"
            );
        }
    }
}

#[test]
fn leaves_onlining_to_the_policy_when_told_to() {
    let mut world = World::new(8, Onlining::Policy, Policy::Offline);
    resize(&mut world, 100 * MIB);
    assert!(!world.blocks.contains(&Block::Movable));
    let mut world = World::new(8, Onlining::Policy, Policy::Kernel);
    resize(&mut world, 100 * MIB);
    assert!(world.blocks.contains(&Block::Kernel));
}

#[test]
fn offline_memory_is_limited_and_goes_on_when_onlined() {
    // 1 GiB are 64 blocks here.
    let mut world = World::new(100, Onlining::Policy, Policy::Offline);
    world.request(100 * BLOCK);
    world.run(1000);
    assert_eq!(world.engine.status().reason, Reason::OfflineLimit);
    let offline = |world: &World| {
        world
            .blocks
            .iter()
            .filter(|b| **b == Block::Offline)
            .count()
    };
    assert_eq!(offline(&world), 64);
    for block in 0..64 {
        assert!(world.online(block, true));
    }
    settle(&mut world);
    assert_eq!(world.plugged(), 100 * BLOCK);
}

#[test]
fn memory_from_an_earlier_life_is_unplugged_first() {
    let mut world = World::new(8, Onlining::Movable, Policy::Kernel);
    world.device[3] = true;
    world.config.plugged_size = SUB;
    let words = vec![0; 4096];
    world.engine = virtio_mem_core::engine::Engine::new(
        world.geometry,
        words,
        world.config,
        Onlining::Movable,
    );
    world.faults.busy = 3;
    resize(&mut world, 40 * MIB);
    assert!(!world.engine.unplug_all_required());
}

#[test]
fn few_requests_for_much_memory() {
    let mut world = World::new(512, Onlining::Movable, Policy::Kernel);
    resize(&mut world, 512 * BLOCK);
    assert!(world.requests <= 8, "{} requests to plug", world.requests);
    world.requests = 0;
    resize(&mut world, 0);
    assert!(world.requests <= 8, "{} requests to unplug", world.requests);
}

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
fn work_beside_an_audit_is_told() {
    let mut world = World::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut world, BLOCK);
    // The device has lost something and will not say what.
    world.faults.mute = u32::MAX;
    world.change_mind(1);
    world.engine.config_changed();
    world.run(5);
    let status = world.engine.status();
    assert_eq!(
        (status.state, status.reason),
        (State::Waiting, Reason::HostError)
    );
    world.request(2 * BLOCK);
    let mut seen = false;
    for _ in 0..200 {
        world.begin();
        let plugs = matches!(&world.step, Some(Step::Send(Request::Plug { .. })));
        seen |= plugs && world.engine.status().state == State::Plugging;
        world.finish();
    }
    assert!(seen);
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
    world.engine.retry();
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
                // By then it costs less than what has been paid for others.
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
fn a_request_in_force_is_read_before_anything_else() {
    let mut world = World::new(16, Onlining::Movable, Policy::Kernel);
    world.request(16 * BLOCK);
    for size in [3, 200, 0, 256, 1] {
        world.run(3);
        world.request(size * SUB.min(BLOCK));
    }
    settle(&mut world);
    assert_eq!(world.plugged(), SUB);
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
fn metadata_that_cannot_be_paid_gives_the_memory_back() {
    let mut world = World::new(8, Onlining::Movable, Policy::Kernel);
    world.faults.add_no_memory = 1_000_000;
    world.request(8 * BLOCK);
    world.run(200);
    // To the end of an attempt.
    while world.begin().is_some() {
        world.finish();
    }
    assert_eq!(world.engine.status().reason, Reason::NoMemory);
    assert_eq!(world.plugged(), 0);
    world.faults.add_no_memory = 0;
    settle(&mut world);
    assert_eq!(world.plugged(), 8 * BLOCK);
}

#[test]
fn a_small_usable_region_is_respected() {
    let mut world = World::new(16, Onlining::Movable, Policy::Kernel);
    world.config.usable_region_size = 0;
    world.manners.slack = 0;
    // It may end within a block: memory blocks of large guests have 2 GiB.
    for size in [SUB, BLOCK + SUB, 3 * BLOCK - SUB] {
        resize(&mut world, size);
    }
    world.config.requested_size = 5 * BLOCK;
    world.engine.config_changed();
    world.run(200);
    assert_eq!(world.plugged(), 3 * BLOCK - SUB);
    assert_eq!(world.engine.status().reason, Reason::NotAddressable);
    world.manners.slack = SUB;
    resize(&mut world, 5 * BLOCK);
}

/// Asks for 200 blocks of eight sub-blocks, and two sub-blocks more; returns the blocks in the order
/// in which they were added, and those of which not all is plugged.
fn order_of_adding(world: &mut World) -> (Vec<u32>, Vec<u32>) {
    // One request is for 128 of these small blocks.
    world.request(200 * BLOCK + 2 * SUB);
    let mut added = Vec::new();
    while world.engine.status().state != State::Settled || added.is_empty() {
        if let Some(Step::Add {
            memory_block: block,
        }) = world.begin()
        {
            added.push(*block);
        }
        world.finish();
    }
    assert_eq!(world.violation, None);
    let map = world.engine.map();
    let partial = (0..201).filter(|n| map.plugged_in(*n) < 8).collect();
    (added, partial)
}

#[test]
fn the_highest_block_goes_first_and_nothing_is_left_out() {
    let mut world = World::new(300, Onlining::Movable, Policy::Kernel);
    let (added, partial) = order_of_adding(&mut world);
    // The kernel looks at all up to the first hole whenever one is added.
    let from_above: Vec<u32> = [200, 0].into_iter().chain((1..200).rev()).collect();
    assert_eq!(added, from_above);
    // One block in part, of the last request, and it is not the highest.
    assert_eq!(partial, [71]);
}

#[test]
fn the_highest_usable_block_goes_first_when_one_above_is_usable_in_part() {
    let mut world = World::new(300, Onlining::Movable, Policy::Kernel);
    world.config.usable_region_size = 0;
    world.manners.slack = SUB;
    let (added, partial) = order_of_adding(&mut world);
    let from_above = [199, 0].into_iter().chain((1..199).rev());
    assert_eq!(added, from_above.chain([200]).collect::<Vec<_>>());
    assert_eq!(partial, [200]);
}

#[test]
fn a_block_that_moves_is_not_forgotten() {
    let mut world = World::new(2, Onlining::Movable, Policy::Kernel);
    resize(&mut world, 2 * BLOCK - SUB);
    // Somebody empties the only block that has room.
    let partial = u32::from(world.engine.map().plugged_in(1) < 8);
    assert_eq!(world.engine.going_offline(partial), Verdict::Allow);
    world.request(2 * BLOCK);
    world.run(50);
    assert_eq!(world.plugged(), 2 * BLOCK - SUB);
    assert_eq!(world.engine.status().reason, Reason::NotAddressable);
    assert!(world.engine.cancel_offline(partial));
    settle(&mut world);
    assert_eq!(world.plugged(), 2 * BLOCK);
}

#[test]
fn adds_that_go_on_failing_become_rare() {
    let mut world = World::new(8, Onlining::Movable, Policy::Kernel);
    world.faults.add_refused = u32::MAX;
    world.request(8 * BLOCK);
    let mut adds = 0;
    while world.now_ms < 120_000 {
        if let Some(Step::Add { .. }) = world.begin() {
            adds += 1;
        }
        world.finish();
    }
    assert_eq!(world.plugged(), 0);
    assert!((5..30).contains(&adds), "{adds} attempts in two minutes");
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

#[test]
fn only_what_the_guest_can_pay_for_is_taken() {
    for policy in [Policy::Kernel, Policy::Movable] {
        let mut world = World::new(100, Onlining::Movable, policy);
        world.metadata_room = 10 * METADATA + 1;
        world.request(100 * BLOCK);
        world.run(1_000);
        assert_eq!(world.violation, None);
        assert_eq!(world.plugged(), 10 * BLOCK);
        assert_eq!(world.engine.status().reason, Reason::NoMemory);
        // Nothing is plugged that would only lie about.
        assert_eq!(world.engine.map().loose(), 0);
        world.metadata_room = 5 * METADATA;
        world.run(100);
        assert_eq!(world.plugged(), 15 * BLOCK);
        resize(&mut world, 0);
        world.metadata_room = 1_000 * METADATA;
        resize(&mut world, 100 * BLOCK);
    }
}

#[test]
fn a_new_driver_takes_over_what_the_old_one_left() {
    for policy in [Policy::Offline, Policy::Kernel] {
        let mut world = World::new(16, Onlining::Movable, policy);
        resize(&mut world, 5 * BLOCK + 3 * SUB);
        assert!(world.offline(2));
        let before = world.blocks.clone();
        for _ in 0..3 {
            world.reload();
            // Until the device has told what is plugged nothing moves.
            assert!(!world.online(2, true) && !world.offline(1));
            settle(&mut world);
            assert_eq!(world.blocks, before);
            assert_eq!(world.engine.plugged_size(), 5 * BLOCK + 3 * SUB);
        }
        assert!(world.online(2, true) && world.offline(1));
        resize(&mut world, 9 * BLOCK);
        world.reload();
        resize(&mut world, 0);
        assert!(world.blocks.iter().all(|block| *block == Block::Absent));
    }
}

#[test]
fn a_take_over_waits_for_a_device_that_says_nothing() {
    let mut world = World::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut world, 2 * BLOCK);
    world.reload();
    world.faults.mute = 100;
    world.request(0);
    world.run(60);
    assert_eq!(world.plugged(), 2 * BLOCK);
    let status = world.engine.status();
    assert_eq!(
        (status.state, status.reason),
        (State::Waiting, Reason::HostError)
    );
    settle(&mut world);
    assert_eq!(world.plugged(), 0);
}

#[test]
fn what_the_device_has_lost_is_withdrawn() {
    let mut world = World::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut world, 4 * BLOCK);
    for cell in [9, 10, 31] {
        world.change_mind(cell);
    }
    world.owner[31] = Owner::Pinned;
    world.engine.config_changed();
    world.run(200);
    // The one that cannot be moved is tried for again, the others are replaced.
    assert_eq!(world.uses_unplugged(), Some(31));
    assert_eq!(world.plugged(), 4 * BLOCK - SUB);
    world.owner[31] = Owner::Buddy;
    settle(&mut world);
    assert_eq!(world.uses_unplugged(), None);
    assert_eq!(world.plugged(), 4 * BLOCK);
}

#[test]
fn what_the_device_has_beyond_the_map_is_found() {
    let mut world = World::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut world, BLOCK + SUB);
    // In a memory block that Linux has, and in one that it does not have.
    world.change_mind(12);
    world.change_mind(30);
    resize(&mut world, BLOCK + 3 * SUB);
    assert_eq!(world.uses_unplugged(), None);
    resize(&mut world, 0);
}

#[test]
fn what_lay_beyond_the_usable_region_is_found_when_it_grows() {
    let mut world = World::new(8, Onlining::Movable, Policy::Kernel);
    world.manners.slack = 0;
    world.config.usable_region_size = 2 * BLOCK;
    resize(&mut world, BLOCK);
    let cells = world.cells_of(5);
    world.device[cells].fill(true);
    world.misled();
    world.engine.config_changed();
    settle(&mut world);
    assert_eq!(world.plugged(), 2 * BLOCK);
    world.config.usable_region_size = 8 * BLOCK;
    world.engine.config_changed();
    settle(&mut world);
    assert_eq!(world.plugged(), BLOCK);
}

#[test]
fn a_device_that_counts_wrong_is_asked_once() {
    let mut world = World::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut world, BLOCK + SUB);
    world.drift = 7 * SUB;
    world.requests = 0;
    world.engine.config_changed();
    settle(&mut world);
    assert!((1..30).contains(&world.requests), "{}", world.requests);
    world.requests = 0;
    world.engine.config_changed();
    settle(&mut world);
    assert_eq!(world.requests, 0);
    resize(&mut world, 2 * BLOCK);
}

#[test]
fn what_could_not_be_asked_about_is_asked_when_it_can_be() {
    let mut world = World::new(4, Onlining::Movable, Policy::Kernel);
    world.manners = MANNERS[2];
    resize(&mut world, BLOCK);
    // The device starts anew: nothing is plugged, and nothing usable until the next resize.
    world.device.fill(false);
    world.config.usable_region_size = 0;
    world.misled();
    world.engine.config_changed();
    world.run(200);
    assert_eq!(world.uses_unplugged(), Some(0));
    resize(&mut world, 2 * BLOCK);
    assert_eq!(world.uses_unplugged(), None);
}

#[test]
fn follows_devices_of_every_kind() {
    for manners in MANNERS {
        for policy in [Policy::Offline, Policy::Kernel] {
            let mut world = World::new(32, Onlining::Movable, policy);
            world.manners = manners;
            world.config.usable_region_size = 0;
            // An earlier life that had plugged something.
            world.device[5] = true;
            world.reload();
            for size in [0, 3, 200, 256, 90, 5, 0, 128] {
                resize(&mut world, size * SUB);
            }
            world.faults.lie = 2;
            resize(&mut world, 13 * SUB);
            world.reload();
            resize(&mut world, 77 * SUB);
        }
    }
}

const BLOCKS: u64 = 12;

fn event() -> impl Strategy<Value = Event> {
    let block = 0..BLOCKS as usize;
    let sub = 0..(BLOCKS * BLOCK / SUB) as usize;
    let fault = || prop_oneof![4 => Just(0_u32), 1 => 1..4_u32];
    prop_oneof![
        4 => (0..=BLOCKS * BLOCK / SUB).prop_map(|subs| Event::Request(subs * SUB)),
        3 => sub.clone().prop_map(Event::Pin),
        3 => sub.prop_map(Event::Unpin),
        2 => (block.clone(), any::<bool>()).prop_map(|(b, m)| Event::Online(b, m)),
        2 => block.prop_map(Event::Offline),
        1 => (0..(1_u64 << 32)).prop_map(Event::Free),
        8 => (1..40_u32).prop_map(Event::Run),
        1 => Just(Event::Reload),
        1 => (0..2 * BLOCKS).prop_map(|blocks| Event::Metadata(blocks * METADATA)),
        1 => (0..(BLOCKS * BLOCK / SUB) as usize).prop_map(Event::Mind),
        2 => prop::array::uniform11(fault()).prop_map(|f| Event::Faults(Faults {
            busy: f[0], nack: f[1], error: f[2], lie: f[3], add_no_memory: f[4],
            add_refused: f[5], online_refused: f[6], remove_busy: f[7], mute: f[8],
            take_busy: f[9], withdraw_busy: f[10],
        })),
    ]
}

fn kinds() -> impl Strategy<Value = Kind> {
    let onlining = prop_oneof![Just(Onlining::Movable), Just(Onlining::Policy)];
    let policy = prop_oneof![
        Just(Policy::Offline),
        Just(Policy::Kernel),
        Just(Policy::Movable)
    ];
    let big = prop_oneof![3 => Just(0_u64), 1 => Just(1), 1 => Just(2), 1 => Just(4)];
    let manners = prop::sample::select(&MANNERS[..]);
    (onlining, policy, big, manners).prop_map(|(onlining, policy, big, manners)| Kind {
        onlining,
        policy,
        big,
        manners,
    })
}

proptest! {
    #![proptest_config(config(if cfg!(miri) { 5 } else { 10_000 }))]

    #[test]
    fn always_converges(kind in kinds(), events in prop::collection::vec(event(), 1..40)) {
        let events: Vec<_> = events.into_iter().filter(|event| !event.is_fault()).collect();
        let mut world = kind.world(BLOCKS, SUB);
        play(&mut world, &events);
        prop_assert_eq!(&world.violation, &None);
        calm_down(&mut world);
        prop_assert_eq!(wrong(&world), None);
    }

    #[test]
    fn survives_any_faults(kind in kinds(), events in prop::collection::vec(event(), 1..40)) {
        let mut world = kind.world(BLOCKS, SUB);
        play(&mut world, &events);
        prop_assert_eq!(&world.violation, &None);
        calm_down(&mut world);
        prop_assert_eq!(wrong(&world), None);
    }
}
