// SPDX-License-Identifier: GPL-2.0

//! Movable memory that cannot be moved for a while: pages of a file that are on their way through a
//! pipe.

use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::ptr;

use crate::mapping::PAGE;

/// What a pipe holds, if nobody has asked for more.
const LEN: usize = 16 * PAGE;

/// Such pages. As long as this lives the kernel tries to migrate them in vain.
pub(crate) struct Pinned {
    _file: OwnedFd,
    _pipe: [OwnedFd; 2],
}

impl Pinned {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: A valid name.
        let file = check(unsafe { libc::memfd_create(c"pinned".as_ptr(), libc::MFD_CLOEXEC) })?;
        // SAFETY: It is open, and nobody else has it.
        let file = unsafe { OwnedFd::from_raw_fd(file) };
        let mut ends = [-1; 2];
        // SAFETY: There is room for two file descriptors.
        check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
        // SAFETY: As above.
        let pipe = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
        // SAFETY: Valid file descriptors; as much is read as there is.
        unsafe {
            let text = [0x5a_u8; LEN];
            check(libc::pwrite(file.as_raw_fd(), text.as_ptr().cast(), LEN, 0) as i32)?;
            let (from, to) = (file.as_raw_fd(), pipe[1].as_raw_fd());
            check(libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), LEN, 0) as i32)?;
        }
        Ok(Self {
            _file: file,
            _pipe: pipe,
        })
    }
}

/// The result of a system call, or why it failed.
pub(crate) fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
