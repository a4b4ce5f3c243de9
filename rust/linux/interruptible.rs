// SPDX-License-Identifier: GPL-2.0

//! Attempts of one thread that can be interrupted.
//!
//! An *attempt* is a call that may last without an end, as `offline_pages()` does while pages
//! cannot be migrated. A deadline, or another thread, ends it by a signal, which is the only thing
//! that `offline_pages()` gives up for.

use super::raw;
use core::ptr;
use core::ptr::NonNull;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Release;
use kernel::task::Task;
use kernel::types::Opaque;

/// The signal that interrupts an attempt. Only the kernel can send it to the thread.
const SIGNAL: c_int = 9; // SIGKILL

/// What the attempts of one thread are interrupted by.
///
/// # Invariants
///
/// `task` is null or points to a task on which `self` holds a reference.
#[pin_data(PinnedDrop)]
pub(crate) struct Interruptible {
    #[pin]
    deadline: Opaque<raw::timer_list>,
    task: Atomic<*mut raw::task_struct>,
}

// SAFETY: The timer has a lock of its own, the rest is atomic.
unsafe impl Send for Interruptible {}
// SAFETY: The timer has a lock of its own, the rest is atomic.
unsafe impl Sync for Interruptible {}

impl Interruptible {
    /// For a thread that is not known yet.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: `slot` is valid for writes and pinned.
            deadline <- Opaque::ffi_init(|slot| unsafe {
                raw::vmem_timer_setup(slot, Some(Self::deadline_passed))
            }),
            task: Atomic::new(ptr::null_mut()),
        })
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

    /// Interrupts the attempt under way. Any context, also hard interrupts.
    ///
    /// A signal that comes when the attempt has just ended does no harm: it is discarded before the
    /// next attempt, and ends no sleep of the thread.
    pub(crate) fn interrupt(&self) {
        let task = self.task.load(Acquire);
        if !task.is_null() {
            // SAFETY: By the type invariant the task is valid. `send_sig` can be called from any
            // context, and copes with tasks that have exited.
            unsafe { raw::send_sig(SIGNAL, task, 1) };
        }
    }

    extern "C" fn deadline_passed(timer: *mut raw::timer_list) {
        // SAFETY: The timer is only ever set up by `new`, inside an `Interruptible`, and `attempt`
        // does not return while it may run. `Opaque` is transparent.
        let this = unsafe {
            &*kernel::container_of!(timer.cast::<Opaque<raw::timer_list>>(), Self, deadline)
        };
        this.interrupt();
    }

    /// Runs `attempt` on the attached thread. A signal interrupts it after `deadline_ms`, and
    /// whenever [`Interruptible::interrupt`] is called meanwhile, also by `attempt` itself. May
    /// sleep.
    pub(crate) fn attempt<R>(&self, deadline_ms: u64, attempt: impl FnOnce() -> R) -> R {
        self.discard_signals();
        // SAFETY: The timer was set up in `new`.
        unsafe { raw::vmem_timer_start(self.deadline.get(), deadline_ms) };
        let result = attempt();
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
impl PinnedDrop for Interruptible {
    fn drop(self: Pin<&mut Self>) {
        if let Some(task) = NonNull::new(self.task.load(Acquire).cast::<Task>()) {
            // SAFETY: By the type invariant `self` holds a reference, which is given up here.
            drop(unsafe { ARef::from_raw(task) });
        }
    }
}
