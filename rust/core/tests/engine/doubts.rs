// SPDX-License-Identifier: GPL-2.0

//! What another driver has left, and devices that are not what the engine takes them for.

use crate::resize;
use crate::settle;
use crate::sim::history::calm_down;
use crate::sim::history::play;
use crate::sim::history::wrong;
use crate::sim::history::Event;
use crate::sim::history::Kind;
use crate::sim::Block;
use crate::sim::Owner;
use crate::sim::Policy;
use crate::sim::Sim;
use crate::sim::BLOCK;
use crate::sim::MANNERS;
use crate::sim::MIB;
use crate::sim::SUB;
use virtio_mem_core::block_map::BlockMap;
use virtio_mem_core::block_map::MemoryBlockState;
use virtio_mem_core::engine::notify::Verdict;
use virtio_mem_core::engine::Engine;
use virtio_mem_core::engine::IgnoredConfig;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::engine::Step;
use virtio_mem_core::geometry::BigBlocks;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;
use virtio_mem_core::wire::Config;
use virtio_mem_core::wire::ConfigError;
use virtio_mem_core::wire::Request;

#[test]
fn memory_from_an_earlier_life_is_unplugged_first() {
    let mut sim = Sim::new(8, Onlining::Movable, Policy::Kernel);
    sim.device[3] = true;
    sim.config.plugged_size = SUB;
    let words = vec![0; 4096];
    sim.engine =
        virtio_mem_core::engine::Engine::new(sim.geometry, words, sim.config, Onlining::Movable);
    sim.faults.busy = 3;
    resize(&mut sim, 40 * MIB);
    assert!(!sim.engine.unplug_all_required());
}

#[test]
fn a_new_driver_takes_over_what_the_old_one_left() {
    for policy in [Policy::Offline, Policy::Kernel] {
        let mut sim = Sim::new(16, Onlining::Movable, policy);
        resize(&mut sim, 5 * BLOCK + 3 * SUB);
        assert!(sim.offline(2));
        let before = sim.blocks.clone();
        for _ in 0..3 {
            sim.reload();
            // Until the device has told what is plugged nothing moves.
            assert!(!sim.online(2, true) && !sim.offline(1));
            // The host is not at fault.
            assert_eq!(sim.engine.status().reason, Reason::None);
            assert_ne!(sim.engine.status().state, State::Settled);
            settle(&mut sim);
            assert_eq!(sim.blocks, before);
            assert_eq!(sim.engine.plugged_size(), 5 * BLOCK + 3 * SUB);
        }
        assert!(sim.online(2, true) && sim.offline(1));
        resize(&mut sim, 9 * BLOCK);
        sim.reload();
        resize(&mut sim, 0);
        assert!(sim.blocks.iter().all(|block| *block == Block::Absent));
    }
}

#[test]
fn a_take_over_waits_for_a_device_that_says_nothing() {
    let mut sim = Sim::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, 2 * BLOCK);
    sim.reload();
    sim.faults.mute = 100;
    sim.request(0);
    sim.run(60);
    assert_eq!(sim.plugged(), 2 * BLOCK);
    let status = sim.engine.status();
    assert_eq!(
        (status.state, status.reason),
        (State::Waiting, Reason::HostError)
    );
    settle(&mut sim);
    assert_eq!(sim.plugged(), 0);
}

