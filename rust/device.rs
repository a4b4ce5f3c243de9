// SPDX-License-Identifier: GPL-2.0

//! A device and its engine, and what Linux' memory hotplug asks of them.
//!
//! Lock order: `device_hotplug_lock` -> `mem_hotplug_lock` -> the memory notifier chain's lock ->
//! the engine's lock. The engine's lock is held for as long as the engine thinks, and while
//! references on pages are counted, never while a step is carried out or between two notifier
//! calls. Those who read a file of the device in sysfs or debugfs take it too, each under the locks
//! of the open file. Under it nothing is taken but the locks of the console and of `changed`.
//!
//! Who binds, unbinds, suspends or resets the virtio device holds the lock of that, and waits for the
//! worker under it: it comes before all others, and the worker never takes it.
//!
//! A thread that was left (`linux/thread.rs`) takes these as before, but for the virtio device's, which it
//! never took, and the queue's, which is retired.
//!
//! The worker's lock on its queue comes before the engine's. The report's locks (`report.rs`) are
//! leaves: taken under the locks of the queue or of an open file, but never together, nor together
//! with the engine's.

use crate::events::Events;
use crate::events::RECHECK;
use crate::linux::hotplug::Region;
use crate::linux::memory_block;
use crate::linux::memory_block::Found;
use crate::linux::memory_notifier;
use crate::linux::memory_notifier::Event;
use crate::linux::memory_notifier::Listener;
use crate::linux::online_page::Filter;
use crate::linux::pages::Pages;
use crate::linux::pm_notifier::Veto;
use crate::linux::trace;
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
use kernel::time::Instant;
use kernel::time::Monotonic;
use virtio_mem_core::block_map::BlockMap;
use virtio_mem_core::block_map::Flags;
use virtio_mem_core::block_map::MemoryBlockState;
use virtio_mem_core::engine::notify::Verdict;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::geometry::Geometry;
use virtio_mem_core::guard;
use virtio_mem_core::guard::Sections;
use virtio_mem_core::guard::Usage;
use virtio_mem_core::wire::Config;
use virtio_mem_core::wire::Request;

/// The engine, with its map in memory that need not be contiguous.
pub(crate) type Engine = virtio_mem_core::engine::Engine<KVVec<u64>>;

/// How long a memory block that somebody wants to move is waited for at most, in milliseconds. A
/// step with sub-blocks of it takes as long as the host's answer.
const MOVE_PATIENCE_MS: u32 = 5_000;

/// How often [`Device::adopt`] looks whether a memory block still moves, in milliseconds.
const ADOPT_POLL_MS: i64 = 20;

/// For how long, and how often, it is tried to remove a memory block where there is no memory for
/// that, in milliseconds.
const MEMORY_PATIENCE_MS: u32 = 5_000;
const MEMORY_POLL_MS: u32 = 100;

