// SPDX-License-Identifier: GPL-2.0

//! What the device says is not so, or it says nothing: what the driver does, and does not, believe.

mod sim;

use sim::Block;
use sim::Odd;
use sim::Owner;
use sim::Policy;
use sim::Sim;
use sim::BLOCK;
use sim::SUB;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::engine::Step;
use virtio_mem_core::geometry::BigBlocks;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;
use virtio_mem_core::wire::Request;

/// More often than anything is tried here.
const FOR_GOOD: u32 = 1_000_000;

const BIG: BigBlocks = BigBlocks {
    force: true,
    size: 2 * BLOCK,
};

fn settle(sim: &mut Sim) {
    assert!(
        sim.run(20_000) < 20_000,
        "does not settle: {:?}",
        sim.engine.status()
    );
    assert_eq!(sim.violation, None);
}

fn resize(sim: &mut Sim, size: u64) {
    sim.request(size);
    settle(sim);
    assert_eq!(sim.plugged(), size);
}

/// Begins steps until one is what is looked for, which is then under way.
fn until(sim: &mut Sim, is_it: impl Fn(&Step) -> bool) {
    for _ in 0..1000 {
        if sim.begin().is_some_and(&is_it) {
            return;
        }
        sim.now_ms += 1;
        sim.finish();
    }
    panic!("it does not come to that: {:?}", sim.engine.status());
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
    let mut sim = Sim::new(8, Onlining::Movable, Policy::Kernel);
    settle(&mut sim);
    // What it plugs it calls an error, and what it has it does not tell.
    sim.faults.lie = 2;
    sim.faults.mute = FOR_GOOD;
    sim.request(2 * BLOCK);
    for _ in 0..2_000 {
        sim.run(1);
        sim.now_ms += 100;
        let settled = sim.engine.status().state == State::Settled;
        let met = sim.plugged() == sim.engine.plugged_size();
        let read = sim.engine.config().requested_size == 2 * BLOCK;
        assert!(!settled || met || !read, "settled in doubt");
    }
    assert_ne!(sim.plugged(), sim.engine.plugged_size(), "no doubt");
    sim.request(0);
    for _ in 0..2_000 {
        sim.run(1);
        sim.now_ms += 100;
        let status = sim.engine.status();
        let read = sim.engine.config().requested_size == 0;
        assert!(!read || status.state != State::Settled, "settled in doubt");
    }
    assert_eq!(sim.engine.status().reason, Reason::HostError);
    // The driver goes on when the device answers again, without a write to `retry`.
    sim.faults.mute = 0;
    settle(&mut sim);
    assert_eq!(sim.plugged(), 0);
}

#[test]
fn what_a_big_block_lacks_is_not_added_again() {
    let mut sim = Sim::with(8, Onlining::Movable, Policy::Kernel, &BIG);
    resize(&mut sim, 4 * BLOCK);
    sim.change_mind(3);
    sim.config_changed();
    until(&mut sim, |step| matches!(step, Step::Remove { .. }));
    // That it lacks something was the last thing that it has told.
    sim.faults.mute = FOR_GOOD;
    for _ in 0..200 {
        sim.finish();
        assert_eq!(sim.uses_unplugged(), None);
        sim.begin();
        sim.now_ms += 100;
    }
    sim.faults.mute = 0;
    settle(&mut sim);
    assert_eq!(sim.plugged(), 4 * BLOCK);
}

#[test]
fn a_big_block_that_lacks_something_is_not_completed() {
    let mut sim = Sim::with(8, Onlining::Movable, Policy::Kernel, &BIG);
    settle(&mut sim);
    // Linux has half of it, for want of memory, and does not let that go.
    sim.request(2 * BLOCK);
    until(&mut sim, |step| {
        matches!(step, Step::Add { memory_block: 1 })
    });
    sim.faults.add_no_memory = 1;
    sim.finish();
    sim.faults.remove_busy = FOR_GOOD;
    sim.change_mind(0);
    sim.config_changed();
    until(&mut sim, |step| matches!(step, Step::Remove { .. }));
    for _ in 0..300 {
        sim.finish();
        sim.begin();
        let completes = |step: &Step| matches!(step, Step::Add { memory_block: 1 });
        assert!(!sim.step.as_ref().is_some_and(completes), "more of it is");
        sim.now_ms += 100;
    }
    sim.faults.remove_busy = 0;
    settle(&mut sim);
    assert_eq!(sim.plugged(), 2 * BLOCK);
    assert_eq!(sim.uses_unplugged(), None);
}

#[test]
fn a_big_block_that_lacks_something_may_go_by_hand() {
    let mut sim = Sim::with(8, Onlining::Movable, Policy::Kernel, &BIG);
    resize(&mut sim, 4 * BLOCK);
    sim.change_mind(3);
    sim.owner[5] = Owner::Pinned;
    sim.config_changed();
    for _ in 0..100 {
        sim.run(1);
        sim.now_ms += 100;
        assert_ne!(sim.engine.status().state, State::Settled);
    }
    while sim.begin().is_some() {
        sim.finish();
    }
    // Between two attempts.
    sim.owner[5] = Owner::Buddy;
    assert!(sim.offline(0) && sim.offline(1));
    settle(&mut sim);
    assert_eq!(sim.plugged(), 4 * BLOCK);
    assert!(!sim.blocks.contains(&Block::Offline), "it is left over");
}

