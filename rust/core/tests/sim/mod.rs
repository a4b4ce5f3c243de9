// SPDX-License-Identifier: GPL-2.0

//! A device and a Linux that behave as the rules say, or as badly as they are told to.
//!
//! Every use of memory is checked as it happens: see [`Sim::violation`].

#![allow(missing_docs)] // Not an interface.
#![allow(dead_code)] // No test uses all of it.

mod check;
mod device;
pub(crate) mod history;
mod linux;
mod meddling;

pub(crate) use device::Manners;
pub(crate) use device::Odd;
pub(crate) use device::MANNERS;
pub(crate) use linux::Block;
pub(crate) use linux::Move;
pub(crate) use linux::Owner;
pub(crate) use linux::Policy;
use std::ops::Range;
use virtio_mem_core::block_map::BlockMap;
use virtio_mem_core::block_map::Flags;
use virtio_mem_core::block_map::MemoryBlockState;
use virtio_mem_core::engine::Engine;
use virtio_mem_core::engine::Environment;
use virtio_mem_core::engine::Failure;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::engine::Outcome;
use virtio_mem_core::engine::Status;
use virtio_mem_core::engine::Step;
use virtio_mem_core::engine::WATCH_MS;
use virtio_mem_core::geometry::BigBlocks;
use virtio_mem_core::geometry::Geometry;
use virtio_mem_core::geometry::LinuxLimits;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;
use virtio_mem_core::wire::Config;
use virtio_mem_core::wire::Request;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const BLOCK: u64 = 16 * MIB;
pub(crate) const SUB: u64 = 2 * MIB;
/// A brief attempt ends after this.
const BRIEF_MS: u64 = 200;
/// What a memory block costs Linux.
pub(crate) const METADATA: u64 = BLOCK / 64;

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
    pub(crate) take_busy: u32,
    pub(crate) withdraw_busy: u32,
}

/// What the device has made of the driver's knowledge of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    None,
    /// The device has said that it is plugged and it is not, or has changed it by itself: the driver
    /// may have it be used.
    Misled,
    /// It has told the truth since: the driver is to put that right.
    Told,
}

#[derive(Clone)]
pub(crate) struct Sim {
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
    pub(crate) plugged_size_skew: u64,
    /// For how many cells the host has memory.
    pub(crate) room: u64,
    pub(crate) metadata_room: u64,
    /// The same when the step under way was decided.
    room_then: u64,
    pub(crate) policy: Policy,
    pub(crate) faults: Faults,
    /// The memory block that Linux never adds, and the one that it never brings online.
    pub(crate) never_added: Option<usize>,
    pub(crate) never_online: Option<usize>,
    /// How the next request is answered.
    pub(crate) odd: Option<Odd>,
    /// The answer to the next request is not waited for; whether the device carries it out.
    pub(crate) abandoned: Option<bool>,
    /// What the device says its config space is.
    pub(crate) told: Option<Config>,
    pub(crate) now_ms: u64,
    pub(crate) free: u64,
    /// How long it takes to find out that a memory block cannot be emptied.
    pub(crate) remove_ms: u64,
    pub(crate) unplug_online: bool,
    pub(crate) requests: u32,
    /// By cells.
    pub(crate) doubt: Vec<Doubt>,
    /// What Linux is in the middle of.
    pub(crate) moving: Option<Move>,
    /// It has said something that is not so, or would not say: the driver may be wrong about what is
    /// plugged, but not have it be used.
    pub(crate) confused: bool,
    /// It has changed by itself, or said of a range what is not so: its plugged size may not tell.
    pub(crate) fickle: bool,
    /// Memory blocks that look-ups do not find.
    pub(crate) hidden: Vec<bool>,
    /// Linux has hidden, added or removed memory blocks behind the driver's back: the map may be wrong
    /// about it.
    pub(crate) meddled: bool,
    /// Requests to unplug memory that were not sent.
    pub(crate) not_sent: u32,
    /// The first rule that was broken.
    pub(crate) violation: Option<String>,
    pub(crate) step: Option<Step>,
    /// What the worker sleeps through without asking the engine.
    doze: Option<Doze>,
}

