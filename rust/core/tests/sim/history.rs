// SPDX-License-Identifier: GPL-2.0

//! Histories: what may happen to a driver, and what has to be true when it is over.

use super::Block;
use super::Faults;
use super::Manners;
use super::Move;
use super::Odd;
use super::Owner;
use super::Policy;
use super::Sim;
use super::BLOCK;
use super::MANNERS;
use super::METADATA;
use super::SUB;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::geometry::BigBlocks;
use virtio_mem_core::vocabulary::State;
use virtio_mem_core::wire::Config;

/// Something that happens in the simulation between, or during, two steps.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Request(u64),
    Pin(usize),
    Unpin(usize),
    Online(usize, bool),
    Offline(usize),
    /// Linux begins to bring a memory block online, or offline.
    Going(Move),
    /// It brings it to an end, or not.
    Gone(bool),
    Free(u64),
    Run(u32),
    /// So many milliseconds pass.
    Later(u64),
    Faults(Faults),
    Reload,
    Metadata(u64),
    /// The device changes its mind about a cell.
    Mind(usize),
    /// The next answer is this one.
    Answer(Odd),
    /// From now on the device says that this is its config space; `None`: the truth.
    Config(Option<Config>),
    /// Somebody writes to `retry`.
    Retry,
    /// Look-ups do not find a memory block any more, or find it again.
    Hide(usize, bool),
    /// A memory block is added or removed, and the driver is not told.
    Sneak(usize),
    /// The driver's map is wrong: it does not know of a memory block that Linux has.
    Forget(usize),
    /// The parameter `unplug_online`.
    UnplugOnline(bool),
}

impl Event {
    /// Whether it is something that a device, or a Linux, should not do.
    pub(crate) fn is_fault(&self) -> bool {
        matches!(
            self,
            Self::Faults(_)
                | Self::Mind(_)
                | Self::Answer(_)
                | Self::Config(_)
                | Self::Hide(..)
                | Self::Sneak(_)
                | Self::Forget(_)
        )
    }
}

/// A kind of simulation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) onlining: Onlining,
    pub(crate) policy: Policy,
    /// Memory blocks in a big block, if any.
    pub(crate) big: u64,
    pub(crate) manners: Manners,
}

impl Kind {
    /// A simulation of this kind, of so many memory blocks and with sub-blocks of this size.
    pub(crate) fn sim(&self, blocks: u64, sub: u64) -> Sim {
        let big = BigBlocks {
            force: self.big != 0,
            size: self.big * BLOCK,
        };
        let mut sim = Sim::cut(blocks, self.onlining, self.policy, &big, sub);
        sim.manners = self.manners;
        sim
    }
}

pub(crate) fn happen(sim: &mut Sim, event: &Event) {
    match *event {
        Event::Request(size) => sim.request(size),
        Event::Pin(cell) if sim.owner[cell] == Owner::Buddy => sim.owner[cell] = Owner::Pinned,
        Event::Unpin(cell) if sim.owner[cell] == Owner::Pinned => {
            sim.owner[cell] = Owner::Buddy;
        }
        Event::Pin(_) | Event::Unpin(_) => {}
        Event::Online(block, movable) => {
            sim.online(block, movable);
        }
        Event::Offline(block) => {
            sim.offline(block);
        }
        Event::Going(Move::Online(block, movable)) => {
            sim.begin_online(block, movable);
        }
        Event::Going(Move::Offline(block)) => {
            sim.begin_offline(block);
        }
        Event::Gone(whole) => {
            sim.end_move(whole);
        }
        Event::Free(free) => sim.free = free,
        Event::Later(ms) => sim.now_ms += ms,
        Event::Faults(faults) => sim.faults = faults,
        Event::Reload => sim.reload(),
        Event::Metadata(room) => sim.metadata_room = room,
        Event::Mind(cell) => sim.change_mind(cell),
        Event::Answer(odd) => sim.odd = Some(odd),
        Event::Config(told) => {
            sim.told = told;
            sim.config_changed();
        }
        Event::Retry => sim.retry(),
        Event::Hide(block, hidden) => sim.hide(block, hidden),
        Event::Sneak(block) => sim.sneak(block),
        Event::Forget(block) => sim.forget(block),
        Event::UnplugOnline(on) => sim.unplug_online = on,
        Event::Run(steps) => {
            for _ in 0..steps {
                sim.begin();
                sim.finish();
            }
        }
    }
}

