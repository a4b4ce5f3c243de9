// SPDX-License-Identifier: GPL-2.0

//! Operation nothing for a while, and why.

use super::Engine;
use super::Environment;
use super::Step;
use crate::vocabulary::Reason;
use core::ops::DerefMut;

/// Why nothing is done, and until when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) reason: Reason,
    pub(super) until_ms: Option<u64>,
    /// With `MemoryInUse`: when another attempt is worthwhile before that.
    pub(super) freed: Freed,
    /// Linux could not take memory that is plugged. It is of use to nobody, so the host gets it
    /// back while we wait.
    pub(super) release_unusable: bool,
}

/// How much free memory makes an attempt worthwhile, and from when on. What the guest frees and
/// takes all the time must not keep us busy.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Freed {
    /// This much: at once.
    pub(super) plenty: u64,
    /// This much: not before `some_ms`.
    pub(super) some: u64,
    pub(super) some_ms: u64,
}

impl Freed {
    /// How much it takes, and at which time less will do.
    fn wanted(&self, now_ms: u64) -> (u64, Option<u64>) {
        if now_ms < self.some_ms {
            (self.plenty, Some(self.some_ms))
        } else {
            (self.plenty.min(self.some), None)
        }
    }
}

impl<W: DerefMut<Target = [u64]>> Engine<W> {
    /// Says whether to go on waiting; otherwise there is no more reason to.
    pub(super) fn keep_waiting(&mut self, env: &Environment) -> Option<Step> {
        let waiting = self.waiting?;
        let watched = waiting.reason == Reason::MemoryInUse;
        let (enough, less_at) = waiting.freed.wanted(env.now_ms);
        let over =
            waiting.until_ms.is_some_and(|at| env.now_ms >= at) || (watched && env.free >= enough);
        if over {
            self.waiting = None;
            if watched && env.free >= waiting.freed.plenty {
                self.begin_pass();
                self.first_pass = true;
                self.fruitless_passes = 0;
                self.in_use.reset();
            } else {
                self.pass.resume();
            }
            return None;
        }
        if waiting.release_unusable {
            let operation = self
                .refused_and_offline()
                .or_else(|| self.unplug_loose(u32::MAX));
            if let Some(operation) = operation {
                return Some(self.start(operation));
            }
        }
        let until_ms = [waiting.until_ms, less_at.filter(|_| watched)];
        let until_ms = until_ms.into_iter().flatten().min();
        Some(Step::Wait {
            ms: until_ms.map(|at| at.saturating_sub(env.now_ms).max(1)),
            free: watched.then_some(enough),
        })
    }

    /// What is plugged and not in Linux is of no use while we wait.
    pub(super) fn release_unusable(&mut self) {
        if let Some(waiting) = &mut self.waiting {
            waiting.release_unusable = true;
        }
    }

    /// A wait for one of `reasons` is over: what has led to it is no longer so.
    pub(super) fn stop_waiting_for(&mut self, reasons: &[Reason]) {
        let waits = |waiting: &mut Waiting| reasons.contains(&waiting.reason);
        if self.waiting.take_if(waits).is_some() {
            self.begin_pass();
        }
    }

    /// Whether it is the host that is waited for.
    pub(super) fn waits_for_host(&self) -> bool {
        let reason = self.waiting.map(|waiting| waiting.reason);
        matches!(
            reason,
            Some(Reason::HostBusy | Reason::HostRefused | Reason::HostError)
        )
    }

    /// Nothing more can be done for now.
    pub(super) fn wait(&mut self, reason: Reason, env: &Environment) {
        let delay = match reason {
            Reason::HostBusy | Reason::HostRefused | Reason::HostError => Some(self.host.fail()),
            Reason::NoMemory | Reason::OnliningRefused | Reason::MapMismatch => {
                Some(self.linux.fail())
            }
            Reason::None
            | Reason::NoAnswer
            | Reason::MemoryInUse
            | Reason::OfflineLimit
            | Reason::NotAddressable => None,
        };
        self.wait_for(reason, delay, env);
    }

    pub(super) fn wait_for(&mut self, reason: Reason, delay_ms: Option<u64>, env: &Environment) {
        self.attempts = self.attempts.saturating_add(1);
        self.waiting = Some(Waiting {
            reason,
            until_ms: delay_ms.map(|ms| env.now_ms.saturating_add(ms)),
            freed: Freed::default(),
            release_unusable: false,
        });
    }
}
