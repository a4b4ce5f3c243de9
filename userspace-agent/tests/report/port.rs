// SPDX-License-Identifier: GPL-2.0

//! The host's end of a port.

use rustix::pty;
use rustix::pty::OpenptFlags;
use rustix::termios;
use rustix::termios::OptionalActions;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// How long a test waits for what is to happen at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A pseudo-terminal: like a port, it has two ends and little room between them.
pub(crate) struct Port {
    ours: File,
    /// What was read after the last whole line.
    rest: Vec<u8>,
    /// What the agent opens.
    pub(crate) path: PathBuf,
}

impl Port {
    pub(crate) fn new() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = pty::openpt(flags | OpenptFlags::from_bits_retain(nonblocking())).unwrap();
        pty::grantpt(&ours).unwrap();
        pty::unlockpt(&ours).unwrap();
        // Neither echo nor anything else a terminal does.
        let mut modes = termios::tcgetattr(&ours).unwrap();
        modes.make_raw();
        termios::tcsetattr(&ours, OptionalActions::Now, &modes).unwrap();
        let path = pty::ptsname(&ours, Vec::new()).unwrap();
        Self {
            ours: ours.into(),
            rest: Vec::new(),
            path: OsStr::from_bytes(path.to_bytes()).into(),
        }
    }

    /// The next line, if there is one in time.
    pub(crate) fn line(&mut self, timeout: Duration) -> Option<String> {
        let until = Instant::now() + timeout;
        let mut part = [0; 4096];
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap().trim_end().into());
            }
            match self.ours.read(&mut part) {
                Ok(count) => self.rest.extend_from_slice(&part[..count]),
                // EIO: the agent has not opened its end yet.
                Err(error)
                    if error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(5) =>
                {
                    if Instant::now() > until {
                        return None;
                    }
                    thread::sleep(Duration::from_millis(20));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Reads lines until one is about this requested size; all of them have to be JSON.
    pub(crate) fn expect_requested(&mut self, size: u64) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.line(left).expect("no line about this size");
            let status: Value = serde_json::from_str(&line).expect(&line);
            if status["devices"][0]["requested_size"] == size {
                return status;
            }
        }
    }

    /// Writes as much as there is room for.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        match self.ours.write(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            result => assert!(result.unwrap() > 0),
        }
    }
}

fn nonblocking() -> u32 {
    rustix::fs::OFlags::NONBLOCK.bits()
}
