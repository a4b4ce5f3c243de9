// SPDX-License-Identifier: GPL-2.0

//! The engine against simulated devices and a simulated Linux.

mod world;

use proptest::prelude::*;
use virtio_mem_core::engine::notify::Verdict;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::engine::Step;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;
use world::Block;
use world::Faults;
use world::Owner;
use world::Policy;
use world::World;
use world::BLOCK;
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
        let subs = world.subs(block);
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
    assert!(busy * 50 < waited, "{busy} of {waited} ms");
    // And all blocks get their turn, whichever of them can go.
    let first = world.subs(0);
    world.owner[first].fill(Owner::Buddy);
    let last = world.now_ms;
    while world.blocks[0] != Block::Absent {
        world.begin();
        world.finish();
        assert!(world.now_ms - last < 10 * 300_000);
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
    world.slack = 0;
    world.request(3 * BLOCK - SUB);
    world.run(200);
    assert_eq!(world.plugged(), 2 * BLOCK);
    assert_eq!(world.engine.status().reason, Reason::NotAddressable);
    world.slack = BLOCK;
    resize(&mut world, 3 * BLOCK - SUB);
}

#[test]
fn the_highest_block_goes_first_and_nothing_is_left_out() {
    // One request is for 128 of these small blocks.
    let mut world = World::new(300, Onlining::Movable, Policy::Kernel);
    world.request(200 * BLOCK + 2 * SUB);
    let mut added = Vec::new();
    while world.engine.status().state != State::Settled || added.is_empty() {
        if let Some(Step::Add { block }) = world.begin() {
            added.push(*block);
        }
        world.finish();
    }
    assert_eq!(world.violation, None);
    assert_eq!(added[..2], [200, 0]);
    assert_eq!(added.len(), 201);
    // One block in part, and it is not the highest.
    let map = world.engine.map();
    assert_eq!(map.plugged_in(200), 8);
    assert_eq!(map.plugged_in(199), 2);
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
        waited > 1_000_000 && busy * 20 < waited,
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

/// Something that happens in the world between, or during, two steps.
#[derive(Clone, Debug)]
enum Event {
    Request(u64),
    Pin(usize),
    Unpin(usize),
    Online(usize, bool),
    Offline(usize),
    Free(u64),
    Run(u32),
    Faults(Faults),
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
        2 => prop::array::uniform9(fault()).prop_map(|f| Event::Faults(Faults {
            busy: f[0], nack: f[1], error: f[2], lie: f[3], add_no_memory: f[4],
            add_refused: f[5], online_refused: f[6], remove_busy: f[7], mute: f[8],
        })),
    ]
}

fn happen(world: &mut World, event: &Event) {
    match *event {
        Event::Request(size) => world.request(size),
        Event::Pin(sub) if world.owner[sub] == Owner::Buddy => world.owner[sub] = Owner::Pinned,
        Event::Unpin(sub) if world.owner[sub] == Owner::Pinned => world.owner[sub] = Owner::Buddy,
        Event::Pin(_) | Event::Unpin(_) => {}
        Event::Online(block, movable) => {
            world.online(block, movable);
        }
        Event::Offline(block) => {
            world.offline(block);
        }
        Event::Free(free) => world.free = free,
        Event::Faults(faults) => world.faults = faults,
        Event::Run(steps) => {
            for _ in 0..steps {
                world.begin();
                world.finish();
            }
        }
    }
}

fn run_any(onlining: Onlining, policy: Policy, events: &[Event], faults: bool) -> World {
    let mut world = World::new(BLOCKS, onlining, policy);
    for event in events {
        if !faults && matches!(event, Event::Faults(_)) {
            continue;
        }
        // With a step under way, so that all the moments in between are met too.
        world.begin();
        happen(&mut world, event);
    }
    world.finish();
    world
}

/// Nothing is busy and nothing fails any more: the request must be met.
fn calm_down(world: &mut World) {
    world.faults = Faults::default();
    for owner in &mut world.owner {
        if *owner == Owner::Pinned {
            *owner = Owner::Buddy;
        }
    }
    world.free = u64::MAX / 2;
    world.engine.config_changed();
}

fn policies() -> impl Strategy<Value = (Onlining, Policy)> {
    (
        prop_oneof![Just(Onlining::Movable), Just(Onlining::Policy)],
        prop_oneof![
            Just(Policy::Offline),
            Just(Policy::Kernel),
            Just(Policy::Movable)
        ],
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 5 } else { 10_000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn always_converges((onlining, policy) in policies(),
                        events in prop::collection::vec(event(), 1..40)) {
        let mut world = run_any(onlining, policy, &events, false);
        prop_assert_eq!(&world.violation, &None);
        calm_down(&mut world);
        world.run(5_000);
        prop_assert_eq!(&world.violation, &None);
        prop_assert_eq!(world.plugged(), world.config.requested_size);
        prop_assert_eq!(world.engine.status().state, State::Settled);
    }

    #[test]
    fn never_breaks_a_rule_under_faults((onlining, policy) in policies(),
                                        events in prop::collection::vec(event(), 1..40)) {
        let mut world = run_any(onlining, policy, &events, true);
        prop_assert_eq!(&world.violation, &None);
        calm_down(&mut world);
        world.run(5_000);
        prop_assert_eq!(&world.violation, &None);
        // A device that would not even say which blocks it has may keep some for itself.
        prop_assert!(world.engine.plugged_size() <= world.config.requested_size);
    }
}
