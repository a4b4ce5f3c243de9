// SPDX-License-Identifier: GPL-2.0

//! The virtio bus: driver registration, devices, and their config space.
//!
//! C header: [`include/linux/virtio.h`](srctree/include/linux/virtio.h)

use super::groups::Groups;
use super::raw;
use core::marker::PhantomData;
use core::mem::offset_of;
use kernel::device;
use kernel::driver;
use kernel::error::from_result;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::Arc;
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel::types::Opaque;

/// A driver for virtio devices.
pub(crate) trait Driver {
    /// What the driver keeps for a bound device. Dropped after [`Driver::unbind`], when the device
    /// has been reset and its virtqueues are gone.
    type Data: Send + 'static;

    /// The devices that the driver can drive.
    const ID_TABLE: &'static IdTable;

    /// The numbers of the feature bits that the driver understands.
    const FEATURES: &'static [u32];

    /// The attributes of its devices in sysfs.
    const ATTRIBUTES: &'static Groups<Self::Data>;

    /// Binds to `dev`. May sleep.
    fn probe<'bound>(
        dev: &'bound Device<device::Core<'_>>,
    ) -> impl PinInit<Self::Data, Error> + 'bound;

    /// Unbinds from `dev`. The device still works, but changes of its config space are not passed
    /// on to its [`Interrupts`] any more. May sleep.
    fn unbind<'bound>(dev: &'bound Device<device::Core<'_>>, data: Pin<&Self::Data>);

    /// The machine is to be suspended: the driver has to leave the device without virtqueues. User
    /// space has been frozen, the driver's own threads have not. May sleep.
    fn freeze<'bound>(dev: &'bound Device<device::Core<'_>>, data: Pin<&Self::Data>) -> Result;

    /// The device is about to be reset, on an admin's word (`reset` of its PCI function) or because
    /// of an error of its bus: the driver has to leave it without virtqueues. What the device knows
    /// of its memory outlives a reset (virtio specification, "Memory Device"). It is reset even if
    /// this fails, and then [`Driver::restore`] is not called (`virtio_pci_reset_done()`). May sleep.
    fn prepare_reset<'bound>(
        dev: &'bound Device<device::Core<'_>>,
        data: Pin<&Self::Data>,
    ) -> Result;

    /// The machine is back, or the device: it has been reset and its features are negotiated. Undoes
    /// what [`Driver::freeze`] or [`Driver::prepare_reset`] did. May sleep.
    fn restore<'bound>(dev: &'bound Device<device::Core<'_>>, data: Pin<&Self::Data>) -> Result;
}

/// Receives the interrupts of a device.
pub(crate) trait Interrupts: Send + Sync + 'static {
    /// The config space has changed. Called in any context, also hard interrupts, under a spin
    /// lock.
    fn config_changed(&self);

    /// The device has used a buffer of a virtqueue. Called in any context, also hard interrupts.
    fn buffer_used(&self);
}

/// Connects a [`Driver`] to the bus.
pub(crate) struct Adapter<T: Driver>(T);

// SAFETY: `virtio_driver` is a C structure that embeds a `struct device_driver` at this offset,
// and `T::Data` is what `probe_callback` stores.
unsafe impl<T: Driver> driver::DriverLayout for Adapter<T> {
    type DriverType = raw::virtio_driver;
    type DriverData<'bound> = T::Data;
    const DEVICE_DRIVER_OFFSET: usize = offset_of!(Self::DriverType, driver);
}

