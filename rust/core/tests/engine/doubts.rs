// SPDX-License-Identifier: GPL-2.0

//! What another driver has left, and devices that are not what the engine takes them for.

use crate::resize;
use crate::settle;
use crate::world::history::calm_down;
use crate::world::history::play;
use crate::world::history::wrong;
use crate::world::history::Event;
use crate::world::history::Kind;
use crate::world::Block;
use crate::world::Owner;
use crate::world::Policy;
use crate::world::World;
use crate::world::BLOCK;
use crate::world::MANNERS;
use crate::world::MIB;
use crate::world::SUB;
use virtio_mem_core::block_map::BlockMap;
use virtio_mem_core::block_map::MemoryBlockState;
use virtio_mem_core::engine::notify::Verdict;
use virtio_mem_core::engine::Engine;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::engine::Step;
use virtio_mem_core::geometry::BigBlocks;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;
use virtio_mem_core::wire::Config;
use virtio_mem_core::wire::Request;

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
            // The host is not at fault.
            assert_eq!(world.engine.status().reason, Reason::None);
            assert_ne!(world.engine.status().state, State::Settled);
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
fn a_move_announced_during_a_take_over_tells_what_the_block_was() {
    let mut world = World::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut world, 2 * BLOCK);
    // With nothing to take over, a block that the engine has not added is none of it.
    world.engine.announced(3, MemoryBlockState::Offline);
    assert_eq!(
        world.engine.map().memory_block_state(3),
        MemoryBlockState::Absent
    );
    assert_eq!(world.engine.going_online(3, true), Verdict::Deny);
    let words = vec![0; BlockMap::<Vec<u64>>::words_needed(&world.geometry)];
    let mut engine = Engine::new(world.geometry, words, world.config, Onlining::Movable);
    engine.take_over();
    engine.announced(0, MemoryBlockState::Movable);
    engine.announced(1, MemoryBlockState::Offline);
    assert_eq!(
        engine.map().memory_block_state(0),
        MemoryBlockState::Movable
    );
    assert_eq!(
        engine.map().memory_block_state(1),
        MemoryBlockState::Offline
    );
    // They wait all the same, and what is said later of one that is known changes nothing.
    assert_eq!(engine.going_offline(0), Verdict::Later);
    assert_eq!(engine.going_online(1, true), Verdict::Later);
    engine.adopt(0, MemoryBlockState::Kernel);
    engine.adopt(1, MemoryBlockState::Offline);
    engine.adopt_withheld(1);
    engine.announced(0, MemoryBlockState::Movable);
    assert_eq!(
        engine.map().memory_block_state(0),
        MemoryBlockState::Movable
    );
    assert_eq!(engine.map().plugged(), 2 * (BLOCK / SUB) as u32 - 1);
}

#[test]
fn what_the_device_has_lost_is_withdrawn() {
    let mut world = World::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut world, 4 * BLOCK);
    for cell in [9, 10, 31] {
        world.change_mind(cell);
    }
    world.owner[31] = Owner::Pinned;
    world.config_changed();
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
    world.config_changed();
    settle(&mut world);
    assert_eq!(world.plugged(), 2 * BLOCK);
    world.config.usable_region_size = 8 * BLOCK;
    world.config_changed();
    settle(&mut world);
    assert_eq!(world.plugged(), BLOCK);
}

/// Whatever the moment at which it grows: the device is asked before anything is plugged there.
#[test]
fn what_becomes_usable_is_asked_about_at_once() {
    for steps in 0..30 {
        let mut world = World::new(8, Onlining::Movable, Policy::Kernel);
        resize(&mut world, BLOCK);
        let cells = world.cells_of(5);
        world.device[cells].fill(true);
        world.reload();
        world.told = Some(Config {
            usable_region_size: 2 * BLOCK,
            plugged_size: 7,
            ..world.config
        });
        world.config_changed();
        for _ in 0..steps {
            world.begin();
            world.finish();
        }
        // While something is under way.
        world.begin();
        world.told = None;
        world.request(8 * BLOCK);
        settle(&mut world);
        assert_eq!(world.plugged(), 8 * BLOCK);
    }
}

#[test]
fn a_device_that_counts_wrong_is_asked_once() {
    let mut world = World::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut world, BLOCK + SUB);
    world.plugged_size_skew = 7 * SUB;
    world.requests = 0;
    world.config_changed();
    settle(&mut world);
    assert!((1..30).contains(&world.requests), "{}", world.requests);
    world.requests = 0;
    world.config_changed();
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
    world.config_changed();
    world.run(200);
    assert_eq!(world.uses_unplugged(), Some(0));
    resize(&mut world, 2 * BLOCK);
    assert_eq!(world.uses_unplugged(), None);
}

