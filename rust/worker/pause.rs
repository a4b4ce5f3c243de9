// SPDX-License-Identifier: GPL-2.0

//! Coming to rest, while the machine is suspended or the device reset, and going on.

use super::Worker;
use crate::events::CONFIG;
use crate::events::PAUSE;
use crate::events::PAUSED;
use crate::events::RESUME;
use crate::events::STOP;
use crate::linux::virtio;
use crate::queue;
use kernel::device;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Release;

/// How long the thread may take to come to rest, in milliseconds.
const PAUSE_MS: u64 = 10_000;

impl Worker {
    /// Brings the thread to rest and takes the queue away, before the machine is suspended, if that
    /// is `persistent`: what is plugged stays. `EBUSY`: it does not come to rest. `EPERM`: something
    /// is plugged, and would be lost. May sleep.
    pub(crate) fn suspend(&self, persistent: bool) -> Result {
        // If it did not come back the last time, the thread still rests.
        let suspended = self.suspended.load(Acquire);
        let result = if !suspended && !self.bring_to_rest() {
            dev_err!(self.device.dev(), "suspend: a step takes too long\n");
            Err(EBUSY)
        } else if !persistent && self.may_lose_memory() {
            // Only now, as the step that was under way may have plugged something.
            dev_err!(
                self.device.dev(),
                "suspending with plugged memory is not supported\n"
            );
            Err(EPERM)
        } else {
            Ok(())
        };
        if suspended {
            return result;
        }
        if result.is_err() {
            let events = self.device.events();
            events.clear(PAUSE);
            events.set(RESUME);
        } else {
            self.take_queue_away();
        }
        result
    }

    /// Whether a device that forgets everything would take memory away.
    fn may_lose_memory(&self) -> bool {
        self.device
            .with_engine(|engine| engine.plugged_size() != 0 || engine.unplug_all_required())
    }

    /// The same before the device is reset, which happens in any case: a step that still goes on is
    /// one that has to do with Linux only, and the thread rests after it. May sleep.
    pub(crate) fn give_way(&self) {
        if self.suspended.load(Acquire) {
            return;
        }
        if !self.bring_to_rest() {
            dev_warn!(self.device.dev(), "reset: a step takes long\n");
        }
        self.take_queue_away();
    }

    /// Has the thread rest; returns whether it has come to that in time.
    fn bring_to_rest(&self) -> bool {
        let events = self.device.events();
        events.clear(PAUSED);
        events.set(PAUSE);
        events.wait(PAUSED, Some(PAUSE_MS))
    }

    /// Waits for as long as the thread waits for an answer; that is not long, as it is to rest.
    fn take_queue_away(&self) {
        self.queue.lock().suspend();
        self.suspended.store(true, Release);
        self.report.suspended(true);
    }

    /// Undoes [`Worker::suspend`] or [`Worker::give_way`]. The request may have changed meanwhile. If
    /// it fails, the thread rests until it is stopped, or until the machine has been suspended once
    /// more. May sleep.
    pub(crate) fn resume(&self, vdev: &virtio::Device<device::Core<'_>>) -> Result {
        if !self.suspended.load(Acquire) {
            // Bound only after the device was readied for its reset.
            dev_err!(self.device.dev(), "reset while in use\n");
            return Err(EBUSY);
        }
        let resumed = self.queue.lock().resume(vdev, queue::NAME);
        resumed.inspect_err(|error| {
            dev_err!(
                self.device.dev(),
                "resume: the device does not come back: {:?}\n",
                error
            );
        })?;
        self.suspended.store(false, Release);
        vdev.ready();
        let events = self.device.events();
        self.report.suspended(false);
        events.clear(PAUSE);
        events.set(CONFIG | RESUME);
        Ok(())
    }

    /// Takes the queue away, for ever: the thread was left, and its device goes. May sleep.
    pub(crate) fn retire(&self) {
        self.queue.lock().retire();
    }

    /// Rests while the machine is suspended, or the device being reset.
    pub(super) fn rest(&self) {
        let events = self.device.events();
        // That of a rest before this one, which may have ended and begun again unnoticed. With no
        // pause left it was that of this one.
        events.clear(RESUME);
        if !events.is_set(PAUSE) {
            return;
        }
        events.set(PAUSED);
        events.wait(RESUME | STOP, None);
    }
}
