// SPDX-License-Identifier: GPL-2.0

//! When the engine says that it is done, and what ends its rest.

mod world;

use std::cell::Cell;
use virtio_mem_core::engine::notify::Verdict;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::engine::Step;
use virtio_mem_core::geometry::BigBlocks;
use virtio_mem_core::migration_budget;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;
use virtio_mem_core::wire::Request;
use world::Block;
use world::Owner;
use world::Policy;
use world::World;
use world::BLOCK;
use world::SUB;

/// The limit on what is added and offline, in memory blocks.
const MOST_OFFLINE: u64 = (1 << 30) / BLOCK;

fn settle(world: &mut World) {
    assert!(world.run(20_000) < 20_000, "does not settle");
    assert_eq!(world.violation, None);
}

/// Whether Linux can use all that is plugged.
fn usable(world: &World) -> bool {
    let cells = world.device.iter().zip(&world.owner);
    cells
        .filter(|(plugged, _)| **plugged)
        .all(|(_, owner)| *owner == Owner::Buddy)
}

#[test]
fn settled_means_usable() {
    let big = BigBlocks {
        force: true,
        size: 2 * BLOCK,
    };
    for (policy, big) in [
        (Policy::Offline, BigBlocks::default()),
        (Policy::Kernel, BigBlocks::default()),
        (Policy::Kernel, big),
    ] {
        let mut world = World::with(8, Onlining::Movable, policy, &big);
        settle(&mut world);
        world.faults.online_refused = 3;
        for size in [2 * BLOCK, 2 * BLOCK + SUB, 4 * BLOCK, 6 * BLOCK] {
            world.request(size);
            let mut steps = 0;
            loop {
                let begun = world.begin().cloned();
                let settled = world.engine.status().state == State::Settled;
                // The request has to be read first.
                if settled && begun != Some(Step::ReadConfig) {
                    assert!(usable(&world), "{policy:?}, {size}: settled at {begun:?}");
                }
                if begun.is_none() && settled {
                    break;
                }
                world.now_ms += 1;
                world.finish();
                steps += 1;
                assert!(steps < 2000);
            }
        }
    }
}

#[test]
fn what_the_device_has_lost_is_plugged_again_when_there_is_nothing_more() {
    let mut world = World::new(4, Onlining::Movable, Policy::Kernel);
    world.manners.slack = 0;
    world.config.usable_region_size = 2 * BLOCK;
    world.config.requested_size = 2 * BLOCK;
    world.config_changed();
    settle(&mut world);
    // More is requested than is usable.
    world.config.requested_size = 4 * BLOCK;
    world.config_changed();
    world.run(100);
    assert_eq!(world.engine.status().reason, Reason::NotAddressable);
    world.change_mind(3);
    world.config_changed();
    world.run(200);
    assert_eq!(world.violation, None);
    assert_eq!(world.plugged(), 2 * BLOCK);
    assert!(usable(&world));
}

#[test]
fn a_block_that_does_not_go_online_can_be_grown_into() {
    let mut world = World::new(MOST_OFFLINE + 36, Onlining::Policy, Policy::Offline);
    let last = MOST_OFFLINE as u32 - 1;
    world.request(u64::from(last) * BLOCK + SUB);
    settle(&mut world);
    assert_eq!(world.engine.going_online(last, true), Verdict::Allow);
    world.request(MOST_OFFLINE * BLOCK);
    world.run(100);
    assert_eq!(world.engine.status().reason, Reason::OfflineLimit);
    world.engine.cancel_online(last);
    settle(&mut world);
    assert_eq!(world.plugged(), MOST_OFFLINE * BLOCK);
}

#[test]
fn what_cannot_be_added_for_now_goes_back_to_the_host() {
    let mut world = World::new(MOST_OFFLINE + 36, Onlining::Policy, Policy::Movable);
    world.request(MOST_OFFLINE * BLOCK);
    settle(&mut world);
    world.request((MOST_OFFLINE + 2) * BLOCK);
    // When two more are plugged, all others are taken offline by hand.
    loop {
        let step = world.begin().cloned();
        world.finish();
        if matches!(step, Some(Step::Send(Request::Plug { .. }))) {
            break;
        }
    }
    for block in 0..MOST_OFFLINE as usize {
        assert!(world.offline(block));
    }
    world.run(200);
    assert_eq!(world.violation, None);
    let status = world.engine.status();
    assert_eq!(status.reason, Reason::OfflineLimit);
    assert_eq!(world.plugged(), MOST_OFFLINE * BLOCK, "plugged for nobody");
    for block in 0..MOST_OFFLINE as usize {
        assert!(world.online(block, true));
    }
    settle(&mut world);
    assert_eq!(world.plugged(), (MOST_OFFLINE + 2) * BLOCK);
}

