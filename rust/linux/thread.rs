// SPDX-License-Identifier: GPL-2.0

//! A kernel thread that runs one function until it returns.

use super::raw;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;
use kernel::sync::Completion;
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
pub(crate) struct Thread<T: Run> {
    task: ARef<Task>,
    runner: Arc<T>,
    returned: Arc<Completion>,
}

/// What the thread begins with.
struct Start<T> {
    runner: Arc<T>,
    returned: Arc<Completion>,
}

impl<T: Run> Thread<T> {
    /// Starts a thread named `name` on the memory of node `node` (-1: any).
    pub(crate) fn start(runner: Arc<T>, node: c_int, name: &CStr) -> Result<Self> {
        let returned = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
        let start = Start {
            runner: runner.clone(),
            returned: returned.clone(),
        };
        let argument = KBox::into_raw(KBox::new(start, GFP_KERNEL)?);
        // SAFETY: `main` takes what `argument` is; the format and its argument are valid C
        // strings, of which the kernel makes a copy.
        let task = unsafe {
            raw::kthread_create_on_node(
                Some(Self::main),
                argument.cast(),
                node,
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        };
        let task = kernel::error::from_err_ptr(task).inspect_err(|_| {
            // SAFETY: The thread does not exist, so this is still ours.
            drop(unsafe { KBox::from_raw(argument) });
        })?;
        // SAFETY: The task has just been created and cannot exit before it is woken; it is not
        // null. `Task` is a transparent wrapper.
        let task_ref: ARef<Task> = unsafe { &*task.cast::<Task>() }.into();
        // SAFETY: The task is valid.
        unsafe { raw::wake_up_process(task) };
        Ok(Self {
            task: task_ref,
            runner,
            returned,
        })
    }

    extern "C" fn main(argument: *mut c_void) -> c_int {
        // SAFETY: What `start` has handed over; called once.
        let start = unsafe { KBox::from_raw(argument.cast::<Start<T>>()) };
        start.runner.run();
        start.returned.complete_all();
        0
    }
}

impl<T: Run> Drop for Thread<T> {
    fn drop(&mut self) {
        self.runner.stop();
        // Nobody else stops it, so `main` is called. A thread that kthread_stop() is called for has
        // a signal pending for good (TIF_NOTIFY_SIGNAL), with which no memory goes offline any more.
        self.returned.wait_for_completion();
        // SAFETY: We hold a reference on the task, so it is valid even if it has exited already.
        unsafe { raw::kthread_stop(self.task.as_ptr().cast()) };
    }
}
