// SPDX-License-Identifier: GPL-2.0

//! What follows from how a step went.

use super::Engine;
use super::Environment;
use super::Failure;
use super::Operation;
use super::Outcome;
use crate::block_map::Flags;
use crate::block_map::MemoryBlockState;
use crate::vocabulary::Reason;
use crate::wire::Plugged;
use crate::wire::Reading;
use crate::wire::Response;
use core::ops::DerefMut;
use core::ops::Range;

impl<W: DerefMut<Target = [u64]>> Engine<W> {
    /// Takes how the step that [`Engine::next_step`] asked for went. `env` is of the time after it.
    pub fn handle_outcome(&mut self, outcome: Outcome, env: &Environment) {
        if outcome == Outcome::NotSent {
            self.handle_not_sent(env);
            return;
        }
        // An outcome that does not belong to the step is no answer either.
        let response = match outcome {
            Outcome::Answered(response) => Some(response),
            _ => None,
        };
        let failure = match outcome {
            Outcome::Done => None,
            Outcome::Failed(failure) => Some(failure),
            _ => Some(Failure::Refused),
        };
        match core::mem::replace(&mut self.operation, Operation::Nothing) {
            Operation::Nothing | Operation::Look => {}
            Operation::ReadConfig => match outcome {
                Outcome::Config(reading) => self.handle_config(reading, env),
                _ => self.config.handle_no_reading(),
            },
            Operation::UnplugAll => self.handle_unplugged_all(response, env),
            Operation::Plug(subs) => self.handle_plugged(subs, response, env),
            Operation::Take(subs) => match failure {
                None => self.next = Some(Operation::UnplugTaken(subs)),
                Some(_) => {
                    self.hold(&subs, false);
                    self.shrink.handle_take_failed(&subs);
                }
            },
            Operation::UnplugTaken(subs) => {
                if response != Some(Response::Busy) {
                    self.shrink.handle_taken(&subs);
                }
                self.handle_unplugged(subs, response, env);
            }
            Operation::UnplugIdle(subs) => self.handle_unplugged(subs, response, env),
            Operation::Give(subs, rest) => {
                // Handing memory to the page allocator cannot fail.
                self.ask_or_release(subs, rest);
            }
            Operation::Ask(subs, rest) => self.handle_state(subs, rest, response, env),
            Operation::Audit(subs) => self.handle_audited(subs, response, env),
            Operation::Withdraw(subs) => self.handle_withdrawn(&subs, failure),
            Operation::Add(memory_block) => self.handle_added(memory_block, failure, env),
            Operation::Online(memory_block) => self.handle_onlined(memory_block, failure, env),
            Operation::Remove(memory_blocks) => self.handle_removed(memory_blocks, failure, env),
            Operation::Resync => self.handle_resynced(failure, env),
        }
    }

    /// The map would have had memory unplugged that Linux may use.
    fn handle_not_sent(&mut self, env: &Environment) {
        if let Operation::UnplugTaken(subs) | Operation::UnplugIdle(subs) =
            core::mem::replace(&mut self.operation, Operation::Nothing)
        {
            self.hold(&subs, false);
        }
        self.resync(env);
    }

    fn handle_config(&mut self, reading: Reading, env: &Environment) {
        let waits_for_host = self.retry.waits_for_host();
        let Some(news) = self.config.handle_reading(reading, waits_for_host) else {
            return;
        };
        if news.resized {
            self.retry.clear_attempts();
        }
        if news.news {
            self.start_over();
        }
        self.compare_sizes(&news, env);
    }

    fn handle_unplugged_all(&mut self, response: Option<Response>, env: &Environment) {
        match response {
            Some(Response::Ack) => {
                self.unplug_all = false;
                // The usable region may have shrunk.
                self.config.read_again();
                self.progress();
            }
            Some(Response::Busy) => self.retry.wait_after_failure(Reason::HostBusy, env),
            Some(Response::Nack) => self.retry.wait_after_failure(Reason::HostRefused, env),
            _ => self.retry.wait_after_failure(Reason::HostError, env),
        }
    }