#[test]
fn a_sub_block_that_is_going_online_is_left_as_it_is() {
    // Sub-blocks of two device blocks, of one of which the device has a half.
    let big = BigBlocks::default();
    let mut world = World::cut(4, Onlining::Policy, Policy::Offline, &big, 2 * SUB);
    world.request(2 * BLOCK);
    settle(&mut world);
    world.device[0] = false;
    world.misled();
    world.config_changed();
    // The device is asked about sub-block 0 alone when somebody brings its block online.
    loop {
        let step = world.begin().cloned();
        if let Some(Step::Send(Request::State { blocks: 2, .. })) = step {
            break;
        }
        assert!(step.is_some(), "it was not asked");
        world.finish();
    }
    assert_eq!(world.engine.going_online(0, true), Verdict::Allow);
    assert_eq!(world.engine.same_from(0, 1), (true, 0..1));
    // What it says now must not change what Linux was told.
    world.finish();
    assert_eq!(world.engine.same_from(0, 1), (true, 0..1));
}

#[test]
fn others_have_their_turn_while_many_blocks_are_looked_at() {
    let count = 2_000;
    let mut world = World::new(count, Onlining::Movable, Policy::Movable);
    world.request(count * BLOCK);
    settle(&mut world);
    // In each block so much is in use that it is the last to be tried.
    world.request(0);
    world.config.plugged_size = world.plugged();
    let env = world.env();
    let mut turns = 0;
    let most = u64::from(migration_budget::blocks_at_once(BLOCK));
    loop {
        let looks = Cell::new(0);
        let look = |_: u32| {
            looks.set(looks.get() + 1);
            BLOCK
        };
        match world.engine.step(&env, &look) {
            Step::ReadConfig => {
                let config = virtio_mem_core::engine::Outcome::Config(world.config);
                world.engine.done(config, &env);
            }
            Step::Wait { ms: Some(0), .. } => turns += 1,
            Step::Remove { .. } => break,
            step => panic!("{step:?}"),
        }
        assert!(looks.get() <= most, "{} looks at once", looks.get());
    }
    // Four sweeps over all of them before the one that takes any.
    assert!(turns >= 4 * count / most, "{turns} turns");
    assert!(world.blocks.iter().all(|block| *block == Block::Movable));
}

#[test]
fn what_is_offline_of_a_big_block_goes_where_only_that_may() {
    let big = BigBlocks {
        force: true,
        size: 2 * BLOCK,
    };
    let mut world = World::with(8, Onlining::Policy, Policy::Offline, &big);
    world.request(2 * BLOCK);
    // Its second memory block is not added for want of memory.
    loop {
        let step = world.begin().cloned();
        world.finish();
        if matches!(step, Some(Step::Add { .. })) {
            break;
        }
    }
    world.faults.add_no_memory = u32::MAX;
    world.run(20);
    world.unplug_online = false;
    world.request(0);
    settle(&mut world);
    assert_eq!(world.plugged(), 0);
    assert!(world.blocks.iter().all(|block| *block == Block::Absent));
}

/// A world of which Linux never takes one memory block.
fn refusing(world: &mut World, block: usize, online: bool) {
    if online {
        world.never_online = Some(block);
    } else {
        world.never_added = Some(block);
    }
}

