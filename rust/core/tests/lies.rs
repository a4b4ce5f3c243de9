// SPDX-License-Identifier: GPL-2.0

//! What the device says is not so, or it says nothing: what the driver does, and does not, believe.

mod world;

use virtio_mem_core::engine::Onlining;
use virtio_mem_core::engine::Step;
use virtio_mem_core::geometry::BigBlocks;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;
use virtio_mem_core::wire::Request;
use world::Block;
use world::Odd;
use world::Owner;
use world::Policy;
use world::World;
use world::BLOCK;
use world::SUB;

/// More often than anything is tried here.
const FOR_GOOD: u32 = 1_000_000;

const BIG: BigBlocks = BigBlocks {
    force: true,
    size: 2 * BLOCK,
};

fn settle(world: &mut World) {
    assert!(
        world.run(20_000) < 20_000,
        "does not settle: {:?}",
        world.engine.status()
    );
    assert_eq!(world.violation, None);
}

fn resize(world: &mut World, size: u64) {
    world.request(size);
    settle(world);
    assert_eq!(world.plugged(), size);
}

/// Begins steps until one is what is looked for, which is then under way.
fn until(world: &mut World, is_it: impl Fn(&Step) -> bool) {
    for _ in 0..1000 {
        if world.begin().is_some_and(&is_it) {
            return;
        }
        world.now_ms += 1;
        world.finish();
    }
    panic!("it does not come to that: {:?}", world.engine.status());
}

/// An answer of this code, to a request that is carried out or not.
fn odd(code: u8, acts: bool) -> Odd {
    Odd {
        bytes: [code, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        written: 10,
        acts,
    }
}

const NACK: u8 = 1;
const BUSY: u8 = 2;

#[test]
fn what_the_device_will_not_tell_is_not_settled() {
    let mut world = World::new(8, Onlining::Movable, Policy::Kernel);
    settle(&mut world);
    // What it plugs it calls an error, and what it has it does not tell.
    world.faults.lie = 2;
    world.faults.mute = FOR_GOOD;
    world.request(2 * BLOCK);
    for _ in 0..2_000 {
        world.run(1);
        world.now_ms += 100;
        let settled = world.engine.status().state == State::Settled;
        let met = world.plugged() == world.engine.plugged_size();
        let read = world.engine.config().requested_size == 2 * BLOCK;
        assert!(!settled || met || !read, "settled in doubt");
    }
    assert_ne!(world.plugged(), world.engine.plugged_size(), "no doubt");
    world.request(0);
    for _ in 0..2_000 {
        world.run(1);
        world.now_ms += 100;
        let status = world.engine.status();
        let read = world.engine.config().requested_size == 0;
        assert!(!read || status.state != State::Settled, "settled in doubt");
    }
    assert_eq!(world.engine.status().reason, Reason::HostError);
    // When it speaks again, nobody has to ask the driver to listen.
    world.faults.mute = 0;
    settle(&mut world);
    assert_eq!(world.plugged(), 0);
}

#[test]
fn what_a_big_block_lacks_is_not_added_again() {
    let mut world = World::with(8, Onlining::Movable, Policy::Kernel, &BIG);
    resize(&mut world, 4 * BLOCK);
    world.change_mind(3);
    world.config_changed();
    until(&mut world, |step| matches!(step, Step::Remove { .. }));
    // That it lacks something was the last thing that it has told.
    world.faults.mute = FOR_GOOD;
    for _ in 0..200 {
        world.finish();
        assert_eq!(world.uses_unplugged(), None);
        world.begin();
        world.now_ms += 100;
    }
    world.faults.mute = 0;
    settle(&mut world);
    assert_eq!(world.plugged(), 4 * BLOCK);
}

#[test]
fn a_big_block_that_lacks_something_is_not_completed() {
    let mut world = World::with(8, Onlining::Movable, Policy::Kernel, &BIG);
    settle(&mut world);
    // Linux has half of it, for want of memory, and does not let that go.
    world.request(2 * BLOCK);
    until(&mut world, |step| {
        matches!(step, Step::Add { memory_block: 1 })
    });
    world.faults.add_no_memory = 1;
    world.finish();
    world.faults.remove_busy = FOR_GOOD;
    world.change_mind(0);
    world.config_changed();
    until(&mut world, |step| matches!(step, Step::Remove { .. }));
    for _ in 0..300 {
        world.finish();
        world.begin();
        let completes = |step: &Step| matches!(step, Step::Add { memory_block: 1 });
        assert!(!world.step.as_ref().is_some_and(completes), "more of it is");
        world.now_ms += 100;
    }
    world.faults.remove_busy = 0;
    settle(&mut world);
    assert_eq!(world.plugged(), 2 * BLOCK);
    assert_eq!(world.uses_unplugged(), None);
}

#[test]
fn a_big_block_that_lacks_something_may_go_by_hand() {
    let mut world = World::with(8, Onlining::Movable, Policy::Kernel, &BIG);
    resize(&mut world, 4 * BLOCK);
    world.change_mind(3);
    world.owner[5] = Owner::Pinned;
    world.config_changed();
    for _ in 0..100 {
        world.run(1);
        world.now_ms += 100;
        assert_ne!(world.engine.status().state, State::Settled);
    }
    while world.begin().is_some() {
        world.finish();
    }
    // Between two attempts.
    world.owner[5] = Owner::Buddy;
    assert!(world.offline(0) && world.offline(1));
    settle(&mut world);
    assert_eq!(world.plugged(), 4 * BLOCK);
    assert!(!world.blocks.contains(&Block::Offline), "it is left over");
}

#[test]
fn what_it_calls_busy_may_be_done() {
    for policy in [Policy::Kernel, Policy::Offline] {
        let onlining = match policy {
            Policy::Offline => Onlining::Policy,
            _ => Onlining::Movable,
        };
        let mut world = World::new(4, onlining, policy);
        resize(&mut world, BLOCK + 2 * SUB);
        world.request(BLOCK);
        until(&mut world, |step| {
            matches!(step, Step::Send(Request::Unplug { .. }))
        });
        world.odd = Some(odd(BUSY, true));
        world.finish();
        assert_eq!(world.engine.status().reason, Reason::HostBusy);
        // That the next config space agrees is not waited for.
        world.step = None;
        settle(&mut world);
        assert_eq!(world.plugged(), BLOCK);
        assert_eq!(world.uses_unplugged(), None);
    }
}

#[test]
fn a_refusal_is_told_as_one() {
    let mut world = World::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut world, 2 * BLOCK);
    world.request(0);
    for _ in 0..2 {
        until(&mut world, |step| {
            matches!(step, Step::Send(Request::Unplug { .. }))
        });
        world.odd = Some(odd(NACK, false));
        world.finish();
    }
    assert_eq!(world.engine.status().reason, Reason::HostRefused);
    settle(&mut world);

    // Of an earlier life.
    world.device[3] = true;
    world.config.plugged_size = SUB;
    world.reload();
    until(&mut world, |step| {
        matches!(step, Step::Send(Request::UnplugAll))
    });
    world.odd = Some(odd(NACK, false));
    world.finish();
    assert_eq!(world.engine.status().reason, Reason::HostRefused);
    settle(&mut world);
    assert_eq!(world.plugged(), 0);
}

