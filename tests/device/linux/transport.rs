// SPDX-License-Identifier: GPL-2.0

//! A virtio device that is made of software: its config operations, its status, its queue.
//!
//! C header: [`include/linux/virtio_config.h`](srctree/include/linux/virtio_config.h)

use super::raw;
use super::ring;
use super::ring::Chain;
use super::ring::Ring;
use core::ptr::NonNull;
use kernel::device;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::atomic::Release;
use kernel::sync::new_mutex;
use kernel::sync::Arc;
use kernel::sync::Completion;
use kernel::sync::Mutex;
use kernel::types::Opaque;
use virtio_mem_core::wire::RESPONSE_LEN;

/// The features of the transport and the ring.
const TRANSPORT: u64 = 1 << raw::VIRTIO_F_VERSION_1 | 1 << raw::VIRTIO_RING_F_INDIRECT_DESC;

/// What is behind the transport. All functions but `kicked` may sleep, and are called without locks
/// of this file.
pub(crate) trait Hypervisor: Send + Sync + 'static {
    /// The driver reads the config space.
    fn read_config(&self, offset: u32, buffer: &mut [u8]);
    /// The driver writes to it.
    fn config_written(&self, offset: u32);
    /// The driver reads its generation.
    fn generation(&self) -> u32;
    /// The features of its kind of device that it offers.
    fn features(&self) -> u64;
    /// Whether it works with these.
    fn accepts(&self, features: u64) -> bool;
    /// There may be a request. Any context.
    fn kicked(&self);
    /// The driver has reset the device.
    fn reset(&self);
}

/// The device.
#[pin_data]
pub(crate) struct Transport<H: Hypervisor> {
    #[pin]
    vdev: Opaque<raw::virtio_device>,
    status: Atomic<u32>,
    lives: Atomic<u64>,
    /// Nothing is called under it that takes another lock but `vring_interrupt`.
    #[pin]
    ring: Mutex<Option<Ring>>,
    #[pin]
    released: Completion,
    hypervisor: Arc<H>,
}

// SAFETY: The virtio core serializes what it does with the device; the rest is `Sync`.
unsafe impl<H: Hypervisor> Send for Transport<H> {}
// SAFETY: As above.
unsafe impl<H: Hypervisor> Sync for Transport<H> {}