    fn handle_plugged(&mut self, subs: Range<u32>, response: Option<Response>, env: &Environment) {
        let len = subs.end.saturating_sub(subs.start);
        match response {
            Some(Response::Ack) => {
                self.map.set_plugged(subs.clone(), true);
                self.batch.granted();
                self.portion.granted(len);
                self.progress();
                if self.block_online(&subs) {
                    let end = subs.end;
                    self.next = Some(Operation::Give(subs, end..end));
                } else {
                    self.hold(&subs, false);
                }
            }
            Some(Response::Nack) => {
                self.hold(&subs, false);
                // The request may have been lowered meanwhile.
                self.config.read_again();
                self.smaller_batch(Reason::HostRefused, env);
            }
            Some(Response::Busy) => {
                self.hold(&subs, false);
                // It may have room for a part, or the request may have been lowered meanwhile.
                self.config.read_again();
                if !self.portion.refused(len) {
                    self.retry.wait_after_failure(Reason::HostBusy, env);
                }
            }
            Some(Response::Error | Response::Garbled | Response::State(_)) => {
                self.config.read_again();
                self.smaller_batch(Reason::HostError, env);
                self.doubt(subs);
            }
            None => {
                self.config.read_again();
                self.doubt(subs);
            }
        }
    }

    /// After an answer to UNPLUG. Whatever else than ACK it is, Linux gets back only what the device
    /// says, being asked, to have.
    fn handle_unplugged(
        &mut self,
        subs: Range<u32>,
        response: Option<Response>,
        env: &Environment,
    ) {
        match response {
            Some(Response::Ack) => {
                self.map.set_plugged(subs.clone(), false);
                self.hold(&subs, false);
                self.batch.granted();
                self.progress();
            }
            Some(Response::Busy) => {
                self.retry.wait_after_failure(Reason::HostBusy, env);
                self.ask(subs);
            }
            Some(Response::Nack) => {
                self.smaller_batch(Reason::HostRefused, env);
                self.doubt(subs);
            }
            Some(Response::Error | Response::Garbled | Response::State(_)) => {
                self.smaller_batch(Reason::HostError, env);
                self.doubt(subs);
            }
            None => self.doubt(subs),
        }
    }

    /// A refused request for several blocks is tried again at once for fewer.
    fn smaller_batch(&mut self, reason: Reason, env: &Environment) {
        if !self.batch.refused() {
            self.retry.wait_after_failure(reason, env);
        }
    }

    /// The device calls a request wrong, or does not answer it: it, or we, may be mistaken about more
    /// than this one range.
    fn doubt(&mut self, subs: Range<u32>) {
        self.audit.begin();
        self.ask(subs);
    }

    /// Asks the device about sub-blocks (held, and out of the page allocator's reach).
    fn ask(&mut self, subs: Range<u32>) {
        let end = subs.end;
        self.next = Some(Operation::Ask(subs, end..end));
    }

    /// Frees the blocks of `done` for others, but for one that `rest` lies in too.
    fn ask_or_release(&mut self, done: Range<u32>, rest: Range<u32>) {
        if rest.is_empty() {
            self.hold(&done, false);
        } else {
            let geometry = *self.map.geometry();
            let shared = geometry.subs_of(geometry.block_of(rest.start));
            self.hold(&(done.start..done.end.min(shared.start)), false);
            self.ask(rest);
        }
    }

    fn handle_state(
        &mut self,
        subs: Range<u32>,
        rest: Range<u32>,
        response: Option<Response>,
        env: &Environment,
    ) {
        let len = subs.end.saturating_sub(subs.start);
        match response {
            Some(Response::State(Plugged::All)) => {
                let online = self.block_online(&subs);
                self.map.set_plugged(subs.clone(), true);
                if online {
                    self.next = Some(Operation::Give(subs, rest));
                } else {
                    self.ask_or_release(subs, rest);
                }
            }
            Some(Response::State(Plugged::None)) => {
                self.map.set_plugged(subs.clone(), false);
                self.ask_or_release(subs, rest);
            }
            Some(Response::State(Plugged::Mixed)) if len > 1 => {
                let middle = subs.start.saturating_add(len / 2);
                self.next = Some(Operation::Ask(
                    subs.start..middle,
                    middle..rest.end.max(subs.end),
                ));
            }
            // Partly plugged, or unknown: never to be touched, which is what unplugged means.
            _ => {
                let all = subs.start..rest.end.max(subs.end);
                self.map.set_plugged(all.clone(), false);
                self.hold(&all, false);
                self.audit.begin();
                if !self.retry.is_waiting() {
                    self.retry.wait_after_failure(Reason::HostError, env);
                }
            }
        }
    }

