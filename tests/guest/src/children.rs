// SPDX-License-Identifier: GPL-2.0

//! Waiting for children. PID 1 inherits every orphan, so one thread reaps
//! whatever ends and passes on the status of those that somebody waits for.

use std::collections::HashMap;
use std::io;
use std::process::Child;
use std::process::Command;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::Sender;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;

#[derive(Default)]
struct Table {
    waiting: Mutex<HashMap<i32, Sender<i32>>>,
    started: Condvar,
}

/// The children that somebody waits for.
#[derive(Clone)]
pub(crate) struct Children(Arc<Table>);

impl Children {
    /// Starts the thread that reaps.
    pub(crate) fn start() -> Self {
        let table = Arc::new(Table::default());
        let reaper = table.clone();
        thread::spawn(move || reap(&reaper));
        Self(table)
    }

    /// Starts a program. The receiver gets its exit status, or the negated number
    /// of the signal that ended it. (`Child::wait` would find nobody to wait for.)
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<(Child, Receiver<i32>)> {
        let (sender, receiver) = mpsc::channel();
        // Held over the start: the child may end before it is in the table.
        let mut waiting = self
            .0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        waiting.insert(pid(&child), sender);
        drop(waiting);
        self.0.started.notify_all();
        Ok((child, receiver))
    }
}

/// The process id in the type that the C library uses for it.
pub(crate) fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("process ids fit into pid_t")
}

fn reap(table: &Table) {
    loop {
        let mut status = 0;
        // SAFETY: `status` is valid for a write.
        let pid = unsafe { libc::waitpid(-1, &mut status, 0) };
        let mut waiting = table.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if pid > 0 {
            if let Some(sender) = waiting.remove(&pid) {
                // Nobody waits any more after a timeout.
                let _ = sender.send(outcome(status));
            }
        } else if waiting.is_empty() {
            // No children at all: sleep until one is started.
            drop(
                table
                    .started
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner),
            );
        }
    }
}

fn outcome(status: i32) -> i32 {
    if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        -libc::WTERMSIG(status)
    }
}