#[test]
fn a_move_announced_during_a_take_over_tells_what_the_block_was() {
    let mut sim = Sim::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, 2 * BLOCK);
    // With nothing to take over, a block that the engine has not added is none of it.
    sim.engine.handle_announced(3, MemoryBlockState::Offline);
    assert_eq!(
        sim.engine.map().memory_block_state(3),
        MemoryBlockState::Absent
    );
    assert_eq!(
        sim.engine.handle_going_online(3, true).verdict,
        Verdict::Deny
    );
    let words = vec![0; BlockMap::<Vec<u64>>::words_needed(&sim.geometry)];
    let mut engine = Engine::new(sim.geometry, words, sim.config, Onlining::Movable);
    engine.take_over();
    engine.handle_announced(0, MemoryBlockState::Movable);
    engine.handle_announced(1, MemoryBlockState::Offline);
    assert_eq!(
        engine.map().memory_block_state(0),
        MemoryBlockState::Movable
    );
    assert_eq!(
        engine.map().memory_block_state(1),
        MemoryBlockState::Offline
    );
    // They wait all the same, and what is said later of one that is known changes nothing.
    assert_eq!(engine.handle_going_offline(0), Verdict::Later);
    assert_eq!(engine.handle_going_online(1, true).verdict, Verdict::Later);
    engine.handle_found(0, MemoryBlockState::Kernel);
    engine.handle_found(1, MemoryBlockState::Offline);
    engine.handle_found_withheld(1);
    engine.handle_announced(0, MemoryBlockState::Movable);
    assert_eq!(
        engine.map().memory_block_state(0),
        MemoryBlockState::Movable
    );
    assert_eq!(engine.map().plugged(), 2 * (BLOCK / SUB) as u32 - 1);
}

#[test]
fn what_the_device_has_lost_is_withdrawn() {
    let mut sim = Sim::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, 4 * BLOCK);
    for cell in [9, 10, 31] {
        sim.change_mind(cell);
    }
    sim.owner[31] = Owner::Pinned;
    sim.config_changed();
    sim.run(200);
    // The one that cannot be moved is tried for again, the others are replaced.
    assert_eq!(sim.uses_unplugged(), Some(31));
    assert_eq!(sim.plugged(), 4 * BLOCK - SUB);
    sim.owner[31] = Owner::Buddy;
    settle(&mut sim);
    assert_eq!(sim.uses_unplugged(), None);
    assert_eq!(sim.plugged(), 4 * BLOCK);
}

#[test]
fn what_the_device_has_beyond_the_map_is_found() {
    let mut sim = Sim::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, BLOCK + SUB);
    // In a memory block that Linux has, and in one that it does not have.
    sim.change_mind(12);
    sim.change_mind(30);
    resize(&mut sim, BLOCK + 3 * SUB);
    assert_eq!(sim.uses_unplugged(), None);
    resize(&mut sim, 0);
}

#[test]
fn what_lay_beyond_the_usable_region_is_found_when_it_grows() {
    let mut sim = Sim::new(8, Onlining::Movable, Policy::Kernel);
    sim.manners.slack = 0;
    sim.config.usable_region_size = 2 * BLOCK;
    resize(&mut sim, BLOCK);
    let cells = sim.cells_of(5);
    sim.device[cells].fill(true);
    sim.misled();
    sim.config_changed();
    settle(&mut sim);
    assert_eq!(sim.plugged(), 2 * BLOCK);
    sim.config.usable_region_size = 8 * BLOCK;
    sim.config_changed();
    settle(&mut sim);
    assert_eq!(sim.plugged(), BLOCK);
}

/// Whatever the moment at which it grows: the device is asked before anything is plugged there.
#[test]
fn what_becomes_usable_is_asked_about_at_once() {
    for steps in 0..30 {
        let mut sim = Sim::new(8, Onlining::Movable, Policy::Kernel);
        resize(&mut sim, BLOCK);
        let cells = sim.cells_of(5);
        sim.device[cells].fill(true);
        sim.reload();
        sim.told = Some(Config {
            usable_region_size: 2 * BLOCK,
            plugged_size: 7,
            ..sim.config
        });
        sim.config_changed();
        for _ in 0..steps {
            sim.begin();
            sim.finish();
        }
        // While something is under way.
        sim.begin();
        sim.told = None;
        sim.request(8 * BLOCK);
        settle(&mut sim);
        assert_eq!(sim.plugged(), 8 * BLOCK);
    }
}

#[test]
fn a_device_that_counts_wrong_is_asked_once() {
    let mut sim = Sim::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, BLOCK + SUB);
    sim.plugged_size_skew = 7 * SUB;
    sim.requests = 0;
    sim.config_changed();
    settle(&mut sim);
    assert!((1..30).contains(&sim.requests), "{}", sim.requests);
    sim.requests = 0;
    sim.config_changed();
    settle(&mut sim);
    assert_eq!(sim.requests, 0);
    resize(&mut sim, 2 * BLOCK);
}

