// SPDX-License-Identifier: GPL-2.0

//! What Linux asks when memory goes online or offline, or the machine hibernates, and what it
//! reports.

use super::Device;
use super::Engine;
use crate::events::RECHECK;
use crate::linux::memory_notifier;
use crate::linux::memory_notifier::Event;
use crate::linux::memory_notifier::Listener;
use crate::linux::online_page::Filter;
use crate::linux::pages::Pages;
use crate::linux::pm_notifier::Veto;
use crate::linux::trace;
use kernel::prelude::*;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use kernel::sync::CondVarTimeoutResult;
use virtio_mem_core::block_map::MemoryBlockState;
use virtio_mem_core::engine::notify::Verdict;

/// How long a memory block that is to be moved is waited for at most, in milliseconds. A
/// step with sub-blocks of it takes as long as the host's answer.
const MOVE_PATIENCE_MS: u32 = 5_000;

impl Device {
    /// Asks the engine until its answer is final, or patience is at an end.
    fn ask(&self, mut question: impl FnMut(&mut Engine) -> Verdict) -> Result {
        let mut engine = self.engine.lock();
        let mut patience = kernel::time::msecs_to_jiffies(MOVE_PATIENCE_MS);
        loop {
            if self.closing.load(Relaxed) {
                return Err(EBUSY);
            }
            match question(&mut engine) {
                Verdict::Allow => return Ok(()),
                Verdict::Deny => return Err(EPERM),
                Verdict::Later => {}
            }
            match self
                .changed
                .wait_interruptible_timeout(&mut engine, patience)
            {
                CondVarTimeoutResult::Woken { jiffies } => patience = jiffies,
                CondVarTimeoutResult::Timeout | CondVarTimeoutResult::Signal { .. } => {
                    return Err(EBUSY)
                }
            }
        }
    }

    /// Calls `f` for the pages of each run of unplugged sub-blocks of a memory block.
    fn each_withheld(&self, engine: &Engine, number: u32, mut f: impl FnMut(Pages)) {
        let end = self.geometry.memory_block_addr(number.saturating_add(1));
        let mut addr = self.geometry.memory_block_addr(number);
        while addr < end {
            let (plugged, stop) = self.same_from(engine, addr, end);
            let size = stop.saturating_sub(addr);
            if let Some(pages) = (!plugged).then(|| self.region.pages(addr, size)).flatten() {
                f(pages);
            }
            addr = stop;
        }
    }

    /// Whether the memory at `addr` is plugged, and up to which address (at most `end`) the answer
    /// is the same.
    fn same_from(&self, engine: &Engine, addr: u64, end: u64) -> (bool, u64) {
        let (Some(first), Some(last)) = (
            self.geometry.sub_at(addr),
            self.geometry.sub_at(end.saturating_sub(1)),
        ) else {
            // Not of a block that we could have plugged anything of.
            return (false, end);
        };
        let (plugged, run) = engine.same_from(first, last.saturating_add(1));
        (plugged, self.geometry.sub_addr(run.end).min(end))
    }

    fn going_offline(&self, number: u32) -> Result {
        let state = self.online_state(number);
        self.ask(|engine| {
            engine.handle_announced(number, state);
            let verdict = engine.handle_going_offline(number);
            if verdict == Verdict::Allow {
                self.each_withheld(engine, number, |pages| {
                    if !pages.release() {
                        dev_warn!(self.dev(), "unplugged memory is referenced\n");
                    }
                });
            }
            verdict
        })
    }

    fn moved(&self, wake: bool) {
        self.notify_changed();
        if wake {
            self.events.set(RECHECK);
        }
    }
}

impl Listener for Device {
    fn notify(&self, event: Event, start: u64, size: u64) -> Result {
        let Some(number) = self.geometry.memory_block_at(start) else {
            return Ok(());
        };
        let whole = self.geometry.memory_block_size();
        if size != whole || start != self.geometry.memory_block_addr(number) {
            // Linux moves whole memory blocks only.
            dev_warn!(self.dev(), "part of a memory block moves: {:#x}\n", start);
            return Err(EINVAL);
        }
        let movable = || self.online_state(number) == MemoryBlockState::Movable;
        match event {
            Event::GoingOnline => {
                let movable = movable();
                let mut log_refusal = true;
                self.ask(|engine| {
                    engine.handle_announced(number, MemoryBlockState::Offline);
                    let answer = engine.handle_going_online(number, movable);
                    log_refusal = answer.log_refusal;
                    answer.verdict
                })
                .inspect_err(|_| {
                    if log_refusal {
                        memory_notifier::warn_denied(self.dev());
                    }
                })?;
            }
            Event::GoingOffline => self.going_offline(number)?,
            Event::Online => {
                let movable = movable();
                let wake = self.with_engine(|engine| engine.handle_online(number, movable));
                let zone = if movable { "movable" } else { "kernel" };
                trace::block_onlined(self.dev(), start, size, zone);
                self.moved(wake);
            }
            Event::Offline => {
                let wake = self.with_engine(|engine| engine.handle_offline(number));
                trace::block_offlined(self.dev(), start, size);
                self.moved(wake);
            }
            Event::CancelOnline => {
                let wake = self.with_engine(|engine| engine.handle_cancel_online(number));
                self.moved(wake);
            }
            Event::CancelOffline => {
                let wake = self.with_engine(|engine| {
                    let stays = engine.handle_cancel_offline(number);
                    if stays.reclaim {
                        self.each_withheld(engine, number, |pages| pages.reclaim());
                    }
                    stays.wake
                });
                self.moved(wake);
            }
        }
        Ok(())
    }
}

impl Filter for Device {
    fn usable(&self, addr: u64, end: u64) -> (bool, u64) {
        self.with_engine(|engine| self.same_from(engine, addr, end))
    }
}

impl Veto for Arc<Device> {
    fn explain(&self) {
        // A machine that starts again has all of this memory unplugged.
        dev_err!(self.dev(), "hibernation is not supported.\n");
    }
}
