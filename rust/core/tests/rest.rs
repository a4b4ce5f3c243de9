// SPDX-License-Identifier: GPL-2.0

//! When the engine says that it is done, and what ends its rest.

mod sim;

use sim::Block;
use sim::Owner;
use sim::Policy;
use sim::Sim;
use sim::BLOCK;
use sim::SUB;
use std::cell::Cell;
use virtio_mem_core::engine::notify::Verdict;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::engine::Step;
use virtio_mem_core::geometry::BigBlocks;
use virtio_mem_core::migration_budget;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;
use virtio_mem_core::wire::Request;

/// The limit on what is added and offline, in memory blocks.
const MOST_OFFLINE: u64 = (1 << 30) / BLOCK;

fn settle(sim: &mut Sim) {
    assert!(sim.run(20_000) < 20_000, "does not settle");
    assert_eq!(sim.violation, None);
}

/// Whether Linux can use all that is plugged.
fn usable(sim: &Sim) -> bool {
    let cells = sim.device.iter().zip(&sim.owner);
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
        let mut sim = Sim::with(8, Onlining::Movable, policy, &big);
        settle(&mut sim);
        sim.faults.online_refused = 3;
        for size in [2 * BLOCK, 2 * BLOCK + SUB, 4 * BLOCK, 6 * BLOCK] {
            sim.request(size);
            let mut steps = 0;
            loop {
                let begun = sim.begin().cloned();
                let settled = sim.engine.status().state == State::Settled;
                // The request has to be read first.
                if settled && begun != Some(Step::ReadConfig) {
                    assert!(usable(&sim), "{policy:?}, {size}: settled at {begun:?}");
                }
                if begun.is_none() && settled {
                    break;
                }
                sim.now_ms += 1;
                sim.finish();
                steps += 1;
                assert!(steps < 2000);
            }
        }
    }
}

#[test]
fn what_the_device_has_lost_is_plugged_again_when_there_is_nothing_more() {
    let mut sim = Sim::new(4, Onlining::Movable, Policy::Kernel);
    sim.manners.slack = 0;
    sim.config.usable_region_size = 2 * BLOCK;
    sim.config.requested_size = 2 * BLOCK;
    sim.config_changed();
    settle(&mut sim);
    // More is requested than is usable.
    sim.config.requested_size = 4 * BLOCK;
    sim.config_changed();
    sim.run(100);
    assert_eq!(sim.engine.status().reason, Reason::NotAddressable);
    sim.change_mind(3);
    sim.config_changed();
    sim.run(200);
    assert_eq!(sim.violation, None);
    assert_eq!(sim.plugged(), 2 * BLOCK);
    assert!(usable(&sim));
}

#[test]
fn a_block_that_does_not_go_online_can_be_grown_into() {
    let mut sim = Sim::new(MOST_OFFLINE + 36, Onlining::Policy, Policy::Offline);
    let last = MOST_OFFLINE as u32 - 1;
    sim.request(u64::from(last) * BLOCK + SUB);
    settle(&mut sim);
    assert_eq!(
        sim.engine.handle_going_online(last, true).verdict,
        Verdict::Allow
    );
    sim.request(MOST_OFFLINE * BLOCK);
    sim.run(100);
    assert_eq!(sim.engine.status().reason, Reason::OfflineLimit);
    sim.engine.handle_cancel_online(last);
    settle(&mut sim);
    assert_eq!(sim.plugged(), MOST_OFFLINE * BLOCK);
}

#[test]
fn what_cannot_be_added_for_now_goes_back_to_the_host() {
    let mut sim = Sim::new(MOST_OFFLINE + 36, Onlining::Policy, Policy::Movable);
    sim.request(MOST_OFFLINE * BLOCK);
    settle(&mut sim);
    sim.request((MOST_OFFLINE + 2) * BLOCK);
    // When two more are plugged, all others are taken offline by hand.
    loop {
        let step = sim.begin().cloned();
        sim.finish();
        if matches!(step, Some(Step::Send(Request::Plug { .. }))) {
            break;
        }
    }
    for block in 0..MOST_OFFLINE as usize {
        assert!(sim.offline(block));
    }
    sim.run(200);
    assert_eq!(sim.violation, None);
    let status = sim.engine.status();
    assert_eq!(status.reason, Reason::OfflineLimit);
    assert_eq!(sim.plugged(), MOST_OFFLINE * BLOCK, "plugged for nobody");
    for block in 0..MOST_OFFLINE as usize {
        assert!(sim.online(block, true));
    }
    settle(&mut sim);
    assert_eq!(sim.plugged(), (MOST_OFFLINE + 2) * BLOCK);
}

