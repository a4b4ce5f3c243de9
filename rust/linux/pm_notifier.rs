// SPDX-License-Identifier: GPL-2.0

//! Refusing hibernation.
//!
//! C header: [`include/linux/suspend.h`](srctree/include/linux/suspend.h)

use super::raw;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::types::Opaque;

/// Whether the machine is being suspended to RAM, or to anything but idling: devices may lose their
/// state and memory its power.
pub(crate) fn suspending_to_ram() -> bool {
    // SAFETY: Reads one word, which only the PM core writes: before it calls drivers to suspend and
    // after they have resumed (`pm_suspend()`), so not while one of them asks.
    unsafe { raw::vmem_suspending_to_ram() }
}

/// What refuses.
pub(crate) trait Veto: Send + Sync {
    /// Somebody wants to hibernate, or to restore an image: says why that is not possible.
    fn explain(&self);
}

/// As long as this lives the machine neither hibernates nor restores an image.
#[pin_data(PinnedDrop)]
pub(crate) struct NoHibernation<T: Veto> {
    #[pin]
    block: Opaque<raw::notifier_block>,
    veto: T,
}

// SAFETY: The notifier chain has locks of its own, and `T` is `Send` and `Sync`.
unsafe impl<T: Veto> Send for NoHibernation<T> {}
// SAFETY: As above.
unsafe impl<T: Veto> Sync for NoHibernation<T> {}

impl<T: Veto> NoHibernation<T> {
    /// Starts to refuse. May sleep.
    pub(crate) fn new(veto: T) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            veto,
            block <- Opaque::try_ffi_init(|slot: *mut raw::notifier_block| {
                let block = raw::notifier_block {
                    notifier_call: Some(Self::callback),
                    // Before anybody has prepared anything.
                    priority: c_int::MAX,
                    ..Default::default()
                };
                // SAFETY: `slot` is valid for writes.
                unsafe { slot.write(block) };
                // SAFETY: The block is pinned, stays until `drop` unregisters it, and `veto`,
                // which the callback uses, is initialised already.
                to_result(unsafe { raw::vmem_register_pm_notifier(slot) })
            }),
        })
    }

    extern "C" fn callback(
        block: *mut raw::notifier_block,
        action: c_ulong,
        _: *mut c_void,
    ) -> c_int {
        match u32::try_from(action).unwrap_or(0) {
            raw::PM_HIBERNATION_PREPARE | raw::PM_RESTORE_PREPARE => {
                // SAFETY: The block is the one in a `NoHibernation`, which is not dropped while
                // the chain runs; `Opaque` is transparent.
                let this = unsafe {
                    &*kernel::container_of!(
                        block.cast::<Opaque<raw::notifier_block>>(),
                        Self,
                        block
                    )
                };
                this.veto.explain();
                raw::NOTIFY_BAD as c_int
            }
            _ => raw::NOTIFY_OK as c_int,
        }
    }
}

#[pinned_drop]
impl<T: Veto> PinnedDrop for NoHibernation<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Registered by `new`. Waits for callbacks under way.
        unsafe { raw::vmem_unregister_pm_notifier(self.block.get()) };
    }
}