#[test]
fn half_a_sub_block_is_none() {
    let mut world = World::cut(
        4,
        Onlining::Movable,
        Policy::Kernel,
        &BigBlocks::default(),
        2 * SUB,
    );
    resize(&mut world, 2 * BLOCK);
    world.device[0] = false;
    world.misled();
    world.config_changed();
    world.run(500);
    assert_eq!(world.violation, None);
    assert_eq!(world.uses_unplugged(), None, "the other half is used");
}

#[test]
fn an_empty_big_block_that_cannot_go_does_not_hold_up_the_others() {
    let mut world = World::with(8, Onlining::Policy, Policy::Offline, &BIG);
    resize(&mut world, 2 * BLOCK);
    // It has lost all of a block that Linux does not use.
    let lost = world.cells_of(0).start..world.cells_of(1).end;
    world.device[lost.clone()].fill(false);
    world.misled();
    world.faults.remove_busy = FOR_GOOD;
    world.request(4 * BLOCK);
    settle(&mut world);
    assert_eq!(world.plugged(), 4 * BLOCK);
    assert!(!world.device[lost].contains(&true));
}

#[test]
fn memory_that_linux_refuses_does_not_use_up_what_may_be_offline() {
    let most: usize = (1 << 30) / BLOCK as usize;
    let mut world = World::new(most as u64 + 8, Onlining::Movable, Policy::Offline);
    resize(&mut world, most as u64 * BLOCK);
    for block in 0..most - 1 {
        assert!(world.offline(block));
    }
    world.never_online = Some(most);
    world.faults.remove_busy = FOR_GOOD;
    for more in [1, 2] {
        world.request((most as u64 + more) * BLOCK);
        for _ in 0..500 {
            world.run(1);
            world.now_ms += 100;
        }
    }
    assert_eq!(world.violation, None);
    // What Linux thinks of it is found out without anybody's help.
    world.never_online = None;
    settle(&mut world);
    assert_eq!(world.plugged(), (most as u64 + 2) * BLOCK);
}

#[test]
fn a_config_space_that_changes_all_the_time_does_not_keep_it_busy() {
    let mut world = World::new(8, Onlining::Movable, Policy::Kernel);
    settle(&mut world);
    world.request(2 * BLOCK);
    let (mut steps, mut reads) = (0, 0);
    while world.now_ms < 60_000 && steps < 100_000 {
        steps += u32::from(world.begin().is_some());
        match world.step {
            Some(Step::Send(Request::Plug { .. })) => world.odd = Some(odd(NACK, false)),
            // It is another one whenever it is read, and nothing of that is announced.
            Some(Step::ReadConfig) => {
                reads += 1;
                world.config.requested_size = (2 + reads % 2) * BLOCK;
            }
            _ => {}
        }
        world.finish();
    }
    assert!(steps < 500, "{steps} steps in {} ms", world.now_ms);
    settle(&mut world);
}

#[test]
fn a_lower_request_that_nobody_has_announced_is_met() {
    let mut world = World::new(4, Onlining::Movable, Policy::Kernel);
    world.manners.slack = 0;
    world.config.usable_region_size = 2 * BLOCK;
    world.config.requested_size = 4 * BLOCK;
    world.config_changed();
    world.run(200);
    assert_eq!(world.engine.status().reason, Reason::NotAddressable);
    // It is read when the audit is over that a wrong plugged size has begun.
    world.plugged_size_skew = SUB;
    world.config_changed();
    until(&mut world, |step| {
        matches!(step, Step::Send(Request::State { .. }))
    });
    world.config.requested_size = BLOCK;
    settle(&mut world);
    assert_eq!(world.plugged(), BLOCK);
}