#[test]
fn a_sub_block_that_is_going_online_is_left_as_it_is() {
    // Sub-blocks of two device blocks, of one of which the device has a half.
    let big = BigBlocks::default();
    let mut sim = Sim::cut(4, Onlining::Policy, Policy::Offline, &big, 2 * SUB);
    sim.request(2 * BLOCK);
    settle(&mut sim);
    sim.device[0] = false;
    sim.misled();
    sim.config_changed();
    // The device is asked about sub-block 0 alone when somebody brings its block online.
    loop {
        let step = sim.begin().cloned();
        if let Some(Step::Send(Request::State { blocks: 2, .. })) = step {
            break;
        }
        assert!(step.is_some(), "it was not asked");
        sim.finish();
    }
    assert_eq!(
        sim.engine.handle_going_online(0, true).verdict,
        Verdict::Allow
    );
    assert_eq!(sim.engine.same_from(0, 1), (true, 0..1));
    // What it says now must not change what Linux was told.
    sim.finish();
    assert_eq!(sim.engine.same_from(0, 1), (true, 0..1));
}

#[test]
fn others_have_their_turn_while_many_blocks_are_looked_at() {
    let count = 2_000;
    let mut sim = Sim::new(count, Onlining::Movable, Policy::Movable);
    sim.request(count * BLOCK);
    settle(&mut sim);
    // In each block so much is in use that it is the last to be tried.
    sim.request(0);
    sim.config.plugged_size = sim.plugged();
    let env = sim.env();
    let mut turns = 0;
    let most = u64::from(migration_budget::blocks_at_once(BLOCK));
    loop {
        let looks = Cell::new(0);
        let look = |_: u32| {
            looks.set(looks.get() + 1);
            BLOCK
        };
        match sim.engine.next_step(&env, &look) {
            Step::ReadConfig => {
                let config = virtio_mem_core::engine::Outcome::Config(sim.config.reading());
                sim.engine.handle_outcome(config, &env);
            }
            Step::Wait { ms: Some(0), .. } => turns += 1,
            Step::Remove { .. } => break,
            step => panic!("{step:?}"),
        }
        assert!(looks.get() <= most, "{} looks at once", looks.get());
    }
    // Four sweeps over all of them before the one that takes any.
    assert!(turns >= 4 * count / most, "{turns} turns");
    assert!(sim.blocks.iter().all(|block| *block == Block::Movable));
}

#[test]
fn what_is_offline_of_a_big_block_goes_where_only_that_may() {
    let big = BigBlocks {
        force: true,
        size: 2 * BLOCK,
    };
    let mut sim = Sim::with(8, Onlining::Policy, Policy::Offline, &big);
    sim.request(2 * BLOCK);
    // Its second memory block is not added for want of memory.
    loop {
        let step = sim.begin().cloned();
        sim.finish();
        if matches!(step, Some(Step::Add { .. })) {
            break;
        }
    }
    sim.faults.add_no_memory = u32::MAX;
    sim.run(20);
    sim.unplug_online = false;
    sim.request(0);
    settle(&mut sim);
    assert_eq!(sim.plugged(), 0);
    assert!(sim.blocks.iter().all(|block| *block == Block::Absent));
}

/// A simulation of which Linux never takes one memory block.
fn refusing(sim: &mut Sim, block: usize, online: bool) {
    if online {
        sim.never_online = Some(block);
    } else {
        sim.never_added = Some(block);
    }
}

