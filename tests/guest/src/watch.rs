// SPDX-License-Identifier: GPL-2.0

//! Waiting for a value of `/proc/meminfo` from inside the guest, at less cost
//! than asking again and again from the host.

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

const INTERVAL: Duration = Duration::from_millis(5);

/// Waits until `key` lies within `bounds` (in KiB) and returns its value.
pub(crate) fn await_meminfo(
    key: &str,
    bounds: RangeInclusive<u64>,
    timeout: Duration,
) -> io::Result<u64> {
    let start = Instant::now();
    loop {
        let value = meminfo(key)?;
        if bounds.contains(&value) {
            return Ok(value);
        }
        if start.elapsed() >= timeout {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{key} is {value} KiB, not within {bounds:?}"),
            ));
        }
        sleep(INTERVAL);
    }
}

/// A value of `/proc/meminfo`, in KiB.
pub(crate) fn meminfo(key: &str) -> io::Result<u64> {
    fs::read_to_string("/proc/meminfo")?
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("no {key}")))
}
