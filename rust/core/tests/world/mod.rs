// SPDX-License-Identifier: GPL-2.0

//! A device and a Linux that behave as the rules say, or as badly as they are told to.
//!
//! Every use of memory is checked as it happens: see [`World::violation`].

#![allow(missing_docs)] // Not an interface.

use std::ops::Range;
use virtio_mem_core::block_map::BlockMap;
use virtio_mem_core::block_map::Flags;
use virtio_mem_core::block_map::InLinux;
use virtio_mem_core::engine::notify::Verdict;
use virtio_mem_core::engine::Engine;
use virtio_mem_core::engine::Failure;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::engine::Outcome;
use virtio_mem_core::engine::Status;
use virtio_mem_core::engine::Step;
use virtio_mem_core::engine::Surroundings;
use virtio_mem_core::geometry::BigBlocks;
use virtio_mem_core::geometry::Geometry;
use virtio_mem_core::geometry::LinuxLimits;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;
use virtio_mem_core::wire::Config;
use virtio_mem_core::wire::Plugged;
use virtio_mem_core::wire::Request;
use virtio_mem_core::wire::Response;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const BLOCK: u64 = 16 * MIB;
pub(crate) const SUB: u64 = 2 * MIB;
/// A brief attempt ends after this.
const BRIEF_MS: u64 = 200;
/// What a memory block costs Linux.
pub(crate) const METADATA: u64 = BLOCK / 64;

/// Who has a cell: as much memory as a device block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nobody: its memory block is not online.
    Nobody,
    /// The page allocator; movable content at most.
    Buddy,
    /// Somebody who does not let it go.
    Pinned,
    /// The driver (PageOffline).
    Driver,
}

/// What Linux does with a memory block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    Absent,
    Offline,
    Movable,
    Kernel,
}

/// The default online policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Offline,
    Kernel,
    Movable,
}

/// Faults, each as the number of times that it is still to happen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) busy: u32,
    pub(crate) nack: u32,
    /// ERROR, with nothing done.
    pub(crate) error: u32,
    /// ERROR, or an unknown code, although the request was carried out.
    pub(crate) lie: u32,
    pub(crate) add_no_memory: u32,
    pub(crate) add_refused: u32,
    pub(crate) online_refused: u32,
    pub(crate) remove_busy: u32,
    /// STATE requests are answered with ERROR.
    pub(crate) mute: u32,
}

/// What kind of a device it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    /// The answer to who asks for too much.
    pub(crate) too_much: Response,
    /// Usable region beyond the requested size.
    pub(crate) slack: u64,
    /// Requests that cross a multiple of this are refused.
    pub(crate) boundary: u64,
    /// After UNPLUG_ALL nothing is usable until the next resize.
    pub(crate) closes: bool,
    /// What is done but answered with an error is not counted in the plugged size.
    pub(crate) miscounts: bool,
}

/// In the manner of four hypervisors, with their sizes scaled down as memory blocks are here.
pub(crate) const MANNERS: [Manners; 4] = [
    // QEMU
    Manners {
        too_much: Response::Nack,
        slack: 2 * BLOCK,
        boundary: u64::MAX,
        closes: false,
        miscounts: false,
    },
    // Cloud Hypervisor
    Manners {
        too_much: Response::Nack,
        slack: u64::MAX / 2,
        boundary: u64::MAX,
        closes: false,
        miscounts: true,
    },
    // Firecracker
    Manners {
        too_much: Response::Error,
        slack: BLOCK,
        boundary: u64::MAX,
        closes: true,
        miscounts: false,
    },
    // Dragonball
    Manners {
        too_much: Response::Nack,
        slack: 2 * BLOCK,
        boundary: 4 * BLOCK,
        closes: false,
        miscounts: false,
    },
];

pub(crate) struct World {
    pub(crate) engine: Engine<Vec<u64>>,
    pub(crate) geometry: Geometry,
    pub(crate) config: Config,
    pub(crate) manners: Manners,
    /// What is plugged, by cells.
    pub(crate) device: Vec<bool>,
    pub(crate) owner: Vec<Owner>,
    /// Memory blocks.
    pub(crate) blocks: Vec<Block>,
    onlining: Onlining,
    /// The device's plugged size is wrong by this.
    pub(crate) drift: u64,
    pub(crate) metadata_room: u64,
    /// The same when the step under way was decided.
    room_then: u64,
    pub(crate) policy: Policy,
    pub(crate) faults: Faults,
    pub(crate) now_ms: u64,
    pub(crate) free: u64,
    /// How long it takes to find out that a memory block cannot be emptied.
    pub(crate) remove_ms: u64,
    pub(crate) unplug_online: bool,
    pub(crate) requests: u32,
    /// The device has refused to say which blocks are plugged, or has changed them by itself: the
    /// driver may be wrong about them.
    pub(crate) doubt: bool,
    /// The first rule that was broken.
    pub(crate) violation: Option<String>,
    pub(crate) step: Option<Step>,
}

