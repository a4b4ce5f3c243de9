// SPDX-License-Identifier: GPL-2.0

//! The device.

mod requests;

use super::blocks::Bit;
use super::blocks::Blocks;
use super::config;
use super::config::Field;
use super::config::Lies;
use super::fault::Delivery;
use super::fault::Faults;
use super::fault::Kind;
use super::personality::Personality;
use super::rules::Breach;
use super::rules::Journal;
use super::Memory;
use super::Store;
use core::ops::Range;
use virtio_mem_core::wire::offset;
use virtio_mem_core::wire::Config;
use virtio_mem_core::wire::Features;
use virtio_mem_core::wire::Request;
use virtio_mem_core::wire::RESPONSE_LEN;

/// Types of an answer.
pub const ACK: u16 = 0;
/// See [`ACK`].
pub const NACK: u16 = 1;
/// See [`ACK`].
pub const BUSY: u16 = 2;
/// See [`ACK`].
pub const ERROR: u16 = 3;

/// What a device is made from.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Whose device it is like.
    pub personality: Personality,
    /// Where its region starts.
    pub addr: u64,
    /// The size of its region.
    pub region_size: u64,
    /// The size of its blocks, a power of two.
    pub block_size: u64,
    /// What is requested at first.
    pub requested_size: u64,
    /// The proximity domain that it names.
    pub node: u16,
    /// The features that it offers.
    pub features: Features,
}

impl Setup {
    /// Whether a size or address is a multiple of the block size.
    fn is_whole(&self, size: u64) -> bool {
        size & self.block_size.saturating_sub(1) == 0
    }

    /// The number of the block at an address.
    fn block_at(&self, addr: u64) -> Option<u32> {
        let offset = addr.checked_sub(self.addr)?;
        u32::try_from(offset.checked_div(self.block_size)?).ok()
    }

    /// How many blocks that makes; `None` for what cannot be.
    pub fn blocks(&self) -> Option<u32> {
        let whole = self.block_size.is_power_of_two()
            && self.is_whole(self.addr)
            && self.is_whole(self.region_size)
            && self.addr.checked_add(self.region_size).is_some();
        let blocks = u32::try_from(self.region_size.checked_div(self.block_size)?).ok()?;
        (whole && blocks > 0).then_some(blocks)
    }
}

/// An answer on its way to the driver.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// To this.
    request: Option<Request>,
    /// Its bytes.
    pub bytes: [u8; RESPONSE_LEN],
    /// How many of them the device says it has written.
    pub len: u32,
    /// How late it comes, in milliseconds.
    pub delay_ms: u32,
    /// How it comes.
    pub delivery: Delivery,
}

/// The device.
pub struct Device<S: Store> {
    setup: Setup,
    config: Config,
    blocks: Blocks<S>,
    /// Plugged and not counted, or the other way round, in blocks.
    uncounted: i64,
    /// Lies about the config space.
    pub lies: Lies,
    /// Wrong answers.
    pub faults: Faults,
    /// What the driver did.
    pub journal: Journal<S>,
    /// The host migrates the guest.
    pub migrating: bool,
    /// Nothing of it has been plugged or poisoned yet.
    fresh: bool,
    /// It has seen something that it does not cope with, and works no more until it is reset.
    broken: bool,
    /// What the driver has read last, and could believe.
    read_usable: u64,
    read_requested: u64,
    /// How often each kind of request came.
    pub counts: [u64; Kind::ALL.len()],
    /// How often an answer was one of these: ACK, NACK, BUSY, ERROR, others, none.
    pub answers: [u64; 6],
}

impl<S: Store> Device<S> {
    /// A device of which nothing is plugged. `None`: out of memory, or nothing that a device can be
    /// like.
    pub fn new(setup: Setup) -> Option<Self> {
        let mut device = Self {
            setup,
            config: Config {
                block_size: setup.block_size,
                addr: setup.addr,
                region_size: setup.region_size,
                ..Config::default()
            },
            blocks: Blocks::new(setup.blocks()?)?,
            uncounted: 0,
            lies: Lies::default(),
            faults: Faults::new(),
            journal: Journal::new()?,
            migrating: false,
            fresh: true,
            broken: false,
            read_usable: 0,
            read_requested: 0,
            counts: [0; Kind::ALL.len()],
            answers: [0; 6],
        };
        device.request(setup.requested_size);
        Some(device)
    }

    /// The device is about to appear: poisons its memory, if that has not been done yet.
    pub fn appear(&mut self, memory: &mut impl Memory) {
        if self.fresh {
            memory.poison(self.addresses(&(0..self.blocks.len())));
        }
        self.fresh = false;
    }

    /// What it was made from.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The truth about its config space.
    pub fn config(&self) -> Config {
        let blocks = i64::from(self.blocks.count(Bit::Plugged)).saturating_add(self.uncounted);
        let blocks = u64::try_from(blocks).unwrap_or(0);
        Config {
            plugged_size: blocks.saturating_mul(self.setup.block_size),
            ..self.config
        }
    }

    /// Its blocks.
    pub fn blocks(&self) -> &Blocks<S> {
        &self.blocks
    }

