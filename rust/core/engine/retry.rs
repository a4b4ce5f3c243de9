// SPDX-License-Identifier: GPL-2.0

//! When to try again: every moment at which the engine has to be asked by itself, and why it waits.

use super::Environment;
use crate::backoff::Backoff;
use crate::vocabulary::Reason;

mod delays;
#[cfg(test)]
mod tests;

use delays::delays;
use delays::rest_ms;
use delays::Delay;
use delays::Pace;

/// A pass over the blocks after which more is plugged than requested all the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct SpentPass {
    /// For how long it has achieved nothing, in milliseconds.
    pub(super) fruitless_ms: u64,
    /// The free memory on which it counted, in bytes.
    pub(super) free: u64,
    /// So much more than ever before makes a pass from the beginning worthwhile.
    pub(super) plenty: u64,
    /// So much more makes it worthwhile to go on with it.
    pub(super) some: u64,
}

/// How much free memory makes an attempt worthwhile, and from when on. What the guest frees and
/// takes all the time must not keep us busy.
#[derive(Clone, Copy, Debug, Default)]
struct Freed {
    /// This much: at once.
    plenty: u64,
    /// This much: not before `some_ms`.
    some: u64,
    some_ms: u64,
}

impl Freed {
    /// How much it takes now.
    fn enough(&self, now_ms: u64) -> u64 {
        if now_ms < self.some_ms {
            self.plenty
        } else {
            self.plenty.min(self.some)
        }
    }
}

/// Why nothing is done, and until when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    reason: Reason,
    until_ms: Option<u64>,
    /// With `MemoryInUse`: when another attempt is worthwhile before that.
    freed: Option<Freed>,
    /// Linux could not take memory that is plugged: the host gets it back during the wait.
    release_unusable: bool,
}

impl Waiting {
    pub(super) fn reason(&self) -> Reason {
        self.reason
    }

    pub(super) fn until_ms(&self) -> Option<u64> {
        self.until_ms
    }
}

/// How a wait stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// It goes on.
    GoesOn,
    /// It is over.
    Over,
    /// It is over, as so much memory was freed that shrinking is to start over.
    MuchFreed,
}

/// What is waited for, and all deadlines. Moments are on the clock of [`Environment::now_ms`].
#[derive(Clone, Debug)]
pub(super) struct Retry {
    waiting: Option<Waiting>,
    /// How often there has been a wait since the requested size changed.
    attempts: u32,
    /// The map is wrong about Linux, which is to be looked at from this moment on, before anything
    /// else is done.
    resync_at_ms: Option<u64>,
    /// The audit pauses, or has paused, until then.
    audit_at_ms: Option<u64>,
    /// Passes in a row that have achieved nothing.
    fruitless_passes: u32,
    /// The most free memory with which one of them was begun.
    most_free: u64,
    host: Backoff,
    in_use: Backoff,
    linux: Backoff,
    audits: Backoff,
}

impl Retry {
    pub(super) fn new() -> Self {
        Self {
            waiting: None,
            attempts: 0,
            resync_at_ms: None,
            audit_at_ms: None,
            fruitless_passes: 0,
            most_free: 0,
            host: Pace::Host.backoff(),
            in_use: Pace::MemoryInUse.backoff(),
            linux: Pace::Linux.backoff(),
            audits: Pace::Audit.backoff(),
        }
    }

    /// When the engine has to be asked next, if nothing happens before. As long as it has to be
    /// found out what Linux has, or (not `map_known`) what is plugged, nothing else is due.
    pub(super) fn next_deadline(&self, now_ms: u64, map_known: bool) -> Option<u64> {
        if self.resync_at_ms.is_some() {
            return self.resync_at_ms;
        }
        let waiting = self.waiting.as_ref().filter(|_| map_known);
        let attempt = waiting.and_then(|waiting| waiting.until_ms);
        let freed = waiting.and_then(|waiting| waiting.freed);
        let less = freed.map(|freed| freed.some_ms).filter(|at| now_ms < *at);
        [attempt, less, self.audit_at_ms]
            .into_iter()
            .flatten()
            .min()
    }

    /// The free memory that ends the wait before its deadline, in bytes.
    pub(super) fn enough_free(&self, now_ms: u64) -> Option<u64> {
        Some(self.waiting?.freed?.enough(now_ms))
    }

    /// How the wait stands; one that is over has ended with this. `None`: nothing is waited for.
    pub(super) fn poll(&mut self, env: &Environment) -> Option<Wait> {
        let waiting = self.waiting?;
        let late = waiting.until_ms.is_some_and(|at| env.now_ms >= at);
        let freed = |enough: fn(&Freed, u64) -> u64| {
            waiting
                .freed
                .is_some_and(|freed| env.free >= enough(&freed, env.now_ms))
        };
        if !late && !freed(Freed::enough) {
            return Some(Wait::GoesOn);
        }
        self.waiting = None;
        if !freed(|freed, _| freed.plenty) {
            return Some(Wait::Over);
        }
        self.fruitless_passes = 0;
        self.in_use.reset();
        Some(Wait::MuchFreed)
    }

    /// Something failed: it is tried again after a while.
    pub(super) fn wait_after_failure(&mut self, reason: Reason, env: &Environment) {
        self.wait(reason, delays(reason).0, env);
    }

    /// As things stand there is nothing to try.
    pub(super) fn wait_for_change(&mut self, reason: Reason, env: &Environment) {
        self.wait(reason, delays(reason).1, env);
    }

