// SPDX-License-Identifier: GPL-2.0

//! A virtqueue for one request at a time.
//!
//! C header: [`include/linux/virtio.h`](srctree/include/linux/virtio.h)

use super::raw;
use super::virtio::Device;
use super::virtio::Handle;
use core::ptr::NonNull;
use kernel::device;
use kernel::error::from_err_ptr;
use kernel::prelude::*;
use kernel::types::Opaque;

/// Far enough apart that on no machine the two share what a cache deals in.
#[repr(C, align(128))]
struct Separate<T>(T);

/// What the device reads and writes for one request. It may write until it is reset.
#[repr(C)]
struct Buffer<const REQUEST: usize, const RESPONSE: usize> {
    request: Separate<[u8; REQUEST]>,
    response: Separate<[u8; RESPONSE]>,
}

/// Requests take turns with as many buffers.
///
/// The ring does not tell an answer that a device gives twice from the answer to the next request:
/// both name the same descriptor. In a buffer of its own nobody has written anything for that one.
const BUFFERS: usize = 4;

/// What a response is before the device has written it: zeroes would be an acknowledgement.
const UNANSWERED: u8 = 0xff;

/// The queue, with its buffers. It belongs into the driver's data of the device, so that it is
/// dropped while the device still exists, and no earlier than the queue is deleted. Where a thread may
/// keep it for longer, it has to be retired before the driver is unbound.
///
/// # Invariants
///
/// `queue` is a virtqueue of the device that `handle` stands for, until that is reset; it is not
/// one while `suspended`, when `in_flight` keeps everybody from using it, and for ever when there is no
/// `handle`.
pub(crate) struct RequestQueue<const REQUEST: usize, const RESPONSE: usize> {
    queue: NonNull<raw::virtqueue>,
    handle: Option<Handle>,
    buffers: KBox<[Opaque<Buffer<REQUEST, RESPONSE>>; BUFFERS]>,
    /// How many requests there were, whose buffers have been used in turn.
    requests: usize,
    in_flight: bool,
    suspended: bool,
}

// SAFETY: The queue may be used from any thread, by one at a time, which `&mut` ensures.
unsafe impl<const A: usize, const B: usize> Send for RequestQueue<A, B> {}
// SAFETY: Nothing can be done with a shared reference but to read the config space.
unsafe impl<const A: usize, const B: usize> Sync for RequestQueue<A, B> {}

impl<const REQUEST: usize, const RESPONSE: usize> RequestQueue<REQUEST, RESPONSE> {
    /// Sets the device's only queue up. The device's [`Interrupts`](super::virtio::Interrupts)
    /// receive that an answer has arrived. May sleep.
    ///
    /// To be called before the device is used for anything else: one whose queue another driver has
    /// left enabled is reset (the kernel's own driver does, when it refuses memory that was left
    /// plugged; `vp_modern_find_vqs()` finds no queue then).
    pub(crate) fn new(dev: &Device<device::Core<'_>>, name: &'static CStr) -> Result<Self> {
        let buffer = |_| {
            Opaque::new(Buffer {
                request: Separate([0; REQUEST]),
                response: Separate([UNANSWERED; RESPONSE]),
            })
        };
        let buffers = KBox::new(core::array::from_fn(buffer), GFP_KERNEL)?;
        Ok(Self {
            queue: Self::find(dev, name).or_else(|_| {
                dev.renegotiate()?;
                Self::find(dev, name)
            })?,
            // SAFETY: The queue goes away with the driver's data, or gives the handle up before that
            // (`retire`), see the type's documentation.
            handle: Some(unsafe { Handle::new(dev) }),
            buffers,
            requests: 0,
            in_flight: false,
            suspended: false,
        })
    }

    fn find(
        dev: &Device<device::Core<'_>>,
        name: &'static CStr,
    ) -> Result<NonNull<raw::virtqueue>> {
        // SAFETY: The device is valid and has no queues now; callback and name are static.
        let queue = from_err_ptr(unsafe {
            raw::vmem_find_single_vq(dev.as_raw(), Some(Self::answered), name.as_char_ptr())
        })?;
        NonNull::new(queue).ok_or(ENOENT)
    }

    /// Resets the device and deletes the queue; a request under way is lost. Nothing but
    /// [`RequestQueue::resume`] may follow. May sleep.
    pub(crate) fn suspend(&mut self) {
        if let Some(device) = self.device() {
            device.shut_down();
        }
        self.queue = NonNull::dangling();
        // The device has given all buffers back by its reset, but nothing is to be sent.
        self.in_flight = true;
        self.suspended = true;
    }

    /// As [`RequestQueue::suspend`], for ever: the device may go. May sleep.
    pub(crate) fn retire(&mut self) {
        self.suspend();
        self.handle = None;
    }

