// SPDX-License-Identifier: GPL-2.0

//! A device and a Linux that behave as the rules say, or as badly as they are told to.
//!
//! Every use of memory is checked as it happens: see [`World::violation`].

#![allow(missing_docs)] // Not an interface.

use virtio_mem_core::block_map::BlockMap;
use virtio_mem_core::block_map::Flags;
use virtio_mem_core::engine::notify::Verdict;
use virtio_mem_core::engine::Engine;
use virtio_mem_core::engine::Failure;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::engine::Outcome;
use virtio_mem_core::engine::Step;
use virtio_mem_core::engine::Surroundings;
use virtio_mem_core::geometry::Geometry;
use virtio_mem_core::geometry::LinuxLimits;
use virtio_mem_core::vocabulary::State;
use virtio_mem_core::wire::Config;
use virtio_mem_core::wire::Plugged;
use virtio_mem_core::wire::Request;
use virtio_mem_core::wire::Response;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const BLOCK: u64 = 16 * MIB;
pub(crate) const SUB: u64 = 2 * MIB;

/// Who has a sub-block.
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

pub(crate) struct World {
    pub(crate) engine: Engine<Vec<u64>>,
    pub(crate) geometry: Geometry,
    pub(crate) config: Config,
    /// Usable region beyond the requested size.
    pub(crate) slack: u64,
    pub(crate) device: Vec<bool>,
    pub(crate) owner: Vec<Owner>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) policy: Policy,
    pub(crate) faults: Faults,
    pub(crate) now_ms: u64,
    pub(crate) free: u64,
    /// How long it takes to find out that a memory block cannot be emptied.
    pub(crate) remove_ms: u64,
    pub(crate) unplug_online: bool,
    pub(crate) requests: u32,
    /// The device has refused to say which blocks are plugged: the driver may be wrong about them.
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
        };
        let geometry = Geometry::new(&config, &limits).unwrap();
        let words = vec![0; BlockMap::<Vec<u64>>::words_needed(&geometry)];
        let subs = geometry.subs() as usize;
        Self {
            engine: Engine::new(geometry, words, config, onlining),
            geometry,
            config,
            slack: u64::MAX / 2,
            device: vec![false; subs],
            owner: vec![Owner::Nobody; subs],
            blocks: vec![Block::Absent; blocks as usize],
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
            unplug_online: self.unplug_online,
        }
    }

    pub(crate) fn request(&mut self, size: u64) {
        self.config.requested_size = size;
        let usable = size.saturating_add(self.slack);
        let usable = usable.min(self.config.region_size);
        // It grows with the request and shrinks only with UNPLUG_ALL or a reset.
        self.config.usable_region_size = self.config.usable_region_size.max(usable);
        self.engine.config_changed();
    }

    /// The sub-blocks of `block`.
    pub(crate) fn subs(&self, block: usize) -> std::ops::Range<usize> {
        let subs = self.geometry.subs_of(block as u32);
        subs.start as usize..subs.end as usize
    }

    /// Takes a step from the engine, if none is under way. Waits are not steps.
    pub(crate) fn begin(&mut self) -> Option<&Step> {
        if self.step.is_none() {
            let around = self.around();
            match self.engine.step(&around) {
                Step::Wait { ms } => {
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
                self.config.plugged_size = self.plugged();
                Outcome::Config(self.config)
            }
            Step::Send(request) => {
                // Through the wire, as in life.
                let decoded = Request::decode(&request.encode());
                assert_eq!(decoded, Some(*request));
                Outcome::Answered(self.answer(*request))
            }
            Step::Add { block } => self.add(*block as usize),
            Step::Online { block } => {
                if take(&mut self.faults.online_refused) || !self.online(*block as usize, true) {
                    Outcome::Failed(Failure::Refused)
                } else {
                    Outcome::Done
                }
            }
            Step::Remove { block, .. } => self.remove(*block as usize),
            Step::Take { subs } => {
                let range = subs.start as usize..subs.end as usize;
                for sub in range.clone() {
                    match self.owner[sub] {
                        Owner::Buddy => {}
                        Owner::Pinned => return Outcome::Failed(Failure::Busy),
                        other => self.violate(format!("took sub-block {sub} from {other:?}")),
                    }
                }
                self.owner[range].fill(Owner::Driver);
                Outcome::Done
            }
            Step::Give { subs } => {
                for sub in subs.start as usize..subs.end as usize {
                    if self.owner[sub] != Owner::Driver {
                        self.violate(format!("gave sub-block {sub} of {:?}", self.owner[sub]));
                    }
                    self.owner[sub] = Owner::Buddy;
                }
                Outcome::Done
            }
            Step::Wait { .. } => unreachable!("never begun"),
        }
    }

    fn answer(&mut self, request: Request) -> Response {
        self.requests += 1;
        let range = |addr: u64, blocks: u16| {
            let first = self.geometry.sub_at(addr).expect("inside the region") as usize;
            first..first + usize::from(blocks)
        };
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
                let size = range.len() as u64 * SUB;
                let wanted = self.engine.config().requested_size;
                if self.engine.plugged_size() + size > wanted {
                    self.violate(format!("asked for {range:?} beyond {wanted}"));
                }
                let end = addr + size;
                if end > self.config.addr + self.config.usable_region_size
                    || self.plugged() + size > self.config.requested_size
                {
                    return Response::Nack;
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
                for sub in range.clone() {
                    if !matches!(self.owner[sub], Owner::Nobody | Owner::Driver) {
                        let owner = self.owner[sub];
                        self.violate(format!("unplugged sub-block {sub} of {owner:?}"));
                    }
                    if !self.device[sub] {
                        self.violate(format!("unplugged sub-block {sub} twice"));
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

    /// Brings a block online, by anybody's hand.
    pub(crate) fn online(&mut self, block: usize, movable: bool) -> bool {
        if self.blocks[block] != Block::Offline {
            return false;
        }
        let number = block as u32;
        if self.engine.going_online(number, movable) != Verdict::Allow {
            self.engine.cancel_online(number);
            return false;
        }
        let subs = self.geometry.subs_of(number);
        let mut sub = subs.start;
        while sub < subs.end {
            let (plugged, run) = self.engine.same_from(sub, subs.end);
            sub = run.end;
            let owner = if plugged { Owner::Buddy } else { Owner::Driver };
            self.owner[run.start as usize..run.end as usize].fill(owner);
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

    /// Takes a block offline, by anybody's hand.
    pub(crate) fn offline(&mut self, block: usize) -> bool {
        if !matches!(self.blocks[block], Block::Movable | Block::Kernel) {
            return false;
        }
        let number = block as u32;
        let allowed = self.engine.going_offline(number) == Verdict::Allow;
        let range = self.subs(block);
        if !allowed || self.owner[range.clone()].contains(&Owner::Pinned) {
            let moved = self.engine.cancel_offline(number);
            assert_eq!(moved, allowed);
            return false;
        }
        self.owner[range].fill(Owner::Nobody);
        self.blocks[block] = Block::Offline;
        self.engine.offline(number);
        true
    }

    fn remove(&mut self, block: usize) -> Outcome {
        if take(&mut self.faults.remove_busy) {
            return Outcome::Failed(Failure::Busy);
        }
        if self.blocks[block] == Block::Absent {
            self.violate(format!("removed block {block} twice"));
        }
        if self.blocks[block] != Block::Offline && !self.offline(block) {
            self.now_ms += self.remove_ms;
            return Outcome::Failed(Failure::Interrupted);
        }
        self.blocks[block] = Block::Absent;
        Outcome::Done
    }

    /// What must hold after every step.
    pub(crate) fn check(&mut self) {
        for sub in 0..self.device.len() {
            let used = matches!(self.owner[sub], Owner::Buddy | Owner::Pinned);
            if used && !self.device[sub] {
                self.violate(format!("sub-block {sub} is unplugged and in use"));
            }
            let map = self.engine.map();
            let known = map.is_plugged(sub as u32);
            // A held block may be in doubt: the device is being asked.
            let held = map
                .flags(self.geometry.block_of(sub as u32))
                .contains(Flags::HELD);
            if known && !self.device[sub] && !held && self.step.is_none() {
                self.violate(format!("sub-block {sub} is unplugged but believed plugged"));
            }
        }
    }
}
