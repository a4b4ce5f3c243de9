// SPDX-License-Identifier: GPL-2.0

//! Binding to devices, and letting go of them.

use crate::attributes;
use crate::config;
use crate::debug;
use crate::device::Device;
use crate::events::Events;
#[cfg(CONFIG_PROC_VMCORE)]
use crate::kdump::Dump;
use crate::linux::groups::Groups;
use crate::linux::hotplug;
use crate::linux::hotplug::Limits;
use crate::linux::hotplug::Region;
use crate::linux::memory_notifier;
use crate::linux::online_page;
use crate::linux::pm_notifier::suspending_to_ram;
use crate::linux::pm_notifier::NoHibernation;
use crate::linux::thread;
use crate::linux::thread::Thread;
use crate::linux::virtio;
#[cfg(CONFIG_PROC_VMCORE)]
use crate::linux::vmcore;
use crate::parameters;
use crate::queue;
use crate::queue::Queue;
use crate::report::Report;
use crate::worker::Worker;
use core::ops::Range;
use kernel::device;
use kernel::prelude::*;
use kernel::sync::new_mutex;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel::time::Instant;
use kernel::time::Monotonic;
use virtio_mem_core::geometry::BigBlocks;
use virtio_mem_core::geometry::Geometry;
use virtio_mem_core::geometry::LinuxLimits;
use virtio_mem_core::wire;
use virtio_mem_core::wire::Config;
use virtio_mem_core::wire::Features;

/// The driver.
pub(crate) struct VirtioMem;

virtio::id_table!(
    /// Memory devices.
    TABLE,
    wire::DEVICE_ID
);

/// How long unbinding waits for what adds or removes memory before that is left to itself, in
/// milliseconds: it cannot be interrupted.
const END_MS: u64 = 5_000;

/// How long binding waits for what unbinding has left to itself, in milliseconds.
const EARLIER_PATIENCE_MS: i64 = 20_000;
const EARLIER_POLL_MS: i64 = 50;

/// How long it waits for the rest, which takes moments, in milliseconds.
const RELEASE_MS: i64 = 1_000;

/// How long binding waits for memory blocks that move, in milliseconds.
const ADOPT_PATIENCE_MS: i64 = 20_000;

/// What a bound device has, in the order in which it goes away.
struct Parts {
    debug: debug::Files,
    thread: Thread<Worker, Hooks>,
    hooks: Hooks,
}

/// What Linux asks and tells the driver by, as long as the thread may have something to do with it. In the
/// order in which it goes away, also where the device could not be bound in the end.
struct Hooks {
    _filter: online_page::Registration,
    _hibernation: Pin<KBox<NoHibernation<Arc<Device>>>>,
    _notifier: Pin<KBox<memory_notifier::Registration<Device>>>,
    _rest: Rest,
}

/// Sees to it, where a device could not be bound in the end, that nothing of it moves any more. The thread
/// does that itself.
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

/// When all is over: says what stays.
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
    /// Gone once the driver is unbound.
    #[pin]
    parts: Mutex<Option<Parts>>,
    /// Holds the virtqueue's buffer, which the device may write until it is reset.
    worker: Arc<Worker>,
    device: Arc<Device>,
    /// What the device says; -1: nothing.
    node: i32,
    features: Features,
}

/// A device whose memory belongs to a crashed kernel.
#[cfg(CONFIG_PROC_VMCORE)]
#[pin_data]
pub(crate) struct Dumped {
    /// Gone once the driver is unbound.
    #[pin]
    registration: Mutex<Option<Pin<KBox<vmcore::Registration<Dump>>>>>,
    /// As in `Driven`.
    _dump: Arc<Dump>,
}

/// What the driver keeps for a bound device.
pub(crate) enum Data {
    Driven(Pin<KBox<Driven>>),
    #[cfg(CONFIG_PROC_VMCORE)]
    Dumped(Pin<KBox<Dumped>>),
}

