// SPDX-License-Identifier: GPL-2.0

//! A device and its engine, and what Linux' memory hotplug asks of them.
//!
//! Lock order: `device_hotplug_lock` -> `mem_hotplug_lock` -> the memory notifier chain's lock ->
//! the engine's lock. The engine's lock is held for as long as the engine thinks, and while
//! references on pages are counted, never while a step is carried out or between two notifier
//! calls. Under it nothing is taken but the console's locks.

use crate::linux::bell::Bell;
use crate::linux::hotplug::Region;
use crate::linux::memory_notifier::Event;
use crate::linux::memory_notifier::Listener;
use crate::linux::online_page::Filter;
use crate::linux::pages::Pages;
use crate::linux::pm_notifier::Veto;
use crate::worker;
use core::ops::Range;
use kernel::device;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::AtomicFlag;
use kernel::sync::atomic::Relaxed;
use kernel::sync::new_condvar;
use kernel::sync::new_mutex;
use kernel::sync::Arc;
use kernel::sync::CondVar;
use kernel::sync::CondVarTimeoutResult;
use kernel::sync::Mutex;
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use virtio_mem_core::block_map::BlockMap;
use virtio_mem_core::block_map::Flags;
use virtio_mem_core::block_map::InLinux;
use virtio_mem_core::engine::notify::Verdict;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::geometry::Geometry;
use virtio_mem_core::wire::Config;

/// The engine, with its map in memory that need not be contiguous.
pub(crate) type Engine = virtio_mem_core::engine::Engine<KVVec<u64>>;

/// How long a memory block that somebody wants to move is waited for at most, in milliseconds. A
/// step with sub-blocks of it takes as long as the host's answer.
const MOVE_PATIENCE_MS: u32 = 5_000;

/// See the module's documentation.
#[pin_data]
pub(crate) struct Device {
    dev: ARef<device::Device>,
    bell: Arc<Bell>,
    region: Region,
    geometry: Geometry,
    /// No memory block may be moved any more: the driver is being unbound. Set, and looked at,
    /// under the engine's lock.
    closing: AtomicFlag,
    #[pin]
    engine: Mutex<Engine>,
    /// Notified whenever a step ends or a block has been moved.
    #[pin]
    changed: CondVar,
}

impl Device {
    pub(crate) fn new(
        dev: &device::Device,
        bell: Arc<Bell>,
        region: Region,
        geometry: Geometry,
        config: Config,
        onlining: Onlining,
    ) -> Result<Arc<Self>> {
        let words = BlockMap::<KVVec<u64>>::words_needed(&geometry);
        let words = KVVec::from_elem(0, words, GFP_KERNEL)?;
        let engine = Engine::new(geometry, words, config, onlining);
        Arc::pin_init(
            pin_init!(Self {
                dev: dev.into(),
                bell,
                region,
                geometry,
                closing: AtomicFlag::new(false),
                engine <- new_mutex!(engine),
                changed <- new_condvar!(),
            }),
            GFP_KERNEL,
        )
    }

    /// For messages.
    pub(crate) fn dev(&self) -> &device::Device {
        &self.dev
    }

    /// What the worker waits for.
    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// The memory.
    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// How the region is cut up.
    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Calls `f` with the engine, under its lock. May sleep.
    pub(crate) fn with_engine<R>(&self, f: impl FnOnce(&mut Engine) -> R) -> R {
        f(&mut self.engine.lock())
    }

    /// Tells those who wait for a block that something has changed.
    pub(crate) fn notify_changed(&self) {
        self.changed.notify_all();
    }

    /// The pages of some sub-blocks; for when they may be used see [`Region::pages`].
    pub(crate) fn pages(&self, subs: &Range<u32>) -> Option<Pages> {
        let count = subs.end.checked_sub(subs.start)?;
        self.region.pages(
            self.geometry.sub_addr(subs.start),
            self.geometry.size_of(count),
        )
    }

    /// Lets no memory block be moved from here on, and waits for those on the way. May sleep.
    pub(crate) fn close(&self) {
        let mut engine = self.engine.lock();
        self.closing.store(true, Relaxed);
        let moving = |engine: &Engine| {
            let map = engine.map();
            (0..self.geometry.blocks()).any(|block| map.flags(block).contains(Flags::MOVING))
        };
        while moving(&engine) {
            self.changed.wait(&mut engine);
        }
    }