// SAFETY: `register` and `unregister` are a pair; nothing keeps the driver after `unregister`.
unsafe impl<T: Driver> driver::RegistrationOps for Adapter<T> {
    unsafe fn register(
        drv: &Opaque<Self::DriverType>,
        name: &'static CStr,
        module: &'static ThisModule,
    ) -> Result {
        // The kernel counts features in an unsigned int.
        let features = c_uint::try_from(T::FEATURES.len())?;
        // SAFETY: Nobody else has the driver yet; the tables are static.
        unsafe {
            (*drv.get()).driver.name = name.as_char_ptr();
            (*drv.get()).driver.dev_groups = T::ATTRIBUTES.as_ptr();
            (*drv.get()).id_table = core::ptr::from_ref(T::ID_TABLE).cast();
            (*drv.get()).feature_table = T::FEATURES.as_ptr();
            (*drv.get()).feature_table_size = features;
            (*drv.get()).probe = Some(Self::probe_callback);
            (*drv.get()).remove = Some(Self::remove_callback);
            (*drv.get()).config_changed = Some(Self::config_changed_callback);
            (*drv.get()).freeze = Some(Self::freeze_callback);
            (*drv.get()).restore = Some(Self::restore_callback);
            (*drv.get()).reset_prepare = Some(Self::reset_prepare_callback);
            (*drv.get()).reset_done = Some(Self::restore_callback);
        }
        // SAFETY: The driver is initialised, and by this function's contract pinned and valid
        // until `unregister`.
        to_result(unsafe { raw::__register_virtio_driver(drv.get(), module.as_ptr()) })
    }

    unsafe fn unregister(drv: &Opaque<Self::DriverType>) {
        // SAFETY: Registered, by this function's contract.
        unsafe { raw::unregister_virtio_driver(drv.get()) };
        // The virtio core looks the driver up and calls it without a lock: who has waited for the
        // device's lock while the driver was unbound still has to find the way out of the module.
        // For the few instructions before they are counted, and after, there is only the grace period
        // of RCU that passes before the module is freed (`free_module()`), which whoever is
        // preempted just there may outlast; a driver cannot do better.
        while INSIDE.load(Acquire) != 0 {
            fsleep(Delta::from_millis(1));
        }
    }
}

/// How many callers of [`Adapter::with_data`] there are.
static INSIDE: Atomic<i32> = Atomic::new(0);

