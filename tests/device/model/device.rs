// SPDX-License-Identifier: GPL-2.0

//! The device.

use super::blocks::Bit;
use super::blocks::Blocks;
use super::config;
use super::config::Field;
use super::config::Lies;
use super::fault::Delivery;
use super::fault::Effect;
use super::fault::Faults;
use super::fault::Kind;
use super::personality::Personality;
use super::rules::Breach;
use super::rules::Entry;
use super::rules::Journal;
use super::Memory;
use super::Store;
use core::ops::Range;
use virtio_mem_core::wire::offset;
use virtio_mem_core::wire::Config;
use virtio_mem_core::wire::Features;
use virtio_mem_core::wire::Plugged;
use virtio_mem_core::wire::Request;
use virtio_mem_core::wire::Response;
use virtio_mem_core::wire::REQUEST_LEN;
use virtio_mem_core::wire::RESPONSE_LEN;

/// Types of an answer.
pub const ACK: u16 = 0;
/// See [`ACK`].
pub const NACK: u16 = 1;
/// See [`ACK`].
pub const BUSY: u16 = 2;
/// See [`ACK`].
pub const ERROR: u16 = 3;

/// What the state in an answer is that has none.
const NO_STATE: u16 = 0xabab;

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

    /// A request came, from a driver that is `ready`, or not. `None`: there is no answer.
    pub fn handle(
        &mut self,
        bytes: &[u8; REQUEST_LEN],
        ready: bool,
        now_ms: u64,
        memory: &mut impl Memory,
    ) -> Option<Answer> {
        self.journal.requests = self.journal.requests.saturating_add(1);
        if !ready {
            self.journal.accuse(Breach::NotReady);
        }
        let request = Request::decode(bytes);
        let mut entry = Entry {
            number: self.journal.requests,
            at_ms: now_ms,
            request,
            answer: None,
            acted: false,
            faulty: false,
        };
        let answer = match request {
            _ if self.broken => None,
            Some(request) => self.answer(request, &mut entry, memory),
            None => {
                let [k0, k1, ..] = *bytes;
                let kind = u16::from_le_bytes([k0, k1]);
                self.journal.accuse(Breach::UnknownKind(kind));
                self.broken = self.setup.personality == Personality::Qemu;
                let spoken = self.setup.personality.answers_unknown();
                entry.answer = spoken.then_some((ERROR, NO_STATE));
                spoken.then(|| Self::encode(None, ERROR, NO_STATE, &Effect::default()))
            }
        };
        let class = match entry.answer {
            Some((code, _)) => usize::from(code).min(4),
            None => 5,
        };
        if let Some(count) = self.answers.get_mut(class) {
            *count = count.saturating_add(1);
        }
        self.journal.note(entry);
        answer
    }

    fn encode(request: Option<Request>, code: u16, state: u16, effect: &Effect) -> Answer {
        let ([c0, c1], [s0, s1]) = (code.to_le_bytes(), state.to_le_bytes());
        let pad = 0xab;
        Answer {
            request,
            bytes: [c0, c1, pad, pad, pad, pad, pad, pad, s0, s1],
            len: effect.len.unwrap_or(RESPONSE_LEN as u32),
            delay_ms: effect.delay_ms,
            delivery: effect.delivery,
        }
    }

    fn answer(
        &mut self,
        request: Request,
        entry: &mut Entry,
        memory: &mut impl Memory,
    ) -> Option<Answer> {
        let kind = Kind::of(&request);
        let number = Kind::ALL.iter().position(|k| *k == kind);
        if let Some(count) = number.and_then(|number| self.counts.get_mut(number)) {
            *count = count.saturating_add(1);
        }
        let range = self.judge(&request, memory);
        let (mut code, mut state) = match &range {
            Some(range) => self.honest(&request, range),
            None => (ERROR, NO_STATE),
        };
        let effect = self.faults.strike(kind);
        let act = code == ACK
            && effect.is_none_or(|effect| effect.code.is_none_or(|c| c == ACK) || effect.act);
        entry.faulty = effect.is_some();
        let effect = effect.unwrap_or_default();
        if let Some(range) = range.filter(|_| act && kind != Kind::State) {
            entry.acted = true;
            // Until it is told, the driver cannot know.
            self.act(&request, &range, memory);
            if effect.code.is_some_and(|c| c != ACK) && self.setup.personality.miscounts() {
                let count = i64::from(range.end.saturating_sub(range.start));
                self.uncounted = match kind {
                    Kind::Plug => self.uncounted.saturating_sub(count),
                    Kind::Unplug => self.uncounted.saturating_add(count),
                    _ => self.uncounted,
                };
            }
        }
        code = effect.code.unwrap_or(code);
        state = effect.state.unwrap_or(state);
        entry.answer = Some((code, state));
        let answer = Self::encode(Some(request), code, state, &effect);
        if effect.delivery == Delivery::Never {
            entry.answer = None;
            self.lost(&answer);
            return None;
        }
        Some(answer)
    }

    /// Does what was asked for.
    fn act(&mut self, request: &Request, range: &Range<u32>, memory: &mut impl Memory) {
        match request {
            Request::Plug { .. } => {
                self.plug(range, memory);
                self.blocks.set(Bit::Unsure, range.clone(), true);
            }
            Request::Unplug { .. } => {
                self.unplug(range, memory);
                self.blocks.set(Bit::Unsure, range.clone(), true);
            }
            Request::UnplugAll => {
                for block in range.clone() {
                    if self.blocks.get(Bit::Plugged, block) {
                        let block = block..block.saturating_add(1);
                        self.blocks.set(Bit::Unsure, block, true);
                    }
                }
                self.unplug(range, memory);
                self.uncounted = 0;
                let Config {
                    requested_size,
                    region_size,
                    ..
                } = self.config;
                let usable = self
                    .setup
                    .personality
                    .usable_after_unplug_all(requested_size, region_size);
                self.config.usable_region_size = usable;
            }
            Request::State { .. } => {}
        }
        self.changed();
    }

    /// The blocks of a request that names some that there are, on behalf of the rules.
    fn judge(&mut self, request: &Request, memory: &mut impl Memory) -> Option<Range<u32>> {
        let (addr, blocks) = match *request {
            Request::UnplugAll => {
                let all = 0..self.blocks.len();
                self.judge_use(request, &all, memory);
                return Some(all);
            }
            Request::Plug { addr, blocks }
            | Request::Unplug { addr, blocks }
            | Request::State { addr, blocks } => (addr, blocks),
        };
        if blocks == 0 {
            self.journal.accuse(Breach::Empty(*request));
            return None;
        }
        let first = self.setup.block_at(addr);
        let end = first.and_then(|first| first.checked_add(u32::from(blocks)));
        let (Some(first), Some(end)) = (first, end.filter(|end| *end <= self.blocks.len())) else {
            self.journal.accuse(Breach::OutOfRegion(*request));
            return None;
        };
        if !self.setup.is_whole(addr) {
            self.journal.accuse(Breach::Unaligned(*request));
            return None;
        }
        let range = first..end;
        match request {
            Request::Plug { .. } => self.judge_plug(request, &range),
            Request::Unplug { .. } => {
                let known = |block: &u32| self.blocks.known(*block, false);
                if let Some(block) = range.clone().find(known) {
                    let at = self.addresses(&(block..block)).start;
                    self.journal.accuse(Breach::Unplugged(*request, at));
                }
                self.judge_use(request, &range, memory);
            }
            _ => {}
        }
        Some(range)
    }

    fn judge_plug(&mut self, request: &Request, range: &Range<u32>) {
        let Range { end, .. } = self.addresses(range);
        if end > self.setup.addr.saturating_add(self.read_usable) {
            self.journal
                .accuse(Breach::Unusable(*request, self.read_usable));
        }
        let size = |blocks: u32| u64::from(blocks).saturating_mul(self.setup.block_size);
        let had = size(self.blocks.known_plugged());
        let more = size(range.end.saturating_sub(range.start));
        if had.saturating_add(more) > self.read_requested {
            let limit = self.read_requested;
            self.journal.accuse(Breach::TooMuch(*request, had, limit));
        }
        let known = |block: &u32| self.blocks.known(*block, true);
        if let Some(block) = range.clone().find(known) {
            let at = self.addresses(&(block..block)).start;
            self.journal.accuse(Breach::Plugged(*request, at));
        }
    }

    fn judge_use(&mut self, request: &Request, range: &Range<u32>, memory: &mut impl Memory) {
        if let Some(at) = memory.in_use(self.addresses(range)) {
            self.journal.accuse(Breach::InUse(*request, at));
        }
    }

    /// What an honest device answers.
    fn honest(&self, request: &Request, range: &Range<u32>) -> (u16, u16) {
        let personality = self.setup.personality;
        let Range { start, end } = self.addresses(range);
        let none = NO_STATE;
        let all = matches!(request, Request::UnplugAll);
        let usable = self
            .setup
            .addr
            .saturating_add(self.config.usable_region_size);
        if !all && end > usable {
            return (ERROR, none);
        }
        if !all && personality.refuses(start, end.saturating_sub(1)) {
            return (NACK, none);
        }
        let any = |plugged| {
            let found = self.blocks.find(Bit::Plugged, plugged, range.clone());
            found.is_some()
        };
        match request {
            Request::Plug { .. } => {
                let size = end.saturating_sub(start);
                let too_much = self.config().plugged_size.saturating_add(size);
                if too_much > self.config.requested_size {
                    let code = if personality.errs_at_too_much() {
                        ERROR
                    } else {
                        NACK
                    };
                    return (code, none);
                }
                if any(true) {
                    return (ERROR, none);
                }
            }
            Request::Unplug { .. } if any(false) => return (ERROR, none),
            Request::State { .. } => {
                let state = match (any(true), any(false)) {
                    (true, true) => 2,
                    (true, false) => 0,
                    _ => 1,
                };
                return (ACK, state);
            }
            _ => {}
        }
        if self.migrating && personality.migrates() {
            return (BUSY, none);
        }
        (ACK, none)
    }

    fn range_of(&self, request: &Request) -> Option<Range<u32>> {
        match *request {
            Request::UnplugAll => Some(0..self.blocks.len()),
            Request::Plug { addr, blocks }
            | Request::Unplug { addr, blocks }
            | Request::State { addr, blocks } => {
                let first = self.setup.block_at(addr)?;
                let end = first.checked_add(u32::from(blocks))?;
                (end <= self.blocks.len()).then_some(first..end)
            }
        }
    }

    /// The driver has got an answer: from now on it knows.
    pub fn told(&mut self, answer: &Answer) {
        let Some((request, range)) = answer
            .request
            .and_then(|request| Some((request, self.range_of(&request)?)))
        else {
            return;
        };
        match Response::decode(request, &answer.bytes, answer.len) {
            Response::Ack => {
                let plugged = matches!(request, Request::Plug { .. });
                self.blocks.tell(range, plugged);
            }
            Response::State(Plugged::All) => self.blocks.tell(range, true),
            Response::State(Plugged::None) => self.blocks.tell(range, false),
            // That it has not been done, as far as the driver can tell.
            Response::Nack | Response::Busy | Response::Error => {}
            Response::State(Plugged::Mixed) | Response::Garbled => {
                self.blocks.set(Bit::Unsure, range, true);
            }
        }
    }

    /// The driver will never get an answer.
    pub fn lost(&mut self, answer: &Answer) {
        let range = answer.request.and_then(|request| self.range_of(&request));
        if let Some(range) = range {
            self.blocks.set(Bit::Unsure, range, true);
        }
    }
}
