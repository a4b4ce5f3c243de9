// SPDX-License-Identifier: GPL-2.0

//! All histories of small simulations: up to some number of events (what the host wants, how the device
//! answers, what Linux refuses, what users do), each of them at any moment.
//!
//! Between two events the driver goes on as far as it is let. A simulation that has been met before is
//! not followed again: two simulations are the same if they differ in nothing but the time and how long
//! the delays have become.
//!
//! `EXHAUSTIVE_EVENTS` is how many events more than usual there are.

mod sim;

use sim::history::calm_down;
use sim::history::happen;
use sim::history::wrong;
use sim::history::Event;
use sim::history::Kind;
use sim::Faults;
use sim::Move;
use sim::Odd;
use sim::Owner;
use sim::Policy;
use sim::Sim;
use sim::BLOCK;
use sim::MANNERS;
use sim::SUB;
use std::collections::hash_map::DefaultHasher;
use std::collections::HashSet;
use std::fmt::Write;
use std::hash::Hash;
use std::hash::Hasher;
use std::time::Instant;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::engine::Step;
use virtio_mem_core::wire::Request;

/// Steps without an event after which the engine should have come to rest.
const MANY: u32 = 2_000;

/// So many waits, of a second as a rule, are more than the longest pause between two retries.
const LONG: u32 = 200;

/// In the engine's own description: moments, of which only matters how long they are ago or that
/// they are to come.
const MOMENTS: [&str; 6] = [
    "until_ms",
    "some_ms",
    "audit_at_ms",
    "removed_ms",
    "progress_ms",
    "resync_at_ms",
];

/// And what does not matter to what is decided, but for how long it takes.
const INDIFFERENT: [&str; 3] = ["next_ms", "attempts", "fruitless_passes"];

/// Something that happens, and how many steps after what happened before.
#[derive(Clone, Debug)]
struct Deed {
    _after: u32,
    _event: Event,
}

/// What is known of all simulations of a kind.
struct Walk {
    name: &'static str,
    met: HashSet<u128>,
    /// Those to be followed next, with how they came about: something has just happened to them.
    next: Vec<(Sim, Vec<Deed>)>,
    /// Those that have been come across, to which something is to happen next.
    here: Vec<(Sim, Vec<Deed>, u32)>,
    /// How many events may still happen to those that are followed now.
    left: u32,
    moves: u64,
}

/// The engine's description without what does not matter.
fn timeless(text: &str, now_ms: u64, out: &mut String) {
    let mut rest = text;
    while let Some(at) = rest.find(": ") {
        let (head, tail) = rest.split_at(at + 2);
        out.push_str(head);
        let start = head[..at]
            .rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .map_or(0, |before| before + 1);
        let name = &head[start..at];
        let some = tail.strip_prefix("Some(").unwrap_or(tail);
        let digits = some.len() - some.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        rest = tail;
        if digits > 0 && MOMENTS.contains(&name) {
            let moment: u64 = some[..digits].parse().unwrap();
            // The engine's limits are 100 ms and 150 ms.
            out.push_str(match now_ms.checked_sub(moment) {
                None => "later",
                Some(0..100) => "now",
                Some(100..=150) => "a moment ago",
                Some(_) => "long ago",
            });
            rest = &some[digits..];
        } else if digits > 0 && INDIFFERENT.contains(&name) {
            rest = &some[digits..];
        }
    }
    out.push_str(rest);
}

/// What tells a simulation from others.
fn key(sim: &Sim, text: &mut String, out: &mut String) -> u128 {
    text.clear();
    out.clear();
    write!(text, "{:?}", sim.engine).unwrap();
    timeless(text, sim.now_ms, out);
    let (map, geometry) = (sim.engine.map(), &sim.geometry);
    write!(
        out,
        "{:?} {:?} {:?} {:?} {} {:?} {:?} {} {} {:?} {}",
        sim.device,
        sim.owner,
        sim.blocks,
        sim.config,
        sim.plugged_size_skew,
        (&sim.doubt, &sim.moving, sim.fickle),
        (&sim.hidden, sim.meddled),
        sim.confused,
        sim.unplug_online,
        sim.step,
        sim.metadata_room
    )
    .unwrap();
    let subs: Vec<_> = (0..geometry.subs())
        .map(|sub| map.is_plugged(sub))
        .collect();
    let numbers = 0..geometry.memory_blocks();
    let states: Vec<_> = numbers
        .map(|n| (map.memory_block_state(n).as_str(), map.is_moving(n)))
        .collect();
    let flags: Vec<_> = (0..geometry.blocks())
        .map(|block| map.flags(block).bits())
        .collect();
    let hash = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, &*out, &subs, &states, &flags).hash(&mut hasher);
        hasher.finish()
    };
    (u128::from(hash(0)) << 64) | u128::from(hash(1))
}