impl<H: Hypervisor> Transport<H> {
    const OPS: &'static raw::virtio_config_ops = &raw::virtio_config_ops {
        get: Some(Self::get),
        set: Some(Self::set),
        generation: Some(Self::generation),
        get_status: Some(Self::get_status),
        set_status: Some(Self::set_status),
        reset: Some(Self::reset),
        find_vqs: Some(Self::find_vqs),
        del_vqs: Some(Self::del_vqs),
        synchronize_cbs: None,
        get_features: Some(Self::get_features),
        get_extended_features: None,
        finalize_features: Some(Self::finalize_features),
        bus_name: None,
        set_vq_affinity: None,
        get_vq_affinity: None,
        get_shm_region: None,
        disable_vq_and_reset: None,
        enable_vq_after_reset: None,
    };

    /// The transport of a device.
    ///
    /// # Safety
    ///
    /// `vdev` must be the device of a `Transport<H>` that is registered.
    unsafe fn of<'a>(vdev: *mut raw::virtio_device) -> &'a Self {
        // SAFETY: By this function's contract; `Opaque` is transparent.
        unsafe { &*kernel::container_of!(vdev.cast::<Opaque<raw::virtio_device>>(), Self, vdev) }
    }

    /// Whether the driver has said that it is ready.
    pub(crate) fn ready(&self) -> bool {
        self.status.load(Acquire) & raw::VIRTIO_CONFIG_S_DRIVER_OK != 0
    }

    /// Takes the next request.
    pub(crate) fn take(&self) -> Option<Chain> {
        (*self.ring.lock()).as_mut()?.take()
    }

    /// See [`Ring::give`].
    pub(crate) fn give(
        &self,
        chain: &Chain,
        bytes: &[u8; RESPONSE_LEN],
        len: u32,
        stray: bool,
    ) -> bool {
        (*self.ring.lock())
            .as_mut()
            .is_some_and(|ring| ring.give(chain, bytes, len, stray))
    }

    extern "C" fn get(vdev: *mut raw::virtio_device, offset: c_uint, to: *mut c_void, len: c_uint) {
        // SAFETY: The virtio core calls with a registered device of ours, here as in all functions
        // below, and with a buffer of that length, which nobody else has.
        let (this, buffer) = unsafe {
            (
                Self::of(vdev),
                core::slice::from_raw_parts_mut(to.cast::<u8>(), len as usize),
            )
        };
        this.hypervisor.read_config(offset, buffer);
    }

    extern "C" fn set(vdev: *mut raw::virtio_device, offset: c_uint, _: *const c_void, _: c_uint) {
        // SAFETY: As in `get`.
        unsafe { Self::of(vdev) }.hypervisor.config_written(offset);
    }

    extern "C" fn generation(vdev: *mut raw::virtio_device) -> u32 {
        // SAFETY: As in `get`.
        unsafe { Self::of(vdev) }.hypervisor.generation()
    }

    extern "C" fn get_status(vdev: *mut raw::virtio_device) -> u8 {
        // SAFETY: As in `get`.
        unsafe { Self::of(vdev) }.status.load(Acquire) as u8
    }

    extern "C" fn set_status(vdev: *mut raw::virtio_device, status: u8) {
        // SAFETY: As in `get`.
        let this = unsafe { Self::of(vdev) };
        this.status.store(status.into(), Release);
        this.hypervisor.kicked();
    }

    extern "C" fn reset(vdev: *mut raw::virtio_device) {
        // SAFETY: As in `get`.
        let this = unsafe { Self::of(vdev) };
        this.status.store(0, Release);
        if let Some(ring) = &mut *this.ring.lock() {
            ring.stop();
        }
        this.hypervisor.reset();
    }

    extern "C" fn find_vqs(
        vdev: *mut raw::virtio_device,
        count: c_uint,
        queues: *mut *mut raw::virtqueue,
        infos: *mut raw::virtqueue_info,
        _: *mut raw::irq_affinity,
    ) -> c_int {
        // SAFETY: As in `get`.
        let this = unsafe { Self::of(vdev) };
        if count != 1 {
            return EINVAL.to_errno();
        }
        // SAFETY: Arrays of one element; the device is valid, and the callbacks outlive the queue.
        let queue = unsafe {
            raw::vring_create_virtqueue(
                0,
                ring::SIZE.into(),
                kernel::page::PAGE_SIZE as c_uint,
                vdev,
                true,
                false,
                (*infos).ctx,
                Some(Self::notify),
                (*infos).callback,
                (*infos).name,
            )
        };
        let Some(queue) = NonNull::new(queue) else {
            return ENOMEM.to_errno();
        };
        // SAFETY: The queue is valid; the array has one element.
        unsafe {
            (*queue.as_ptr()).num_max = ring::SIZE.into();
            *queues = queue.as_ptr();
        }
        let life = this.lives.fetch_add(1, Relaxed);
        // SAFETY: Made above, of that size: it must not be smaller, and was not asked to be packed.
        // `del_vqs` drops the result before it deletes the queue.
        *this.ring.lock() = Some(unsafe { Ring::new(queue, life) });
        0
    }

    extern "C" fn del_vqs(vdev: *mut raw::virtio_device) {
        // SAFETY: As in `get`.
        let this = unsafe { Self::of(vdev) };
        let ring = this.ring.lock().take();
        if let Some(ring) = ring {
            // SAFETY: Made by `find_vqs`. Whoever called back did so under the lock, and is gone.
            unsafe { raw::vring_del_virtqueue(ring.into_queue().as_ptr()) };
        }
    }

    extern "C" fn notify(queue: *mut raw::virtqueue) -> bool {
        // SAFETY: Called with a valid queue of a device of ours.
        unsafe { Self::of((*queue).vdev) }.hypervisor.kicked();
        true
    }

    extern "C" fn get_features(vdev: *mut raw::virtio_device) -> u64 {
        // SAFETY: As in `get`.
        unsafe { Self::of(vdev) }.hypervisor.features() | TRANSPORT
    }

    extern "C" fn finalize_features(vdev: *mut raw::virtio_device) -> c_int {
        // SAFETY: As in `get`; the features are the core's own until the driver probes.
        let (this, features) = unsafe {
            raw::vring_transport_features(vdev);
            (Self::of(vdev), *(*vdev).__bindgen_anon_1.features.as_ref())
        };
        if this.hypervisor.accepts(features & !TRANSPORT) {
            0
        } else {
            ENODEV.to_errno()
        }
    }

    extern "C" fn release(dev: *mut raw::device) {
        // SAFETY: The device that was registered, whose last reference is gone.
        let this = unsafe { Self::of(kernel::container_of!(dev, raw::virtio_device, dev)) };
        // SAFETY: `Registration::new` left this reference for us.
        let this = unsafe { Arc::from_raw(core::ptr::from_ref(this)) };
        this.released.complete_all();
    }
}