#[test]
fn a_block_that_linux_refuses_is_done_without() {
    for (block, online) in [(0, false), (3, false), (6, false), (0, true), (3, true)] {
        // It picks the zone itself under none of these.
        for policy in [Policy::Offline, Policy::Kernel] {
            let mut sim = Sim::new(8, Onlining::Movable, policy);
            refusing(&mut sim, block, online);
            sim.request(7 * BLOCK);
            let mut tries = 0;
            for _ in 0..2_000 {
                match sim.begin().cloned() {
                    Some(Step::Add { memory_block }) => {
                        tries += u32::from(memory_block == block as u32);
                    }
                    Some(_) => {}
                    None if sim.engine.status().state == State::Settled => break,
                    None => sim.now_ms += 1,
                }
                sim.finish();
            }
            assert_eq!(sim.violation, None);
            assert_eq!(sim.plugged(), 7 * BLOCK, "{block} {online} {policy:?}");
            assert!(usable(&sim));
            assert_eq!(sim.blocks[block], Block::Absent);
            assert!(tries <= 2, "{tries} attempts");
            assert!(sim.now_ms < 2_000, "after {} ms", sim.now_ms);
            // And is as good as any other once it is not refused any more.
            (sim.never_added, sim.never_online) = (None, None);
            sim.request(8 * BLOCK);
            settle(&mut sim);
            assert_eq!(sim.plugged(), 8 * BLOCK);
        }
    }
}

#[test]
fn what_linux_refuses_is_tried_again_when_nothing_else_is_left() {
    for online in [false, true] {
        let mut sim = Sim::new(8, Onlining::Movable, Policy::Kernel);
        refusing(&mut sim, 3, online);
        sim.request(8 * BLOCK);
        let mut tries = 0;
        while sim.now_ms < 120_000 {
            match sim.begin() {
                Some(Step::Add { memory_block: 3 }) => tries += 1,
                Some(_) => {}
                None => sim.now_ms += 1,
            }
            sim.finish();
        }
        assert_eq!(sim.violation, None);
        assert!((5..40).contains(&tries), "{tries} attempts in two minutes");
        assert!(sim.plugged() >= 7 * BLOCK);
        assert!(sim.engine.status().retry_at_ms.is_some());
        (sim.never_added, sim.never_online) = (None, None);
        settle(&mut sim);
        assert_eq!(sim.plugged(), 8 * BLOCK);
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
        let mut sim = Sim::with(8, Onlining::Movable, Policy::Kernel, &big);
        refusing(&mut sim, block, online);
        sim.request(6 * BLOCK);
        sim.run(2_000);
        assert_eq!(sim.violation, None);
        let full = (2..8).filter(|number| sim.blocks[*number] == Block::Movable);
        assert_eq!(full.count(), others, "{block} {online} {:?}", sim.blocks);
        (sim.never_added, sim.never_online) = (None, None);
        sim.request(8 * BLOCK);
        settle(&mut sim);
        assert_eq!(sim.plugged(), 8 * BLOCK);
    }
}

#[test]
fn a_refused_block_that_cannot_be_removed_either_does_not_keep_it_busy() {
    let mut sim = Sim::new(8, Onlining::Movable, Policy::Kernel);
    refusing(&mut sim, 0, true);
    sim.faults.remove_busy = u32::MAX;
    sim.request(8 * BLOCK);
    let mut steps = 0;
    while sim.now_ms < 120_000 {
        steps += u32::from(sim.begin().is_some());
        sim.finish();
        assert!(steps < 400, "{steps} steps in {} ms", sim.now_ms);
    }
    assert_eq!(sim.violation, None);
    sim.never_online = None;
    sim.faults.remove_busy = 0;
    settle(&mut sim);
    assert_eq!(sim.plugged(), 8 * BLOCK);
}

#[test]
fn what_was_online_of_a_refused_big_block_comes_back_when_it_cannot_go() {
    let big = BigBlocks {
        force: true,
        size: 4 * BLOCK,
    };
    let mut sim = Sim::with(4, Onlining::Movable, Policy::Kernel, &big);
    sim.never_online = Some(3);
    sim.request(4 * BLOCK);
    sim.run(50);
    assert_eq!(sim.blocks[..3], [Block::Movable; 3]);
    let cells = sim.cells_of(1);
    sim.owner[cells.start] = Owner::Pinned;
    // The device has lost all of it, but the second memory block does not let it go.
    sim.change_mind(0);
    sim.config_changed();
    for _ in 0..200 {
        let removes = matches!(sim.begin(), Some(Step::Remove { .. }));
        sim.finish();
        if removes {
            break;
        }
    }
    assert_eq!(sim.blocks[..3], [Block::Movable; 3]);
}
