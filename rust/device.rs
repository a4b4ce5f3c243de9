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

mod adopt;
mod notify;

use crate::events::Events;
use crate::linux::hotplug::Region;
use crate::linux::memory_block;
use crate::linux::pages::Pages;
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
use kernel::sync::Mutex;
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use virtio_mem_core::block_map::BlockMap;
use virtio_mem_core::block_map::Flags;
use virtio_mem_core::block_map::MemoryBlockState;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::geometry::Geometry;
use virtio_mem_core::guard;
use virtio_mem_core::guard::Sections;
use virtio_mem_core::guard::Usage;
use virtio_mem_core::wire::Config;
use virtio_mem_core::wire::Request;

/// The engine, with its map in memory that need not be contiguous.
pub(crate) type Engine = virtio_mem_core::engine::Engine<KVVec<u64>>;

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