/// A device that is there; it goes when this is dropped (may sleep, and waits until nobody has a
/// reference on it).
pub(crate) struct Registration<H: Hypervisor>(Arc<Transport<H>>);

impl<H: Hypervisor> Registration<H> {
    /// Has the device `id` appear below `parent`; `before` is called with its transport first. A
    /// driver may be bound to it before this returns. May sleep.
    pub(crate) fn new(
        id: u32,
        parent: &device::Device,
        hypervisor: Arc<H>,
        before: impl FnOnce(Arc<Transport<H>>),
    ) -> Result<Self> {
        let transport = Arc::pin_init(
            pin_init!(Transport::<H> {
                // SAFETY: All zeroes is how C initialises a device before it registers it.
                vdev <- Opaque::ffi_init(|slot: *mut raw::virtio_device| unsafe {
                    slot.write_bytes(0, 1);
                }),
                status: Atomic::new(0),
                lives: Atomic::new(0),
                ring <- new_mutex!(None),
                released <- Completion::new(),
                hypervisor,
            }),
            GFP_KERNEL,
        )?;
        let vdev = transport.vdev.get();
        // SAFETY: Nobody else has the device yet. `device::Device` is a transparent wrapper, and
        // `device_add` takes a reference on the parent.
        unsafe {
            (*vdev).dev.parent = core::ptr::from_ref(parent).cast_mut().cast();
            (*vdev).dev.release = Some(Transport::<H>::release);
            (*vdev).id.device = id;
            (*vdev).config = Transport::<H>::OPS;
        }
        before(transport.clone());
        // For `release`.
        let _ = Arc::into_raw(transport.clone());
        // SAFETY: Initialised above, as `register_virtio_device` asks for; it stays until `release`.
        let error = unsafe { raw::register_virtio_device(vdev) };
        if error != 0 {
            // SAFETY: Even if it fails, it has initialised the device, which this gives up.
            unsafe { raw::put_device(&raw mut (*vdev).dev) };
        }
        kernel::error::to_result(error).map(|()| Self(transport))
    }

    /// Tells the driver that the config space has changed.
    pub(crate) fn config_changed(&self) {
        // SAFETY: Registered.
        unsafe { raw::virtio_config_changed(self.0.vdev.get()) };
    }

    /// Resets the device. May sleep.
    pub(crate) fn reset(&mut self) -> Result {
        let vdev = self.0.vdev.get();
        // SAFETY: Registered until `self` is dropped. `&mut` keeps a second reset away.
        kernel::error::to_result(unsafe { raw::virtio_device_reset_prepare(vdev) })?;
        // SAFETY: As above.
        kernel::error::to_result(unsafe { raw::virtio_device_reset_done(vdev) })
    }

    /// Has the driver get ready for the machine's sleep, as a transport does. May sleep.
    pub(crate) fn freeze(&mut self) -> Result {
        // SAFETY: Registered until `self` is dropped. `&mut` keeps resets away.
        kernel::error::to_result(unsafe { raw::virtio_device_freeze(self.0.vdev.get()) })
    }

    /// Has the driver go on after that, with a device that was reset. May sleep.
    pub(crate) fn thaw(&mut self) -> Result {
        // SAFETY: As above.
        kernel::error::to_result(unsafe { raw::virtio_device_restore(self.0.vdev.get()) })
    }

    /// The device ceases to work, as one does that is torn out.
    pub(crate) fn break_down(&self) {
        // SAFETY: Registered.
        unsafe { raw::virtio_break_device(self.0.vdev.get()) };
    }
}

impl<H: Hypervisor> Drop for Registration<H> {
    fn drop(&mut self) {
        // SAFETY: Registered by `new`.
        unsafe { raw::unregister_virtio_device(self.0.vdev.get()) };
        self.0.released.wait_for_completion();
    }
}