    /// Removes blocks that are offline and partly plugged from Linux; after [`Device::close`].
    /// Blocks of which a request is under way may be partly unplugged by now.
    pub(crate) fn remove_partly_plugged(&self) {
        for block in 0..self.geometry.blocks() {
            let partly = self.with_engine(|engine| {
                let map = engine.map();
                map.in_linux(block) == InLinux::Offline
                    && (map.plugged_in(block) < self.geometry.subs_per_block()
                        || map.flags(block).contains(Flags::HELD))
            });
            if !partly {
                continue;
            }
            let addr = self.geometry.block_addr(block);
            loop {
                match self.region.remove(addr, self.geometry.block_size()) {
                    Ok(()) => break,
                    // A few bytes could not be allocated.
                    Err(ENOMEM) => fsleep(Delta::from_millis(100)),
                    Err(error) => {
                        dev_err!(self.dev(), "memory at {:#x} stays: {:?}\n", addr, error);
                        break;
                    }
                }
            }
        }
    }

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

    /// Calls `f` for the pages of each run of unplugged sub-blocks of `block`.
    fn each_withheld(&self, engine: &Engine, block: u32, mut f: impl FnMut(Pages)) {
        let subs = self.geometry.subs_of(block);
        let mut sub = subs.start;
        while sub < subs.end {
            let (plugged, run) = engine.same_from(sub, subs.end);
            sub = run.end;
            if let Some(pages) = (!plugged).then(|| self.pages(&run)).flatten() {
                f(pages);
            }
        }
    }

    fn going_offline(&self, block: u32) -> Result {
        self.ask(|engine| {
            let verdict = engine.going_offline(block);
            if verdict == Verdict::Allow {
                self.each_withheld(engine, block, |pages| {
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
            self.bell.ring(worker::POKE);
        }
    }
}

impl Listener for Device {
    fn notify(&self, event: Event, start: u64, size: u64) -> Result {
        let Some(block) = self.geometry.block_at(start) else {
            return Ok(());
        };
        if size != self.geometry.block_size() || start != self.geometry.block_addr(block) {
            // Linux moves whole memory blocks only.
            dev_warn!(self.dev(), "part of a memory block moves: {:#x}\n", start);
            return Err(EINVAL);
        }
        let movable = || {
            self.region
                .pages(start, size)
                .is_some_and(|pages| pages.movable())
        };
        match event {
            Event::GoingOnline => {
                let movable = movable();
                self.ask(|engine| engine.going_online(block, movable))?;
            }
            Event::GoingOffline => self.going_offline(block)?,
            Event::Online => {
                let movable = movable();
                let wake = self.with_engine(|engine| engine.online(block, movable));
                self.moved(wake);
            }
            Event::Offline => {
                let wake = self.with_engine(|engine| engine.offline(block));
                self.moved(wake);
            }
            Event::CancelOnline => {
                let wake = self.with_engine(|engine| engine.cancel_online(block));
                self.moved(wake);
            }
            Event::CancelOffline => {
                let ours = self.with_engine(|engine| {
                    let ours = engine.map().flags(block).contains(Flags::TRANSIT);
                    if engine.cancel_offline(block) {
                        self.each_withheld(engine, block, |pages| pages.reclaim());
                    }
                    ours
                });
                self.moved(!ours);
            }
        }
        Ok(())
    }
}

impl Filter for Device {
    fn usable(&self, addr: u64, end: u64) -> (bool, u64) {
        let (Some(first), Some(last)) = (
            self.geometry.sub_at(addr),
            self.geometry.sub_at(end.saturating_sub(1)),
        ) else {
            // Not of a block that we could have plugged anything of.
            return (false, end);
        };
        let (plugged, run) =
            self.with_engine(|engine| engine.same_from(first, last.saturating_add(1)));
        (plugged, self.geometry.sub_addr(run.end).min(end))
    }
}

impl Veto for Arc<Device> {
    fn explain(&self) {
        // A machine that starts again has all of this memory unplugged.
        dev_err!(self.dev(), "hibernation is not supported.\n");
    }
}
