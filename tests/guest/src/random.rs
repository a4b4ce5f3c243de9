// SPDX-License-Identifier: GPL-2.0

//! Random numbers of its own for a guest that others have started from, too.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::process::ExitCode;

/// For the usage message.
pub(crate) const USAGE: &str = "vmem-guest reseed BYTES";

/// `_IO('R', 0x07)`, from include/uapi/linux/random.h: the next numbers come from a new seed.
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// `vmem-guest reseed`: whatever the kernel draws from now on depends on the bytes given.
pub(crate) fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let args: Vec<String> = args.collect();
    let [bytes] = &args[..] else {
        eprintln!("usage: {USAGE}");
        return ExitCode::from(2);
    };
    match reseed(bytes.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("reseed: {error}");
            ExitCode::from(3)
        }
    }
}

fn reseed(bytes: &[u8]) -> io::Result<()> {
    let mut random = OpenOptions::new().write(true).open("/dev/urandom")?;
    random.write_all(bytes)?;
    // SAFETY: The descriptor is open, and RNDRESEEDCRNG takes no argument.
    let rc = unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
