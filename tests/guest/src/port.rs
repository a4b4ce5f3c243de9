// SPDX-License-Identifier: GPL-2.0

//! Finding and opening a virtio-serial port by its name.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

/// Ports appear when the virtio console driver has talked to the device, a
/// moment after the first process starts.
const PATIENCE: Duration = Duration::from_secs(30);

/// Opens the port called `name` for reading and writing.
pub(crate) fn open(name: &str) -> io::Result<File> {
    let start = Instant::now();
    loop {
        if let Some(node) = find(name) {
            return OpenOptions::new().read(true).write(true).open(node);
        }
        if start.elapsed() > PATIENCE {
            return Err(io::ErrorKind::NotFound.into());
        }
        sleep(Duration::from_millis(10));
    }
}

/// There is no udev here to make links by name, but sysfs knows the names.
fn find(name: &str) -> Option<String> {
    for entry in fs::read_dir("/sys/class/virtio-ports").ok()?.flatten() {
        let label = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if label.trim() == name {
            return Some(format!("/dev/{}", entry.file_name().to_str()?));
        }
    }
    None
}
