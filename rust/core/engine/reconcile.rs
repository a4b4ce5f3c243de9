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

use super::audit::Finding;
use super::audit::Next;
use super::config_tracker::News;
use super::config_tracker::Reread;
use super::Engine;
use super::Environment;
use super::Failure;
use super::Operation;
use crate::block_map::Flags;
use crate::vocabulary::Reason;
use crate::wire::Response;
use core::ops::DerefMut;
use core::ops::Range;

impl<W: DerefMut<Target = [u64]>> Engine<W> {
    /// The config space has been read, with no request under way: does the device have as much as
    /// the map says?
    pub(super) fn compare_sizes(&mut self, news: &News, env: &Environment) {
        let old = &news.old;
        let skew = self.current_skew();
        match news.purpose {
            Reread::Changed => {}
            Reread::Known if self.audit.confirms(skew) => self.retry.audit_agrees(),
            Reread::Known => {
                self.audit.begin();
                self.retry.pause_audit(env);
            }
            Reread::Agreed if skew == self.audit.plugged_size_skew() => {
                self.end_audit();
                self.retry.audit_agrees();
            }
            Reread::Agreed => {}
        }
        // The difference may be where the device could not be asked the last time.
        let grown = self.config().usable_region_size > old.usable_region_size;
        let more = self.audit.plugged_size_skew() != 0 && grown;
        let due = if self.audit.is_under_way() {
            // What was told so far may be out of date.
            self.config().plugged_size != old.plugged_size
        } else {
            !self.unplug_all && (more || skew != self.audit.plugged_size_skew())
        };
        if due {
            self.audit.begin();
        }
        // And it is asked before anything is plugged there.
        if grown {
            self.retry.unpause_audit();
        }
    }

    /// By how much the plugged size differs from the map, as the device says.
    fn current_skew(&self) -> u64 {
        self.config().plugged_size.wrapping_sub(self.plugged_size())
    }

    /// The next request of an audit, if there is one to go on with now.
    pub(super) fn next_of_audit(&mut self, env: &Environment) -> Option<Operation> {
        if !self.retry.audit_due(env.now_ms) {
            return None;
        }
        let geometry = *self.map.geometry();
        let end = geometry.usable_subs(self.config().usable_region_size);
        let (taken_over, unresolved) =
            match self.audit.next(end, geometry.max_subs_per_request())? {
                Next::Ask(subs) => return Some(Operation::Audit(subs)),
                Next::End {
                    taken_over,
                    unresolved,
                } => (taken_over, unresolved),
            };
        if taken_over {
            self.disbelieve_beyond(end);
        }
        if unresolved {
            self.audit.begin();
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
        self.audit.end();
        self.retry.unpause_audit();
    }

    /// The answer to a STATE request of an audit.
    pub(super) fn handle_audited(
        &mut self,
        subs: Range<u32>,
        response: Option<Response>,
        env: &Environment,
    ) {
        let len = subs.end.saturating_sub(subs.start);
        match self.audit.handle_answer(len, response) {
            None | Some(Finding::Smaller) => {}
            Some(Finding::Plugged(plugged)) => self.reconcile(subs, plugged),
            Some(Finding::Failure { give_up }) => {
                self.retry.pause_audit(env);
                if give_up {
                    self.config.read_again_for(Reread::Agreed);
                }
            }
        }
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
                self.audit.leave_unresolved();
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
                // One by one: each that the device tells is worth it.
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
                    self.audit.leave_unresolved();
                    continue;
                }
            }
            break;
        }
        self.audit.go_on_at(at);
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

    /// `block` could not be removed from Linux.
    pub(super) fn handle_removal_failed(&mut self, block: u32) {
        let subs = self.map.geometry().subs_of(block);
        self.audit.skip(&subs);
    }

    /// Whether the pages of `subs`, which the device does not have, are out of Linux' reach.
    pub(super) fn handle_withdrawn(&mut self, subs: &Range<u32>, failure: Option<Failure>) {
        if failure.is_none() {
            self.correct(subs.clone(), false);
        } else {
            self.audit.leave_unresolved();
        }
        self.hold(subs, false);
    }
}