/// All of `events`, each with a step under way, so that all the moments in between are met too.
pub(crate) fn play(sim: &mut Sim, events: &[Event]) {
    for event in events {
        sim.begin();
        happen(sim, event);
    }
    sim.finish();
}

/// Nothing is busy and nothing fails any more: the request must be met.
pub(crate) fn calm_down(sim: &mut Sim) {
    sim.finish();
    sim.end_move(true);
    sim.faults = Faults::default();
    (sim.odd, sim.told) = (None, None);
    for owner in &mut sim.owner {
        if *owner == Owner::Pinned {
            *owner = Owner::Buddy;
        }
    }
    sim.free = u64::MAX / 2;
    sim.metadata_room = u64::MAX / 2;
    sim.unplug_online = true;
    if sim.meddled {
        // A driver that is not told may not find out by itself: the admin binds it anew.
        sim.hidden.fill(false);
        sim.run(5_000);
        sim.reload();
        sim.meddled = false;
    }
    sim.config_changed();
    sim.run(5_000);
    let believed = sim.engine.plugged_size();
    let counts = [0, sim.plugged_size_skew]
        .map(|plugged_size_skew| sim.plugged().wrapping_add(plugged_size_skew));
    let counts = counts.contains(&believed);
    if sim.fickle || (counts && (sim.doubtful() || sim.confused)) {
        // What a device has lost and what it has found cancels out in its plugged size, as it
        // counts, or makes it wrong by as much as it has been before.
        sim.plugged_size_skew = sim.plugged_size_skew.wrapping_add(2);
    }
    sim.config_changed();
    sim.run(5_000);
    // A device that closes its usable region opens it again with the next resize only.
    sim.request(sim.config.requested_size);
    sim.run(5_000);
}

/// What is to be plugged in the end.
fn due(sim: &Sim) -> u64 {
    let requested = sim.config.requested_size;
    requested - requested % sim.geometry.sub_size()
}

/// What is wrong in a simulation that has calmed down, if anything.
pub(crate) fn wrong(sim: &Sim) -> Option<String> {
    if sim.violation.is_some() {
        return sim.violation.clone();
    }
    if let Some(cell) = sim.uses_unplugged() {
        return Some(format!("cell {cell} is unplugged and in use, and stays so"));
    }
    let (plugged, due, status) = (sim.plugged(), due(sim), sim.engine.status());
    if plugged != due || status.state != State::Settled {
        return Some(format!("{plugged:#x} of {due:#x} plugged, {status:?}"));
    }
    (0..sim.geometry.blocks()).find_map(|block| {
        let plugged = sim.engine.map().plugged_in(block) != 0;
        let mut numbers = sim.geometry.memory_blocks_of(block);
        if plugged {
            let lost = numbers.any(|n| sim.blocks[n as usize] == Block::Absent);
            lost.then(|| format!("block {block} is plugged, and Linux does not have it"))
        } else {
            let left = numbers.any(|n| sim.blocks[n as usize] != Block::Absent);
            left.then(|| format!("block {block} holds nothing, and Linux has it"))
        }
    })
}

/// Memory blocks in simulations that are made from bytes.
const BLOCKS: u64 = 12;

