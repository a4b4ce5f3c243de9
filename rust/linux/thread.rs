// SPDX-License-Identifier: GPL-2.0

//! A kernel thread that runs one function until it returns, and that can be left where it waits for
//! others.
//!
//! Functions of memory hotplug wait for `device_hotplug_lock`, and cannot be told not to. Who ejects a
//! device by ACPI has that lock, and waits until the driver is unbound (`acpi_device_hotplug()`). So who
//! unbinds does not wait for ever for a thread that is in such a call, but leaves it there, with all that
//! the call needs. When the call returns, the thread tidies up, and lets go of the rest and of the module.

use super::event_flags::EventFlags;
use super::raw;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::new_mutex;
use kernel::sync::Arc;
use kernel::sync::Completion;
use kernel::sync::Mutex;
use kernel::task::Task;

/// What a thread runs.
pub(crate) trait Run: Send + Sync + 'static {
    /// The thread's function, called once, in process context. It has to return soon after
    /// [`Run::stop`], but for the time that a call takes that it makes by way of [`Run::calls`].
    fn run(&self);

    /// Makes [`Run::run`] return. Called from another thread, and possibly when `run` has returned
    /// or was never called.
    fn stop(&self);

    /// In which calls the thread may be left; in none, if nothing else is said.
    fn calls(&self) -> &Calls {
        static NONE: Calls = Calls::new();
        &NONE
    }
}

/// Neither in a call nor left.
const OUTSIDE: u32 = 0;
/// In a call.
const INSIDE: u32 = 1;
/// Left in a call. This stays.
const LEFT: u32 = 2;

/// Whether a thread is in a call that may have to wait for others, and whether it was left there.
pub(crate) struct Calls(Atomic<u32>);

impl Calls {
    pub(crate) const fn new() -> Self {
        Self(Atomic::new(OUTSIDE))
    }

    /// Calls `f`, in which the calling thread may be left. It must not use anything that goes away with
    /// the device's driver.
    pub(crate) fn make<R>(&self, f: impl FnOnce() -> R) -> R {
        // A thread that was left is not waited for in any call.
        let _ = self.0.cmpxchg(OUTSIDE, INSIDE, Full);
        let result = f();
        let _ = self.0.cmpxchg(INSIDE, OUTSIDE, Full);
        result
    }

    /// Whether the thread was left.
    pub(crate) fn is_left(&self) -> bool {
        self.0.load(Acquire) == LEFT
    }

    fn leave(&self) -> bool {
        self.0.cmpxchg(INSIDE, LEFT, Full).is_ok()
    }
}

/// How many threads have been left and have not ended.
static COUNT: Atomic<i32> = Atomic::new(0);

/// Whether there is a thread that was left and has not let go of everything.
pub(crate) fn any_left() -> bool {
    COUNT.load(Acquire) != 0
}

/// The flag that is set when the thread's function has returned.
const RETURNED: u32 = 1 << 0;

/// How often to look whether a thread that has not returned is in a call, in milliseconds.
const LOOK_MS: u64 = 100;

/// What the thread has in common with who started it. `R` is what has to stay as long as it runs.
#[pin_data]
struct Shared<T, R> {
    runner: Arc<T>,
    #[pin]
    events: EventFlags,
    #[pin]
    returned: Completion,
    /// What the thread lets go of when it was left.
    #[pin]
    rest: Mutex<Option<R>>,
}

/// A running thread; stopped and waited for when dropped (may sleep).
pub(crate) struct Thread<T: Run, R: Send + Unpin + 'static = ()> {
    task: ARef<Task>,
    shared: Arc<Shared<T, R>>,
    /// It is not waited for any more.
    over: bool,
}

impl<T: Run, R: Send + Unpin + 'static> Thread<T, R> {
    /// Starts a thread named `name` on the memory of node `node` (-1: any).
    pub(crate) fn start(runner: Arc<T>, node: c_int, name: &CStr) -> Result<Self> {
        let shared = Arc::pin_init(
            pin_init!(Shared {
                runner,
                events <- EventFlags::new(),
                returned <- Completion::new(),
                rest <- new_mutex!(None),
            }),
            GFP_KERNEL,
        )?;
        let argument = shared.clone().into_raw();
        // SAFETY: `main` takes what `argument` is; the format and its argument are valid C
        // strings, of which the kernel makes a copy.
        let task = unsafe {
            raw::kthread_create_on_node(
                Some(Self::main),
                argument.cast_mut().cast(),
                node,
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        };
        let task = kernel::error::from_err_ptr(task).inspect_err(|_| {
            // SAFETY: The thread does not exist, so this reference is still ours.
            drop(unsafe { Arc::from_raw(argument) });
        })?;
        // SAFETY: The task has just been created and cannot exit before it is woken; it is not
        // null. `Task` is a transparent wrapper.
        let task_ref: ARef<Task> = unsafe { &*task.cast::<Task>() }.into();
        // SAFETY: The task is valid.
        unsafe { raw::wake_up_process(task) };
        Ok(Self {
            task: task_ref,
            shared,
            over: false,
        })
    }

    extern "C" fn main(argument: *mut c_void) -> c_int {
        // SAFETY: What `start` has handed over; called once.
        let shared = unsafe { Arc::from_raw(argument.cast_const().cast::<Shared<T, R>>()) };
        shared.runner.run();
        shared.returned.complete_all();
        shared.events.set(RETURNED);
        if !shared.runner.calls().is_left() {
            return 0;
        }
        let rest = shared.rest.lock().take();
        drop(rest);
        drop(shared);
        COUNT.fetch_add(-1, Full);
        // SAFETY: Who has left the thread has taken a reference on the module for it. Nothing of ours is
        // left on this stack, and it does not return.
        unsafe { raw::vmem_module_put_and_exit() }
    }

    /// Stops the thread, and lets go of `rest` after it. Where it goes on after `patience_ms`, and is in
    /// a call, it is left there: then it lets go of `rest` itself, and the result is `false`. May sleep.
    ///
    /// While the module is being unloaded no thread of it can be left.
    pub(crate) fn end(mut self, patience_ms: u64, rest: R) -> bool {
        self.shared.runner.stop();
        let mut patience_ms = patience_ms;
        while !self.shared.events.wait(RETURNED, Some(patience_ms)) {
            // SAFETY: No preconditions.
            if !unsafe { raw::vmem_module_get() } {
                break;
            }
            // The thread does not look before this is given up.
            let mut slot = self.shared.rest.lock();
            if self.shared.runner.calls().leave() {
                COUNT.fetch_add(1, Full);
                *slot = Some(rest);
                drop(slot);
                self.over = true;
                return false;
            }
            drop(slot);
            // SAFETY: The reference taken above. Who unloads the module waits for the lock of the device
            // from which the caller unbinds the driver.
            unsafe { raw::vmem_module_put() };
            patience_ms = LOOK_MS;
        }
        drop(self);
        drop(rest);
        true
    }
}

impl<T: Run, R: Send + Unpin + 'static> Drop for Thread<T, R> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        self.shared.runner.stop();
        // Nobody else stops it, so `main` is called. A thread that kthread_stop() is called for has
        // a signal pending for good (TIF_NOTIFY_SIGNAL), with which no memory goes offline any more.
        self.shared.returned.wait_for_completion();
        // SAFETY: We hold a reference on the task, so it is valid even if it has exited already.
        unsafe { raw::kthread_stop(self.task.as_ptr().cast()) };
    }
}
