// SPDX-License-Identifier: GPL-2.0

//! Growing: which zone, which blocks in which order, and what keeps it from it.

use crate::resize;
use crate::settle;
use crate::sim::Block;
use crate::sim::Policy;
use crate::sim::Sim;
use crate::sim::BLOCK;
use crate::sim::METADATA;
use crate::sim::MIB;
use crate::sim::SUB;
use virtio_mem_core::engine::notify::Verdict;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::engine::Step;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;
use virtio_mem_core::wire::Request;

#[test]
fn everything_goes_to_zone_movable_under_any_policy() {
    for policy in [Policy::Offline, Policy::Kernel, Policy::Movable] {
        let mut sim = Sim::new(8, Onlining::Movable, policy);
        resize(&mut sim, 100 * MIB);
        for block in &sim.blocks {
            assert!(
                matches!(block, Block::Movable | Block::Absent),
                "{policy:?}"
            );
        }
    }
}

#[test]
fn leaves_onlining_to_the_policy_when_told_to() {
    let mut sim = Sim::new(8, Onlining::Policy, Policy::Offline);
    resize(&mut sim, 100 * MIB);
    assert!(!sim.blocks.contains(&Block::Movable));
    let mut sim = Sim::new(8, Onlining::Policy, Policy::Kernel);
    resize(&mut sim, 100 * MIB);
    assert!(sim.blocks.contains(&Block::Kernel));
}

#[test]
fn offline_memory_is_limited_and_goes_on_when_onlined() {
    // 1 GiB are 64 blocks here.
    let mut sim = Sim::new(100, Onlining::Policy, Policy::Offline);
    sim.request(100 * BLOCK);
    sim.run(1000);
    assert_eq!(sim.engine.status().reason, Reason::OfflineLimit);
    let offline = |sim: &Sim| sim.blocks.iter().filter(|b| **b == Block::Offline).count();
    assert_eq!(offline(&sim), 64);
    for block in 0..64 {
        assert!(sim.online(block, true));
    }
    settle(&mut sim);
    assert_eq!(sim.plugged(), 100 * BLOCK);
}

#[test]
fn the_highest_block_goes_first_and_nothing_is_left_out() {
    let mut sim = Sim::new(300, Onlining::Movable, Policy::Kernel);
    let (added, partial) = order_of_adding(&mut sim);
    // The kernel looks at all up to the first hole whenever one is added.
    let from_above: Vec<u32> = [200, 0].into_iter().chain((1..200).rev()).collect();
    assert_eq!(added, from_above);
    // One block in part, of the last request, and it is not the highest.
    assert_eq!(partial, [71]);
}

#[test]
fn the_highest_usable_block_goes_first_when_one_above_is_usable_in_part() {
    let mut sim = Sim::new(300, Onlining::Movable, Policy::Kernel);
    sim.config.usable_region_size = 0;
    sim.manners.slack = SUB;
    let (added, partial) = order_of_adding(&mut sim);
    let from_above = [199, 0].into_iter().chain((1..199).rev());
    assert_eq!(added, from_above.chain([200]).collect::<Vec<_>>());
    assert_eq!(partial, [200]);
}

/// Asks for 200 blocks of eight sub-blocks, and two sub-blocks more; returns the blocks in the order
/// in which they were added, and those of which not all is plugged.
fn order_of_adding(sim: &mut Sim) -> (Vec<u32>, Vec<u32>) {
    // One request is for 128 of these small blocks.
    sim.request(200 * BLOCK + 2 * SUB);
    let mut added = Vec::new();
    while sim.engine.status().state != State::Settled || added.is_empty() {
        if let Some(Step::Add {
            memory_block: block,
        }) = sim.begin()
        {
            added.push(*block);
        }
        sim.finish();
    }
    assert_eq!(sim.violation, None);
    let map = sim.engine.map();
    let partial = (0..201).filter(|n| map.plugged_in(*n) < 8).collect();
    (added, partial)
}

#[test]
fn a_small_usable_region_is_respected() {
    let mut sim = Sim::new(16, Onlining::Movable, Policy::Kernel);
    sim.config.usable_region_size = 0;
    sim.manners.slack = 0;
    // It may end within a block: memory blocks of large guests have 2 GiB.
    for size in [SUB, BLOCK + SUB, 3 * BLOCK - SUB] {
        resize(&mut sim, size);
    }
    sim.config.requested_size = 5 * BLOCK;
    sim.config_changed();
    sim.run(200);
    assert_eq!(sim.plugged(), 3 * BLOCK - SUB);
    assert_eq!(sim.engine.status().reason, Reason::NotAddressable);
    sim.manners.slack = SUB;
    resize(&mut sim, 5 * BLOCK);
}