    /// Sets the queue up again, with the arguments of [`RequestQueue::new`]. May sleep.
    pub(crate) fn resume(&mut self, dev: &Device<device::Core<'_>>, name: &'static CStr) -> Result {
        self.queue = Self::find(dev, name)?;
        self.in_flight = false;
        self.suspended = false;
        Ok(())
    }

    extern "C" fn answered(queue: *mut raw::virtqueue) {
        // (The queue's own `priv` belongs to the transport.)
        // SAFETY: Called with a valid queue of a valid device.
        let vdev = unsafe { &*(*queue).vdev.cast::<Device>() };
        // SAFETY: The receiver is given up after the queues have been deleted, which waits for
        // callbacks.
        if let Some(interrupts) = unsafe { vdev.interrupts() } {
            interrupts.buffer_used();
        }
    }

    /// The device of the queue, unless that is retired.
    pub(crate) fn device(&self) -> Option<&Device> {
        self.handle.as_ref().map(Handle::device)
    }

    /// The buffer of the last request.
    fn buffer(&self) -> *mut Buffer<REQUEST, RESPONSE> {
        let [first, ..] = &*self.buffers;
        let turn = self.buffers.get(self.requests % BUFFERS);
        turn.unwrap_or(first).get()
    }

    /// Sends a request. `EBUSY`: the answer to the last one is outstanding. `EIO`: the ring is of no
    /// use any more; it is when there was an answer to nothing, as by then answers and requests are
    /// out of step. May sleep.
    pub(crate) fn send(&mut self, request: &[u8; REQUEST]) -> Result {
        if self.in_flight {
            return Err(EBUSY);
        }
        let mut written = 0;
        // SAFETY: Valid queue, used by us alone: not suspended, as nothing is in flight. An answer
        // to nothing makes the kernel declare the queue broken, and returns no token.
        if !unsafe { raw::virtqueue_get_buf(self.queue.as_ptr(), &mut written) }.is_null() {
            return Err(EIO);
        }
        self.requests = self.requests.wrapping_add(1);
        let buffer = self.buffer();
        // SAFETY: The buffer is part of the allocation, which lives until the queue is deleted. By the
        // virtio protocol it is ours alone, as nothing is in flight. A device that breaks that may
        // still write to it: all of it are bytes, of which any value is valid, and volatile accesses
        // assume nothing about what is there before or after.
        unsafe {
            (&raw mut (*buffer).request.0).write_volatile(*request);
            (&raw mut (*buffer).response.0).write_volatile([UNANSWERED; RESPONSE]);
        }
        let (mut out, mut inward) = (raw::scatterlist::default(), raw::scatterlist::default());
        // SAFETY: Valid list heads; both buffers were allocated by kmalloc(), as DMA needs. Their
        // lengths fit, being those of a protocol's messages.
        unsafe {
            raw::sg_init_one(
                &mut out,
                (&raw const (*buffer).request).cast(),
                u32::try_from(REQUEST)?,
            );
            raw::sg_init_one(
                &mut inward,
                (&raw const (*buffer).response).cast(),
                u32::try_from(RESPONSE)?,
            );
        }
        let mut lists = [&raw mut out, &raw mut inward];
        // SAFETY: One list out, one in; the token (the buffer's address) is not null. The queue is
        // valid by the type invariant, and `&mut self` keeps others away.
        kernel::error::to_result(unsafe {
            raw::virtqueue_add_sgs(
                self.queue.as_ptr(),
                lists.as_mut_ptr(),
                1,
                1,
                buffer.cast(),
                raw::GFP_KERNEL,
            )
        })?;
        self.in_flight = true;
        // SAFETY: As above.
        if !unsafe { raw::virtqueue_kick(self.queue.as_ptr()) } {
            return Err(EIO);
        }
        Ok(())
    }

    /// Takes the answer, if it is there: the response and how many bytes of it the device says it
    /// has written. Where it has not, they are all [`UNANSWERED`].
    pub(crate) fn receive(&mut self) -> Option<([u8; RESPONSE], u32)> {
        if self.suspended {
            return None;
        }
        let mut written = 0;
        // SAFETY: Valid queue, used by us alone.
        let token = unsafe { raw::virtqueue_get_buf(self.queue.as_ptr(), &mut written) };
        if token.is_null() {
            return None;
        }
        self.in_flight = false;
        // SAFETY: The device has given the buffer back; one that is at fault may still write to it,
        // for which see `send`.
        let response = unsafe { (&raw const (*self.buffer()).response.0).read_volatile() };
        Some((response, written))
    }
}

impl<const REQUEST: usize, const RESPONSE: usize> Drop for RequestQueue<REQUEST, RESPONSE> {
    fn drop(&mut self) {
        // Only when probing failed: otherwise both happened when the driver was unbound. Without
        // them the device could write to a buffer that is no longer ours.
        if let Some(device) = self.device().filter(|device| device.has_queues()) {
            device.shut_down();
        }
    }
}
