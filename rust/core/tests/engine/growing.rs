// SPDX-License-Identifier: GPL-2.0

//! Growing: which zone, which blocks in which order, and what keeps it from it.

use crate::resize;
use crate::settle;
use crate::world::Block;
use crate::world::Policy;
use crate::world::World;
use crate::world::BLOCK;
use crate::world::METADATA;
use crate::world::MIB;
use crate::world::SUB;
use virtio_mem_core::engine::notify::Verdict;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::engine::Step;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;
use virtio_mem_core::wire::Request;

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
fn a_small_usable_region_is_respected() {
    let mut world = World::new(16, Onlining::Movable, Policy::Kernel);
    world.config.usable_region_size = 0;
    world.manners.slack = 0;
    // It may end within a block: memory blocks of large guests have 2 GiB.
    for size in [SUB, BLOCK + SUB, 3 * BLOCK - SUB] {
        resize(&mut world, size);
    }
    world.config.requested_size = 5 * BLOCK;
    world.config_changed();
    world.run(200);
    assert_eq!(world.plugged(), 3 * BLOCK - SUB);
    assert_eq!(world.engine.status().reason, Reason::NotAddressable);
    world.manners.slack = SUB;
    resize(&mut world, 5 * BLOCK);
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
        assert_eq!(world.engine.map().plugged_not_added(), 0);
        world.metadata_room = 5 * METADATA;
        world.run(100);
        assert_eq!(world.plugged(), 15 * BLOCK);
        resize(&mut world, 0);
        world.metadata_room = 1_000 * METADATA;
        resize(&mut world, 100 * BLOCK);
    }
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
fn what_the_host_has_room_for_is_plugged() {
    for (onlining, policy) in [
        (Onlining::Movable, Policy::Kernel),
        (Onlining::Policy, Policy::Kernel),
    ] {
        for (room, wanted) in [
            (0, 1),
            (1, 2),
            (100, 256),
            (101, 256),
            (255, 256),
            (777, 1600),
        ] {
            let mut world = World::new(200, onlining, policy);
            world.room = room;
            world.request(wanted * SUB);
            let before = world.now_ms;
            while world.plugged() < room * SUB {
                world.run(1);
                assert!(world.now_ms - before < 1_000, "{room}: {}", world.plugged());
            }
            // While it waits, it asks for the least there is, now and then.
            let started = world.now_ms;
            world.requests = 0;
            while world.now_ms - started < 60_000 {
                world.run(1);
            }
            assert_eq!(world.violation, None);
            assert_eq!(world.plugged(), room * SUB);
            assert_eq!(world.engine.status().reason, Reason::HostBusy);
            assert!(world.requests <= 30, "{room}: {}", world.requests);
            world.room = wanted;
            let before = world.now_ms;
            settle(&mut world);
            assert_eq!(world.plugged(), wanted * SUB);
            assert!(
                world.now_ms - before < 5_000,
                "{room}: {} ms",
                world.now_ms - before
            );
        }
    }
}

#[test]
fn a_host_without_room_is_asked_for_little() {
    let mut world = World::new(200, Onlining::Movable, Policy::Kernel);
    world.room = 0;
    world.request(1600 * SUB);
    world.run(100);
    assert_eq!(world.engine.status().reason, Reason::HostBusy);
    let mut sizes = Vec::new();
    while sizes.len() < 4 {
        match world.begin() {
            Some(Step::Send(Request::Plug { blocks, .. })) => sizes.push(*blocks),
            Some(_) => {}
            None => world.now_ms += 1,
        }
        world.finish();
    }
    assert_eq!(sizes, [1, 1, 1, 1]);
    // When a migration has ended, say.
    world.room = u64::MAX;
    world.requests = 0;
    settle(&mut world);
    assert!(world.requests <= 16, "{} requests", world.requests);
}
