// SPDX-License-Identifier: GPL-2.0

//! Trees that look like `/sys` and `/proc` of a machine with virtio-mem devices.

use assert_cmd::Command;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use tempfile::TempDir;

/// The size of a Linux memory block.
pub(crate) const MEMORY_BLOCK: u64 = 128 << 20;
/// The size of every device's region.
pub(crate) const REGION: u64 = 16 << 30;

/// Where the region of device `number` starts.
pub(crate) fn region_start(number: u64) -> u64 {
    (4 << 30) + number * REGION
}

/// A tree, removed once it is dropped.
pub(crate) struct Tree {
    dir: TempDir,
    iomem: String,
}

impl Tree {
    /// A machine with a virtio bus, some boot memory and no virtio-mem device.
    pub(crate) fn new() -> Self {
        let tree = Self {
            dir: tempfile::tempdir().unwrap(),
            iomem: "00001000-7fffffff : System RAM\n  01000000-01ffffff : Kernel code\n".into(),
        };
        fs::create_dir_all(tree.path("sys/bus/virtio/devices")).unwrap();
        tree.write("sys/devices/system/memory/block_size_bytes", "8000000\n");
        tree.write("sys/devices/system/memory/auto_online_blocks", "online\n");
        tree.memory_block(0, "online", "none", 0);
        tree.write("proc/iomem", &tree.iomem);
        tree
    }

    /// Where `path`, named from the tree's root, is.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Writes a file, in directories made for it.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Makes a virtio device that lives elsewhere in /sys and is linked from the bus.
    pub(crate) fn device(&self, number: u64, id: &str, driver: Option<&str>) {
        let real = format!("sys/devices/pci0000:00/virtio{number}");
        self.write(&format!("{real}/device"), format!("{id}\n"));
        if let Some(driver) = driver {
            let target = format!("../../../bus/virtio/drivers/{driver}");
            symlink(target, self.path(&real).join("driver")).unwrap();
        }
        let link = self.path(&format!("sys/bus/virtio/devices/virtio{number}"));
        symlink(Path::new("../../../..").join(real), link).unwrap();
    }

    /// Makes a virtio-mem device with the driver bound and its region in /proc/iomem, of which
    /// `added` memory blocks were added from the start, contiguously.
    pub(crate) fn memory_device(&mut self, number: u64, added: u64) {
        self.device(number, "0x0018", Some("virtio_mem"));
        let start = region_start(number);
        let last = start + REGION - 1;
        writeln!(self.iomem, "{start:x}-{last:x} : virtio{number}").unwrap();
        if added > 0 {
            let last = start + added * MEMORY_BLOCK - 1;
            writeln!(self.iomem, "  {start:x}-{last:x} : System RAM (virtio_mem)").unwrap();
        }
        self.write("proc/iomem", &self.iomem);
    }

    /// Writes one of the driver's own attributes, at one stroke.
    pub(crate) fn attribute(&self, number: u64, name: &str, value: impl ToString) {
        let path = format!("sys/devices/pci0000:00/virtio{number}/virtio_mem/{name}");
        self.write("new", format!("{}\n", value.to_string()));
        fs::create_dir_all(self.path(&path).parent().unwrap()).unwrap();
        fs::rename(self.path("new"), self.path(&path)).unwrap();
    }

    /// Removes one of the driver's own attributes.
    pub(crate) fn remove_attribute(&self, number: u64, name: &str) {
        let path = format!("sys/devices/pci0000:00/virtio{number}/virtio_mem/{name}");
        fs::remove_file(self.path(&path)).unwrap();
    }

    /// Writes how a device with a region stands, with the state last.
    pub(crate) fn stand(&self, number: u64, requested: u64, plugged: u64, state: &str) {
        for (name, size) in [
            ("region_size", REGION),
            ("requested_size", requested),
            ("plugged_size", plugged),
        ] {
            self.attribute(number, name, size);
        }
        self.attribute(number, "reason", "none");
        self.attribute(number, "state", state);
    }

    /// Makes the memory block at an address.
    pub(crate) fn memory_block(&self, address: u64, state: &str, zones: &str, node: u32) {
        let number = address / MEMORY_BLOCK;
        let dir = format!("sys/devices/system/memory/memory{number}");
        self.write(&format!("{dir}/phys_index"), format!("{number:08x}\n"));
        self.write(&format!("{dir}/state"), format!("{state}\n"));
        self.write(&format!("{dir}/valid_zones"), format!("{zones}\n"));
        symlink(
            format!("../../node/node{node}"),
            self.path(&dir).join(format!("node{node}")),
        )
        .unwrap();
        let of_node = self.path(&format!("sys/devices/system/node/node{node}"));
        fs::create_dir_all(&of_node).unwrap();
        symlink(
            format!("../../memory/memory{number}"),
            of_node.join(format!("memory{number}")),
        )
        .unwrap();
    }

    /// Makes /proc/iomem what an ordinary user sees.
    pub(crate) fn hide_addresses(&self) {
        let hidden: Vec<_> = self
            .iomem
            .lines()
            .map(|line| {
                let (range, name) = line.split_once(" : ").unwrap();
                let indent = range.len() - range.trim_start().len();
                format!("{:indent$}00000000-00000000 : {name}\n", "")
            })
            .collect();
        self.write("proc/iomem", hidden.concat());
    }

    /// The agent, reading this tree.
    pub(crate) fn agent(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_virtio-mem-agent"));
        command.arg("--root").arg(self.dir.path()).args(args);
        command.timeout(std::time::Duration::from_secs(60));
        command
    }

    /// What the agent's JSON says, and its exit code.
    pub(crate) fn json(&self, args: &[&str]) -> (serde_json::Value, i32) {
        let output = self
            .agent(&["status", "--json"])
            .args(args)
            .output()
            .unwrap();
        (
            serde_json::from_slice(&output.stdout).unwrap(),
            output.status.code().unwrap(),
        )
    }
}
