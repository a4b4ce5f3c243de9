// SPDX-License-Identifier: GPL-2.0

//! Asking the device which blocks it has, and correcting the map.
//!
//! That is due when the device's plugged size is not the map's, when it would not say what became
//! of a request, and at the start, when Linux has memory that an earlier life of the driver left.
//! It goes over the usable region with STATE requests, as large as the answers allow, and over the
//! rest of the region not at all: nothing can be plugged there.
//!
//! What the device has and Linux does not use is simply noted. What Linux uses and the device does
//! not have is withdrawn from use.

use super::config_tracker::Reading;
use super::config_tracker::Reread;
use super::Engine;
use super::Environment;
use super::Failure;
use super::Operation;
use crate::block_map::Flags;
use crate::block_map::MemoryBlockState;
use crate::vocabulary::Reason;
use crate::wire::Plugged;
use crate::wire::Response;
use core::ops::DerefMut;
use core::ops::Range;

/// After so many STATE requests in a row without an answer that says anything, the map is believed
/// as it is if it agrees with the device's plugged size. If not, it goes on being asked.
const MAX_FAILURES: u32 = 10;

/// How far it has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Audit {
    /// The next sub-block to ask about.
    at: u32,
    /// How many to ask about at once. Halved where an answer is mixed, doubled where it is not.
    len: u32,
    /// Something could not be corrected: it has to be done once more.
    unresolved: bool,
    failures: u32,
}

impl Audit {
    /// Whether it has come to no good end, or got no answer.
    pub(super) fn in_vain(&self) -> bool {
        self.unresolved || self.failures > 0
    }
}

impl<W: DerefMut<Target = [u64]>> Engine<W> {
    /// Linux has memory of the device from an earlier life of the driver, which is to be kept. To
    /// be called before anything else, and followed by [`Engine::adopt`] for each memory block.
    pub fn take_over(&mut self) {
        self.unplug_all = false;
        self.taking_over = true;
        self.audit_all();
    }

    /// What Linux has is not what the map says: before anything else is done it is looked at again
    /// ([`super::Step::Resync`]), and the device is asked about all blocks, as when a driver takes
    /// over.
    pub(super) fn resync(&mut self, env: &Environment) {
        self.take_over();
        self.retry.resync(env);
    }

    /// Linux has been looked at again, or could not be.
    pub(super) fn resynced(&mut self, failure: Option<Failure>, env: &Environment) {
        match failure {
            None => self.retry.resync_done(),
            Some(_) => self.retry.resync_failed(env),
        }
    }

    /// Linux has `memory_block` in this state, as was found after [`Engine::take_over`] or for a
    /// [`super::Step::Resync`]. Of its sub-blocks all are believed to be plugged where Linux may use
    /// them, until the device has been asked.
    pub fn adopt(&mut self, memory_block: u32, state: MemoryBlockState) {
        if self.map.is_moving(memory_block) {
            // The memory notifier tells how that ends.
            return;
        }
        let geometry = *self.map.geometry();
        let block = geometry.block_of_memory_block(memory_block);
        let news = self.is_news(memory_block, state);
        if news {
            self.map.set_memory_block_state(memory_block, state, false);
            let stale = Flags::WANTED | Flags::TRIED | Flags::REFUSED | Flags::LOST;
            self.map.set_flags(block, stale, false);
        }
        if state.online() || (news && state == MemoryBlockState::Offline) {
            self.map.set_plugged(geometry.subs_of(block), true);
        }
    }

    /// A move of `memory_block` is announced, which was in `state` until now. It does not begin before
    /// all is known, so [`Engine::adopt`] need not wait for its end.
    pub fn announced(&mut self, memory_block: u32, state: MemoryBlockState) {
        if self.taking_over && self.is_news(memory_block, state) {
            self.adopt(memory_block, state);
        }
    }

    /// Whether the map is to be changed to `state` for `memory_block`. When a driver takes over, what
    /// the memory notifier has told before is newer.
    fn is_news(&self, memory_block: u32, state: MemoryBlockState) -> bool {
        let known = self.map.memory_block_state(memory_block);
        known != state && (known == MemoryBlockState::Absent || self.operation == Operation::Resync)
    }

