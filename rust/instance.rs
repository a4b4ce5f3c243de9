// SPDX-License-Identifier: GPL-2.0

//! What the driver keeps for a bound device, until it is unbound.

use crate::config;
use crate::debug;
use crate::device::Device;
#[cfg(CONFIG_PROC_VMCORE)]
use crate::kdump::Dump;
use crate::linux::memory_notifier;
use crate::linux::online_page;
use crate::linux::pm_notifier::suspending_to_ram;
use crate::linux::pm_notifier::NoHibernation;
use crate::linux::thread::Thread;
use crate::linux::virtio;
#[cfg(CONFIG_PROC_VMCORE)]
use crate::linux::vmcore;
use crate::report::Report;
use crate::worker::Worker;
use kernel::device::Core;
use kernel::prelude::*;
use kernel::sync::new_mutex;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use virtio_mem_core::wire::Features;

/// How long unbinding waits for what adds or removes memory before that is left to itself, in
/// milliseconds: it cannot be interrupted.
const END_MS: u64 = 5_000;

/// What a driven device has until the driver is unbound, in the order in which it goes away.
pub(crate) struct Parts {
    pub(crate) debug: debug::Files,
    pub(crate) thread: Thread<Worker, Hooks>,
    pub(crate) hooks: Hooks,
}

/// What Linux asks the driver by, and reports to it, as long as the thread may have something to do
/// with it. In the order in which it goes away, also where the device could not be bound in the
/// end.
pub(crate) struct Hooks {
    _filter: online_page::Registration,
    _hibernation: Pin<KBox<NoHibernation<Arc<Device>>>>,
    _notifier: Pin<KBox<memory_notifier::Registration<Device>>>,
    _rest: Rest,
}

impl Hooks {
    /// Keeps what was registered for `device`.
    pub(crate) fn new(
        device: Arc<Device>,
        filter: online_page::Registration,
        hibernation: Pin<KBox<NoHibernation<Arc<Device>>>>,
        notifier: Pin<KBox<memory_notifier::Registration<Device>>>,
    ) -> Self {
        Self {
            _filter: filter,
            _hibernation: hibernation,
            _notifier: notifier,
            _rest: Rest(device),
        }
    }
}

/// Says at the end which memory stays.
struct Rest(Arc<Device>);

impl Drop for Rest {
    fn drop(&mut self) {
        if self.0.region().has_memory() {
            dev_warn!(self.0.dev(), "device still has system memory added\n");
        }
    }
}

/// A device that the driver drives.
#[pin_data]
pub(crate) struct Driven {
    /// `None` before the thread runs, and once the driver is unbound.
    #[pin]
    parts: Mutex<Option<Parts>>,
    /// Holds the virtqueue's buffer, which the device may write until it is reset.
    worker: Arc<Worker>,
    device: Arc<Device>,
    /// The node that the device names; -1: none.
    node: i32,
    features: Features,
}

/// A device whose memory belongs to a crashed kernel.
#[cfg(CONFIG_PROC_VMCORE)]
#[pin_data]
pub(crate) struct Dumped {
    /// `None` once the driver is unbound.
    #[pin]
    registration: Mutex<Option<Pin<KBox<vmcore::Registration<Dump>>>>>,
    /// Holds the virtqueue's buffer, which the device may write until it is reset.
    _dump: Arc<Dump>,
}

/// What the driver keeps for a bound device.
pub(crate) enum Instance {
    Driven(Pin<KBox<Driven>>),
    #[cfg(CONFIG_PROC_VMCORE)]
    Dumped(Pin<KBox<Dumped>>),
}

impl Instance {
    /// The device, where the driver drives it: in a crash kernel `ENODEV`.
    pub(crate) fn driven(&self) -> Result<&Driven> {
        match self {
            Self::Driven(driven) => Ok(driven),
            #[cfg(CONFIG_PROC_VMCORE)]
            Self::Dumped(_) => Err(ENODEV),
        }
    }

    /// Ends all that goes on. May sleep.
    pub(crate) fn unbind(&self) {
        match self {
            Self::Driven(driven) => driven.unbind(),
            #[cfg(CONFIG_PROC_VMCORE)]
            Self::Dumped(dumped) => drop(dumped.registration.lock().take()),
        }
    }

    /// Readies the device for a suspend; in a crash kernel, which writes its dump and ends,
    /// `EPERM`. Errors are those of [`Worker::suspend`]. May sleep.
    pub(crate) fn freeze(&self, vdev: &virtio::Device<Core<'_>>) -> Result {
        let persistent = vdev.has_feature(config::PERSISTENT_SUSPEND);
        self.resting()?.suspend(persistent || !suspending_to_ram())
    }

    /// Readies the device for a reset; in a crash kernel `EPERM`. May sleep.
    pub(crate) fn prepare_reset(&self) -> Result {
        self.resting()?.give_way();
        Ok(())
    }

    /// Goes on after a suspend or a reset; in a crash kernel `EPERM`. May sleep.
    pub(crate) fn restore(&self, vdev: &virtio::Device<Core<'_>>) -> Result {
        self.resting()?.resume(vdev)
    }

    /// The worker, which can be brought to rest; in a crash kernel there is none.
    fn resting(&self) -> Result<&Worker> {
        self.driven().map(Driven::worker).map_err(|_| EPERM)
    }
}

impl Driven {
    /// A device without a thread.
    pub(crate) fn new(
        worker: Arc<Worker>,
        device: Arc<Device>,
        node: i32,
        features: Features,
    ) -> Result<Pin<KBox<Self>>> {
        let driven = pin_init!(Self {
            parts <- new_mutex!(None),
            worker,
            device,
            node,
            features,
        });
        KBox::pin_init(driven, GFP_KERNEL)
    }

    /// Takes over what goes away when the driver is unbound. To be called once.
    pub(crate) fn keep(&self, parts: Parts) {
        *self.parts.lock() = Some(parts);
    }

    /// What there is to tell about the device.
    pub(crate) fn report(&self) -> &Report {
        self.worker.report()
    }

    /// What carries out the engine's steps.
    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// The device with its engine.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The node that the device names for its memory, or -1.
    pub(crate) fn node(&self) -> i32 {
        self.node
    }

    /// The negotiated features.
    pub(crate) fn features(&self) -> Features {
        self.features
    }

    fn unbind(&self) {
        // Not under the lock: this waits for others.
        let Some(parts) = self.parts.lock().take() else {
            return;
        };
        drop(parts.debug);
        let ended = parts.thread.end(END_MS, parts.hooks);
        if !ended {
            // It gets on when who has the lock has done with it, who may wait for us.
            self.device.refuse_moves();
            self.worker.retire();
            dev_warn!(
                self.device.dev(),
                "unbound while adding or removing memory waits for others; it is finished later\n"
            );
        }
    }
}

#[cfg(CONFIG_PROC_VMCORE)]
impl Dumped {
    /// Answers for the device's memory from here on.
    pub(crate) fn new(dump: Arc<Dump>) -> Result<Pin<KBox<Self>>> {
        let registration = KBox::pin_init(vmcore::Registration::new(dump.clone()), GFP_KERNEL)?;
        let dumped = pin_init!(Self {
            registration <- new_mutex!(Some(registration)),
            _dump: dump,
        });
        KBox::pin_init(dumped, GFP_KERNEL)
    }
}