#[test]
fn a_block_that_linux_refuses_is_done_without() {
    for (block, online) in [(0, false), (3, false), (6, false), (0, true), (3, true)] {
        // It picks the zone itself under none of these.
        for policy in [Policy::Offline, Policy::Kernel] {
            let mut world = World::new(8, Onlining::Movable, policy);
            refusing(&mut world, block, online);
            world.request(7 * BLOCK);
            let mut tries = 0;
            for _ in 0..2_000 {
                match world.begin().cloned() {
                    Some(Step::Add { memory_block }) => {
                        tries += u32::from(memory_block == block as u32);
                    }
                    Some(_) => {}
                    None if world.engine.status().state == State::Settled => break,
                    None => world.now_ms += 1,
                }
                world.finish();
            }
            assert_eq!(world.violation, None);
            assert_eq!(world.plugged(), 7 * BLOCK, "{block} {online} {policy:?}");
            assert!(usable(&world));
            assert_eq!(world.blocks[block], Block::Absent);
            assert!(tries <= 2, "{tries} attempts");
            assert!(world.now_ms < 2_000, "after {} ms", world.now_ms);
            // And is as good as any other once it is not refused any more.
            (world.never_added, world.never_online) = (None, None);
            world.request(8 * BLOCK);
            settle(&mut world);
            assert_eq!(world.plugged(), 8 * BLOCK);
        }
    }
}

#[test]
fn what_linux_refuses_is_tried_again_when_nothing_else_is_left() {
    for online in [false, true] {
        let mut world = World::new(8, Onlining::Movable, Policy::Kernel);
        refusing(&mut world, 3, online);
        world.request(8 * BLOCK);
        let mut tries = 0;
        while world.now_ms < 120_000 {
            match world.begin() {
                Some(Step::Add { memory_block: 3 }) => tries += 1,
                Some(_) => {}
                None => world.now_ms += 1,
            }
            world.finish();
        }
        assert_eq!(world.violation, None);
        assert!((5..40).contains(&tries), "{tries} attempts in two minutes");
        assert!(world.plugged() >= 7 * BLOCK);
        assert!(world.engine.status().retry_at_ms.is_some());
        (world.never_added, world.never_online) = (None, None);
        settle(&mut world);
        assert_eq!(world.plugged(), 8 * BLOCK);
    }
}

#[test]
fn other_big_blocks_come_in_place_of_one_that_linux_refuses() {
    let big = BigBlocks {
        force: true,
        size: 2 * BLOCK,
    };
    // Of one that Linux has a part of already, that part stays.
    for (block, online, others) in [(0, false, 6), (0, true, 6), (1, false, 4), (1, true, 4)] {
        let mut world = World::with(8, Onlining::Movable, Policy::Kernel, &big);
        refusing(&mut world, block, online);
        world.request(6 * BLOCK);
        world.run(2_000);
        assert_eq!(world.violation, None);
        let full = (2..8).filter(|number| world.blocks[*number] == Block::Movable);
        assert_eq!(full.count(), others, "{block} {online} {:?}", world.blocks);
        (world.never_added, world.never_online) = (None, None);
        world.request(8 * BLOCK);
        settle(&mut world);
        assert_eq!(world.plugged(), 8 * BLOCK);
    }
}

#[test]
fn a_refused_block_that_cannot_be_removed_either_does_not_keep_it_busy() {
    let mut world = World::new(8, Onlining::Movable, Policy::Kernel);
    refusing(&mut world, 0, true);
    world.faults.remove_busy = u32::MAX;
    world.request(8 * BLOCK);
    let mut steps = 0;
    while world.now_ms < 120_000 {
        steps += u32::from(world.begin().is_some());
        world.finish();
        assert!(steps < 400, "{steps} steps in {} ms", world.now_ms);
    }
    assert_eq!(world.violation, None);
    world.never_online = None;
    world.faults.remove_busy = 0;
    settle(&mut world);
    assert_eq!(world.plugged(), 8 * BLOCK);
}

#[test]
fn what_was_online_of_a_refused_big_block_comes_back_when_it_cannot_go() {
    let big = BigBlocks {
        force: true,
        size: 4 * BLOCK,
    };
    let mut world = World::with(4, Onlining::Movable, Policy::Kernel, &big);
    world.never_online = Some(3);
    world.request(4 * BLOCK);
    world.run(50);
    assert_eq!(world.blocks[..3], [Block::Movable; 3]);
    let cells = world.cells_of(1);
    world.owner[cells.start] = Owner::Pinned;
    // The device has lost all of it, but the second memory block does not let it go.
    world.change_mind(0);
    world.config_changed();
    for _ in 0..200 {
        let removes = matches!(world.begin(), Some(Step::Remove { .. }));
        world.finish();
        if removes {
            break;
        }
    }
    assert_eq!(world.blocks[..3], [Block::Movable; 3]);
}
