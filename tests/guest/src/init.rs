// SPDX-License-Identifier: GPL-2.0

//! PID 1 of a test guest: file systems, modules, then the command channel.

use std::ffi::CString;
use std::fs;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use crate::modules;
use crate::port;
use crate::server;

/// The name of the virtio-serial port that the host has created.
const PORT: &str = "vmem";

/// On the kernel command line: power off as soon as user space is reached. The
/// host tries an accelerator that way.
const POWEROFF: &str = "vmem.poweroff";

/// Which of the kernel's messages go to the console.
const PRINTK: &str = "/proc/sys/kernel/printk";

const MOUNTS: &[(&str, &str)] = &[
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/tmp"),
    ("debugfs", "/sys/kernel/debug"),
    ("tracefs", "/sys/kernel/tracing"),
];

/// Brings the guest up and serves the host until the host ends QEMU.
pub(crate) fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("vmem-guest: init is for PID 1 only");
        return ExitCode::from(2);
    }
    for (kind, target) in MOUNTS {
        // A kernel without debugfs or tracefs can be tested all the same.
        if let Err(error) = mount(kind, target) {
            eprintln!("vmem-guest: {target}: {error}");
        }
    }
    if let Err(error) = use_console() {
        eprintln!("vmem-guest: /dev/console: {error}");
    }
    // Only what the kernel says while it boots is left out: that takes time.
    if let Err(error) = fs::write(PRINTK, "8") {
        eprintln!("vmem-guest: {PRINTK}: {error}");
    }
    println!("vmem-guest: up");
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if command_line.split_whitespace().any(|word| word == POWEROFF) {
        power_off();
    }
    modules::load_listed();
    match port::open(PORT) {
        Ok(port) => server::serve(port),
        Err(error) => eprintln!("vmem-guest: port {PORT}: {error}"),
    }
    power_off()
}

fn mount(kind: &str, target: &str) -> io::Result<()> {
    fs::create_dir_all(target)?;
    let kind = CString::new(kind)?;
    let target = CString::new(target)?;
    // SAFETY: Both strings are nul-terminated and outlive the call; none of these
    // file systems needs data, so a null pointer is allowed for it.
    let rc = unsafe {
        libc::mount(
            kind.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            0,
            std::ptr::null(),
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The kernel finds no `/dev/console` in an initramfs without device nodes, and
/// leaves the first process without open files.
fn use_console() -> io::Result<()> {
    let console = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/console")?;
    for fd in 0..=2 {
        // SAFETY: `dup2` touches no memory, and the descriptors it replaces are
        // the standard ones, which nobody else owns.
        if unsafe { libc::dup2(console.as_raw_fd(), fd) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    if console.as_raw_fd() <= 2 {
        // It has become a standard descriptor itself: it must stay open.
        std::mem::forget(console);
    }
    Ok(())
}

fn power_off() -> ! {
    // SAFETY: `sync` and `reboot` take no pointers; PID 1 is allowed to call them.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    // PID 1 must not end, or the kernel panics.
    loop {
        std::thread::park();
    }
}
