// SPDX-License-Identifier: GPL-2.0

//! A kernel thread that runs one function until it returns.

use super::raw;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;
use kernel::task::Task;

/// What a thread runs.
pub(crate) trait Run: Send + Sync + 'static {
    /// The thread's function, called once, in process context. It has to return soon after
    /// [`Run::stop`].
    fn run(&self);

    /// Makes [`Run::run`] return. Called from another thread, and possibly when `run` has returned
    /// or was never called.
    fn stop(&self);
}

/// A running thread; stopped and waited for when dropped (may sleep).
///
/// # Invariants
///
/// `argument` came out of `Arc::into_raw`, and belongs to the thread once its function has been
/// called.
pub(crate) struct Thread<T: Run> {
    task: ARef<Task>,
    runner: Arc<T>,
    argument: *const T,
}

// SAFETY: `argument` is only used as the `Arc<T>` that it was, which is `Send` and `Sync`.
unsafe impl<T: Run> Send for Thread<T> {}
// SAFETY: As above.
unsafe impl<T: Run> Sync for Thread<T> {}

impl<T: Run> Thread<T> {
    /// Starts a thread named `name` on the memory of node `node` (-1: any).
    pub(crate) fn start(runner: Arc<T>, node: c_int, name: &CStr) -> Result<Self> {
        let argument = Arc::into_raw(runner.clone());
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
            // SAFETY: The thread does not exist, so this is still ours.
            drop(unsafe { Arc::from_raw(argument) });
        })?;
        // SAFETY: The task has just been created and cannot exit before it is woken; it is not
        // null. `Task` is a transparent wrapper.
        let task_ref: ARef<Task> = unsafe { &*task.cast::<Task>() }.into();
        // SAFETY: The task is valid.
        unsafe { raw::wake_up_process(task) };
        // INVARIANT: See above for `argument`.
        Ok(Self {
            task: task_ref,
            runner,
            argument,
        })
    }

    extern "C" fn main(argument: *mut c_void) -> c_int {
        // SAFETY: By the type invariant; called once.
        let runner = unsafe { Arc::from_raw(argument.cast_const().cast::<T>()) };
        runner.run();
        0
    }
}

impl<T: Run> Drop for Thread<T> {
    fn drop(&mut self) {
        self.runner.stop();
        // SAFETY: We hold a reference on the task, so it is valid even if its function has
        // returned already.
        let result = unsafe { raw::kthread_stop(self.task.as_ptr().cast()) };
        if result != 0 {
            // `main` always returns 0: it was never called (kthread(), -EINTR).
            // SAFETY: So, by the type invariant, the argument is still ours.
            drop(unsafe { Arc::from_raw(self.argument) });
        }
    }
}