/// See the module's documentation.
#[pin_data]
pub(crate) struct Device {
    dev: ARef<device::Device>,
    events: Arc<Events>,
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
        events: Arc<Events>,
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
                events,
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
    pub(crate) fn events(&self) -> &Events {
        &self.events
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

    /// What a request would have the device take away although Linux may use it: an address, see
    /// [`guard::first_in_use`]. To be asked by the worker before the request is sent. Takes the engine's
    /// lock.
    pub(crate) fn first_in_use(&self, request: Request) -> Option<u64> {
        let config = self.with_engine(|engine| *engine.config());
        guard::first_in_use(&self.geometry, &config, request, self)
    }

    /// The pages of some sub-blocks; for when they may be used see [`Region::pages`].
    pub(crate) fn pages(&self, subs: &Range<u32>) -> Option<Pages> {
        let count = subs.end.checked_sub(subs.start)?;
        self.region.pages(
            self.geometry.sub_addr(subs.start),
            self.geometry.size_of(count),
        )
    }

    /// Lets no memory block be moved from here on. May sleep.
    pub(crate) fn refuse_moves(&self) {
        let _engine = self.engine.lock();
        self.closing.store(true, Relaxed);
        // Those who wait for a block, with the locks of memory hotplug, need not any more.
        self.notify_changed();
    }

    /// As [`Device::refuse_moves`], and waits for those on the way. May sleep.
    pub(crate) fn close(&self) {
        self.refuse_moves();
        let mut engine = self.engine.lock();
        let moving = |engine: &Engine| {
            let map = engine.map();
            (0..self.geometry.memory_blocks()).any(|number| map.is_moving(number))
        };
        while moving(&engine) {
            self.changed.wait(&mut engine);
        }
    }

    /// Whether memory blocks can be removed from Linux without waiting for somebody who may be
    /// waiting for the driver to go. May sleep.
    pub(crate) fn may_remove(&self) -> bool {
        memory_block::hotplug_lock_is_free(self.geometry.memory_block_size())
    }

    /// Removes memory blocks that are offline and of partly plugged blocks from Linux; after
    /// [`Device::close`]. Blocks of which a request is under way may be partly unplugged by now.
    pub(crate) fn remove_partly_plugged(&self) {
        let mut busy = 0_u32;
        for number in 0..self.geometry.memory_blocks() {
            let block = self.geometry.block_of_memory_block(number);
            let partly = self.with_engine(|engine| {
                let map = engine.map();
                map.memory_block_state(number) == MemoryBlockState::Offline
                    && (map.plugged_in(block) < self.geometry.subs_per_block()
                        || map.flags(block).contains(Flags::HELD))
            });
            if !partly {
                continue;
            }
            // Once it was not free, it is not waited for again.
            if busy > 0 || !self.may_remove() {
                busy = busy.saturating_add(1);
                continue;
            }
            let addr = self.geometry.memory_block_addr(number);
            if let Err(error) = self.remove_patiently(addr) {
                dev_err!(
                    self.dev(),
                    "memory at {:#x} stays, and must not be brought online: {:?}\n",
                    addr,
                    error
                );
            }
        }
        if busy > 0 {
            dev_err!(
                self.dev(),
                "{} offline memory blocks stay, and must not be brought online: hotplug is busy\n",
                busy
            );
        }
    }

    /// Removes the memory block at `addr`, which is offline, with patience where a few bytes cannot be
    /// allocated.
    fn remove_patiently(&self, addr: u64) -> Result {
        let size = self.geometry.memory_block_size();
        for _ in 0..MEMORY_PATIENCE_MS / MEMORY_POLL_MS {
            match self.region.remove(addr, size, false) {
                Err(ENOMEM) => fsleep(Delta::from_millis(MEMORY_POLL_MS.into())),
                result => return result,
            }
        }
        Err(ENOMEM)
    }

    /// Tells the engine what Linux has of this device; with the memory notifier and the online-page
    /// callback registered, after [`Engine::take_over`] and before the first step, or for a
    /// [`virtio_mem_core::engine::Step::Resync`]. Returns how many memory blocks Linux has.
    ///
    /// A memory block that moves is waited for until Linux announces the move, or where it did so before
    /// the memory notifier was registered, until that is over; for `patience_ms` in all.
    ///
    /// `EBUSY`: a memory block goes on moving. `EEXIST`: Linux has memory for which it has no memory
    /// block, which is logged. Either way the engine may have been told of some blocks, and is not to go
    /// on without the others. May sleep.
    pub(crate) fn adopt(&self, patience_ms: i64) -> Result<u32> {
        let begun = Instant::now();
        let mut count = 0_u32;
        for number in 0..self.geometry.memory_blocks() {
            let state = self.settled_state(number, begun, patience_ms)?;
            count = count.saturating_add(u32::from(state != MemoryBlockState::Absent));
            self.with_engine(|engine| engine.adopt(number, state));
        }
        for block in 0..self.geometry.blocks() {
            self.with_engine(|engine| self.adopt_withheld(engine, block));
        }
        Ok(count)
    }

    /// The state of a memory block, when it does not move, for [`Device::adopt`], which has `begun`.
    fn settled_state(
        &self,
        number: u32,
        begun: Instant<Monotonic>,
        patience_ms: i64,
    ) -> Result<MemoryBlockState> {
        let addr = self.geometry.memory_block_addr(number);
        let size = self.geometry.memory_block_size();
        loop {
            match memory_block::state(addr, size)? {
                Found::Nothing => return self.absent(addr, size),
                Found::Offline => return Ok(MemoryBlockState::Offline),
                Found::Online => return Ok(self.online_state(number)),
                Found::Moving => {}
            }
            // Whoever moves it may be waiting for us by now, and not go on before we know.
            let told = self.with_engine(|engine| engine.map().memory_block_state(number));
            if told != MemoryBlockState::Absent {
                return Ok(told);
            }
            if begun.elapsed().as_millis() >= patience_ms {
                return Err(EBUSY);
            }
            fsleep(Delta::from_millis(ADOPT_POLL_MS));
        }
    }

    /// Makes sure that Linux has no memory where it has no memory block.
    fn absent(&self, addr: u64, size: u64) -> Result<MemoryBlockState> {
        let range = addr..addr.saturating_add(size);
        if self.region.sections(&range) == Sections::Absent && !self.region.has_system_ram(range) {
            return Ok(MemoryBlockState::Absent);
        }
        dev_err!(
            self.dev(),
            "no memory block found at {:#x}, where Linux has memory\n",
            addr
        );
        Err(EEXIST)
    }

    /// The state of a memory block that is online, or about to be.
    fn online_state(&self, number: u32) -> MemoryBlockState {
        let addr = self.geometry.memory_block_addr(number);
        let pages = self.region.pages(addr, self.geometry.memory_block_size());
        if pages.is_some_and(|pages| pages.movable()) {
            MemoryBlockState::Movable
        } else {
            MemoryBlockState::Kernel
        }
    }

    /// Tells the engine which sub-blocks of `block` the earlier driver kept away from Linux.
    fn adopt_withheld(&self, engine: &mut Engine, block: u32) {
        for sub in self.geometry.subs_of(block) {
            let end = self.geometry.sub_addr(sub.saturating_add(1));
            let mut addr = self.geometry.sub_addr(sub);
            // In pieces that lie in one memory block.
            let (mut any, mut all) = (false, true);
            while addr < end && all {
                let Some(number) = self.geometry.memory_block_at(addr) else {
                    return;
                };
                let next = self.geometry.memory_block_addr(number.saturating_add(1));
                let stop = next.min(end);
                if engine.map().memory_block_state(number).online() {
                    any = true;
                    all = self
                        .region
                        .pages(addr, stop.saturating_sub(addr))
                        .is_some_and(|pages| pages.are_withheld());
                }
                addr = stop;
            }
            if any && all {
                engine.adopt_withheld(sub);
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
            engine.announced(number, state);
            let verdict = engine.going_offline(number);
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
                let mut wanted = false;
                self.ask(|engine| {
                    engine.announced(number, MemoryBlockState::Offline);
                    let block = self.geometry.block_of_memory_block(number);
                    wanted = engine.map().flags(block).contains(Flags::WANTED);
                    engine.going_online(number, movable)
                })
                .inspect_err(|_| {
                    // What the driver itself brings online next says nothing to anybody.
                    if !wanted {
                        memory_notifier::warn_denied(self.dev());
                    }
                })?;
            }
            Event::GoingOffline => self.going_offline(number)?,
            Event::Online => {
                let movable = movable();
                let wake = self.with_engine(|engine| engine.online(number, movable));
                let zone = if movable { "movable" } else { "kernel" };
                trace::block_onlined(self.dev(), start, size, zone);
                self.moved(wake);
            }
            Event::Offline => {
                let wake = self.with_engine(|engine| engine.offline(number));
                trace::block_offlined(self.dev(), start, size);
                self.moved(wake);
            }
            Event::CancelOnline => {
                let wake = self.with_engine(|engine| engine.cancel_online(number));
                self.moved(wake);
            }
            Event::CancelOffline => {
                let block = self.geometry.block_of_memory_block(number);
                let ours = self.with_engine(|engine| {
                    let ours = engine.map().flags(block).contains(Flags::TRANSIT);
                    if engine.cancel_offline(number) {
                        self.each_withheld(engine, number, |pages| pages.reclaim());
                    }
                    ours
                });
                self.moved(!ours);
            }
        }
        Ok(())
    }
}

impl Usage for Device {
    fn sections(&self, range: Range<u64>) -> Sections {
        self.region.sections(&range)
    }

    fn has_system_ram(&self, range: Range<u64>) -> bool {
        self.region.has_system_ram(range)
    }

    fn keeps_offline(&self, memory_block: u32) -> bool {
        self.with_engine(|engine| engine.keeps_offline(memory_block))
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