    /// The pages of sub-block `sub` are out of the page allocator, where its memory blocks are
    /// online: the earlier life of the driver kept them away from Linux. After [`Engine::adopt`].
    pub fn adopt_withheld(&mut self, sub: u32) {
        self.map.set_plugged(sub..sub.saturating_add(1), false);
    }

    /// Whether it is not known yet what an earlier life of the driver left.
    pub fn is_taking_over(&self) -> bool {
        self.taking_over
    }

    /// Asks about all blocks, from the first.
    pub(super) fn audit_all(&mut self) {
        let failures = self.audit.map_or(0, |audit| audit.failures);
        self.audit = Some(Audit {
            at: 0,
            len: u32::MAX,
            unresolved: false,
            failures,
        });
    }

    /// The config space has been read, with no request under way: does the device have as much as
    /// the map says?
    pub(super) fn compare_sizes(&mut self, reading: &Reading, env: &Environment) {
        let old = &reading.old;
        match reading.purpose {
            Reread::Changed => {}
            Reread::Known
                if [self.plugged_size_skew, self.suspected].contains(&self.current_drift()) =>
            {
                // Some devices count their plugged size wrong for good: by what it differs now is no
                // reason to ask again.
                self.plugged_size_skew = self.current_drift();
                self.retry.audit_agrees();
            }
            Reread::Known => {
                // Or it has changed since it was asked.
                self.suspected = self.current_drift();
                self.audit_all();
                self.retry.pause_audit(env);
            }
            Reread::Agreed if self.current_drift() == self.plugged_size_skew => {
                self.end_audit();
                self.retry.audit_agrees();
            }
            Reread::Agreed => {}
        }
        // The difference may be where the device could not be asked the last time.
        let grown = self.config().usable_region_size > old.usable_region_size;
        let more = self.plugged_size_skew != 0 && grown;
        let due = match self.audit {
            // What was told so far may be out of date.
            Some(_) => self.config().plugged_size != old.plugged_size,
            None => !self.unplug_all && (more || self.current_drift() != self.plugged_size_skew),
        };
        if due {
            self.audit_all();
        }
        // And it is asked before anything is plugged there.
        if grown {
            self.retry.unpause_audit();
        }
    }

    /// What the device says of its plugged size, as against the map.
    fn current_drift(&self) -> u64 {
        self.config().plugged_size.wrapping_sub(self.plugged_size())
    }

    /// The next request of an audit, if there is one to go on with now.
    pub(super) fn go_on_with_audit(&mut self, env: &Environment) -> Option<Operation> {
        let audit = self.audit.filter(|_| self.retry.audit_due(env.now_ms))?;
        let geometry = *self.map.geometry();
        let end = geometry.usable_subs(self.config().usable_region_size);
        let len = audit.len.min(geometry.max_subs_per_request()).max(1);
        if audit.at < end {
            let stop = audit.at.saturating_add(len).min(end);
            return Some(Operation::Audit(audit.at..stop));
        }
        if core::mem::take(&mut self.taking_over) {
            self.disbelieve_beyond(end);
        }
        if audit.unresolved {
            self.audit_all();
            self.retry.pause_audit(env);
        } else {
            self.end_audit();
            self.config.read_again_for(Reread::Known);
        }
        None
    }

    /// Of memory blocks that are not online, nothing is plugged from sub-block `end` on, where the usable
    /// region ends and the device cannot be asked: it was only believed, when the block was found.
    fn disbelieve_beyond(&mut self, end: u32) {
        let geometry = *self.map.geometry();
        let mut at = end;
        while at < geometry.subs() {
            let block = geometry.block_of(at);
            let stop = geometry.subs_of(block).end;
            if !self.map.state_of(block).online() && !self.map.moves(block) {
                self.map.set_plugged(at..stop, false);
            }
            at = stop;
        }
    }

    fn end_audit(&mut self) {
        self.audit = None;
        self.retry.unpause_audit();
    }

