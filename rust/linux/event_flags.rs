// SPDX-License-Identifier: GPL-2.0

//! Event flags that wake one worker thread, or interrupt what it does.
//!
//! Flags are set in any context, and the thread waits for them. While the thread makes an *attempt*, a
//! call that may last without an end (`offline_pages()` does while pages cannot be migrated), certain
//! flags and a deadline send it a signal. A signal is the only thing that `offline_pages()` gives up
//! for.

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

/// The event flags of one worker thread.
///
/// # Invariants
///
/// `task` is null or points to a task on which these flags hold a reference.
#[pin_data(PinnedDrop)]
pub(crate) struct EventFlags {
    #[pin]
    queue: Opaque<raw::wait_queue_head>,
    #[pin]
    deadline: Opaque<raw::timer_list>,
    flags: Atomic<u32>,
    /// The number of the processor where [`EventFlags::set_from_irq`] ran last.
    processor: Atomic<u32>,
    /// The flags that interrupt the attempt under way; 0 while there is none.
    interrupting: Atomic<u32>,
    task: Atomic<*mut raw::task_struct>,
}

// SAFETY: The wait queue and the timer have locks of their own, the rest is atomic.
unsafe impl Send for EventFlags {}
// SAFETY: The wait queue and the timer have locks of their own, the rest is atomic.
unsafe impl Sync for EventFlags {}

impl EventFlags {
    /// Event flags of which none is set.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: `slot` is valid for writes and pinned.
            queue <- Opaque::ffi_init(|slot| unsafe { raw::vmem_init_waitqueue(slot) }),
            // SAFETY: `slot` is valid for writes and pinned.
            deadline <- Opaque::ffi_init(|slot| unsafe {
                raw::vmem_timer_setup(slot, Some(Self::deadline_passed))
            }),
            flags: Atomic::new(0),
            processor: Atomic::new(u32::MAX),
            interrupting: Atomic::new(0),
            task: Atomic::new(ptr::null_mut()),
        })
    }

    /// Sets `flags`, wakes the thread, and interrupts its attempt where one of them is to interrupt it.
    /// Any context, also hard interrupts.
    pub(crate) fn set(&self, flags: u32) {
        let mut old = self.flags.load(Relaxed);
        while let Err(now) = self.flags.cmpxchg(old, old | flags, Full) {
            old = now;
        }
        if self.interrupting.load(Acquire) & flags != 0 {
            self.interrupt();
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

    /// Makes the calling kernel thread the one whose attempts are interrupted. To be called once.
    pub(crate) fn attach_current(&self) {
        // SAFETY: The calling thread is a kernel thread; the signal number is valid.
        unsafe { raw::vmem_allow_kernel_signal(SIGNAL) };
        let task: ARef<Task> = (&**kernel::current!()).into();
        // INVARIANT: The reference is handed over to `self`.
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
        // SAFETY: The timer is only ever set up by `new`, inside a `EventFlags`, and `attempt` does not
        // return while it may run. `Opaque` is transparent.
        let this = unsafe {
            &*kernel::container_of!(timer.cast::<Opaque<raw::timer_list>>(), Self, deadline)
        };
        this.interrupt();
    }

    /// Runs `attempt` on the attached thread. A signal interrupts it after `deadline_ms`, and as soon as
    /// one of the flags of `interrupting` is set. May sleep.
    ///
    /// A signal that comes when the attempt has just ended does no harm: it is discarded before the next
    /// attempt, and ends no sleep of the thread.
    pub(crate) fn attempt<R>(
        &self,
        deadline_ms: u64,
        interrupting: u32,
        attempt: impl FnOnce() -> R,
    ) -> R {
        self.discard_signals();
        // Full: either `set` sees this, or the check below sees the flags that it has set.
        self.interrupting.xchg(interrupting, Full);
        // SAFETY: The timer was set up in `new`.
        unsafe { raw::vmem_timer_start(self.deadline.get(), deadline_ms) };
        if self.is_set(interrupting) {
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

    /// Discards the signals that were sent to the calling thread.
    fn discard_signals(&self) {
        // SAFETY: Works on the current task.
        unsafe { raw::vmem_flush_signals() };
    }
}

#[pinned_drop]
impl PinnedDrop for EventFlags {
    fn drop(self: Pin<&mut Self>) {
        if let Some(task) = NonNull::new(self.task.load(Acquire).cast::<Task>()) {
            // SAFETY: By the type invariant `self` holds a reference, which is given up here.
            drop(unsafe { ARef::from_raw(task) });
        }
    }
}