/// Goes on without any event: to the next step, or through the one that is under way. Whether
/// there was anything to do.
fn go_on(sim: &mut Sim) -> bool {
    if sim.step.is_some() {
        sim.finish();
        return true;
    }
    // What it waits for is time that passes: as if it passed at once. Several retries that come to
    // nothing mean that somebody else has to do something, such as allow that memory be unplugged.
    for _ in 0..LONG {
        let before = sim.now_ms;
        if sim.begin().is_some() {
            return true;
        }
        if sim.now_ms == before || sim.violation.is_some() {
            return false;
        }
    }
    false
}

/// What can go wrong with a step.
fn faults_of(step: &Step) -> Vec<Event> {
    let none = Faults::default;
    let count = |faults: Faults| Event::Faults(faults);
    let odd = |code: u8, state: u8, acts: bool| {
        Event::Answer(Odd {
            bytes: [code, 0, 0, 0, 0, 0, 0, 0, state, 0],
            written: 10,
            acts,
        })
    };
    let busy = count(Faults { busy: 1, ..none() });
    let error = count(Faults { error: 1, ..none() });
    let nack = count(Faults { nack: 1, ..none() });
    // Carried out, and answered with a code that does not exist, or with ERROR.
    let lies = [1, 2].map(|lie| count(Faults { lie, ..none() }));
    match step {
        Step::Send(Request::Plug { .. }) => [[busy, error, nack].to_vec(), lies.to_vec()].concat(),
        Step::Send(Request::Unplug { .. }) => [[busy, error].to_vec(), lies.to_vec()].concat(),
        Step::Send(Request::UnplugAll) => [[busy].to_vec(), lies.to_vec()].concat(),
        Step::Send(Request::State { .. }) => [1, 2, 3, 9]
            .map(|code| odd(code, 0, false))
            .into_iter()
            .chain([3].map(|state| odd(0, state, false)))
            .collect(),
        Step::Add { .. } => vec![
            count(Faults {
                add_no_memory: 1,
                ..none()
            }),
            count(Faults {
                add_refused: 1,
                ..none()
            }),
        ],
        Step::Online { .. } => vec![count(Faults {
            online_refused: 1,
            ..none()
        })],
        Step::Remove { .. } => vec![count(Faults {
            remove_busy: 1,
            ..none()
        })],
        Step::Take { .. } => vec![count(Faults {
            take_busy: 1,
            ..none()
        })],
        Step::Withdraw { .. } => vec![count(Faults {
            withdraw_busy: 1,
            ..none()
        })],
        Step::ReadConfig | Step::Give { .. } | Step::Resync | Step::Wait { .. } => Vec::new(),
    }
}

/// All that can happen to a simulation now.
fn events(sim: &Sim) -> Vec<Event> {
    let geometry = &sim.geometry;
    let mut events: Vec<_> = (0..=geometry.subs())
        .map(|subs| geometry.size_of(subs))
        .filter(|size| *size != sim.config.requested_size)
        .map(Event::Request)
        .collect();
    if sim.moving.is_some() {
        events.extend([true, false].map(Event::Gone));
    }
    for block in 0..sim.blocks.len() {
        events.extend([true, false].map(|movable| Event::Online(block, movable)));
        events.push(Event::Offline(block));
        events.extend([Move::Online(block, true), Move::Offline(block)].map(Event::Going));
        // In use: the first, or the last, of a memory block.
        let cells = sim.cells_of(block);
        for cell in [cells.start, cells.end - 1] {
            events.push(match sim.owner[cell] {
                Owner::Pinned => Event::Unpin(cell),
                _ => Event::Pin(cell),
            });
        }
    }
    events.extend([Event::Reload, Event::Retry, Event::Mind(0)]);
    // Of one memory block, as the others are like it.
    events.extend([
        Event::Sneak(0),
        Event::Hide(0, !sim.hidden[0]),
        Event::Forget(0),
    ]);
    events.push(Event::UnplugOnline(!sim.unplug_online));
    events.extend(sim.step.iter().flat_map(faults_of));
    events
}

impl Walk {
    fn fail(&self, what: &str, deeds: &[Deed], sim: &Sim) -> ! {
        panic!(
            "{}: {what}\n{deeds:#?}\n{:#?}\n{:?}\n{:?}\n{:?}",
            self.name, sim.engine, sim.device, sim.owner, sim.blocks
        );
    }

