// SPDX-License-Identifier: GPL-2.0

//! Binding to a device: what is checked, and in which order everything is set up.

use crate::config;
use crate::debug;
use crate::device::Device;
use crate::events::Events;
use crate::instance::Driven;
#[cfg(CONFIG_PROC_VMCORE)]
use crate::instance::Dumped;
use crate::instance::Hooks;
use crate::instance::Instance;
use crate::instance::Parts;
#[cfg(CONFIG_PROC_VMCORE)]
use crate::kdump::Dump;
use crate::linux::hotplug;
use crate::linux::memory_notifier;
use crate::linux::online_page;
use crate::linux::pm_notifier::NoHibernation;
use crate::linux::thread;
use crate::linux::thread::Thread;
use crate::linux::virtio;
use crate::parameters;
use crate::queue;
use crate::queue::Queue;
use crate::region;
use crate::worker::Worker;
use core::ops::Range;
use kernel::device;
use kernel::device::Core;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel::time::Instant;
use kernel::time::Monotonic;
use virtio_mem_core::wire::Config;

/// How long binding waits for what unbinding has left to itself, in milliseconds.
const EARLIER_PATIENCE_MS: i64 = 20_000;
const EARLIER_POLL_MS: i64 = 50;

/// How long binding waits for the region after that, which takes moments, in milliseconds.
const RELEASE_MS: i64 = 1_000;

/// How long binding waits for memory blocks that move, in milliseconds.
const ADOPT_PATIENCE_MS: i64 = 20_000;

/// Sees to it, where a device could not be bound in the end, that nothing of it moves any more. The
/// thread does that itself.
struct End(Option<Arc<Device>>);

impl Drop for End {
    fn drop(&mut self) {
        if let Some(device) = &self.0 {
            device.close();
            // Without us, everything in a block that goes online is used.
            device.remove_partly_plugged();
        }
    }
}

/// Does all that binding takes; what was done is undone when an error is returned. May sleep.
pub(crate) fn bind(vdev: &virtio::Device<Core<'_>>) -> Result<Instance> {
    let dev: &device::Device<Core<'_>> = vdev.as_ref();
    if !vdev.config_readable() {
        dev_err!(dev, "config access disabled\n");
        return Err(EINVAL);
    }
    let events = Arc::pin_init(Events::new(), GFP_KERNEL)?;
    vdev.set_interrupts(events.clone())?;
    let queue = Queue::new(vdev, queue::NAME);
    let queue = queue.inspect_err(|error| {
        dev_err!(
            dev,
            "the device's queue cannot be set up: {:?}; echo 1 >/sys/bus/virtio/devices/{}/../reset\n",
            error,
            dev.name()
        );
    })?;

    let config = config::read(vdev);
    let node = config::node(vdev, config.addr);
    dev_info!(dev, "start address: {:#x}\n", config.addr);
    dev_info!(dev, "region size: {:#x}\n", config.region_size);
    dev_info!(dev, "device block size: {:#x}\n", config.block_size);
    if node >= 0 {
        dev_info!(dev, "nid: {}\n", node);
    }
    let dumps = hotplug::in_kdump_kernel();
    // What is requested, and how much is plugged in all, is nothing to a dump.
    let checked = if dumps {
        config.check_region()
    } else {
        config.check()
    };
    checked.map_err(|error| {
        dev_err!(
            dev,
            "the device's {} {}: {:#x?}\n",
            error.field(),
            error.rule(),
            config
        );
        EINVAL
    })?;
    if dumps {
        return attach_to_dump(vdev, events, config, queue);
    }
    let wanted = parameters::big_blocks();
    let range = config.addr..config.addr.saturating_add(config.region_size);
    wait_for_earlier(dev, &range)?;
    let (region, geometry, left) = region::reserve(dev, &config, &wanted, node)?;
    region::describe(dev, &geometry);
    let device = Device::new(
        dev,
        events,
        region,
        geometry,
        config,
        parameters::onlining(),
    )?;
    if left {
        device.with_engine(|engine| engine.take_over());
    } else if config.plugged_size != 0 {
        dev_info!(dev, "unplugging all memory is required\n");
    }

    let worker = Worker::new(device.clone(), queue)?;
    let hibernation = KBox::pin_init(NoHibernation::new(device.clone()), GFP_KERNEL)?;
    let notifier = KBox::pin_init(
        memory_notifier::Registration::new(device.clone()),
        GFP_KERNEL,
    )?;
    let filter = online_page::Registration::new(range, device.clone()).inspect_err(|_| {
        dev_err!(dev, "another driver decides which memory goes online\n");
    })?;
    if left {
        let count = device.adopt(ADOPT_PATIENCE_MS).inspect_err(|error| {
            dev_err!(dev, "memory of an earlier driver stays: {:?}\n", error);
        })?;
        dev_info!(
            dev,
            "taking over {} memory blocks of an earlier driver\n",
            count
        );
    }
    let debug = debug::show(dev, &worker)?;
    let hooks = Hooks::new(device.clone(), filter, hibernation, notifier);
    let mut end = End(Some(device.clone()));
    let runner = worker.clone();
    let driven = Driven::new(
        worker,
        device,
        config::named_node(vdev),
        config::features(vdev),
    )?;
    vdev.ready();
    let thread = Thread::start(runner, node, c"virtio_mem")?;
    end.0 = None;
    driven.keep(Parts {
        debug,
        thread,
        hooks,
    });
    Ok(Instance::Driven(driven))
}

/// Waits until what an earlier life of the driver has left to itself is over. `EBUSY`: it is not,
/// for now. May sleep.
///
/// As long as there is a filter for the region, its thread may be in a call. When there is none any
/// more, the thread is about to let go of the region, unless it is that of another device.
fn wait_for_earlier(dev: &device::Device<Core<'_>>, range: &Range<u64>) -> Result {
    let begun = Instant::<Monotonic>::now();
    loop {
        let waited_ms = begun.elapsed().as_millis();
        if online_page::is_filtered(range) {
            if waited_ms >= EARLIER_PATIENCE_MS {
                dev_err!(
                    dev,
                    "adding or removing memory still waits for others since the driver was unbound\n"
                );
                return Err(EBUSY);
            }
        } else if !thread::any_left() || waited_ms >= RELEASE_MS {
            return Ok(());
        }
        fsleep(Delta::from_millis(EARLIER_POLL_MS));
    }
}

/// In a crash kernel: sees to it that only plugged memory is read.
#[cfg(CONFIG_PROC_VMCORE)]
fn attach_to_dump(
    vdev: &virtio::Device<Core<'_>>,
    events: Arc<Events>,
    config: Config,
    queue: Queue,
) -> Result<Instance> {
    let dev: &device::Device<Core<'_>> = vdev.as_ref();
    let dump = Dump::new(dev, events, config, queue)?;
    // It may be asked for at once.
    vdev.ready();
    dev_info!(dev, "memory hot(un)plug disabled in kdump kernel\n");
    Ok(Instance::Dumped(Dumped::new(dump)?))
}

/// In a crash kernel that makes no dump there is nothing to do.
#[cfg(not(CONFIG_PROC_VMCORE))]
fn attach_to_dump(
    vdev: &virtio::Device<Core<'_>>,
    _: Arc<Events>,
    _: Config,
    _: Queue,
) -> Result<Instance> {
    let dev: &device::Device<Core<'_>> = vdev.as_ref();
    dev_warn!(dev, "disabled in kdump kernel without vmcore\n");
    Err(EBUSY)
}
