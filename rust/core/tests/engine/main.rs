// SPDX-License-Identifier: GPL-2.0

//! The engine against simulated devices and a simulated Linux.

mod big_blocks;
#[path = "../cases/mod.rs"]
mod cases;
mod doubts;
mod growing;
mod shrinking;
#[path = "../sim/mod.rs"]
mod sim;
mod waiting;

use cases::config;
use proptest::prelude::*;
use sim::history::calm_down;
use sim::history::play;
use sim::history::wrong;
use sim::history::Event;
use sim::history::Kind;
use sim::Block;
use sim::Faults;
use sim::Policy;
use sim::Sim;
use sim::BLOCK;
use sim::MANNERS;
use sim::METADATA;
use sim::MIB;
use sim::SUB;
use virtio_mem_core::engine::Onlining;

fn settle(sim: &mut Sim) {
    let steps = sim.run(20_000);
    assert_eq!(sim.violation, None);
    assert!(steps < 20_000, "does not settle: {:?}", sim.engine.status());
}

fn resize(sim: &mut Sim, size: u64) {
    sim.request(size);
    settle(sim);
    assert_eq!(sim.plugged(), size);
    assert_eq!(sim.engine.plugged_size(), size);
}

#[test]
fn follows_odd_sizes_both_ways() {
    let mut sim = Sim::new(16, Onlining::Movable, Policy::Kernel);
    for size in [2, 0, 14, 16, 18, 254, 256, 130, 30, 32, 6, 0] {
        resize(&mut sim, size * MIB);
        let online = sim.blocks.iter().filter(|b| **b == Block::Movable);
        assert_eq!(online.count() as u64, (size * MIB).div_ceil(BLOCK));
    }
}

#[test]
fn few_requests_for_much_memory() {
    let mut sim = Sim::new(512, Onlining::Movable, Policy::Kernel);
    resize(&mut sim, 512 * BLOCK);
    assert!(sim.requests <= 8, "{} requests to plug", sim.requests);
    sim.requests = 0;
    resize(&mut sim, 0);
    assert!(sim.requests <= 8, "{} requests to unplug", sim.requests);
}

#[test]
fn a_request_in_force_is_read_before_anything_else() {
    let mut sim = Sim::new(16, Onlining::Movable, Policy::Kernel);
    sim.request(16 * BLOCK);
    for size in [3, 200, 0, 256, 1] {
        sim.run(3);
        sim.request(size * SUB.min(BLOCK));
    }
    settle(&mut sim);
    assert_eq!(sim.plugged(), SUB);
}

#[test]
fn follows_devices_of_every_kind() {
    for manners in MANNERS {
        for policy in [Policy::Offline, Policy::Kernel] {
            let mut sim = Sim::new(32, Onlining::Movable, policy);
            sim.manners = manners;
            sim.config.usable_region_size = 0;
            // An earlier life that had plugged something.
            sim.device[5] = true;
            sim.reload();
            for size in [0, 3, 200, 256, 90, 5, 0, 128] {
                resize(&mut sim, size * SUB);
            }
            sim.faults.lie = 2;
            resize(&mut sim, 13 * SUB);
            sim.reload();
            resize(&mut sim, 77 * SUB);
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
        1 => (0..BLOCKS as usize, any::<bool>()).prop_map(|(b, on)| Event::Hide(b, on)),
        1 => (0..BLOCKS as usize).prop_map(Event::Sneak),
        1 => (0..BLOCKS as usize).prop_map(Event::Forget),
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
        let mut sim = kind.sim(BLOCKS, SUB);
        play(&mut sim, &events);
        prop_assert_eq!(&sim.violation, &None);
        calm_down(&mut sim);
        prop_assert_eq!(wrong(&sim), None);
    }

    #[test]
    fn survives_any_faults(kind in kinds(), events in prop::collection::vec(event(), 1..40)) {
        let mut sim = kind.sim(BLOCKS, SUB);
        play(&mut sim, &events);
        prop_assert_eq!(&sim.violation, &None);
        calm_down(&mut sim);
        prop_assert_eq!(wrong(&sim), None);
    }
}