    /// Whether the block of `subs`, which lie in one block if Linux has it, is online.
    pub(super) fn block_online(&self, subs: &Range<u32>) -> bool {
        let block = self.map.geometry().block_of(subs.start);
        self.map.state_of(block).online()
    }

    fn handle_added(&mut self, memory_block: u32, failure: Option<Failure>, env: &Environment) {
        let block = self.map.geometry().block_of_memory_block(memory_block);
        self.set_transit(memory_block, false);
        if let Some(failure) = failure {
            self.map
                .set_memory_block_state(memory_block, MemoryBlockState::Absent, false);
            if self.map.find(block, MemoryBlockState::Offline).is_none() {
                self.map.set_flags(block, Flags::WANTED, false);
            }
            let reason = match failure {
                Failure::NoMemory => Reason::NoMemory,
                _ => {
                    self.map.set_flags(block, Flags::REFUSED, true);
                    Reason::NotAddressable
                }
            };
            self.cannot_take(reason, env);
            if failure == Failure::Mismatch {
                // Linux has it, or something else at its place.
                self.resync(env);
            }
        } else if self.map.memory_block_state(memory_block) == MemoryBlockState::Offline
            && self.map.flags(block).contains(Flags::WANTED)
        {
            // At once: until it is online nobody else may choose its zone.
            self.set_transit(memory_block, true);
            self.next = Some(Operation::Online(memory_block));
        } else {
            self.retry.linux_takes();
            self.progress();
        }
    }

    /// Linux cannot take what is plugged, for now.
    pub(super) fn cannot_take(&mut self, reason: Reason, env: &Environment) {
        self.retry.wait_after_failure(reason, env);
        self.retry.set_release_unusable(true);
    }

    fn handle_onlined(&mut self, memory_block: u32, failure: Option<Failure>, env: &Environment) {
        self.set_transit(memory_block, false);
        let block = self.map.geometry().block_of_memory_block(memory_block);
        if self.map.memory_block_state(memory_block).online() {
            self.retry.linux_takes();
            self.progress();
        } else if failure == Some(Failure::NoMemory) {
            self.retry.wait_after_failure(Reason::NoMemory, env);
        } else if failure == Some(Failure::Refused) {
            // Another one may do: if nothing of this one is in use, it goes back to the host.
            self.map.set_flags(block, Flags::REFUSED, true);
            self.cannot_take(Reason::OnliningRefused, env);
        } else {
            self.retry.wait_after_failure(Reason::OnliningRefused, env);
        }
    }

    fn handle_removed(
        &mut self,
        memory_blocks: Range<u32>,
        failure: Option<Failure>,
        env: &Environment,
    ) {
        let block = self
            .map
            .geometry()
            .block_of_memory_block(memory_blocks.start);
        self.set_transit(memory_blocks.start, false);
        if failure.is_some() {
            self.shrink.handle_removal_failed();
            // What nobody has a use for stays until the next attempt.
            self.retry.set_release_unusable(false);
            self.handle_removal_failed(block);
            if failure == Some(Failure::Mismatch) {
                self.resync(env);
            }
            return;
        }
        for memory_block in memory_blocks {
            self.map
                .set_memory_block_state(memory_block, MemoryBlockState::Absent, false);
        }
        self.progress();
        // There is room again.
        self.stop_waiting_for(&[Reason::OfflineLimit]);
        if let Some(rest) = self.removal_of(block) {
            self.next = Some(Operation::Remove(rest));
        } else {
            if self.map.flags(block).contains(Flags::LOST) {
                // Which of it the device does have is asked again.
                self.map
                    .set_plugged(self.map.geometry().subs_of(block), false);
            }
            self.map
                .set_flags(block, Flags::WANTED | Flags::TRIED | Flags::LOST, false);
            self.shrink.handle_removed(env.now_ms);
        }
    }

    /// The driver is about to let go of the device, and carries no more steps out: the memory that
    /// was taken from Linux and not unplugged, to be given back. To be called once.
    pub fn wind_down(&mut self) -> Option<Range<u32>> {
        let (subs, taken) = match self.next.take()? {
            Operation::UnplugTaken(subs) | Operation::Give(subs, _) => (subs, true),
            Operation::Withdraw(subs) => (subs, false),
            _ => return None,
        };
        self.hold(&subs, false);
        taken.then_some(subs)
    }
}
