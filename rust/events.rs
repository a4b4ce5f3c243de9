// SPDX-License-Identifier: GPL-2.0

//! The events that a device's worker waits for, and those that interrupt its attempts to take
//! memory from Linux.

use crate::linux::event_flags::EventFlags;
use crate::linux::interruptible::Interruptible;
use crate::linux::virtio::Interrupts;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Release;

/// Set when the device's config space has changed.
pub(crate) const CONFIG: u32 = 1 << 0;
/// Set when the device has answered.
pub(crate) const ANSWERED: u32 = 1 << 1;
/// Set when something happened that the engine has been waiting for.
pub(crate) const RECHECK: u32 = 1 << 2;
/// Set when the thread has to end.
pub(crate) const STOP: u32 = 1 << 3;
/// Set when the machine is to be suspended, or the device reset: the thread has to come to rest.
pub(crate) const PAUSE: u32 = 1 << 4;
/// Set by the thread when it rests.
pub(crate) const PAUSED: u32 = 1 << 5;
/// Set when the suspend, or the reset, is over.
pub(crate) const RESUME: u32 = 1 << 6;

/// The flags that interrupt an attempt to empty memory.
pub(crate) const URGENT: u32 = CONFIG | STOP | PAUSE;

/// The events of one device.
#[pin_data]
pub(crate) struct Events {
    #[pin]
    flags: EventFlags,
    #[pin]
    attempts: Interruptible,
    /// The flags that interrupt the attempt under way; 0 while there is none.
    interrupting: Atomic<u32>,
}

impl Events {
    /// No event yet.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            flags <- EventFlags::new(),
            attempts <- Interruptible::new(),
            interrupting: Atomic::new(0),
        })
    }

    /// Sets `flags`, wakes the worker, and interrupts its attempt where one of them is to interrupt
    /// it. Any context, also hard interrupts.
    pub(crate) fn set(&self, flags: u32) {
        self.flags.set(flags);
        self.interrupt_for(flags);
    }

    /// Interrupts the attempt under way where one of `flags`, which have been set, is to interrupt
    /// it.
    fn interrupt_for(&self, flags: u32) {
        if self.interrupting.load(Acquire) & flags != 0 {
            self.attempts.interrupt();
        }
    }

    /// Clears the flags of `mask`, and returns those of them that were set. Any context.
    #[inline]
    pub(crate) fn clear(&self, mask: u32) -> u32 {
        self.flags.clear(mask)
    }

    /// Whether one of the flags of `mask` is set. Any context.
    #[inline]
    pub(crate) fn is_set(&self, mask: u32) -> bool {
        self.flags.is_set(mask)
    }

    /// Sleeps until one of the flags of `mask` is set or `timeout_ms` have passed, see
    /// [`EventFlags::wait`].
    #[inline]
    pub(crate) fn wait(&self, mask: u32, timeout_ms: Option<u64>) -> bool {
        self.flags.wait(mask, timeout_ms)
    }

    /// Moves the worker to the processor that the config space's last change was announced on, see
    /// [`EventFlags::migrate_to_irq_cpu`].
    #[inline]
    pub(crate) fn migrate_to_irq_cpu(&self) {
        self.flags.migrate_to_irq_cpu();
    }

    /// Makes the calling thread the one that makes attempts. To be called once.
    #[inline]
    pub(crate) fn attach_current(&self) {
        self.attempts.attach_current();
    }

    /// Runs `attempt` on the attached thread, and interrupts it after `deadline_ms`, and as soon as
    /// one of the flags of `interrupting` is set. May sleep.
    pub(crate) fn attempt<R>(
        &self,
        deadline_ms: u64,
        interrupting: u32,
        attempt: impl FnOnce() -> R,
    ) -> R {
        self.attempts.attempt(deadline_ms, || {
            // Full: either `set` sees this, or the check below sees the flags that it has set.
            self.interrupting.xchg(interrupting, Full);
            if self.is_set(interrupting) {
                self.attempts.interrupt();
            }
            let result = attempt();
            self.interrupting.store(0, Release);
            result
        })
    }
}

impl Interrupts for Events {
    fn config_changed(&self) {
        self.flags.set_from_irq(CONFIG);
        self.interrupt_for(CONFIG);
    }

    fn buffer_used(&self) {
        self.set(ANSWERED);
    }
}
