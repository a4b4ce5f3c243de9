// SPDX-License-Identifier: GPL-2.0

//! A user of the guest who gives network interfaces the names of memory blocks, as any user may in
//! namespaces of their own.
//!
//! For each name there is a thread with a network namespace, whose loopback interface gets the name.
//! Reads commands from standard input, one a line, and answers each with a line of JSON.

use std::ffi::CString;
use std::io;
use std::io::BufRead;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::load::be_modest;
use crate::load::report;
use crate::pinned::check;

/// For the usage message.
pub(crate) const USAGE: &str = "vmem-guest names [--every MS] NAME...   (commands: report | quit)";

/// Who it is.
const NOBODY: u32 = 65534;

/// What each of the interfaces is called at first.
const LOOPBACK: &str = "lo";

/// `vmem-guest names`.
pub(crate) fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let mut names: Vec<String> = args.collect();
    let mut pause = None;
    if names.first().is_some_and(|name| name == "--every") {
        pause = names.get(1).and_then(|ms| ms.parse().ok());
        names.drain(..names.len().min(if pause.is_some() { 2 } else { 0 }));
    }
    if names.is_empty() || names.iter().any(|name| name.starts_with('-')) {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    match run(&names, pause.map(Duration::from_millis)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("names: {error}");
            ExitCode::from(3)
        }
    }
}

fn run(names: &[String], pause: Option<Duration>) -> io::Result<()> {
    be_modest()?;
    become_nobody()?;
    // SAFETY: Touches no memory. This is the only thread, as a new user namespace needs.
    check(unsafe { libc::unshare(libc::CLONE_NEWUSER) })?;
    let renamed = Arc::new(AtomicU64::new(0));
    let end = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    let threads: Vec<_> = names
        .iter()
        .map(|name| {
            let (name, sender) = (name.clone(), sender.clone());
            let (renamed, end) = (renamed.clone(), end.clone());
            thread::spawn(move || match Interface::new() {
                Ok(mut interface) => {
                    let result = interface.rename(&name);
                    let _ = sender.send(result);
                    interface.keep(&name, pause, &renamed, &end)
                }
                Err(error) => {
                    let _ = sender.send(Err(error));
                    Ok(())
                }
            })
        })
        .collect();
    for _ in names {
        receiver.recv().map_err(io::Error::other)??;
    }
    report(&json!({"event": "ready", "names": names.len()}));
    for line in io::stdin().lock().lines() {
        match line?.trim() {
            "report" => {
                report(&json!({"event": "report", "renamed": renamed.load(Ordering::Relaxed)}));
            }
            "quit" => break,
            other => return Err(io::Error::other(format!("bad command: {other}"))),
        }
    }
    end.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.thread().unpark();
        thread
            .join()
            .map_err(|_| io::Error::other("a thread has panicked"))??;
    }
    Ok(())
}

fn become_nobody() -> io::Result<()> {
    // SAFETY: An empty list, for which no memory is read; the others take no pointers.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setresgid(NOBODY, NOBODY, NOBODY))?;
        check(libc::setresuid(NOBODY, NOBODY, NOBODY))?;
    }
    Ok(())
}

/// The loopback interface of a network namespace that is the calling thread's alone.
struct Interface {
    /// Through which it is renamed.
    socket: OwnedFd,
    name: String,
}

impl Interface {
    fn new() -> io::Result<Self> {
        // SAFETY: Touches no memory; concerns the calling thread only.
        check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        // SAFETY: Takes no pointers.
        let socket = check(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })?;
        Ok(Self {
            // SAFETY: It is open, and nobody else has it.
            socket: unsafe { OwnedFd::from_raw_fd(socket) },
            name: LOOPBACK.into(),
        })
    }

    fn rename(&mut self, name: &str) -> io::Result<()> {
        // SAFETY: Of integers, bytes and a union of such; all zeroes is a value of each.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        copy(&mut request.ifr_name, &self.name)?;
        let mut new = [0; libc::IFNAMSIZ];
        copy(&mut new, name)?;
        request.ifr_ifru.ifru_newname = new;
        // SAFETY: The socket is open, and the request is one for this call, with terminated names.
        check(unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCSIFNAME, &request) })?;
        self.name = name.into();
        Ok(())
    }

    /// Keeps the name until the `end`, or changes it to another one and back after each `pause`.
    fn keep(
        &mut self,
        name: &str,
        pause: Option<Duration>,
        renamed: &AtomicU64,
        end: &AtomicBool,
    ) -> io::Result<()> {
        while !end.load(Ordering::Relaxed) {
            if let Some(pause) = pause {
                self.rename(LOOPBACK)?;
                self.rename(name)?;
                renamed.fetch_add(2, Ordering::Relaxed);
                thread::sleep(pause);
            } else {
                thread::park();
            }
        }
        Ok(())
    }
}

/// Copies a name to where one ends with a zero.
fn copy(to: &mut [libc::c_char; libc::IFNAMSIZ], name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    let bytes = name.as_bytes();
    if bytes.len() >= to.len() {
        return Err(io::Error::other(format!("{name:?} is too long")));
    }
    for (to, from) in to.iter_mut().zip(bytes) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    Ok(())
}
