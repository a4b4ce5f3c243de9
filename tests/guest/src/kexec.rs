// SPDX-License-Identifier: GPL-2.0

//! Loading a kernel beside the one that runs, and starting it: at will, or by
//! the kernel itself when it panics.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::process::ExitCode;

/// For the usage message.
pub(crate) const USAGE: &str = "\
vmem-guest kexec load|load-crash KERNEL INITRD COMMAND-LINE
       vmem-guest kexec execute";

/// `vmem-guest kexec`.
pub(crate) fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let args: Vec<String> = args.collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["load", kernel, initrd, cmdline] => load(kernel, initrd, cmdline, 0),
        ["load-crash", kernel, initrd, cmdline] => {
            load(kernel, initrd, cmdline, libc::KEXEC_FILE_ON_CRASH)
        }
        ["execute"] => execute(),
        _ => {
            eprintln!("usage: {USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kexec: {error}");
            ExitCode::from(3)
        }
    }
}

fn load(kernel: &str, initrd: &str, cmdline: &str, flags: libc::c_int) -> io::Result<()> {
    let kernel = File::open(kernel)?;
    let initrd = File::open(initrd)?;
    let cmdline = CString::new(cmdline)?;
    // SAFETY: Both descriptors are open, and the length is that of the string with
    // the nul that ends it; all outlive the call.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.as_raw_fd(),
            cmdline.as_bytes_with_nul().len(),
            cmdline.as_ptr(),
            libc::c_long::from(flags),
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Does not return when it succeeds.
fn execute() -> io::Result<()> {
    // SAFETY: `reboot` takes no pointers here.
    unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_KEXEC) };
    Err(io::Error::last_os_error())
}