impl virtio::Driver for VirtioMem {
    type Data = Data;
    const ID_TABLE: &'static virtio::IdTable = &TABLE;
    const FEATURES: &'static [u32] = config::FEATURES;
    const ATTRIBUTES: &'static Groups<Data> = &attributes::ATTRIBUTES;

    fn probe<'bound>(
        vdev: &'bound virtio::Device<device::Core<'_>>,
    ) -> impl PinInit<Data, Error> + 'bound {
        bind(vdev)
    }

    fn unbind<'bound>(_: &'bound virtio::Device<device::Core<'_>>, data: Pin<&Data>) {
        match &*data {
            Data::Driven(driven) => driven.unbind(),
            #[cfg(CONFIG_PROC_VMCORE)]
            Data::Dumped(dumped) => drop(dumped.registration.lock().take()),
        }
    }

    fn freeze<'bound>(vdev: &'bound virtio::Device<device::Core<'_>>, data: Pin<&Data>) -> Result {
        match &*data {
            Data::Driven(driven) => driven.freeze(vdev),
            // A crash kernel writes its dump and ends.
            #[cfg(CONFIG_PROC_VMCORE)]
            Data::Dumped(_) => Err(EPERM),
        }
    }

    fn prepare_reset<'bound>(
        _: &'bound virtio::Device<device::Core<'_>>,
        data: Pin<&Data>,
    ) -> Result {
        match &*data {
            Data::Driven(driven) => {
                driven.worker.give_way();
                Ok(())
            }
            #[cfg(CONFIG_PROC_VMCORE)]
            Data::Dumped(_) => Err(EPERM),
        }
    }

    fn restore<'bound>(vdev: &'bound virtio::Device<device::Core<'_>>, data: Pin<&Data>) -> Result {
        match &*data {
            Data::Driven(driven) => driven.worker.resume(vdev),
            #[cfg(CONFIG_PROC_VMCORE)]
            Data::Dumped(_) => Err(EPERM),
        }
    }
}

impl Driven {
    pub(crate) fn report(&self) -> &Report {
        self.worker.report()
    }

    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

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

    fn freeze(&self, vdev: &virtio::Device<device::Core<'_>>) -> Result {
        let persistent = vdev.has_feature(config::PERSISTENT_SUSPEND);
        self.worker.suspend(persistent || !suspending_to_ram())
    }
}

/// Does all that binding takes; what was done is undone when an error is returned.
fn bind(vdev: &virtio::Device<device::Core<'_>>) -> Result<Data> {
    let dev: &device::Device<device::Core<'_>> = vdev.as_ref();
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
    let (region, geometry, left) = region(dev, &config, &wanted, node)?;
    describe(dev, &geometry);
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
    let hooks = Hooks {
        _filter: filter,
        _hibernation: hibernation,
        _notifier: notifier,
        _rest: Rest(device.clone()),
    };
    let mut end = End(Some(device.clone()));
    let runner = worker.clone();
    let driven = pin_init!(Driven {
        parts <- new_mutex!(None),
        worker,
        device,
        node: config::named_node(vdev),
        features: config::features(vdev),
    });
    let driven = KBox::pin_init(driven, GFP_KERNEL)?;
    vdev.ready();
    let thread = Thread::start(runner, node, c"virtio_mem")?;
    end.0 = None;
    *driven.parts.lock() = Some(Parts {
        debug,
        thread,
        hooks,
    });
    Ok(Data::Driven(driven))
}

/// Waits until what an earlier life of the driver has left to itself is over. `EBUSY`: it is not, for now.
/// May sleep.
///
/// As long as there is a filter for the region, its thread may be in a call. When there is none any more,
/// the thread is about to let go of the region, unless it is that of another device.
fn wait_for_earlier(dev: &device::Device<device::Core<'_>>, range: &Range<u64>) -> Result {
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
    vdev: &virtio::Device<device::Core<'_>>,
    events: Arc<Events>,
    config: Config,
    queue: Queue,
) -> Result<Data> {
    let dev: &device::Device<device::Core<'_>> = vdev.as_ref();
    let dump = Dump::new(dev, events, config, queue)?;
    // It may be asked for at once.
    vdev.ready();
    dev_info!(dev, "memory hot(un)plug disabled in kdump kernel\n");
    let registration = KBox::pin_init(vmcore::Registration::new(dump.clone()), GFP_KERNEL)?;
    let dumped = pin_init!(Dumped {
        registration <- new_mutex!(Some(registration)),
        _dump: dump,
    });
    Ok(Data::Dumped(KBox::pin_init(dumped, GFP_KERNEL)?))
}

