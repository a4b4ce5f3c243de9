// SPDX-License-Identifier: GPL-2.0

//! Recorded trees for the checks' tests.

use crate::files::Root;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use tempfile::TempDir;

/// A healthy machine with a device of 1 GiB, of which 128 MiB were added; and every other file
/// that a check reads, as the kernel or people would write it.
pub(crate) const FILES: [(&str, &str); 24] = [
    ("sys/bus/virtio/devices/virtio0/device", "0x0018\n"),
    ("sys/bus/virtio/devices/virtio0/features", "0110\n"),
    (
        "sys/devices/system/memory/auto_online_blocks",
        "online_movable\n",
    ),
    ("sys/devices/system/memory/block_size_bytes", "8000000\n"),
    ("sys/devices/system/memory/memory32/state", "online\n"),
    (
        "sys/devices/system/memory/memory32/valid_zones",
        "Movable\n",
    ),
    ("sys/kernel/kexec_crash_loaded", "1\n"),
    ("sys/kernel/kexec_crash_size", "268435456\n"),
    (
        "sys/kernel/security/lockdown",
        "[none] integrity confidentiality\n",
    ),
    (
        "sys/module/memory_hotplug/parameters/online_policy",
        "contig-zones\n",
    ),
    ("sys/module/module/parameters/sig_enforce", "N\n"),
    ("sys/module/virtio_mem/taint", "\n"),
    ("sys/power/state", "freeze mem\n"),
    ("sys/bus/virtio/devices/virtio1/device", "0x0001\n"),
    ("boot/config-7.2.12", "CONFIG_SWAP=y\n"),
    (
        "proc/iomem",
        "100000000-13fffffff : virtio0\n  100000000-107ffffff : System RAM (virtio_mem)\n",
    ),
    ("proc/cmdline", "quiet\n"),
    ("proc/sys/kernel/osrelease", "7.2.12\n"),
    ("proc/vmstat", "nr_free_pages 1\n"),
    (
        "proc/zoneinfo",
        "Node 0, zone Normal\n  pages free 9000\n        managed 100000\n\
         Node 0, zone Movable\n        managed 32768\n",
    ),
    ("proc/meminfo", "MemTotal:  531072 kB\n"),
    ("etc/kdump.conf", "dracut_args --add-drivers virtio_mem\n"),
    (
        "etc/udev/rules.d/80-net.rules",
        "SUBSYSTEM==\"net\", NAME=\"lan0\"\n",
    ),
    ("etc/dracut.conf.d/a.conf", "hostonly=yes\n"),
];

/// The attributes of this project's driver.
pub(crate) const ATTRIBUTES: [(&str, &str); 6] = [
    ("start_address", "4294967296\n"),
    ("region_size", "1073741824\n"),
    ("block_size", "2097152\n"),
    ("requested_size", "134217728\n"),
    ("plugged_size", "134217728\n"),
    ("state", "settled\n"),
];

/// More of them, with which there is something to find.
pub(crate) const WAITING: [(&str, &str); 6] = [
    ("state", "waiting\n"),
    ("reason", "memory-in-use\n"),
    ("next_attempt_ms", "800\n"),
    ("last_error", "remove in-use\n"),
    ("big_block_size", "134217728\n"),
    ("online_type", "policy\n"),
];

/// A tree, removed once it is dropped.
pub(crate) struct Tree(TempDir);

impl Tree {
    /// The machine with the kernel's own driver.
    pub(crate) fn theirs() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for (path, content) in FILES {
            tree.write(path, content);
        }
        tree.write("sys/module/virtio_mem/parameters/unplug_online", "Y\n");
        let link = tree.path("sys/bus/virtio/devices/virtio0/driver");
        symlink("../../drivers/virtio_mem", link).unwrap();
        // What a kdump that nobody has set up looks like.
        fs::remove_file(tree.path("etc/kdump.conf")).unwrap();
        tree.write("sys/kernel/kexec_crash_size", "0\n");
        tree
    }

    /// The machine with this project's driver.
    pub(crate) fn ours() -> Self {
        let tree = Self::theirs();
        tree.write("sys/module/virtio_mem/parameters/online_type", "movable\n");
        for (name, value) in ATTRIBUTES {
            tree.attribute(name, value);
        }
        tree
    }

    /// The machine with this project's driver, everything set up, and much to find.
    pub(crate) fn busy() -> Self {
        let tree = Self::ours();
        for (path, content) in FILES {
            tree.write(path, content);
        }
        for (name, value) in WAITING {
            tree.attribute(name, value);
        }
        tree
    }

    /// Where a file is.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// Writes a file, in directories made for it.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Writes one of the driver's attributes.
    pub(crate) fn attribute(&self, name: &str, value: &str) {
        self.write(
            &format!("sys/bus/virtio/devices/virtio0/virtio_mem/{name}"),
            value,
        );
    }

    /// Writes the pages that the kernel's zones have and have free, and those of ZONE_MOVABLE.
    pub(crate) fn zones(&self, kernel: u64, free: u64, movable: u64) {
        self.write(
            "proc/zoneinfo",
            format!(
                "Node 0, zone Normal\n  pages free {free}\n  high 10\n  managed {kernel}\n\
                 Node 0, zone Movable\n  pages free {movable}\n  managed {movable}\n"
            ),
        );
        let total = (kernel + movable) * 4;
        self.write("proc/meminfo", format!("MemTotal: {total} kB\n"));
    }

    /// What the agent is to take for `/`.
    pub(crate) fn root(&self) -> Root {
        Root::new(self.0.path().into())
    }
}
