// SPDX-License-Identifier: GPL-2.0

//! Event flags, which are set in any context, and which one thread waits for.

use super::raw;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Relaxed;
use kernel::types::Opaque;

/// The event flags of one thread.
#[pin_data]
pub(crate) struct EventFlags {
    #[pin]
    queue: Opaque<raw::wait_queue_head>,
    flags: Atomic<u32>,
    /// The number of the processor where [`EventFlags::set_from_irq`] ran last.
    processor: Atomic<u32>,
}

// SAFETY: The wait queue has a lock of its own, the rest is atomic.
unsafe impl Send for EventFlags {}
// SAFETY: The wait queue has a lock of its own, the rest is atomic.
unsafe impl Sync for EventFlags {}

impl EventFlags {
    /// Event flags of which none is set.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: `slot` is valid for writes and pinned.
            queue <- Opaque::ffi_init(|slot| unsafe { raw::vmem_init_waitqueue(slot) }),
            flags: Atomic::new(0),
            processor: Atomic::new(u32::MAX),
        })
    }

    /// Sets `flags`, with a full memory barrier, and wakes the thread. Any context, also hard
    /// interrupts.
    pub(crate) fn set(&self, flags: u32) {
        let mut old = self.flags.load(Relaxed);
        while let Err(now) = self.flags.cmpxchg(old, old | flags, Full) {
            old = now;
        }
        // SAFETY: Initialised in `new`.
        unsafe { raw::vmem_wake_up(self.queue.get()) };
    }

    /// Sets `flags` like [`EventFlags::set`], in the handler of an interrupt that begins some work, and notes
    /// the processor that it runs on. Any context, also hard interrupts.
    pub(crate) fn set_from_irq(&self, flags: u32) {
        // SAFETY: No preconditions.
        let processor = unsafe { raw::vmem_processor() };
        self.processor.store(processor, Relaxed);
        self.set(flags);
    }

    /// Moves the current thread, which waits for these flags, to the processor where
    /// [`EventFlags::set_from_irq`] was called last. That processor is awake at the next interrupt. The
    /// scheduler would wake the thread where it ran last, as long as that processor is idle, and to wake
    /// an idle processor takes longer than anything else in a small request. May sleep.
    pub(crate) fn migrate_to_irq_cpu(&self) {
        // SAFETY: The current thread may sleep.
        unsafe { raw::vmem_move_to_processor(self.processor.load(Relaxed)) };
    }

    /// Clears the flags of `mask`, and returns those of them that were set. Any context.
    pub(crate) fn clear(&self, mask: u32) -> u32 {
        let mut old = self.flags.load(Relaxed);
        while let Err(now) = self.flags.cmpxchg(old, old & !mask, Full) {
            old = now;
        }
        old & mask
    }

    /// Whether one of the flags of `mask` is set. Any context.
    pub(crate) fn is_set(&self, mask: u32) -> bool {
        self.flags.load(Acquire) & mask != 0
    }

    /// Sleeps until one of the flags of `mask` is set or `timeout_ms` have passed (`None`: without
    /// limit). Returns whether one is set. Neither the load average nor the hung task detector
    /// count this sleep.
    pub(crate) fn wait(&self, mask: u32, timeout_ms: Option<u64>) -> bool {
        let timeout = timeout_ms.unwrap_or(u64::MAX);
        // SAFETY: Queue and flags live as long as `self`; the flags are only read, atomically.
        unsafe { raw::vmem_wait_idle(self.queue.get(), self.flags.as_ptr(), mask, timeout) }
    }
}