#[test]
fn work_beside_an_audit_is_told() {
    let mut world = World::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut world, BLOCK);
    // The device has lost something and will not say what.
    world.faults.mute = u32::MAX;
    world.change_mind(1);
    world.config_changed();
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
fn forgotten_block_in_use_is_found_again_and_not_unplugged() {
    for big in [0, 2] {
        let big = BigBlocks {
            force: big != 0,
            size: big * BLOCK,
        };
        let mut world = World::with(8, Onlining::Movable, Policy::Movable, &big);
        resize(&mut world, 8 * BLOCK);
        world.owner.fill(Owner::Pinned);
        world.request(4 * BLOCK);
        world.run(200);
        assert_eq!(world.plugged(), 8 * BLOCK);
        world.meddled = true;
        let block = world.geometry.block_of_memory_block(3);
        for number in world.geometry.memory_blocks_of(block) {
            world.engine.forget(number);
        }
        world.retry();
        world.run(200);
        assert_eq!((world.not_sent, world.violation.take()), (1, None));
        assert_eq!(world.plugged(), 8 * BLOCK);
        assert_eq!(
            world.engine.map().memory_block_state(3),
            MemoryBlockState::Movable
        );
        assert_eq!(world.engine.status().reason, Reason::MemoryInUse);
        world.owner.fill(Owner::Buddy);
        settle(&mut world);
        assert_eq!((world.plugged(), world.not_sent), (4 * BLOCK, 1));
    }
}

#[test]
fn unplug_all_beside_memory_in_use_is_not_sent() {
    let mut world = World::new(4, Onlining::Movable, Policy::Movable);
    resize(&mut world, 3 * BLOCK + SUB);
    world.meddled = true;
    world.engine.require_unplug_all();
    settle(&mut world);
    assert_eq!(world.not_sent, 1);
    assert!(!world.engine.unplug_all_required());
    assert_eq!(world.plugged(), 3 * BLOCK + SUB);
}

#[test]
fn block_that_linux_has_already_is_kept_when_adding_it_fails() {
    let mut world = World::new(4, Onlining::Movable, Policy::Movable);
    resize(&mut world, 3 * BLOCK);
    world.meddled = true;
    for block in 0..3 {
        world.engine.forget(block);
        settle(&mut world);
        assert_eq!(
            world.engine.map().memory_block_state(block),
            MemoryBlockState::Movable
        );
    }
    assert_eq!((world.plugged(), world.not_sent), (3 * BLOCK, 0));
}

#[test]
fn nothing_is_unplugged_while_a_block_of_linux_is_not_found() {
    let mut world = World::new(4, Onlining::Movable, Policy::Movable);
    resize(&mut world, 4 * BLOCK);
    world.hide(2, true);
    world.engine.require_unplug_all();
    world.request(BLOCK);
    world.run(200);
    let status = world.engine.status();
    assert_eq!(
        (status.state, status.reason),
        (State::Waiting, Reason::MapMismatch)
    );
    assert_eq!((world.plugged(), world.not_sent), (4 * BLOCK, 1));
    // A request that changes meanwhile is known all the same.
    assert_eq!(world.engine.config().requested_size, BLOCK);
    world.hide(2, false);
    settle(&mut world);
    assert_eq!(world.plugged(), BLOCK);
}

#[test]
fn block_that_is_gone_is_not_removed_again() {
    let mut world = World::new(4, Onlining::Policy, Policy::Offline);
    resize(&mut world, 3 * BLOCK);
    world.sneak(1);
    resize(&mut world, 0);
    assert_eq!(world.blocks, [Block::Absent; 4]);
    assert_eq!(world.not_sent, 0);
}

#[test]
fn offline_block_beyond_the_usable_region_holds_nothing() {
    let mut world = World::new(4, Onlining::Movable, Policy::Offline);
    world.config.usable_region_size = BLOCK + SUB;
    for block in [0, 1, 3] {
        world.blocks[block] = Block::Offline;
    }
    world.reload();
    world.run(20);
    assert_eq!(world.engine.plugged_size(), 0);
}

#[test]
fn a_lost_block_beyond_the_usable_region_is_not_believed_to_be_plugged() {
    let manners = MANNERS
        .into_iter()
        .find(|manners| manners.closes && !manners.miscounts)
        .expect("a device whose usable region shrinks");
    let kind = Kind {
        onlining: Onlining::Movable,
        policy: Policy::Offline,
        big: 0,
        manners,
    };
    let mut world = kind.world(12, SUB);
    play(
        &mut world,
        &[
            Event::Mind(0),
            Event::Reload,
            Event::Run(2),
            Event::Sneak(11),
            Event::Reload,
            // Found, and believed to be plugged until the device is asked. Now the map loses it.
            Event::Forget(11),
            Event::Request(0),
        ],
    );
    assert_eq!(world.violation, None);
    calm_down(&mut world);
    assert_eq!(wrong(&world), None);
}