    /// Follows a simulation, met just now, through what was not met before.
    fn follow(&mut self, mut sim: Sim, deeds: &[Deed]) {
        let (mut text, mut out) = (String::new(), String::new());
        for after in 0..MANY {
            if let Some(violation) = &sim.violation {
                self.fail(violation, deeds, &sim);
            }
            let mut calm = sim.clone();
            calm_down(&mut calm);
            if let Some(what) = wrong(&calm) {
                self.fail(&what, deeds, &sim);
            }
            if self.left > 0 {
                self.here.push((sim.clone(), deeds.to_vec(), after));
            }
            self.moves += 1;
            let rests = !go_on(&mut sim);
            if let Some(violation) = &sim.violation {
                self.fail(violation, deeds, &sim);
            }
            if rests || !self.met.insert(key(&sim, &mut text, &mut out)) {
                return;
            }
        }
        self.fail("does not come to rest", deeds, &sim);
    }

    /// Has everything happen that can, to one simulation each.
    fn branch(&mut self, sim: &Sim, deeds: &[Deed], after: u32) {
        let (mut text, mut out) = (String::new(), String::new());
        for event in events(sim) {
            let mut other = sim.clone();
            happen(&mut other, &event);
            if matches!(event, Event::Faults(_) | Event::Answer(_)) {
                other.finish();
                (other.faults, other.odd) = (Faults::default(), None);
            }
            self.moves += 1;
            let new = self.met.insert(key(&other, &mut text, &mut out));
            if new || other.violation.is_some() {
                let mut deeds = deeds.to_vec();
                deeds.push(Deed {
                    _after: after,
                    _event: event,
                });
                self.next.push((other, deeds));
            }
        }
    }
}

/// Walks through all histories of a kind of simulation with that many events.
fn walk(name: &'static str, kind: &Kind, blocks: u64, sub: u64, mut depth: u32) {
    if cfg!(miri) {
        return;
    }
    if let Ok(more) = std::env::var("EXHAUSTIVE_EVENTS") {
        depth += more.parse::<u32>().expect("EXHAUSTIVE_EVENTS: a number");
    }
    let begun = Instant::now();
    let mut walk = Walk {
        name,
        met: HashSet::new(),
        next: vec![(kind.sim(blocks, sub), Vec::new())],
        here: Vec::new(),
        left: depth,
        moves: 0,
    };
    loop {
        for (sim, deeds) in std::mem::take(&mut walk.next) {
            walk.follow(sim, &deeds);
        }
        if walk.left == 0 {
            break;
        }
        walk.left -= 1;
        // Only when all with so many events are known: whoever is met with more is not followed.
        for (sim, deeds, after) in std::mem::take(&mut walk.here) {
            walk.branch(&sim, &deeds, after);
            if walk.left == 0 {
                for (sim, deeds) in std::mem::take(&mut walk.next) {
                    walk.follow(sim, &deeds);
                }
            }
        }
    }
    println!(
        "{name}: {} states, {} moves, up to {depth} events, {:.1} s",
        walk.met.len(),
        walk.moves,
        begun.elapsed().as_secs_f64()
    );
}

/// A quarter of a memory block.
const QUARTER: u64 = BLOCK / 4;

#[test]
fn two_blocks_of_four() {
    let kind = Kind {
        onlining: Onlining::Movable,
        policy: Policy::Kernel,
        big: 0,
        manners: MANNERS[0],
    };
    walk("two_blocks_of_four", &kind, 2, QUARTER, 3);
}

#[test]
fn two_blocks_left_to_the_policy() {
    let kind = Kind {
        onlining: Onlining::Policy,
        policy: Policy::Kernel,
        big: 0,
        manners: MANNERS[2],
    };
    walk("two_blocks_left_to_the_policy", &kind, 2, QUARTER, 3);
}

#[test]
fn two_big_blocks_of_two() {
    let kind = Kind {
        onlining: Onlining::Movable,
        policy: Policy::Offline,
        big: 2,
        manners: MANNERS[1],
    };
    walk("two_big_blocks_of_two", &kind, 4, SUB, 3);
}

#[test]
fn three_blocks_of_two() {
    let kind = Kind {
        onlining: Onlining::Movable,
        policy: Policy::Offline,
        big: 0,
        manners: MANNERS[2],
    };
    walk("three_blocks_of_two", &kind, 3, 2 * QUARTER, 3);
}