impl<T: Driver> Adapter<T> {
    extern "C" fn probe_callback(vdev: *mut raw::virtio_device) -> c_int {
        // SAFETY: The bus calls with a device that is valid during the call, and holds the
        // device's lock.
        let vdev = unsafe { &*vdev.cast::<Device<device::CoreInternal<'_>>>() };
        let result = from_result(|| {
            let data = T::probe(vdev);
            vdev.as_ref().set_drvdata(data)?;
            Ok(0)
        });
        if result != 0 {
            vdev.forget_interrupts();
        }
        result
    }

    extern "C" fn remove_callback(vdev: *mut raw::virtio_device) {
        // SAFETY: As in `probe_callback`.
        let vdev = unsafe { &*vdev.cast::<Device<device::CoreInternal<'_>>>() };
        // SAFETY: The bus only removes what was probed successfully, when `set_drvdata` stored
        // this type.
        let data = unsafe { vdev.as_ref().drvdata_borrow::<T::Data>() };
        T::unbind(vdev, data);
        // The driver core drops the driver's data, with the buffers, after this function. A device
        // that did not come back from a suspend has no queues, and has to be reset all the same.
        vdev.shut_down();
        vdev.forget_interrupts();
    }

    extern "C" fn config_changed_callback(vdev: *mut raw::virtio_device) {
        // SAFETY: The bus calls with a valid device.
        let vdev = unsafe { &*vdev.cast::<Device>() };
        // SAFETY: `__virtio_config_changed()` calls this under the device's `config_lock`, under which
        // alone the receiver is given up.
        if let Some(interrupts) = unsafe { vdev.interrupts() } {
            interrupts.config_changed();
        }
    }

    extern "C" fn freeze_callback(vdev: *mut raw::virtio_device) -> c_int {
        // SAFETY: Transports call with a device of theirs, from the callbacks of its parent
        // (`virtio_pci_freeze()`, say), of which they hold the parent's lock only. The PM core is done
        // with the device itself, and its lock, before it comes to the parent.
        unsafe { Self::with_data(vdev, |vdev, data| T::freeze(vdev, data)) }
    }

    extern "C" fn restore_callback(vdev: *mut raw::virtio_device) -> c_int {
        // SAFETY: As in `freeze_callback`.
        unsafe { Self::with_data(vdev, |vdev, data| T::restore(vdev, data)) }
    }

    extern "C" fn reset_prepare_callback(vdev: *mut raw::virtio_device) -> c_int {
        // SAFETY: `virtio_pci_reset_prepare()` calls with its device, under the lock of the PCI device
        // only (`pci_dev_save_and_disable()`).
        unsafe { Self::with_data(vdev, |vdev, data| T::prepare_reset(vdev, data)) }
    }

    /// Calls `f` with a device and its data, under the device's lock. `ENODEV`: the driver is not
    /// bound to it any more.
    ///
    /// What suspends or resets a device holds the lock of its parent only (`pci_dev_lock()`,
    /// `device_suspend()`), which does not keep the driver from being unbound meanwhile. Whoever
    /// takes both takes the parent's first (`virtio_pci_remove()` is called under that).
    ///
    /// # Safety
    ///
    /// The device must be valid, and its lock not be held by the caller.
    unsafe fn with_data(
        vdev: *mut raw::virtio_device,
        f: impl for<'a> FnOnce(&'a Device<device::CoreInternal<'a>>, Pin<&'a T::Data>) -> Result,
    ) -> c_int {
        INSIDE.fetch_add(1, Full);
        // SAFETY: By this function's contract.
        unsafe { raw::vmem_device_lock(&raw mut (*vdev).dev) };
        // Another driver may have been bound since. Ours is known by its attributes.
        // SAFETY: Under the lock `driver` does not change, and a driver that is unregistered has been
        // unbound under it before (`driver_detach()`).
        let ours = unsafe {
            let driver = (*vdev).dev.driver;
            !driver.is_null() && (*driver).dev_groups == T::ATTRIBUTES.as_ptr()
        };
        let result = if ours {
            // SAFETY: As in `remove_callback`: the lock is held, and the driver is bound.
            let vdev = unsafe { &*vdev.cast::<Device<device::CoreInternal<'_>>>() };
            // SAFETY: `really_probe()` sets `driver` before it probes and clears it when that fails,
            // all under the lock. So it was successful, when `set_drvdata` stored this type.
            let data = unsafe { vdev.as_ref().drvdata_borrow::<T::Data>() };
            f(vdev, data)
        } else {
            Err(ENODEV)
        };
        // SAFETY: Locked above.
        unsafe { raw::vmem_device_unlock(&raw mut (*vdev).dev) };
        INSIDE.fetch_add(-1, Full);
        from_result(|| result.map(|()| 0))
    }
}

/// The devices of one kind, of any vendor: a table of IDs as the bus, and the tool that writes
/// module aliases, read it. (The kernel crate has a type for such tables too, but neither it nor
/// its macro is the same in any two kernels.)
#[repr(C)]
pub(crate) struct IdTable {
    id: raw::virtio_device_id,
    end: raw::virtio_device_id,
}

impl IdTable {
    /// The table of devices with this ID.
    pub(crate) const fn new(device: u32) -> Self {
        Self {
            id: raw::virtio_device_id {
                device,
                vendor: u32::MAX, // VIRTIO_DEV_ANY_ID
            },
            end: raw::virtio_device_id {
                device: 0,
                vendor: 0,
            },
        }
    }
}

/// Defines a static [`IdTable`] that the module is loaded for.
macro_rules! id_table {
    ($(#[$meta:meta])* $name:ident, $device:expr) => {
        $(#[$meta])*
        #[allow(unsafe_code)]
        #[export_name = concat!(
            "__mod_device_table__", line!(), "__kmod_", module_path!(), "__virtio__", stringify!($name)
        )]
        static $name: $crate::linux::virtio::IdTable =
            $crate::linux::virtio::IdTable::new($device);
    };
}
pub(crate) use id_table;

/// How often fields of the config space are read, in the hope that they do not change meanwhile. The
/// kernel's own functions for that try for ever.
const GENERATIONS: u32 = 64;

/// Who receives the interrupts of a device, where a single pointer leads to it.
type Receiver = KBox<Arc<dyn Interrupts>>;

/// A virtio device.
///
/// # Invariants
///
/// Its `priv` is null or came out of [`Receiver`]'s `into_raw`; it is written under `config_lock`.
#[repr(transparent)]
pub(crate) struct Device<Ctx: device::DeviceContext = device::Normal>(
    Opaque<raw::virtio_device>,
    PhantomData<Ctx>,
);

impl<Ctx: device::DeviceContext> Device<Ctx> {
    pub(super) fn as_raw(&self) -> *mut raw::virtio_device {
        self.0.get()
    }

    /// Sets who receives the device's interrupts. May sleep.
    pub(crate) fn set_interrupts(&self, interrupts: Arc<dyn Interrupts>) -> Result {
        let receiver = Receiver::into_raw(KBox::new(interrupts, GFP_KERNEL)?);
        // SAFETY: Valid device, whose `priv` is for its driver. (A receiver that was set before
        // would never be freed, and so stays valid.)
        unsafe { raw::vmem_swap_priv(self.as_raw(), receiver.cast()) };
        Ok(())
    }

    /// Who receives the device's interrupts, if that was set.
    ///
    /// # Safety
    ///
    /// [`Device::forget_interrupts`] must not be called while the result is used.
    pub(super) unsafe fn interrupts(&self) -> Option<&dyn Interrupts> {
        // SAFETY: By the type invariant, and this function's contract.
        let receiver = unsafe {
            (*self.as_raw())
                .priv_
                .cast::<Arc<dyn Interrupts>>()
                .as_ref()
        };
        receiver.map(|interrupts| &**interrupts)
    }

    /// Gives up who receives the interrupts of a device that has no virtqueue. After a reset that
    /// has come in between the virtio core may go on to report changes of the config space, which
    /// are of no use then.
    fn forget_interrupts(&self) {
        // SAFETY: Valid device.
        let receiver = unsafe { raw::vmem_swap_priv(self.as_raw(), core::ptr::null_mut()) };
        if !receiver.is_null() {
            // SAFETY: By the type invariant `receiver` came out of `into_raw`. Nothing uses it any
            // more: not the callback for changes of the config space, by the lock, nor that of a
            // queue, as there is none.
            drop(unsafe { Receiver::from_raw(receiver.cast()) });
        }
    }

    /// Whether the device has virtqueues.
    pub(super) fn has_queues(&self) -> bool {
        // SAFETY: Valid device; its list of queues was initialised with it.
        unsafe {
            let queues = &raw mut (*self.as_raw()).vqs;
            !core::ptr::eq((*queues).next, queues)
        }
    }

    /// Resets the device, after which it uses no buffer any more, deletes its virtqueues if it has
    /// any, and waits for their callbacks. Nobody may use them. May sleep.
    pub(super) fn shut_down(&self) {
        // SAFETY: Valid device.
        unsafe { raw::virtio_reset_device(self.as_raw()) };
        if !self.has_queues() {
            return;
        }
        // SAFETY: Valid device, with the functions of its transport. It was reset, so what it has not
        // given back is ours. Nobody else uses the queues: their owner calls this by a reference that
        // is exclusive, or the thread that had it was waited for by then, or has been left, and its queue
        // retired (`remove_callback`). Deleting a
        // queue frees neither the indirect descriptors of that nor its DMA mappings. (Callbacks that may
        // still run do not use the queue, and the interrupt handler only reads the ring.)
        unsafe {
            raw::vmem_discard_requests(self.as_raw());
            if let Some(delete) = (*(*self.as_raw()).config).del_vqs {
                delete(self.as_raw());
            }
        }
    }

    /// Tells the device that its driver is ready. Interrupts may come from now on.
    pub(crate) fn ready(&self) {
        // SAFETY: Valid device. (A second time without a reset in between is warned of.)
        unsafe { raw::vmem_device_ready(self.as_raw()) };
    }

    /// Resets the device, which has no queues now, and offers it the same features again, as before
    /// [`Driver::probe`] was called. `ENODEV`: it does not accept them any more. May sleep.
    pub(super) fn renegotiate(&self) -> Result {
        // SAFETY: Valid device. Whoever has `Core` of it in `probe` is the only one to use it.
        to_result(unsafe { raw::vmem_renegotiate(self.as_raw()) })
    }

    /// Whether feature number `bit` was negotiated.
    pub(crate) fn has_feature(&self, bit: u32) -> bool {
        // SAFETY: Valid device; `bit` is one of the driver's features.
        unsafe { raw::vmem_has_feature(self.as_raw(), bit) }
    }

    /// Whether the transport lets the config space be read.
    pub(crate) fn config_readable(&self) -> bool {
        // SAFETY: Valid device.
        unsafe { raw::vmem_config_readable(self.as_raw()) }
    }

    /// Reads successive little-endian fields of the config space, all of one generation. (Of several
    /// if the device's never rests: whoever uses them has to look whether they make sense anyway.)
    /// Zeroes if it cannot be read. May sleep.
    pub(crate) fn read_u64s<const N: usize>(&self, offset: u32) -> [u64; N] {
        let mut values = [0; N];
        if !self.config_readable() {
            return values;
        }
        // SAFETY: Valid device with a readable config space.
        let generation = || unsafe { raw::vmem_config_generation(self.as_raw()) };
        let mut before = generation();
        for _ in 0..GENERATIONS {
            for (at, value) in (offset..).step_by(size_of::<u64>()).zip(&mut values) {
                // SAFETY: As above; offsets outside of it are the transport's to cope with.
                *value = unsafe { raw::vmem_config_le64(self.as_raw(), at) };
            }
            let after = generation();
            if after == before {
                break;
            }
            before = after;
        }
        values
    }

    /// Reads a field of the config space that never changes; zero if it cannot be read. May sleep.
    pub(crate) fn read_u16(&self, offset: u32) -> u16 {
        if !self.config_readable() {
            return 0;
        }
        // SAFETY: Valid device with a readable config space; offsets as above.
        unsafe { raw::vmem_config_le16(self.as_raw(), offset) }
    }
}

// SAFETY: `Device` is a transparent wrapper that does not depend on its context.
kernel::impl_device_context_deref!(unsafe { Device });

impl<Ctx: device::DeviceContext> AsRef<device::Device<Ctx>> for Device<Ctx> {
    fn as_ref(&self) -> &device::Device<Ctx> {
        // SAFETY: `struct virtio_device` embeds a `struct device`.
        let dev = unsafe { &raw mut (*self.as_raw()).dev };
        // SAFETY: `device::Device` is a transparent wrapper, and the context is the same.
        unsafe { &*dev.cast() }
    }
}

/// A handle to a device that other threads than the probing one may keep.
///
/// It must not be used once the driver is unbound: see [`Handle::new`].
#[derive(Clone, Copy)]
pub(crate) struct Handle(*mut raw::virtio_device);

// SAFETY: What the handle offers may be called from any thread.
unsafe impl Send for Handle {}
// SAFETY: As above.
unsafe impl Sync for Handle {}

impl Handle {
    /// A handle to `dev`.
    ///
    /// # Safety
    ///
    /// It must not be used once the driver is unbound from `dev`.
    pub(super) unsafe fn new<Ctx: device::DeviceContext>(dev: &Device<Ctx>) -> Self {
        Self(dev.as_raw())
    }

    /// The device.
    pub(super) fn device(&self) -> &Device {
        // SAFETY: By the contract of `new` the device is valid.
        unsafe { &*self.0.cast() }
    }
}
