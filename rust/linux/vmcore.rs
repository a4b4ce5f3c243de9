// SPDX-License-Identifier: GPL-2.0

//! In a crash kernel: saying which memory of the crashed one may be read.
//!
//! C header: [`include/linux/crash_dump.h`](srctree/include/linux/crash_dump.h)

use super::raw;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::Opaque;

/// Who knows about memory of the crashed kernel.
pub(crate) trait Dump: Send + Sync + 'static {
    /// Whether the page at this physical address may be read. Where somebody says no, `/proc/vmcore`
    /// shows zeroes. May sleep.
    fn is_ram(&self, addr: u64) -> bool;
}

/// Somebody who is asked as long as this lives. Whoever has `/proc/vmcore` open by then is not
/// kept from reading what was there before.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: Dump> {
    #[pin]
    callback: Opaque<raw::vmcore_cb>,
    dump: Arc<T>,
}

// SAFETY: The list of callbacks has a lock of its own, and `dump` is `Send` and `Sync`.
unsafe impl<T: Dump> Send for Registration<T> {}
// SAFETY: As above.
unsafe impl<T: Dump> Sync for Registration<T> {}

impl<T: Dump> Registration<T> {
    /// Registers `dump`. May sleep.
    pub(crate) fn new(dump: Arc<T>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            dump,
            callback <- Opaque::ffi_init(|slot: *mut raw::vmcore_cb| {
                let callback = raw::vmcore_cb {
                    pfn_is_ram: Some(Self::pfn_is_ram),
                    ..Default::default()
                };
                // SAFETY: `slot` is valid for writes.
                unsafe { slot.write(callback) };
                // SAFETY: The callback is pinned, stays until `drop` unregisters it, and `dump`,
                // which it uses, is initialised already.
                unsafe { raw::register_vmcore_cb(slot) };
            }),
        })
    }

    extern "C" fn pfn_is_ram(callback: *mut raw::vmcore_cb, pfn: c_ulong) -> bool {
        // SAFETY: The callback is the one in a `Registration`, which is not dropped while it is
        // called; `Opaque` is transparent.
        let this = unsafe {
            &*kernel::container_of!(callback.cast::<Opaque<raw::vmcore_cb>>(), Self, callback)
        };
        let addr = (pfn as u64).saturating_mul(kernel::page::PAGE_SIZE as u64);
        this.dump.is_ram(addr)
    }
}

#[pinned_drop]
impl<T: Dump> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Registered by `new`. Waits for callbacks under way.
        unsafe { raw::unregister_vmcore_cb(self.callback.get()) };
    }
}
