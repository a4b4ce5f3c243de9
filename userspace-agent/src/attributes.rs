// SPDX-License-Identifier: GPL-2.0

//! Watches the attributes whose changes the driver announces, with one file descriptor for all.

use crate::bus;
use crate::files::Root;
use crate::sysfs;
use rustix::fs::inotify;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// The attributes whose changes the driver announces.
const ANNOUNCED: [&str; 4] = ["state", "reason", "requested_size", "plugged_size"];
/// The attributes that are watched, with one file descriptor for all.
#[derive(Debug)]
pub(crate) struct Attributes {
    inotify: OwnedFd,
    watches: BTreeMap<PathBuf, i32>,
}

impl Attributes {
    /// Watches none yet.
    pub(crate) fn new() -> rustix::io::Result<Self> {
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        Ok(Self {
            inotify: inotify::init(flags)?,
            watches: BTreeMap::new(),
        })
    }

    /// Watches all devices, or the one called `only`, as they are now. What cannot be watched is only
    /// looked at, which tells why. A driver that is bound anew has new files, of the old names.
    pub(crate) fn watch(&mut self, root: &Root, only: Option<&str>) {
        let names = bus::selected(root, only).unwrap_or_default();
        let mut old = std::mem::take(&mut self.watches);

        for name in names {
            let group = bus::dir(root, &name).join(sysfs::GROUP);
            for path in ANNOUNCED.map(|attribute| group.join(attribute)) {
                let flags = inotify::WatchFlags::MODIFY;
                let Ok(watch) = inotify::add_watch(&self.inotify, &path, flags) else {
                    continue;
                };
                if old.get(&path) == Some(&watch) {
                    old.remove(&path);
                }
                self.watches.insert(path, watch);
            }
        }
        for watch in old.into_values() {
            // The kernel may have removed it with its file.
            let _ = inotify::remove_watch(&self.inotify, watch);
        }
    }

    /// Readable when something has been announced.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Takes what has been announced so far.
    pub(crate) fn drain(&self) {
        let mut events = [0; 4096];
        while matches!(rustix::io::read(&self.inotify, &mut events), Ok(1..)) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with a device that has two attributes.
    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("sys/bus/virtio/devices/virtio0/virtio_mem");
        std::fs::create_dir_all(&group).unwrap();
        std::fs::write(group.join("state"), "settled\n").unwrap();
        std::fs::write(group.join("reason"), "").unwrap();
        dir
    }

    #[test]
    fn watches_are_those_of_the_files_that_are_there() {
        let dir = tree();
        let root = Root::new(dir.path().into());
        let mut attributes = Attributes::new().unwrap();
        attributes.watch(&root, Some("virtio1"));
        assert_eq!(attributes.watches.len(), 0);
        attributes.watch(&root, None);
        let before = attributes.watches.clone();
        assert_eq!(before.len(), 2);
        attributes.watch(&root, None);
        assert_eq!(attributes.watches, before);

        // A new file of the old name, as of a driver that is bound anew.
        let group = dir.path().join("sys/bus/virtio/devices/virtio0/virtio_mem");
        std::fs::write(group.join("new"), "").unwrap();
        std::fs::rename(group.join("new"), group.join("state")).unwrap();
        attributes.watch(&root, None);
        assert_eq!(attributes.watches.len(), 2);
        assert_ne!(attributes.watches, before);
    }

    // What is open is one file, however many devices there are.
    #[test]
    fn any_number_of_devices_takes_one_file() {
        let dir = tree();
        let devices = dir.path().join("sys/bus/virtio/devices");
        for number in 1..400 {
            let group = devices.join(format!("virtio{number}/virtio_mem"));
            std::fs::create_dir_all(&group).unwrap();
            for attribute in ANNOUNCED {
                std::fs::write(group.join(attribute), "0\n").unwrap();
            }
        }
        let mut attributes = Attributes::new().unwrap();
        attributes.watch(&Root::new(dir.path().into()), None);
        assert_eq!(attributes.watches.len(), 399 * ANNOUNCED.len() + 2);
    }
}