    fn wait(&mut self, reason: Reason, delay: Delay, env: &Environment) {
        let delay_ms = match delay {
            Delay::Event => None,
            Delay::Fixed(ms) => Some(ms),
            Delay::Growing(pace) => Some(self.backoff(pace).fail()),
        };
        self.attempts = self.attempts.saturating_add(1);
        self.waiting = Some(Waiting {
            reason,
            until_ms: delay_ms.map(|ms| env.now_ms.saturating_add(ms)),
            freed: None,
            release_unusable: false,
        });
    }

    /// Waits until memory that is in use may no longer be, and the longer the more time went into
    /// finding out that it still is.
    pub(super) fn wait_for_memory(&mut self, pass: &SpentPass, env: &Environment) {
        let rest_ms = rest_ms(pass.fruitless_ms, self.fruitless_passes);
        // What comes and goes all the time is news once, when there is more of it than ever.
        self.most_free = self.most_free.max(pass.free);
        // The first time, a little more is worth a try at once.
        let pause_ms = if self.fruitless_passes == 0 {
            0
        } else {
            rest_ms
        };
        self.fruitless_passes = self.fruitless_passes.saturating_add(1);
        self.wait_after_failure(Reason::MemoryInUse, env);
        if let Some(waiting) = &mut self.waiting {
            let rested_ms = env.now_ms.saturating_add(rest_ms);
            waiting.until_ms = waiting.until_ms.map(|at| at.max(rested_ms));
            waiting.freed = Some(Freed {
                plenty: self.most_free.saturating_add(pass.plenty),
                some: pass.free.saturating_add(pass.some),
                some_ms: env.now_ms.saturating_add(pause_ms),
            });
        }
    }

    fn backoff(&mut self, pace: Pace) -> &mut Backoff {
        match pace {
            Pace::Host => &mut self.host,
            Pace::MemoryInUse => &mut self.in_use,
            Pace::Linux => &mut self.linux,
            Pace::Audit => &mut self.audits,
        }
    }

    pub(super) fn waiting(&self) -> Option<&Waiting> {
        self.waiting.as_ref()
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether it is the host that is waited for.
    pub(super) fn waits_for_host(&self) -> bool {
        self.waiting
            .is_some_and(|waiting| delays(waiting.reason).0 == Delay::Growing(Pace::Host))
    }

    /// How often there has been a wait since the requested size changed.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The requested size has changed.
    pub(super) fn clear_attempts(&mut self) {
        self.attempts = 0;
    }

    /// Something was achieved: the next failure is a first one again. (Not that of Linux: that it
    /// cannot take memory is found out anew each time memory has been plugged.)
    pub(super) fn progress(&mut self) {
        self.host.reset();
        self.in_use.reset();
        self.fruitless_passes = 0;
        self.most_free = 0;
    }

    /// Linux has taken memory.
    pub(super) fn linux_takes(&mut self) {
        self.linux.reset();
    }

    /// Everything is tried at once, as if nothing had failed yet.
    pub(super) fn start_over(&mut self) {
        self.waiting = None;
        self.audit_at_ms = None;
        self.linux.reset();
        self.audits.reset();
        self.progress();
    }

    /// A wait for one of `reasons` is over, if there is one: what has led to it is no longer so.
    pub(super) fn stop_waiting_for(&mut self, reasons: &[Reason]) -> bool {
        let waits = |waiting: &mut Waiting| reasons.contains(&waiting.reason);
        self.waiting.take_if(waits).is_some()
    }

    /// Whether what is plugged and not in Linux goes back to the host during the wait.
    pub(super) fn releases_unusable(&self) -> bool {
        self.waiting.is_some_and(|waiting| waiting.release_unusable)
    }

    /// Has what is plugged and not in Linux go back to the host during the wait, or stay.
    pub(super) fn set_release_unusable(&mut self, release: bool) {
        if let Some(waiting) = &mut self.waiting {
            waiting.release_unusable = release;
        }
    }

    /// Linux has to be looked at, before anything else is done.
    pub(super) fn resync(&mut self, env: &Environment) {
        self.audit_at_ms = None;
        self.wait_after_failure(Reason::MapMismatch, env);
        self.resync_at_ms = Some(env.now_ms);
    }

    /// Linux could not be looked at.
    pub(super) fn resync_failed(&mut self, env: &Environment) {
        self.wait_after_failure(Reason::MapMismatch, env);
        let again_ms = self.waiting.and_then(|waiting| waiting.until_ms);
        self.resync_at_ms = Some(again_ms.unwrap_or(env.now_ms));
    }

    /// Linux has been looked at.
    pub(super) fn resync_done(&mut self) {
        self.resync_at_ms = None;
    }

    /// Whether Linux has to be looked at, now or later.
    pub(super) fn resync_required(&self) -> bool {
        self.resync_at_ms.is_some()
    }

    /// Whether Linux has to be looked at now.
    pub(super) fn resync_due(&self, now_ms: u64) -> bool {
        self.resync_at_ms.is_some_and(|at| at <= now_ms)
    }

    /// The audit goes on after a while.
    pub(super) fn pause_audit(&mut self, env: &Environment) {
        let delay_ms = self.backoff(Pace::Audit).fail();
        self.audit_at_ms = Some(env.now_ms.saturating_add(delay_ms));
    }

    /// The audit goes on at once, or is over.
    pub(super) fn unpause_audit(&mut self) {
        self.audit_at_ms = None;
    }

    /// What the device says is what the map says.
    pub(super) fn audit_agrees(&mut self) {
        self.audits.reset();
    }

    /// Whether the audit may go on now.
    pub(super) fn audit_due(&self, now_ms: u64) -> bool {
        self.audit_at_ms.is_none_or(|at| at <= now_ms)
    }

    /// When the audit goes on, if it has paused.
    pub(super) fn audit_at_ms(&self) -> Option<u64> {
        self.audit_at_ms
    }
}