/// Bytes to draw from; zeroes when there are no more.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn bytes<const COUNT: usize>(&mut self) -> [u8; COUNT] {
        std::array::from_fn(|_| self.byte())
    }

    fn below(&mut self, limit: u64) -> u64 {
        u64::from(u16::from_le_bytes(self.bytes())) % limit
    }

    /// A number that is something in the device's units, or anything at all.
    fn size(&mut self) -> u64 {
        match self.byte() % 4 {
            0 => u64::from_le_bytes(self.bytes()),
            1 => u64::MAX - self.below(4),
            _ => self.below(2 * BLOCKS * BLOCK / SUB) * SUB,
        }
    }

    fn fault(&mut self) -> u32 {
        let byte = u32::from(self.byte());
        match byte {
            // More than anybody goes on trying.
            255 => 12,
            _ => byte.saturating_sub(200) / 14,
        }
    }

    fn event(&mut self) -> Event {
        let cell = |bytes: &mut Self| bytes.below(BLOCKS * BLOCK / SUB) as usize;
        let block = |bytes: &mut Self| bytes.below(BLOCKS) as usize;
        match self.byte() % 28 {
            0..=3 => Event::Request(self.below(BLOCKS * BLOCK / SUB + 1) * SUB),
            4 | 5 => Event::Pin(cell(self)),
            6 => Event::Unpin(cell(self)),
            7 | 8 => Event::Online(block(self), self.byte() % 2 == 0),
            9 | 10 => Event::Offline(block(self)),
            11 => Event::Free(self.below(1 << 12) << 20),
            12 => Event::Later(self.below(1 << 12)),
            13 => Event::Reload,
            14 => Event::Metadata(self.below(2 * BLOCKS) * METADATA),
            15 => Event::Mind(cell(self)),
            16 => Event::Retry,
            17 => Event::UnplugOnline(self.byte() % 2 == 0),
            18 => Event::Faults(Faults {
                busy: self.fault(),
                nack: self.fault(),
                error: self.fault(),
                lie: self.fault(),
                add_no_memory: self.fault(),
                add_refused: self.fault(),
                online_refused: self.fault(),
                remove_busy: self.fault(),
                mute: self.fault(),
                take_busy: self.fault(),
                withdraw_busy: self.fault(),
            }),
            19 => Event::Answer(Odd {
                // Mostly what has a meaning.
                bytes: match self.byte() % 4 {
                    0 => self.bytes(),
                    _ => [self.byte() % 5, 0, 0, 0, 0, 0, 0, 0, self.byte() % 4, 0],
                },
                written: match self.byte() % 4 {
                    0 => self.below(12) as u32,
                    1 => u32::MAX,
                    _ => 10,
                },
                acts: self.byte() % 2 == 0,
            }),
            20 => Event::Config((self.byte() % 4 != 0).then(|| Config {
                block_size: self.size(),
                addr: self.size(),
                region_size: self.size(),
                usable_region_size: self.size(),
                plugged_size: self.size(),
                requested_size: self.size(),
            })),
            21 => Event::Hide(block(self), self.byte() % 2 == 0),
            22 => Event::Sneak(block(self)),
            23 => Event::Forget(block(self)),
            24 => Event::Going(Move::Online(block(self), self.byte() % 2 == 0)),
            25 => Event::Going(Move::Offline(block(self))),
            26 | 27 => Event::Gone(self.byte() % 4 != 0),
            _ => Event::Run(1 + u32::from(self.byte()) % 40),
        }
    }
}

/// A kind of simulation, the size of its sub-blocks, and what happens to it.
#[derive(Clone, Debug)]
pub(crate) struct History {
    kind: Kind,
    sub: u64,
    events: Vec<Event>,
}

impl History {
    /// Out of any bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let mut bytes = Bytes(bytes);
        let kind = Kind {
            onlining: [Onlining::Movable, Onlining::Policy][bytes.below(2) as usize],
            policy: [Policy::Offline, Policy::Kernel, Policy::Movable][bytes.below(3) as usize],
            big: [0, 0, 0, 1, 2, 4][bytes.below(6) as usize],
            manners: MANNERS[bytes.below(4) as usize],
        };
        let sub = SUB << bytes.below(3);
        let mut events = Vec::new();
        while !bytes.0.is_empty() {
            events.push(bytes.event());
        }
        Self { kind, sub, events }
    }

    /// What is wrong after, or during, it.
    pub(crate) fn wrong(&self) -> Option<String> {
        let mut sim = self.kind.sim(BLOCKS, self.sub);
        play(&mut sim, &self.events);
        if sim.violation.is_none() {
            calm_down(&mut sim);
        }
        wrong(&sim)
    }

    /// One after which something is wrong too, and not if any of its events is left out.
    pub(crate) fn shrunk(mut self) -> Self {
        let mut len = self.events.len();
        while len > 0 {
            let mut start = 0;
            while start < self.events.len() {
                let mut shorter = self.clone();
                let end = (start + len).min(self.events.len());
                shorter.events.drain(start..end);
                if shorter.wrong().is_some() {
                    self = shorter;
                } else {
                    start += len;
                }
            }
            len /= 2;
        }
        self
    }
}
