// SPDX-License-Identifier: GPL-2.0

//! Loading the kernel modules that the command channel itself needs.

use std::ffi::CString;
use std::fs;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// One module file a line, in the order to load them. Written by the host from
/// the kernel's own dependency list; empty where all of it is built in.
const LIST: &str = "/etc/vmem-modules";

/// Loads every module of [`LIST`]; says on the console which one failed.
pub(crate) fn load_listed() {
    let list = fs::read_to_string(LIST).unwrap_or_default();
    for path in list.lines().filter(|line| !line.is_empty()) {
        if let Err(error) = load(path) {
            eprintln!("vmem-guest: {path}: {error}");
        }
    }
}

fn load(path: &str) -> io::Result<()> {
    let file = File::open(path)?;
    let parameters = CString::default();
    // SAFETY: The descriptor is open and the parameter string nul-terminated;
    // both outlive the call.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_raw_fd(),
            parameters.as_ptr(),
            0,
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