#[derive(Clone)]
struct Doze {
    until_ms: u64,
    free: u64,
}

fn take(count: &mut u32) -> bool {
    let hit = *count > 0;
    *count = count.saturating_sub(1);
    hit
}

impl Sim {
    pub(crate) fn new(blocks: u64, onlining: Onlining, policy: Policy) -> Self {
        Self::with(blocks, onlining, policy, &BigBlocks::default())
    }

    /// A simulation of `blocks` memory blocks.
    pub(crate) fn with(blocks: u64, onlining: Onlining, policy: Policy, big: &BigBlocks) -> Self {
        Self::cut(blocks, onlining, policy, big, SUB)
    }

    /// The same, with sub-blocks of this size if there are any.
    pub(crate) fn cut(
        blocks: u64,
        onlining: Onlining,
        policy: Policy,
        big: &BigBlocks,
        sub: u64,
    ) -> Self {
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
            pageblock: sub,
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
            plugged_size_skew: 0,
            room: u64::MAX,
            metadata_room: u64::MAX,
            room_then: 0,
            policy,
            faults: Faults::default(),
            never_added: None,
            never_online: None,
            odd: None,
            abandoned: None,
            told: None,
            now_ms: 0,
            free: 1 << 30,
            remove_ms: 0,
            unplug_online: true,
            requests: 0,
            doubt: vec![Doubt::None; cells],
            moving: None,
            confused: false,
            fickle: false,
            hidden: vec![false; blocks as usize],
            meddled: false,
            not_sent: 0,
            violation: None,
            step: None,
            doze: None,
        }
    }

    /// The driver goes and comes back, with whatever Linux has in its care.
    pub(crate) fn reload(&mut self) {
        self.finish();
        self.end_move(true);
        if let Some(subs) = self.engine.wind_down() {
            let cells = self.cells(&subs);
            self.owner[cells].fill(Owner::Buddy);
        }
        for number in 0..self.geometry.memory_blocks() {
            let (map, block) = (
                self.engine.map(),
                self.geometry.block_of_memory_block(number),
            );
            let offline = map.memory_block_state(number) == MemoryBlockState::Offline;
            // What the device was asked to unplug may be unplugged.
            let partly = map.plugged_in(block) < self.geometry.subs_per_block();
            let useless = map.flags(block).intersects(Flags::WANTED | Flags::HELD);
            if offline && (partly || useless) {
                self.blocks[number as usize] = Block::Absent;
            }
        }
        self.config.plugged_size = self.plugged().wrapping_add(self.plugged_size_skew);
        let words = vec![0; BlockMap::<Vec<u64>>::words_needed(&self.geometry)];
        self.engine = Engine::new(self.geometry, words, self.config, self.onlining);
        self.doze = None;
        if self.blocks.iter().any(|block| *block != Block::Absent) {
            self.engine.take_over();
        }
        self.adopt();
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

    pub(crate) fn env(&self) -> Environment {
        Environment {
            now_ms: self.now_ms,
            free: self.free,
            metadata_room: self.metadata_room,
            unplug_online: self.unplug_online,
        }
    }

    /// Tells the driver that the device's configuration has changed.
    pub(crate) fn config_changed(&mut self) {
        self.engine.handle_config_changed();
        self.ring(true);
    }

    /// The admin has it tried at once.
    pub(crate) fn retry(&mut self) {
        self.engine.handle_retry();
        self.ring(true);
    }

    /// The worker is woken, if at all.
    pub(super) fn ring(&mut self, wake: bool) {
        if wake {
            self.doze = None;
        }
    }

    pub(crate) fn request(&mut self, size: u64) {
        self.config.requested_size = size;
        let usable = size.saturating_add(self.manners.slack);
        let usable = usable.min(self.config.region_size);
        // It grows with the request and shrinks only with UNPLUG_ALL or a reset.
        self.config.usable_region_size = self.config.usable_region_size.max(usable);
        self.config_changed();
    }

    /// Takes a step from the engine, if none is under way. Waits are not steps.
    pub(crate) fn begin(&mut self) -> Option<&Step> {
        if self.step.is_none() {
            let env = self.env();
            self.room_then = env.metadata_room;
            // Pinned memory is what looks used here.
            let (owner, cells) = (&self.owner, BLOCK / SUB);
            let look = |number: u32| {
                let first = (u64::from(number) * cells) as usize;
                let used = owner[first..first + cells as usize]
                    .iter()
                    .filter(|owner| matches!(owner, Owner::Pinned | Owner::Driver));
                used.count() as u64 * SUB
            };
            // The worker would go on sleeping.
            self.doze = self
                .doze
                .take()
                .filter(|doze| self.free < doze.free && self.now_ms < doze.until_ms);
            let dozing = self.doze.is_some().then(|| self.engine.status());
            match self.engine.next_step(&env, &look) {
                Step::Wait { ms, free } => {
                    let Status { state, reason, .. } = self.engine.status();
                    // These end with what the host or the admin does.
                    let patient = [Reason::OfflineLimit, Reason::NotAddressable].contains(&reason);
                    if ms.is_none() && state != State::Settled && !patient {
                        self.violate(format!("{state:?}, {reason:?}, and sleeps for good"));
                    }
                    match &dozing {
                        Some(status) => {
                            if (state, reason) != (status.state, status.reason) {
                                self.violate(format!("{state:?}, {reason:?}, and nobody is told"));
                            }
                        }
                        None => {
                            let until_ms = ms.map_or(u64::MAX, |ms| self.now_ms + ms);
                            self.doze = free.map(|free| Doze { until_ms, free });
                        }
                    }
                    let ms = ms.unwrap_or(0);
                    self.now_ms += free.map_or(ms, |_| ms.min(WATCH_MS));
                }
                step => {
                    if dozing.is_some() {
                        self.violate(format!("{step:?} while nobody asks"));
                    }
                    self.doze = None;
                    self.step = Some(step);
                }
            }
        }
        self.step.as_ref()
    }

    /// Carries the step under way out.
    pub(crate) fn finish(&mut self) {
        if let Some(step) = self.step.take() {
            let outcome = self.carry_out(&step);
            let env = self.env();
            self.engine.handle_outcome(outcome, &env);
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
        if let Step::Add { .. } | Step::Online { .. } | Step::Remove { .. } = step {
            // There is a lock for who adds, moves and removes memory blocks.
            self.end_move(true);
        }
        match step {
            Step::ReadConfig => {
                self.config.plugged_size = self.plugged().wrapping_add(self.plugged_size_skew);
                Outcome::Config(self.told.unwrap_or(self.config).reading())
            }
            Step::Send(request) => {
                // Through the wire, as in life.
                let decoded = Request::decode(&request.encode());
                assert_eq!(decoded, Some(*request));
                if self.guards(*request) {
                    Outcome::NotSent
                } else if let Some(acts) = self.abandoned.take() {
                    if acts {
                        self.answer(*request);
                    }
                    Outcome::Abandoned
                } else {
                    Outcome::Answered(self.answer(*request))
                }
            }
            Step::Add { memory_block } => self.add(*memory_block as usize),
            Step::Online { memory_block } => {
                let number = *memory_block as usize;
                if self.never_online == Some(number)
                    || self.hidden[number]
                    || take(&mut self.faults.online_refused)
                    || !self.online(number, true)
                {
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
            Step::Take { subs } => self.take(subs),
            Step::Withdraw { subs } => self.withdraw(subs),
            Step::Give { subs } => self.give(subs),
            Step::Resync => self.resync(),
            Step::Wait { .. } => unreachable!("never begun"),
        }
    }
}
