// SPDX-License-Identifier: GPL-2.0

//! Requests: what the rules say of them, what the device does, and what it answers.

use super::super::blocks::Bit;
use super::super::fault::Delivery;
use super::super::fault::Effect;
use super::super::fault::Kind;
use super::super::personality::Personality;
use super::super::rules::Breach;
use super::super::rules::Entry;
use super::super::Memory;
use super::super::Store;
use super::Answer;
use super::Device;
use super::ACK;
use super::BUSY;
use super::ERROR;
use super::NACK;
use core::ops::Range;
use virtio_mem_core::wire::Config;
use virtio_mem_core::wire::Plugged;
use virtio_mem_core::wire::Request;
use virtio_mem_core::wire::Response;
use virtio_mem_core::wire::REQUEST_LEN;
use virtio_mem_core::wire::RESPONSE_LEN;

/// What the state in an answer is that has none.
const NO_STATE: u16 = 0xabab;

impl<S: Store> Device<S> {
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