    /// How much is plugged, whatever the config space says.
    pub fn plugged(&self) -> u64 {
        u64::from(self.blocks.count(Bit::Plugged)).saturating_mul(self.setup.block_size)
    }

    /// The host wants this much to be plugged.
    pub fn request(&mut self, size: u64) {
        let Setup {
            personality,
            region_size,
            ..
        } = self.setup;
        self.config.requested_size = size;
        let usable = personality.usable(size, region_size);
        self.config.usable_region_size = self.config.usable_region_size.max(usable);
        self.changed();
    }

    /// Sets the usable region to what it would not be.
    pub fn limit(&mut self, usable: u64) {
        self.config.usable_region_size = usable;
        self.changed();
    }

    fn changed(&mut self) {
        self.lies.generation = self.lies.generation.wrapping_add(1);
    }

    /// The driver reads the config space.
    pub fn read_config(&mut self, at: u32, buffer: &mut [u8]) {
        let (config, node) = (self.config(), self.setup.node);
        let len = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        if at.saturating_add(len) > offset::END {
            self.journal.accuse(Breach::ConfigBeyond(at));
        }
        buffer.fill(0);
        for field in Field::ALL {
            let (begin, end) = (field.offset(), field.offset().saturating_add(8));
            if end <= at || begin >= at.saturating_add(len) {
                continue;
            }
            let value = self.lies.read(field, config::truth(&config, node, field));
            self.seen(field, value);
            let bytes = (begin..end).zip(value.to_le_bytes());
            for (position, byte) in bytes {
                let index = position.checked_sub(at).map(usize::try_from);
                if let Some(to) = index.and_then(|i| buffer.get_mut(i.ok()?)) {
                    *to = byte;
                }
            }
        }
    }

    /// The driver has read this. What cannot be, it must not believe; and of what else it reads
    /// while it is lied to, it may believe nothing.
    fn seen(&mut self, field: Field, value: u64) {
        let possible = value <= self.setup.region_size;
        let place = match field {
            Field::UsableRegionSize => &mut self.read_usable,
            Field::RequestedSize if self.setup.is_whole(value) => &mut self.read_requested,
            _ => return,
        };
        if possible {
            let least = if self.lies.any() { *place } else { 0 };
            *place = value.max(least);
        }
    }

    /// The driver has written to the config space.
    pub fn config_written(&mut self, at: u32) {
        self.journal.accuse(Breach::ConfigWritten(at));
    }

    /// The driver has reset the device. Answers on their way are [`Device::lost`].
    pub fn reset(&mut self) {
        self.broken = false;
    }

    /// The machine has been reset: nothing is plugged. Nothing may be in use.
    pub fn system_reset(&mut self, memory: &mut impl Memory) {
        let all = 0..self.blocks.len();
        self.unplug(&all, memory);
        self.blocks.tell(all, false);
        self.uncounted = 0;
        self.config.usable_region_size = 0;
        self.request(self.config.requested_size);
        self.broken = false;
    }

    fn addresses(&self, blocks: &Range<u32>) -> Range<u64> {
        let at = |block: u32| {
            let offset = u64::from(block).saturating_mul(self.setup.block_size);
            self.setup.addr.saturating_add(offset)
        };
        at(blocks.start)..at(blocks.end)
    }

    fn plug(&mut self, blocks: &Range<u32>, memory: &mut impl Memory) {
        self.verify(blocks, memory);
        self.blocks.set(Bit::Plugged, blocks.clone(), true);
        self.blocks.set(Bit::Tainted, blocks.clone(), false);
    }

    fn unplug(&mut self, blocks: &Range<u32>, memory: &mut impl Memory) {
        for block in blocks.clone() {
            let block = block..block.saturating_add(1);
            let bad = self.blocks.get(Bit::Tainted, block.start);
            if bad || self.blocks.get(Bit::Plugged, block.start) {
                memory.poison(self.addresses(&block));
            }
        }
        self.blocks.set(Bit::Plugged, blocks.clone(), false);
        self.blocks.set(Bit::Tainted, blocks.clone(), false);
    }

    /// Looks whether unplugged blocks have been written to.
    fn verify(&mut self, blocks: &Range<u32>, memory: &mut impl Memory) {
        for block in blocks.clone() {
            let excused =
                self.blocks.get(Bit::Plugged, block) || self.blocks.get(Bit::Tainted, block);
            let block = block..block.saturating_add(1);
            let damage = (!excused).then(|| memory.damage(self.addresses(&block)));
            if let Some(at) = damage.flatten() {
                self.journal.accuse(Breach::Damaged(at));
                // Once is enough.
                self.blocks.set(Bit::Tainted, block, true);
            }
        }
    }

    /// The same, of all blocks.
    pub fn check(&mut self, memory: &mut impl Memory) {
        if self.fresh {
            return;
        }
        self.verify(&(0..self.blocks.len()), memory);
    }

    /// Buffers came that are not of one request and one answer.
    pub fn malformed(&mut self) {
        self.journal.requests = self.journal.requests.saturating_add(1);
        self.journal.accuse(Breach::Malformed);
        self.broken = true;
    }
}