#[test]
fn what_it_calls_busy_may_be_done() {
    for policy in [Policy::Kernel, Policy::Offline] {
        let onlining = match policy {
            Policy::Offline => Onlining::Policy,
            _ => Onlining::Movable,
        };
        let mut sim = Sim::new(4, onlining, policy);
        resize(&mut sim, BLOCK + 2 * SUB);
        sim.request(BLOCK);
        until(&mut sim, |step| {
            matches!(step, Step::Send(Request::Unplug { .. }))
        });
        sim.odd = Some(odd(BUSY, true));
        sim.finish();
        assert_eq!(sim.engine.status().reason, Reason::HostBusy);
        // That the next config space agrees is not waited for.
        sim.step = None;
        settle(&mut sim);
        assert_eq!(sim.plugged(), BLOCK);
        assert_eq!(sim.uses_unplugged(), None);
    }
}

#[test]
fn a_refusal_is_told_as_one() {
    let mut sim = Sim::new(4, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, 2 * BLOCK);
    sim.request(0);
    for _ in 0..2 {
        until(&mut sim, |step| {
            matches!(step, Step::Send(Request::Unplug { .. }))
        });
        sim.odd = Some(odd(NACK, false));
        sim.finish();
    }
    assert_eq!(sim.engine.status().reason, Reason::HostRefused);
    settle(&mut sim);

    // Of an earlier life.
    sim.device[3] = true;
    sim.config.plugged_size = SUB;
    sim.reload();
    until(&mut sim, |step| {
        matches!(step, Step::Send(Request::UnplugAll))
    });
    sim.odd = Some(odd(NACK, false));
    sim.finish();
    assert_eq!(sim.engine.status().reason, Reason::HostRefused);
    settle(&mut sim);
    assert_eq!(sim.plugged(), 0);
}

#[test]
fn half_a_sub_block_is_none() {
    let mut sim = Sim::cut(
        4,
        Onlining::Movable,
        Policy::Kernel,
        &BigBlocks::default(),
        2 * SUB,
    );
    resize(&mut sim, 2 * BLOCK);
    sim.device[0] = false;
    sim.misled();
    sim.config_changed();
    sim.run(500);
    assert_eq!(sim.violation, None);
    assert_eq!(sim.uses_unplugged(), None, "the other half is used");
}

#[test]
fn an_empty_big_block_that_cannot_go_does_not_hold_up_the_others() {
    let mut sim = Sim::with(8, Onlining::Policy, Policy::Offline, &BIG);
    resize(&mut sim, 2 * BLOCK);
    // It has lost all of a block that Linux does not use.
    let lost = sim.cells_of(0).start..sim.cells_of(1).end;
    sim.device[lost.clone()].fill(false);
    sim.misled();
    sim.faults.remove_busy = FOR_GOOD;
    sim.request(4 * BLOCK);
    settle(&mut sim);
    assert_eq!(sim.plugged(), 4 * BLOCK);
    assert!(!sim.device[lost].contains(&true));
}

#[test]
fn memory_that_linux_refuses_does_not_use_up_what_may_be_offline() {
    let most: usize = (1 << 30) / BLOCK as usize;
    let mut sim = Sim::new(most as u64 + 8, Onlining::Movable, Policy::Offline);
    resize(&mut sim, most as u64 * BLOCK);
    for block in 0..most - 1 {
        assert!(sim.offline(block));
    }
    sim.never_online = Some(most);
    sim.faults.remove_busy = FOR_GOOD;
    for more in [1, 2] {
        sim.request((most as u64 + more) * BLOCK);
        for _ in 0..500 {
            sim.run(1);
            sim.now_ms += 100;
        }
    }
    assert_eq!(sim.violation, None);
    // What Linux thinks of it is found out without anybody's help.
    sim.never_online = None;
    settle(&mut sim);
    assert_eq!(sim.plugged(), (most as u64 + 2) * BLOCK);
}

#[test]
fn a_config_space_that_changes_all_the_time_does_not_keep_it_busy() {
    let mut sim = Sim::new(8, Onlining::Movable, Policy::Kernel);
    settle(&mut sim);
    sim.request(2 * BLOCK);
    let (mut steps, mut reads) = (0, 0);
    while sim.now_ms < 60_000 && steps < 100_000 {
        steps += u32::from(sim.begin().is_some());
        match sim.step {
            Some(Step::Send(Request::Plug { .. })) => sim.odd = Some(odd(NACK, false)),
            // It is another one whenever it is read, and nothing of that is announced.
            Some(Step::ReadConfig) => {
                reads += 1;
                sim.config.requested_size = (2 + reads % 2) * BLOCK;
            }
            _ => {}
        }
        sim.finish();
    }
    assert!(steps < 500, "{steps} steps in {} ms", sim.now_ms);
    settle(&mut sim);
}

#[test]
fn a_lower_request_that_nobody_has_announced_is_met() {
    let mut sim = Sim::new(4, Onlining::Movable, Policy::Kernel);
    sim.manners.slack = 0;
    sim.config.usable_region_size = 2 * BLOCK;
    sim.config.requested_size = 4 * BLOCK;
    sim.config_changed();
    sim.run(200);
    assert_eq!(sim.engine.status().reason, Reason::NotAddressable);
    // It is read when the audit is over that a wrong plugged size has begun.
    sim.plugged_size_skew = SUB;
    sim.config_changed();
    until(&mut sim, |step| {
        matches!(step, Step::Send(Request::State { .. }))
    });
    sim.config.requested_size = BLOCK;
    settle(&mut sim);
    assert_eq!(sim.plugged(), BLOCK);
}
