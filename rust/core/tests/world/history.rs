// SPDX-License-Identifier: GPL-2.0

//! Histories: what may happen to a driver, and what has to be true when it is over.

use super::Block;
use super::Faults;
use super::Manners;
use super::Move;
use super::Odd;
use super::Owner;
use super::Policy;
use super::World;
use super::BLOCK;
use super::MANNERS;
use super::METADATA;
use super::SUB;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::geometry::BigBlocks;
use virtio_mem_core::vocabulary::State;
use virtio_mem_core::wire::Config;

/// Something that happens in the world between, or during, two steps.
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

/// A kind of world.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) onlining: Onlining,
    pub(crate) policy: Policy,
    /// Memory blocks in a big block, if any.
    pub(crate) big: u64,
    pub(crate) manners: Manners,
}

impl Kind {
    /// A world of this kind, of so many memory blocks and with sub-blocks of this size.
    pub(crate) fn world(&self, blocks: u64, sub: u64) -> World {
        let big = BigBlocks {
            force: self.big != 0,
            size: self.big * BLOCK,
        };
        let mut world = World::cut(blocks, self.onlining, self.policy, &big, sub);
        world.manners = self.manners;
        world
    }
}

pub(crate) fn happen(world: &mut World, event: &Event) {
    match *event {
        Event::Request(size) => world.request(size),
        Event::Pin(cell) if world.owner[cell] == Owner::Buddy => world.owner[cell] = Owner::Pinned,
        Event::Unpin(cell) if world.owner[cell] == Owner::Pinned => {
            world.owner[cell] = Owner::Buddy;
        }
        Event::Pin(_) | Event::Unpin(_) => {}
        Event::Online(block, movable) => {
            world.online(block, movable);
        }
        Event::Offline(block) => {
            world.offline(block);
        }
        Event::Going(Move::Online(block, movable)) => {
            world.begin_online(block, movable);
        }
        Event::Going(Move::Offline(block)) => {
            world.begin_offline(block);
        }
        Event::Gone(whole) => {
            world.end_move(whole);
        }
        Event::Free(free) => world.free = free,
        Event::Later(ms) => world.now_ms += ms,
        Event::Faults(faults) => world.faults = faults,
        Event::Reload => world.reload(),
        Event::Metadata(room) => world.metadata_room = room,
        Event::Mind(cell) => world.change_mind(cell),
        Event::Answer(odd) => world.odd = Some(odd),
        Event::Config(told) => {
            world.told = told;
            world.config_changed();
        }
        Event::Retry => world.retry(),
        Event::Hide(block, hidden) => world.hide(block, hidden),
        Event::Sneak(block) => world.sneak(block),
        Event::Forget(block) => world.forget(block),
        Event::UnplugOnline(on) => world.unplug_online = on,
        Event::Run(steps) => {
            for _ in 0..steps {
                world.begin();
                world.finish();
            }
        }
    }
}

/// All of `events`, each with a step under way, so that all the moments in between are met too.
pub(crate) fn play(world: &mut World, events: &[Event]) {
    for event in events {
        world.begin();
        happen(world, event);
    }
    world.finish();
}

/// Nothing is busy and nothing fails any more: the request must be met.
pub(crate) fn calm_down(world: &mut World) {
    world.finish();
    world.end_move(true);
    world.faults = Faults::default();
    (world.odd, world.told) = (None, None);
    for owner in &mut world.owner {
        if *owner == Owner::Pinned {
            *owner = Owner::Buddy;
        }
    }
    world.free = u64::MAX / 2;
    world.metadata_room = u64::MAX / 2;
    world.unplug_online = true;
    if world.meddled {
        // A driver that is not told may not find out by itself: the admin binds it anew.
        world.hidden.fill(false);
        world.run(5_000);
        world.reload();
        world.meddled = false;
    }
    world.config_changed();
    world.run(5_000);
    let believed = world.engine.plugged_size();
    let counts = [0, world.plugged_size_skew]
        .map(|plugged_size_skew| world.plugged().wrapping_add(plugged_size_skew));
    let counts = counts.contains(&believed);
    if world.fickle || (counts && (world.doubtful() || world.confused)) {
        // What a device has lost and what it has found cancels out in its plugged size, as it
        // counts, or makes it wrong by as much as it has been before.
        world.plugged_size_skew = world.plugged_size_skew.wrapping_add(2);
    }
    world.config_changed();
    world.run(5_000);
    // A device that closes its usable region opens it again with the next resize only.
    world.request(world.config.requested_size);
    world.run(5_000);
}

/// What is to be plugged in the end.
fn due(world: &World) -> u64 {
    let requested = world.config.requested_size;
    requested - requested % world.geometry.sub_size()
}

/// What is wrong in a world that has calmed down, if anything.
pub(crate) fn wrong(world: &World) -> Option<String> {
    if world.violation.is_some() {
        return world.violation.clone();
    }
    if let Some(cell) = world.uses_unplugged() {
        return Some(format!("cell {cell} is unplugged and in use, and stays so"));
    }
    let (plugged, due, status) = (world.plugged(), due(world), world.engine.status());
    if plugged != due || status.state != State::Settled {
        return Some(format!("{plugged:#x} of {due:#x} plugged, {status:?}"));
    }
    (0..world.geometry.blocks()).find_map(|block| {
        let plugged = world.engine.map().plugged_in(block) != 0;
        let mut numbers = world.geometry.memory_blocks_of(block);
        if plugged {
            let lost = numbers.any(|n| world.blocks[n as usize] == Block::Absent);
            lost.then(|| format!("block {block} is plugged, and Linux does not have it"))
        } else {
            let left = numbers.any(|n| world.blocks[n as usize] != Block::Absent);
            left.then(|| format!("block {block} holds nothing, and Linux has it"))
        }
    })
}

/// Memory blocks in worlds that are made from bytes.
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

/// A kind of world, the size of its sub-blocks, and what happens to it.
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
        let mut world = self.kind.world(BLOCKS, self.sub);
        play(&mut world, &self.events);
        if world.violation.is_none() {
            calm_down(&mut world);
        }
        wrong(&world)
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