/// In a crash kernel that makes no dump there is nothing to do.
#[cfg(not(CONFIG_PROC_VMCORE))]
fn attach_to_dump(
    vdev: &virtio::Device<device::Core<'_>>,
    _: Arc<Events>,
    _: Config,
    _: Queue,
) -> Result<Data> {
    let dev: &device::Device<device::Core<'_>> = vdev.as_ref();
    dev_warn!(dev, "disabled in kdump kernel without vmcore\n");
    Err(EBUSY)
}

/// Reserves the device's region, cut up as is `wanted`, or takes it over from an earlier driver that has
/// left memory in it; then the last result is true.
fn region(
    dev: &device::Device<device::Core<'_>>,
    config: &Config,
    wanted: &BigBlocks,
    node: i32,
) -> Result<(Region, Geometry, bool)> {
    let (start, size) = (config.addr, config.region_size);
    let mut geometry = cut(dev, config, wanted)?;
    match Region::new(start, size, dev.name(), node, geometry.block_size()) {
        Ok(region) => return Ok((region, geometry, false)),
        Err(EBUSY) => {}
        Err(error) => return Err(error),
    }
    if wanted.force || wanted.size != 0 {
        // An earlier driver may have plugged parts of what would be a big block now.
        dev_warn!(
            dev,
            "force_bbm and bbm_block_size have to wait: memory is taken over\n"
        );
        geometry = cut(dev, config, &BigBlocks::default())?;
    }
    match Region::take_over(start, size, node, geometry.block_size()) {
        Ok(region) => Ok((region, geometry, true)),
        Err(_) => {
            dev_warn!(dev, "could not reserve device region\n");
            dev_info!(
                dev,
                "what is there was not left by a driver of this device\n"
            );
            Err(EBUSY)
        }
    }
}

/// Cuts the device's region up, or says why not.
fn cut(
    dev: &device::Device<device::Core<'_>>,
    config: &Config,
    big: &BigBlocks,
) -> Result<Geometry> {
    let limits = Limits::get();
    let end = config.addr.saturating_add(config.region_size);
    for (what, addr) in [("start", config.addr), ("end", end)] {
        if addr % limits.memory_block.max(1) != 0 {
            dev_warn!(
                dev,
                "The alignment of the physical {} address can make some memory unusable.\n",
                what
            );
        }
    }
    if config.addr < limits.first || end.saturating_sub(1) > limits.last {
        dev_warn!(
            dev,
            "Some device memory is not addressable/pluggable. This can make some memory unusable.\n"
        );
    }
    let linux = LinuxLimits {
        memory_block: limits.memory_block,
        pageblock: limits.pageblock,
        first: limits.first,
        last: limits.last,
        metadata: limits.metadata,
    };
    let (geometry, bad) = Geometry::new(config, &linux, big).map_err(|why| {
        dev_err!(dev, "cannot be used: {}\n", why.as_str());
        EINVAL
    })?;
    if let Some(bad) = bad {
        dev_warn!(dev, "bbm_block_size is {}\n", bad.as_str());
    }
    Ok(geometry)
}

/// Says how the region is cut up.
fn describe(dev: &device::Device<device::Core<'_>>, geometry: &Geometry) {
    let memory_block_size = geometry.memory_block_size();
    dev_info!(dev, "memory block size: {:#x}\n", memory_block_size);
    if geometry.is_big() {
        dev_info!(dev, "big block size: {:#x}\n", geometry.block_size());
    } else {
        dev_info!(dev, "subblock size: {:#x}\n", geometry.sub_size());
    }
}