#[test]
fn what_could_not_be_asked_about_is_asked_when_it_can_be() {
    let mut sim = Sim::new(4, Onlining::Movable, Policy::Kernel);
    sim.manners = MANNERS[2];
    resize(&mut sim, BLOCK);
    // The device starts anew: nothing is plugged, and nothing usable until the next resize.
    sim.device.fill(false);
    sim.config.usable_region_size = 0;
    sim.misled();
    sim.config_changed();
    sim.run(200);
    assert_eq!(sim.uses_unplugged(), Some(0));
    resize(&mut sim, 2 * BLOCK);
    assert_eq!(sim.uses_unplugged(), None);
}

#[test]
fn work_beside_an_audit_is_told() {
    let mut sim = Sim::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, BLOCK);
    // The device has lost something and will not say what.
    sim.faults.mute = u32::MAX;
    sim.change_mind(1);
    sim.config_changed();
    sim.run(5);
    let status = sim.engine.status();
    assert_eq!(
        (status.state, status.reason),
        (State::Waiting, Reason::HostError)
    );
    sim.request(2 * BLOCK);
    let mut seen = false;
    for _ in 0..200 {
        sim.begin();
        let plugs = matches!(&sim.step, Some(Step::Send(Request::Plug { .. })));
        seen |= plugs && sim.engine.status().state == State::Plugging;
        sim.finish();
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
        let mut sim = Sim::with(8, Onlining::Movable, Policy::Movable, &big);
        resize(&mut sim, 8 * BLOCK);
        sim.owner.fill(Owner::Pinned);
        sim.request(4 * BLOCK);
        sim.run(200);
        assert_eq!(sim.plugged(), 8 * BLOCK);
        sim.meddled = true;
        let block = sim.geometry.block_of_memory_block(3);
        for number in sim.geometry.memory_blocks_of(block) {
            sim.engine.forget(number);
        }
        sim.retry();
        sim.run(200);
        assert_eq!((sim.not_sent, sim.violation.take()), (1, None));
        assert_eq!(sim.plugged(), 8 * BLOCK);
        assert_eq!(
            sim.engine.map().memory_block_state(3),
            MemoryBlockState::Movable
        );
        assert_eq!(sim.engine.status().reason, Reason::MemoryInUse);
        sim.owner.fill(Owner::Buddy);
        settle(&mut sim);
        assert_eq!((sim.plugged(), sim.not_sent), (4 * BLOCK, 1));
    }
}

#[test]
fn unplug_all_beside_memory_in_use_is_not_sent() {
    let mut sim = Sim::new(4, Onlining::Movable, Policy::Movable);
    resize(&mut sim, 3 * BLOCK + SUB);
    sim.meddled = true;
    sim.engine.require_unplug_all();
    settle(&mut sim);
    assert_eq!(sim.not_sent, 1);
    assert!(!sim.engine.unplug_all_required());
    assert_eq!(sim.plugged(), 3 * BLOCK + SUB);
}

#[test]
fn block_that_linux_has_already_is_kept_when_adding_it_fails() {
    let mut sim = Sim::new(4, Onlining::Movable, Policy::Movable);
    resize(&mut sim, 3 * BLOCK);
    sim.meddled = true;
    for block in 0..3 {
        sim.engine.forget(block);
        settle(&mut sim);
        assert_eq!(
            sim.engine.map().memory_block_state(block),
            MemoryBlockState::Movable
        );
    }
    assert_eq!((sim.plugged(), sim.not_sent), (3 * BLOCK, 0));
}

#[test]
fn nothing_is_unplugged_while_a_block_of_linux_is_not_found() {
    let mut sim = Sim::new(4, Onlining::Movable, Policy::Movable);
    resize(&mut sim, 4 * BLOCK);
    sim.hide(2, true);
    sim.engine.require_unplug_all();
    sim.request(BLOCK);
    sim.run(200);
    let status = sim.engine.status();
    assert_eq!(
        (status.state, status.reason),
        (State::Waiting, Reason::MapMismatch)
    );
    assert_eq!((sim.plugged(), sim.not_sent), (4 * BLOCK, 1));
    // A request that changes meanwhile is known all the same.
    assert_eq!(sim.engine.config().requested_size, BLOCK);
    sim.hide(2, false);
    settle(&mut sim);
    assert_eq!(sim.plugged(), BLOCK);
}