    /// The answer to a STATE request of an audit.
    pub(super) fn audited(&mut self, subs: Range<u32>, response: Response, env: &Environment) {
        let Some(mut audit) = self.audit else {
            return;
        };
        let len = subs.end.saturating_sub(subs.start);
        match response {
            Response::State(Plugged::Mixed) if len > 1 => audit.len = len / 2,
            // It may be the size of the request that the device does not like.
            Response::Nack | Response::Error if len > 1 => audit.len = len / 2,
            // A sub-block of which only a part is plugged is of no use, and harmful where Linux uses
            // all of it.
            Response::State(state) => {
                audit.failures = 0;
                audit.len = len.saturating_mul(2);
                self.audit = Some(audit);
                self.reconcile(subs, state == Plugged::All);
                return;
            }
            _ => {
                audit.failures = audit.failures.saturating_add(1);
                self.audit = Some(audit);
                self.retry.pause_audit(env);
                // A take-over cannot go on without.
                if audit.failures >= MAX_FAILURES && !self.taking_over {
                    self.config.read_again_for(Reread::Agreed);
                }
                return;
            }
        }
        self.audit = Some(audit);
    }

    /// The device says of all of `subs` that they are plugged, or that none is: corrects the map,
    /// up to the first place where that takes a step.
    fn reconcile(&mut self, subs: Range<u32>, plugged: bool) {
        let geometry = *self.map.geometry();
        let mut at = subs.start;
        while at < subs.end {
            let block = geometry.block_of(at);
            let end = geometry.subs_of(block).end.min(subs.end);
            let (believed, run) = self.map.same_from(at, end);
            if plugged && run == geometry.subs_of(block) {
                self.map.set_flags(block, Flags::LOST, false);
            }
            at = run.end;
            if believed == plugged {
                continue;
            }
            if self.map.moves(block) {
                self.leave_unresolved();
                continue;
            }
            if !self.map.state_of(block).online() {
                self.map.set_flags(block, Flags::LOST, false);
                self.correct(run, plugged);
                continue;
            }
            self.next = match (plugged, geometry.memory_blocks_per_block()) {
                // Its pages are withheld: Linux can have them.
                (true, 1) => {
                    self.correct(run.clone(), true);
                    self.hold(&run, true);
                    Some(Operation::Give(run, at..at))
                }
                // One by one: each that can be had is worth it.
                (false, 1) => {
                    at = run.start.saturating_add(1);
                    let one = run.start..at;
                    self.hold(&one, true);
                    Some(Operation::Withdraw(one))
                }
                // Big blocks come and go as a whole.
                (false, _) => {
                    self.map.set_flags(block, Flags::LOST, true);
                    self.removal_of(block).map(Operation::Remove)
                }
                (true, _) => None,
            };
            match self.next {
                // Asked about again when it is gone.
                Some(Operation::Remove(_)) => at = geometry.subs_of(block).start,
                Some(_) => {}
                None => {
                    self.leave_unresolved();
                    continue;
                }
            }
            break;
        }
        if let Some(audit) = &mut self.audit {
            audit.at = at;
        }
    }

    /// The map was wrong about `subs`. What was waited for as things stood is thought over.
    fn correct(&mut self, subs: Range<u32>, plugged: bool) {
        self.map.set_plugged(subs, plugged);
        self.stop_waiting_for(&[
            Reason::MemoryInUse,
            Reason::NotAddressable,
            Reason::OfflineLimit,
        ]);
    }

    fn leave_unresolved(&mut self) {
        if let Some(audit) = &mut self.audit {
            audit.unresolved = true;
        }
    }

    /// `block` could not be removed from Linux.
    pub(super) fn removal_failed(&mut self, block: u32) {
        let subs = self.map.geometry().subs_of(block);
        if let Some(audit) = self.audit.as_mut().filter(|audit| audit.at == subs.start) {
            audit.at = subs.end;
            audit.unresolved = true;
        }
    }

    /// Whether the pages of `subs`, which the device does not have, are out of Linux' reach.
    pub(super) fn withdrawn(&mut self, subs: &Range<u32>, failure: Option<Failure>) {
        if failure.is_none() {
            self.correct(subs.clone(), false);
        } else {
            self.leave_unresolved();
        }
        self.hold(subs, false);
    }
}
