// SPDX-License-Identifier: GPL-2.0

//! Waking, and interrupting, one worker thread.
//!
//! Anybody rings, from any context; the thread waits for it. While the thread makes an *attempt*,
//! something that the kernel would go on with for ever (`offline_pages()` does, while pages cannot
//! be migrated), certain rings and a deadline interrupt it with a signal, the one thing that
//! `offline_pages()` gives up for.

use super::raw;
use core::ptr;
use core::ptr::NonNull;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Relaxed;
use kernel::sync::atomic::Release;
use kernel::task::Task;
use kernel::types::Opaque;

/// The signal that interrupts an attempt. Only the kernel can send it to the thread.
const SIGNAL: c_int = 10; // SIGUSR1

/// See the module's documentation.
///
/// # Invariants
///
/// `task` is null or points to a task on which the bell holds a reference.
#[pin_data(PinnedDrop)]
pub(crate) struct Bell {
    #[pin]
    queue: Opaque<raw::wait_queue_head>,
    #[pin]
    deadline: Opaque<raw::timer_list>,
    rung: Atomic<u32>,
    /// The number of the processor where [`Bell::ring_here`] ran last.
    processor: Atomic<u32>,
    /// Which rings interrupt the attempt under way; 0 while there is none.
    interrupting: Atomic<u32>,
    task: Atomic<*mut raw::task_struct>,
}

// SAFETY: The wait queue and the timer have locks of their own, the rest is atomic.
unsafe impl Send for Bell {}
// SAFETY: As above.
unsafe impl Sync for Bell {}

impl Bell {
    /// A bell that nobody has rung.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: `slot` is valid for writes and pinned.
            queue <- Opaque::ffi_init(|slot| unsafe { raw::vmem_init_waitqueue(slot) }),
            // SAFETY: `slot` is valid for writes and pinned.
            deadline <- Opaque::ffi_init(|slot| unsafe {
                raw::vmem_timer_setup(slot, Some(Self::deadline_passed))
            }),
            rung: Atomic::new(0),
            processor: Atomic::new(u32::MAX),
            interrupting: Atomic::new(0),
            task: Atomic::new(ptr::null_mut()),
        })
    }

    /// Rings: sets `bits`, wakes the thread, and interrupts its attempt if it is one that these
    /// bits interrupt. Any context, also hard interrupts.
    pub(crate) fn ring(&self, bits: u32) {
        let mut old = self.rung.load(Relaxed);
        while let Err(now) = self.rung.cmpxchg(old, old | bits, Full) {
            old = now;
        }
        if self.interrupting.load(Acquire) & bits != 0 {
            self.interrupt();
        }
        // SAFETY: Initialised in `new`.
        unsafe { raw::vmem_wake_up(self.queue.get()) };
    }

    /// As [`Bell::ring`], for an interrupt that begins some work: that may well run where it did.
    pub(crate) fn ring_here(&self, bits: u32) {
        // SAFETY: No preconditions.
        let processor = unsafe { raw::vmem_processor() };
        self.processor.store(processor, Relaxed);
        self.ring(bits);
    }

    /// Moves the current thread, the one that is rung for, to the processor where
    /// [`Bell::ring_here`] was called last, which is awake when it calls again. The scheduler wakes
    /// the thread where it ran last as long as that processor is idle, and waking an idle one takes
    /// longer than anything else in a small request. May sleep.
    pub(crate) fn move_near(&self) {
        // SAFETY: The current thread may sleep.
        unsafe { raw::vmem_move_to_processor(self.processor.load(Relaxed)) };
    }

    /// Takes the bits of `mask` that have been rung.
    pub(crate) fn take(&self, mask: u32) -> u32 {
        let mut old = self.rung.load(Relaxed);
        while let Err(now) = self.rung.cmpxchg(old, old & !mask, Full) {
            old = now;
        }
        old & mask
    }

    /// Whether one of the bits of `mask` has been rung and not taken.
    pub(crate) fn is_rung(&self, mask: u32) -> bool {
        self.rung.load(Acquire) & mask != 0
    }

    /// Sleeps until one of the bits of `mask` is set or `timeout_ms` have passed (`None`: without
    /// limit). Returns whether one is set. Neither the load average nor the hung task detector
    /// count this sleep.
    pub(crate) fn wait(&self, mask: u32, timeout_ms: Option<u64>) -> bool {
        let timeout = timeout_ms.unwrap_or(u64::MAX);
        // SAFETY: Queue and bits live as long as `self`; the bits are only read, atomically.
        unsafe { raw::vmem_wait_idle(self.queue.get(), self.rung.as_ptr(), mask, timeout) }
    }

    /// Makes the calling kernel thread the one whose attempts are interrupted. To be called once.
    pub(crate) fn attach_current(&self) {
        // SAFETY: The calling thread is a kernel thread; the signal number is valid.
        unsafe { raw::vmem_allow_kernel_signal(SIGNAL) };
        let task: ARef<Task> = (&**kernel::current!()).into();
        // INVARIANT: The reference is handed over to the bell.
        let task = ARef::into_raw(task);
        self.task.store(task.as_ptr().cast(), Release);
    }

    fn interrupt(&self) {
        let task = self.task.load(Acquire);
        if !task.is_null() {
            // SAFETY: By the type invariant the task is valid. `send_sig` can be called from any
            // context, and copes with tasks that have exited.
            unsafe { raw::send_sig(SIGNAL, task, 1) };
        }
    }

    extern "C" fn deadline_passed(timer: *mut raw::timer_list) {
        // SAFETY: The timer is only ever set up by `new`, inside a `Bell`, and `attempt` does not
        // return while it may run. `Opaque` is transparent.
        let bell = unsafe {
            &*kernel::container_of!(timer.cast::<Opaque<raw::timer_list>>(), Self, deadline)
        };
        bell.interrupt();
    }

    /// Runs `attempt` on the attached thread, interrupting it after `deadline_ms` and when one of
    /// the bits of `rings` is rung.
    ///
    /// A signal that comes too late, because the attempt has just ended, does no harm: it is
    /// thrown away before the next one, and no sleep of the thread ends because of it.
    pub(crate) fn attempt<R>(
        &self,
        deadline_ms: u64,
        rings: u32,
        attempt: impl FnOnce() -> R,
    ) -> R {
        self.discard_signals();
        // Full: either `ring` sees this, or the check below sees what was rung.
        self.interrupting.xchg(rings, Full);
        // SAFETY: The timer was set up in `new`.
        unsafe { raw::vmem_timer_start(self.deadline.get(), deadline_ms) };
        if self.is_rung(rings) {
            self.interrupt();
        }
        let result = attempt();
        self.interrupting.store(0, Release);
        // SAFETY: The timer was set up in `new`; the caller holds no lock that its function takes
        // (that is the signal lock of the calling thread).
        unsafe { raw::timer_delete_sync(self.deadline.get()) };
        self.discard_signals();
        result
    }

    /// Forgets signals sent to the calling thread.
    fn discard_signals(&self) {
        // SAFETY: Works on the current task.
        unsafe { raw::vmem_flush_signals() };
    }
}

#[pinned_drop]
impl PinnedDrop for Bell {
    fn drop(self: Pin<&mut Self>) {
        if let Some(task) = NonNull::new(self.task.load(Acquire).cast::<Task>()) {
            // SAFETY: By the type invariant the bell holds a reference, which it gives up here.
            drop(unsafe { ARef::from_raw(task) });
        }
    }
}