fn take(count: &mut u32) -> bool {
    let hit = *count > 0;
    *count = count.saturating_sub(1);
    hit
}

impl World {
    pub(crate) fn new(blocks: u64, onlining: Onlining, policy: Policy) -> Self {
        Self::with(blocks, onlining, policy, &BigBlocks::default())
    }

    /// A world of `blocks` memory blocks.
    pub(crate) fn with(blocks: u64, onlining: Onlining, policy: Policy, big: &BigBlocks) -> Self {
        let region_size = blocks * BLOCK;
        let config = Config {
            block_size: SUB,
            addr: 0x1_0000_0000,
            region_size,
            usable_region_size: region_size,
            plugged_size: 0,
            requested_size: 0,
        };
        let limits = LinuxLimits {
            memory_block: BLOCK,
            pageblock: SUB,
            first: 0,
            last: u64::MAX >> 8,
            metadata: METADATA,
        };
        let (geometry, bad) = Geometry::new(&config, &limits, big).unwrap();
        assert_eq!(bad, None);
        let words = vec![0; BlockMap::<Vec<u64>>::words_needed(&geometry)];
        let cells = (region_size / SUB) as usize;
        Self {
            engine: Engine::new(geometry, words, config, onlining),
            geometry,
            config,
            manners: Manners {
                slack: u64::MAX / 2,
                ..MANNERS[0]
            },
            device: vec![false; cells],
            owner: vec![Owner::Nobody; cells],
            blocks: vec![Block::Absent; blocks as usize],
            onlining,
            drift: 0,
            metadata_room: u64::MAX,
            room_then: 0,
            policy,
            faults: Faults::default(),
            now_ms: 0,
            free: 1 << 30,
            remove_ms: 0,
            unplug_online: true,
            requests: 0,
            doubt: false,
            violation: None,
            step: None,
        }
    }

    /// The driver goes and comes back, with whatever Linux has in its care.
    pub(crate) fn reload(&mut self) {
        self.finish();
        if let Some(subs) = self.engine.wind_down() {
            let cells = self.cells(&subs);
            self.owner[cells].fill(Owner::Buddy);
        }
        for number in 0..self.geometry.memory_blocks() {
            let (map, block) = (
                self.engine.map(),
                self.geometry.block_of_memory_block(number),
            );
            let offline = map.in_linux(number) == InLinux::Offline;
            let partly = map.plugged_in(block) < self.geometry.subs_per_block();
            if offline && (partly || map.flags(block).contains(Flags::WANTED)) {
                self.blocks[number as usize] = Block::Absent;
            }
        }
        self.config.plugged_size = self.plugged().wrapping_add(self.drift);
        let words = vec![0; BlockMap::<Vec<u64>>::words_needed(&self.geometry)];
        self.engine = Engine::new(self.geometry, words, self.config, self.onlining);
        if self.blocks.iter().any(|block| *block != Block::Absent) {
            self.engine.take_over();
        }
        for (number, block) in self.blocks.iter().enumerate() {
            let state = match block {
                Block::Absent => continue,
                Block::Offline => InLinux::Offline,
                Block::Movable => InLinux::Movable,
                Block::Kernel => InLinux::Kernel,
            };
            self.engine.adopt(number as u32, state);
        }
        for sub in 0..self.geometry.subs() {
            let online = |cell: &usize| self.owner[*cell] != Owner::Nobody;
            let mut cells = self.cells(&(sub..sub + 1)).filter(online).peekable();
            if cells.peek().is_some() && cells.all(|cell| self.owner[cell] == Owner::Driver) {
                self.engine.adopt_withheld(sub);
            }
        }
    }

    /// The cells of sub-blocks.
    pub(crate) fn cells(&self, subs: &Range<u32>) -> Range<usize> {
        let size = (self.geometry.sub_size() / SUB) as usize;
        subs.start as usize * size..subs.end as usize * size
    }