#[test]
fn block_that_is_gone_is_not_removed_again() {
    let mut sim = Sim::new(4, Onlining::Policy, Policy::Offline);
    resize(&mut sim, 3 * BLOCK);
    sim.sneak(1);
    resize(&mut sim, 0);
    assert_eq!(sim.blocks, [Block::Absent; 4]);
    assert_eq!(sim.not_sent, 0);
}

#[test]
fn offline_block_beyond_the_usable_region_holds_nothing() {
    let mut sim = Sim::new(4, Onlining::Movable, Policy::Offline);
    sim.config.usable_region_size = BLOCK + SUB;
    for block in [0, 1, 3] {
        sim.blocks[block] = Block::Offline;
    }
    sim.reload();
    sim.run(20);
    assert_eq!(sim.engine.plugged_size(), 0);
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
    let mut sim = kind.sim(12, SUB);
    play(
        &mut sim,
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
    assert_eq!(sim.violation, None);
    calm_down(&mut sim);
    assert_eq!(wrong(&sim), None);
}

#[test]
fn failed_resynchronisation_waits_for_its_next_attempt_only() {
    let mut sim = Sim::new(4, Onlining::Movable, Policy::Movable);
    resize(&mut sim, 4 * BLOCK);
    sim.hide(2, true);
    sim.engine.require_unplug_all();
    sim.run(200);
    assert_eq!(sim.engine.status().reason, Reason::MapMismatch);
    let (started, mut turns) = (sim.now_ms, 0);
    while sim.now_ms - started < 60_000 {
        sim.begin();
        sim.finish();
        turns += 1;
    }
    assert!(turns < 30, "{turns} turns in a minute");
}

/// Runs until the step under way changes what is plugged.
fn until_request(sim: &mut Sim) {
    for _ in 0..100 {
        let step = sim.begin();
        if let Some(Step::Send(Request::Plug { .. } | Request::Unplug { .. })) = step {
            return;
        }
        sim.finish();
    }
    panic!("no request: {:?}", sim.engine.status());
}

#[test]
fn abandoned_request_is_asked_about_and_not_made_smaller() {
    for acts in [false, true] {
        for (from, to) in [(0, 4), (4, 0), (3, 9), (9, 2)] {
            let mut sim = Sim::new(16, Onlining::Movable, Policy::Kernel);
            resize(&mut sim, from * BLOCK);
            sim.request(to * BLOCK);
            until_request(&mut sim);
            let first = sim.step.clone();
            sim.abandoned = Some(acts);
            sim.finish();
            assert!(matches!(
                sim.begin(),
                Some(Step::Send(Request::State { .. }) | Step::ReadConfig)
            ));
            if !acts {
                until_request(&mut sim);
                assert_eq!(sim.step, first, "asked for less");
            }
            settle(&mut sim);
            assert_eq!(sim.plugged(), to * BLOCK);
        }
    }
}

#[test]
fn config_that_makes_no_sense_is_ignored_until_it_is_read_anew() {
    let mut sim = Sim::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, BLOCK);
    let believed = *sim.engine.config();
    sim.told = Some(Config {
        requested_size: 5 * BLOCK,
        // Never read again, and never believed.
        addr: 0,
        region_size: 8 * BLOCK,
        ..believed
    });
    sim.config_changed();
    settle(&mut sim);
    let ignored = IgnoredConfig {
        error: ConfigError::RequestedSize,
        config: Config {
            requested_size: 5 * BLOCK,
            ..believed
        },
    };
    assert_eq!(sim.engine.last_reading(), Err(ignored));
    assert_eq!(*sim.engine.config(), believed);
    sim.told = None;
    resize(&mut sim, 2 * BLOCK);
    assert_eq!(sim.engine.last_reading(), Ok(*sim.engine.config()));
}