#[test]
fn metadata_that_cannot_be_paid_gives_the_memory_back() {
    let mut sim = Sim::new(8, Onlining::Movable, Policy::Kernel);
    sim.faults.add_no_memory = 1_000_000;
    sim.request(8 * BLOCK);
    sim.run(200);
    // To the end of an attempt.
    while sim.begin().is_some() {
        sim.finish();
    }
    assert_eq!(sim.engine.status().reason, Reason::NoMemory);
    assert_eq!(sim.plugged(), 0);
    sim.faults.add_no_memory = 0;
    settle(&mut sim);
    assert_eq!(sim.plugged(), 8 * BLOCK);
}

#[test]
fn only_what_the_guest_can_pay_for_is_taken() {
    for policy in [Policy::Kernel, Policy::Movable] {
        let mut sim = Sim::new(100, Onlining::Movable, policy);
        sim.metadata_room = 10 * METADATA + 1;
        sim.request(100 * BLOCK);
        sim.run(1_000);
        assert_eq!(sim.violation, None);
        assert_eq!(sim.plugged(), 10 * BLOCK);
        assert_eq!(sim.engine.status().reason, Reason::NoMemory);
        // Nothing is plugged that would only lie about.
        assert_eq!(sim.engine.map().plugged_not_added(), 0);
        sim.metadata_room = 5 * METADATA;
        sim.run(100);
        assert_eq!(sim.plugged(), 15 * BLOCK);
        resize(&mut sim, 0);
        sim.metadata_room = 1_000 * METADATA;
        resize(&mut sim, 100 * BLOCK);
    }
}

#[test]
fn a_block_that_moves_is_not_forgotten() {
    let mut sim = Sim::new(2, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, 2 * BLOCK - SUB);
    // Somebody empties the only block that has room.
    let partial = u32::from(sim.engine.map().plugged_in(1) < 8);
    assert_eq!(sim.engine.handle_going_offline(partial), Verdict::Allow);
    sim.request(2 * BLOCK);
    sim.run(50);
    assert_eq!(sim.plugged(), 2 * BLOCK - SUB);
    assert_eq!(sim.engine.status().reason, Reason::NotAddressable);
    assert!(sim.engine.handle_cancel_offline(partial).reclaim);
    settle(&mut sim);
    assert_eq!(sim.plugged(), 2 * BLOCK);
}

#[test]
fn adds_that_go_on_failing_become_rare() {
    let mut sim = Sim::new(8, Onlining::Movable, Policy::Kernel);
    sim.faults.add_refused = u32::MAX;
    sim.request(8 * BLOCK);
    let mut adds = 0;
    while sim.now_ms < 120_000 {
        if let Some(Step::Add { .. }) = sim.begin() {
            adds += 1;
        }
        sim.finish();
    }
    assert_eq!(sim.plugged(), 0);
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
            let mut sim = Sim::new(200, onlining, policy);
            sim.room = room;
            sim.request(wanted * SUB);
            let before = sim.now_ms;
            while sim.plugged() < room * SUB {
                sim.run(1);
                assert!(sim.now_ms - before < 1_000, "{room}: {}", sim.plugged());
            }
            // While it waits, it asks for the least there is, now and then.
            let started = sim.now_ms;
            sim.requests = 0;
            while sim.now_ms - started < 60_000 {
                sim.run(1);
            }
            assert_eq!(sim.violation, None);
            assert_eq!(sim.plugged(), room * SUB);
            assert_eq!(sim.engine.status().reason, Reason::HostBusy);
            assert!(sim.requests <= 30, "{room}: {}", sim.requests);
            sim.room = wanted;
            let before = sim.now_ms;
            settle(&mut sim);
            assert_eq!(sim.plugged(), wanted * SUB);
            assert!(
                sim.now_ms - before < 5_000,
                "{room}: {} ms",
                sim.now_ms - before
            );
        }
    }
}

#[test]
fn a_host_without_room_is_asked_for_little() {
    let mut sim = Sim::new(200, Onlining::Movable, Policy::Kernel);
    sim.room = 0;
    sim.request(1600 * SUB);
    sim.run(100);
    assert_eq!(sim.engine.status().reason, Reason::HostBusy);
    let mut sizes = Vec::new();
    while sizes.len() < 4 {
        match sim.begin() {
            Some(Step::Send(Request::Plug { blocks, .. })) => sizes.push(*blocks),
            Some(_) => {}
            None => sim.now_ms += 1,
        }
        sim.finish();
    }
    assert_eq!(sizes, [1, 1, 1, 1]);
    // When a migration has ended, say.
    sim.room = u64::MAX;
    sim.requests = 0;
    settle(&mut sim);
    assert!(sim.requests <= 16, "{} requests", sim.requests);
}