    /// The cells of a memory block.
    pub(crate) fn cells_of(&self, memory_block: usize) -> Range<usize> {
        let size = (BLOCK / SUB) as usize;
        memory_block * size..(memory_block + 1) * size
    }

    fn violate(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    pub(crate) fn plugged(&self) -> u64 {
        self.device.iter().filter(|plugged| **plugged).count() as u64 * SUB
    }

    pub(crate) fn around(&self) -> Surroundings {
        Surroundings {
            now_ms: self.now_ms,
            free: self.free,
            metadata_room: self.metadata_room,
            unplug_online: self.unplug_online,
        }
    }

    pub(crate) fn request(&mut self, size: u64) {
        self.config.requested_size = size;
        let usable = size.saturating_add(self.manners.slack);
        let usable = usable.min(self.config.region_size);
        // It grows with the request and shrinks only with UNPLUG_ALL or a reset.
        self.config.usable_region_size = self.config.usable_region_size.max(usable);
        self.engine.config_changed();
    }

    /// Takes a step from the engine, if none is under way. Waits are not steps.
    pub(crate) fn begin(&mut self) -> Option<&Step> {
        if self.step.is_none() {
            let around = self.around();
            self.room_then = around.metadata_room;
            // Pinned memory is what looks used here.
            let (owner, cells) = (&self.owner, BLOCK / SUB);
            let look = |number: u32| {
                let first = (u64::from(number) * cells) as usize;
                let used = owner[first..first + cells as usize]
                    .iter()
                    .filter(|owner| matches!(owner, Owner::Pinned | Owner::Driver));
                used.count() as u64 * SUB
            };
            match self.engine.step(&around, &look) {
                Step::Wait { ms } => {
                    let Status { state, reason, .. } = self.engine.status();
                    // These end with what the host or the admin does.
                    let patient = [Reason::OfflineLimit, Reason::NotAddressable].contains(&reason);
                    if ms.is_none() && state != State::Settled && !patient {
                        self.violate(format!("{state:?}, {reason:?}, and sleeps for good"));
                    }
                    self.now_ms += ms.unwrap_or(0);
                }
                step => self.step = Some(step),
            }
        }
        self.step.as_ref()
    }

    /// Carries the step under way out.
    pub(crate) fn finish(&mut self) {
        if let Some(step) = self.step.take() {
            let outcome = self.carry_out(&step);
            let around = self.around();
            self.engine.done(outcome, &around);
            self.check();
        }
    }

    /// The device changes its mind by itself, about the sub-block that a cell is in.
    pub(crate) fn change_mind(&mut self, cell: usize) {
        let sub = cell as u32 / (self.geometry.sub_size() / SUB) as u32;
        let cells = self.cells(&(sub..sub + 1));
        if cells.end as u64 * SUB > self.config.usable_region_size {
            return;
        }
        let plugged = !self.device[cell];
        self.device[cells].fill(plugged);
        self.doubt = true;
    }

    /// Runs until there is nothing to do or `limit` steps were taken; returns the steps.
    pub(crate) fn run(&mut self, limit: u32) -> u32 {
        for steps in 0..limit {
            if self.begin().is_none() {
                if self.engine.status().state == State::Settled {
                    return steps;
                }
                // Time passes only while the engine waits.
                self.now_ms += 1;
            }
            self.finish();
        }
        limit
    }

    fn carry_out(&mut self, step: &Step) -> Outcome {
        match step {
            Step::ReadConfig => {
                self.config.plugged_size = self.plugged().wrapping_add(self.drift);
                Outcome::Config(self.config)
            }
            Step::Send(request) => {
                // Through the wire, as in life.
                let decoded = Request::decode(&request.encode());
                assert_eq!(decoded, Some(*request));
                Outcome::Answered(self.answer(*request))
            }
            Step::Add { memory_block } => self.add(*memory_block as usize),
            Step::Online { memory_block } => {
                let number = *memory_block as usize;
                if take(&mut self.faults.online_refused) || !self.online(number, true) {
                    Outcome::Failed(Failure::Refused)
                } else {
                    Outcome::Done
                }
            }
            Step::Remove {
                memory_blocks,
                brief,
                ..
            } => {
                let before = self.now_ms;
                let outcome = self.remove(memory_blocks);
                if *brief {
                    self.now_ms = self.now_ms.min(before + BRIEF_MS);
                }
                outcome
            }
            Step::Take { subs } => {
                let cells = self.cells(subs);
                for cell in cells.clone() {
                    match self.owner[cell] {
                        Owner::Buddy => {}
                        Owner::Pinned => return Outcome::Failed(Failure::Busy),
                        other => self.violate(format!("took cell {cell} from {other:?}")),
                    }
                }
                self.owner[cells].fill(Owner::Driver);
                Outcome::Done
            }
            Step::Withdraw { subs } => {
                let cells = self.cells(subs);
                if self.owner[cells.clone()].contains(&Owner::Pinned) {
                    return Outcome::Failed(Failure::Busy);
                }
                self.owner[cells].fill(Owner::Driver);
                Outcome::Done
            }
            Step::Give { subs } => {
                for cell in self.cells(subs) {
                    if self.owner[cell] != Owner::Driver {
                        self.violate(format!("gave cell {cell} of {:?}", self.owner[cell]));
                    }
                    self.owner[cell] = Owner::Buddy;
                }
                Outcome::Done
            }
            Step::Wait { .. } => unreachable!("never begun"),
        }
    }

    fn answer(&mut self, request: Request) -> Response {
        self.requests += 1;
        let range = |addr: u64, blocks: u16| {
            let first = ((addr - self.config.addr) / SUB) as usize;
            first..first + usize::from(blocks)
        };
        let mut size = 0;
        if let Request::Plug { addr, blocks } | Request::Unplug { addr, blocks } = request {
            size = u64::from(blocks) * SUB;
            let (first, last) = (addr, addr + size - 1);
            if first / self.manners.boundary != last / self.manners.boundary {
                return Response::Nack;
            }
        }
        match request {
            Request::Plug { addr, blocks } => {
                let range = range(addr, blocks);
                if take(&mut self.faults.busy) {
                    return Response::Busy;
                }
                if take(&mut self.faults.nack) {
                    return Response::Nack;
                }
                if take(&mut self.faults.error) {
                    return Response::Error;
                }
                let wanted = self.engine.config().requested_size;
                if self.engine.plugged_size() + size > wanted {
                    self.violate(format!("asked for {range:?} beyond {wanted}"));
                }
                let end = addr + size;
                if end > self.config.addr + self.config.usable_region_size
                    || self.plugged() + size > self.config.requested_size
                {
                    return self.manners.too_much;
                }
                if self.device[range.clone()].contains(&true) {
                    if !self.doubt {
                        self.violate(format!("plugged {range:?} twice"));
                    }
                    return Response::Error;
                }
                self.device[range].fill(true);
            }
            Request::Unplug { addr, blocks } => {
                let range = range(addr, blocks);
                if take(&mut self.faults.busy) {
                    return Response::Busy;
                }
                if take(&mut self.faults.error) {
                    return Response::Error;
                }
                for cell in range.clone() {
                    if !matches!(self.owner[cell], Owner::Nobody | Owner::Driver) {
                        let owner = self.owner[cell];
                        self.violate(format!("unplugged cell {cell} of {owner:?}"));
                    }
                    if !self.device[cell] {
                        if !self.doubt {
                            self.violate(format!("unplugged cell {cell} twice"));
                        }
                        return Response::Error;
                    }
                }
                self.device[range].fill(false);
            }
            Request::UnplugAll => {
                if take(&mut self.faults.busy) {
                    return Response::Busy;
                }
                if self.owner.iter().any(|owner| *owner != Owner::Nobody) {
                    self.violate("UNPLUG_ALL while memory is in use".into());
                }
                self.device.fill(false);
                if self.manners.closes {
                    self.config.usable_region_size = 0;
                }
            }
            Request::State { addr, blocks } => {
                if take(&mut self.faults.mute) {
                    self.doubt = true;
                    return Response::Error;
                }
                let range = range(addr, blocks);
                let states = &self.device[range];
                return Response::State(match (states.contains(&true), states.contains(&false)) {
                    (true, true) => Plugged::Mixed,
                    (true, false) => Plugged::All,
                    _ => Plugged::None,
                });
            }
        }
        if take(&mut self.faults.lie) {
            if self.manners.miscounts {
                self.drift = match request {
                    Request::Plug { .. } => self.drift.wrapping_sub(size),
                    _ => self.drift.wrapping_add(size),
                };
            }
            return if self.faults.lie % 2 == 0 {
                Response::Error
            } else {
                Response::Garbled
            };
        }
        Response::Ack
    }

    fn add(&mut self, block: usize) -> Outcome {
        if take(&mut self.faults.add_no_memory) {
            return Outcome::Failed(Failure::NoMemory);
        }
        if take(&mut self.faults.add_refused) {
            return Outcome::Failed(Failure::Refused);
        }
        if self.room_then < METADATA {
            self.violate(format!(
                "added block {block} without memory for its metadata"
            ));
        }
        self.metadata_room = self.metadata_room.saturating_sub(METADATA);
        if self.blocks[block] != Block::Absent {
            self.violate(format!("added block {block} twice"));
        }
        self.blocks[block] = Block::Offline;
        match self.policy {
            Policy::Offline => false,
            Policy::Kernel => self.online(block, false),
            Policy::Movable => self.online(block, true),
        };
        Outcome::Done
    }

    /// Brings a memory block online, by anybody's hand.
    pub(crate) fn online(&mut self, block: usize, movable: bool) -> bool {
        if self.blocks[block] != Block::Offline {
            return false;
        }
        let number = block as u32;
        if self.engine.going_online(number, movable) != Verdict::Allow {
            self.engine.cancel_online(number);
            return false;
        }
        for cell in self.cells_of(block) {
            let sub = self
                .geometry
                .sub_at(self.config.addr + cell as u64 * SUB)
                .unwrap();
            let (plugged, _) = self.engine.same_from(sub, sub + 1);
            self.owner[cell] = if plugged { Owner::Buddy } else { Owner::Driver };
        }
        self.blocks[block] = if movable {
            Block::Movable
        } else {
            Block::Kernel
        };
        self.engine.online(number, movable);
        self.check();
        true
    }

    /// Takes a memory block offline, by anybody's hand.
    pub(crate) fn offline(&mut self, block: usize) -> bool {
        if !matches!(self.blocks[block], Block::Movable | Block::Kernel) {
            return false;
        }
        let number = block as u32;
        let allowed = self.engine.going_offline(number) == Verdict::Allow;
        let cells = self.cells_of(block);
        if !allowed || self.owner[cells.clone()].contains(&Owner::Pinned) {
            let moved = self.engine.cancel_offline(number);
            assert_eq!(moved, allowed);
            return false;
        }
        self.owner[cells].fill(Owner::Nobody);
        self.blocks[block] = Block::Offline;
        self.engine.offline(number);
        true
    }

    /// All or none: those that went offline come online again if another cannot.
    fn remove(&mut self, numbers: &Range<u32>) -> Outcome {
        if take(&mut self.faults.remove_busy) {
            return Outcome::Failed(Failure::Busy);
        }
        let blocks = numbers.start as usize..numbers.end as usize;
        let mut undo = Vec::new();
        for block in blocks.clone() {
            let before = self.blocks[block];
            if before == Block::Absent {
                self.violate(format!("removed block {block} twice"));
            }
            if before == Block::Offline {
                continue;
            }
            if !self.offline(block) {
                self.now_ms += self.remove_ms;
                for (block, before) in undo {
                    self.online(block, before == Block::Movable);
                }
                return Outcome::Failed(Failure::Interrupted);
            }
            undo.push((block, before));
        }
        for block in blocks {
            self.blocks[block] = Block::Absent;
            self.metadata_room = self.metadata_room.saturating_add(METADATA);
        }
        Outcome::Done
    }

    /// Whether Linux uses memory that is not plugged.
    pub(crate) fn uses_unplugged(&self) -> Option<usize> {
        let used = |cell: &usize| matches!(self.owner[*cell], Owner::Buddy | Owner::Pinned);
        (0..self.device.len()).find(|cell| used(cell) && !self.device[*cell])
    }

    /// What must hold after every step.
    pub(crate) fn check(&mut self) {
        if self.doubt {
            return;
        }
        if let Some(cell) = self.uses_unplugged() {
            self.violate(format!("cell {cell} is unplugged and in use"));
        }
        for sub in 0..self.geometry.subs() {
            let map = self.engine.map();
            let block = self.geometry.block_of(sub);
            // A held block may be in doubt: the device is being asked.
            let held = map.flags(block).contains(Flags::HELD) || self.engine.is_taking_over();
            let plugged = self.device[self.cells(&(sub..sub + 1))].contains(&true);
            if map.is_plugged(sub) && !plugged && !held && self.step.is_none() {
                self.violate(format!("sub-block {sub} is unplugged but believed plugged"));
            }
        }
    }
}
