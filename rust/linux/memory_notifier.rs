// SPDX-License-Identifier: GPL-2.0

//! Being told when memory goes online and offline.
//!
//! C header: [`include/linux/memory.h`](srctree/include/linux/memory.h)

use super::raw;
use kernel::device;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::Opaque;

/// What happens to a range of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It is about to go online; may be refused.
    GoingOnline,
    /// It is online.
    Online,
    /// It does not go online after all. Also sent to those who were never asked.
    CancelOnline,
    /// It is about to go offline; may be refused.
    GoingOffline,
    /// It is offline.
    Offline,
    /// It does not go offline after all. Also sent to those who were never asked.
    CancelOffline,
}

/// Says, though not more often than is good for the log, that a memory block is not let go online.
pub(crate) fn warn_denied(dev: &device::Device) {
    // SAFETY: A valid device, of which `device::Device` is a transparent wrapper.
    unsafe { raw::vmem_warn_denied(core::ptr::from_ref(dev).cast_mut().cast()) };
}

/// In a build for tests: for how many ms it takes a memory block longer to go offline, for each device.
#[cfg(vmem_test_hooks)]
pub(crate) static SLOW: super::param::Plain<c_ulong> = super::param::Plain::new(0);

#[cfg(vmem_test_hooks)]
fn delay(event: Event) {
    if event == Event::GoingOffline {
        let ms = i64::try_from(SLOW.get()).unwrap_or(0);
        kernel::time::delay::fsleep(kernel::time::Delta::from_millis(ms));
    }
}

#[cfg(not(vmem_test_hooks))]
fn delay(_: Event) {}

/// Who wants to be told.
pub(crate) trait Listener: Send + Sync + 'static {
    /// `event` happens to `size` bytes from `start`. The caller holds the device hotplug lock, the
    /// memory block's device lock, the memory hotplug lock for writing, and the notifier chain's
    /// lock; may sleep. An error refuses an event that can be refused.
    fn notify(&self, event: Event, start: u64, size: u64) -> Result;
}

/// A listener that is told as long as this lives.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: Listener> {
    #[pin]
    block: Opaque<raw::notifier_block>,
    listener: Arc<T>,
}

// SAFETY: The notifier chain has locks of its own, and the listener is `Send` and `Sync`.
unsafe impl<T: Listener> Send for Registration<T> {}
// SAFETY: As above.
unsafe impl<T: Listener> Sync for Registration<T> {}

impl<T: Listener> Registration<T> {
    /// Registers `listener`. Takes the notifier chain's lock; may sleep.
    pub(crate) fn new(listener: Arc<T>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            listener,
            block <- Opaque::try_ffi_init(|slot: *mut raw::notifier_block| {
                let block = raw::notifier_block {
                    notifier_call: Some(Self::callback),
                    ..Default::default()
                };
                // SAFETY: `slot` is valid for writes.
                unsafe { slot.write(block) };
                // SAFETY: The block is pinned, stays until `drop` unregisters it, and `listener`,
                // which the callback uses, is initialised already.
                to_result(unsafe { raw::register_memory_notifier(slot) })
            }),
        })
    }

    extern "C" fn callback(
        block: *mut raw::notifier_block,
        action: c_ulong,
        argument: *mut c_void,
    ) -> c_int {
        let event = match u32::try_from(action).unwrap_or(0) {
            raw::memory_block_state_MEM_GOING_ONLINE => Event::GoingOnline,
            raw::memory_block_state_MEM_ONLINE => Event::Online,
            raw::memory_block_state_MEM_CANCEL_ONLINE => Event::CancelOnline,
            raw::memory_block_state_MEM_GOING_OFFLINE => Event::GoingOffline,
            raw::memory_block_state_MEM_OFFLINE => Event::Offline,
            raw::memory_block_state_MEM_CANCEL_OFFLINE => Event::CancelOffline,
            _ => return raw::NOTIFY_DONE as c_int,
        };
        // SAFETY: The block is the one in a `Registration`, which is not dropped while the chain
        // runs; `Opaque` is transparent.
        let this = unsafe {
            &*kernel::container_of!(block.cast::<Opaque<raw::notifier_block>>(), Self, block)
        };
        // SAFETY: The memory notifier chain passes a `memory_notify` with these events.
        let range = unsafe { &*argument.cast::<raw::memory_notify>() };
        let page = kernel::page::PAGE_SIZE as u64;
        let start = (range.start_pfn as u64).saturating_mul(page);
        let size = (range.nr_pages as u64).saturating_mul(page);
        delay(event);
        match this.listener.notify(event, start, size) {
            Ok(()) => raw::NOTIFY_OK as c_int,
            // notifier_from_errno()
            Err(error) => {
                raw::NOTIFY_STOP_MASK as c_int | (raw::NOTIFY_OK as c_int - error.to_errno())
            }
        }
    }
}

#[pinned_drop]
impl<T: Listener> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Registered by `new`. Waits for callbacks under way.
        unsafe { raw::unregister_memory_notifier(self.block.get()) };
    }
}
