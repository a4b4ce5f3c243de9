// SPDX-License-Identifier: GPL-2.0

//! How far the device has been asked which blocks it has, and by how much it counts wrong.

use crate::wire::Plugged;
use crate::wire::Response;
use core::ops::Range;

/// After so many STATE requests in a row without an answer that says anything, the map is believed
/// as it is if it agrees with the device's plugged size. If not, it goes on being asked.
const MAX_FAILURES: u32 = 10;

/// How far the questions have come.
#[derive(Clone, Copy, Debug)]
struct Progress {
    /// The next sub-block to ask about.
    at: u32,
    /// How many to ask about at once. Halved where an answer is mixed, doubled where it is not.
    len: u32,
    /// Something could not be corrected: it has to be done once more.
    unresolved: bool,
    failures: u32,
}

/// What comes next in an audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The device is asked about these sub-blocks.
    Ask(Range<u32>),
    /// All have been asked about.
    End {
        /// What an earlier life of the driver has left is known with this.
        taken_over: bool,
        /// Something could not be corrected: all are asked about once more.
        unresolved: bool,
    },
}

/// What an answer to a STATE request comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Fewer sub-blocks are asked about at once.
    Smaller,
    /// All of them are plugged, or (`false`) none is of use.
    Plugged(bool),
    /// Nothing.
    Failure {
        /// As so often before: whether the plugged size agrees with the map has to do.
        give_up: bool,
    },
}

/// Whether the device is being asked which blocks it has, and what is known of how it counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Audit {
    progress: Option<Progress>,
    /// Until the audit is done, it is not known what was plugged in an earlier life of the driver.
    taking_over: bool,
    /// By how much the device's plugged size differs from its blocks, when last it was asked.
    plugged_size_skew: u64,
    /// By how much it differs if that is confirmed when it is asked once more.
    suspected: u64,
}

impl Audit {
    pub(super) fn new() -> Self {
        Self {
            progress: None,
            taking_over: false,
            plugged_size_skew: 0,
            suspected: 0,
        }
    }

    /// Asks about all blocks, from the first.
    pub(super) fn begin(&mut self) {
        self.progress = Some(Progress {
            at: 0,
            len: u32::MAX,
            unresolved: false,
            failures: self.progress.map_or(0, |progress| progress.failures),
        });
    }

    /// What is plugged is not known: asks about all blocks before anything else is done.
    pub(super) fn begin_taking_over(&mut self) {
        self.taking_over = true;
        self.begin();
    }

    /// Asks no more.
    pub(super) fn end(&mut self) {
        self.progress = None;
    }

    /// What comes next, for a usable region that ends at sub-block `end`, with at most `most`
    /// sub-blocks in a request.
    pub(super) fn next(&mut self, end: u32, most: u32) -> Option<Next> {
        let progress = self.progress?;
        if progress.at < end {
            let len = progress.len.min(most).max(1);
            let stop = progress.at.saturating_add(len).min(end);
            return Some(Next::Ask(progress.at..stop));
        }
        Some(Next::End {
            taken_over: core::mem::take(&mut self.taking_over),
            unresolved: progress.unresolved,
        })
    }

    /// Takes the answer about `len` sub-blocks, if there is one. `None`: no audit is under way.
    pub(super) fn handle_answer(
        &mut self,
        len: u32,
        response: Option<Response>,
    ) -> Option<Finding> {
        let progress = self.progress.as_mut()?;
        Some(match response {
            // It may be the size of the request that the device does not like.
            Some(Response::State(Plugged::Mixed) | Response::Nack | Response::Error) if len > 1 => {
                progress.len = len / 2;
                Finding::Smaller
            }
            // A sub-block of which only a part is plugged is of no use, and harmful where Linux uses
            // all of it.
            Some(Response::State(state)) => {
                progress.failures = 0;
                progress.len = len.saturating_mul(2);
                Finding::Plugged(state == Plugged::All)
            }
            _ => {
                progress.failures = progress.failures.saturating_add(1);
                // A take-over cannot go on without.
                let give_up = progress.failures >= MAX_FAILURES && !self.taking_over;
                Finding::Failure { give_up }
            }
        })
    }

    /// Goes on with sub-block `at`.
    pub(super) fn go_on_at(&mut self, at: u32) {
        if let Some(progress) = &mut self.progress {
            progress.at = at;
        }
    }

    /// Something could not be corrected.
    pub(super) fn leave_unresolved(&mut self) {
        if let Some(progress) = &mut self.progress {
            progress.unresolved = true;
        }
    }

    /// The block of `subs` could not be removed: goes on behind it, if it was to be.
    pub(super) fn skip(&mut self, subs: &Range<u32>) {
        if let Some(progress) = self.progress.as_mut().filter(|p| p.at == subs.start) {
            progress.at = subs.end;
            progress.unresolved = true;
        }
    }

    /// The device has been asked about all its blocks, and its plugged size differs from them by
    /// `skew`. Returns whether that is how it counts; if not, they may have changed since.
    pub(super) fn confirms(&mut self, skew: u64) -> bool {
        // Some devices always count their plugged size wrong: by what it differs now is no reason
        // to ask again.
        let confirmed = [self.plugged_size_skew, self.suspected].contains(&skew);
        if confirmed {
            self.plugged_size_skew = skew;
        } else {
            self.suspected = skew;
        }
        confirmed
    }

    /// Whether the device is being asked.
    pub(super) fn is_under_way(&self) -> bool {
        self.progress.is_some()
    }

    /// Whether it is not known yet what an earlier life of the driver has left.
    pub(super) fn is_taking_over(&self) -> bool {
        self.taking_over
    }

    /// Whether it has come to no good end, or got no answer.
    pub(super) fn in_vain(&self) -> bool {
        self.progress
            .is_some_and(|progress| progress.unresolved || progress.failures > 0)
    }

    /// By how much the device's plugged size differs from its blocks, as far as is known.
    pub(super) fn plugged_size_skew(&self) -> u64 {
        self.plugged_size_skew
    }
}
