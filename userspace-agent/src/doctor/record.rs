// SPDX-License-Identifier: GPL-2.0

//! Records what the agent reads of a machine, in a directory that it can read elsewhere.
//!
//! Files in which people or boot loaders may have written secrets are recorded only as far as they are
//! of interest; the places of the kernel's own code and data are not.

use crate::bus;
use crate::doctor::redact::naming_the_module;
use crate::doctor::redact::option;
use crate::doctor::redact::DIRS_IN_PART;
use crate::doctor::redact::IN_PART;
use crate::doctor::udev;
use crate::error::optional;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::Root;
use std::fs;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::fs::DirBuilderExt;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

/// What is expected in a file, where it can be anything.
const EXPECTED: &str = "text";
/// The largest file, `/proc/zoneinfo`, of a machine with many processors and nodes.
const LIMIT: u64 = 64 << 20;
/// Whoever records a machine as root has seen addresses that others do not.
const MODE: u32 = 0o700;

/// Files that are the kernel's own, from `/`.
const FILES: [&str; 19] = [
    "proc/meminfo",
    "proc/sys/kernel/osrelease",
    "proc/vmstat",
    "proc/zoneinfo",
    "sys/class/dmi/id/bios_vendor",
    "sys/class/dmi/id/board_vendor",
    "sys/class/dmi/id/chassis_vendor",
    "sys/class/dmi/id/product_name",
    "sys/class/dmi/id/sys_vendor",
    "sys/devices/system/memory/auto_online_blocks",
    "sys/devices/system/memory/block_size_bytes",
    "sys/kernel/kexec_crash_loaded",
    "sys/kernel/kexec_crash_size",
    "sys/kernel/security/lockdown",
    "sys/module/memory_hotplug/parameters/online_policy",
    "sys/module/module/parameters/sig_enforce",
    "sys/module/virtio_mem/taint",
    "sys/module/virtio_mem/version",
    "sys/power/state",
];
/// The module, from `/`.
const MODULE: &str = "sys/module/virtio_mem";
/// The directory of its parameters, from `/`.
const PARAMETERS: &str = "sys/module/virtio_mem/parameters";
/// The memory blocks, from `/`.
const MEMORY: &str = "sys/devices/system/memory";
/// The nodes, from `/`.
const NODES: &str = "sys/devices/system/node";
/// What is of interest of a memory block.
const OF_BLOCK: [&str; 2] = ["state", "valid_zones"];
/// What is of interest of any virtio device.
const OF_DEVICE: [&str; 2] = ["device", "features"];
/// The group of the driver's attributes.
const GROUP: &str = "virtio_mem";

/// Records the machine in a new or empty directory. What cannot be read is told, and left out.
pub(crate) fn record(root: &Root, dir: &Path) -> Result<Vec<Error>> {
    let mut recorder = Recorder {
        root,
        dir,
        errors: Vec::new(),
    };
    recorder.make_empty()?;
    recorder.make("sys")?;
    recorder.make("proc")?;

    for file in FILES {
        recorder.copy(file, str::to_owned)?;
    }
    for (file, filter) in IN_PART {
        recorder.copy(file, filter)?;
    }
    for dir in DIRS_IN_PART {
        for name in recorder.names(dir) {
            recorder.copy(&format!("{dir}/{name}"), naming_the_module)?;
        }
    }
    // That it is there tells which driver there is, whatever it has.
    if root.join(MODULE).is_dir() {
        recorder.make(MODULE)?;
    }
    for name in recorder.names(PARAMETERS) {
        recorder.copy(&format!("{PARAMETERS}/{name}"), str::to_owned)?;
    }
    recorder.configuration()?;
    recorder.rules()?;
    recorder.memory_blocks()?;
    recorder.devices()?;
    Ok(recorder.errors)
}

/// A machine that is being recorded.
struct Recorder<'a> {
    root: &'a Root,
    dir: &'a Path,
    errors: Vec<Error>,
}

impl Recorder<'_> {
    /// Makes the directory, which may be there if nothing is in it.
    fn make_empty(&self) -> Result<()> {
        let made = DirBuilder::new().mode(MODE).create(self.dir);
        let is_empty = || Ok(fs::read_dir(self.dir)?.next().is_none());
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match is_empty() {
                Ok(true) => Ok(()),
                Ok(false) => Err(io::Error::other("is not empty")),
                Err(error) => Err(error),
            },
            made => made,
        }
        .map_err(|source| unusable(self.dir, source))
    }

    /// Makes a directory and those above it.
    fn make(&self, dir: &str) -> Result<()> {
        let path = self.dir.join(dir);
        fs::create_dir_all(&path).map_err(|source| unusable(&path, source))
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        if let Some((dir, _)) = file.rsplit_once('/') {
            self.make(dir)?;
        }
        let path = self.dir.join(file);
        fs::write(&path, text).map_err(|source| unusable(&path, source))
    }

    fn link(&self, file: &str, target: &str) -> Result<()> {
        if let Some((dir, _)) = file.rsplit_once('/') {
            self.make(dir)?;
        }
        let path = self.dir.join(file);
        symlink(target, &path).map_err(|source| unusable(&path, source))
    }

    /// The names in a directory of the machine; none if there is no such directory.
    fn names(&mut self, dir: &str) -> Vec<String> {
        let names = optional(files::names(&self.root.join(dir)));
        self.known(names).flatten().unwrap_or_default()
    }

    /// What there is, unless it could not be read, which is told.
    fn known<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }

    /// Records what the filter leaves of a file; nothing of one that is not there.
    fn copy(&mut self, file: &str, filter: impl Fn(&str) -> String) -> Result<()> {
        let path = self.root.join(file);
        // A link to /dev/null is how a file is turned off.
        if path.exists() && !path.is_file() {
            return Ok(());
        }
        let text = optional(files::read_text(&path, EXPECTED, LIMIT));
        match self.known(text).flatten() {
            Some(text) => self.write(file, &filter(&text)),
            None => Ok(()),
        }
    }

    /// Records the option of the kernel's configuration, from where it is found first.
    fn configuration(&mut self) -> Result<()> {
        let Some(release) = self.release() else {
            return Ok(());
        };
        for file in [
            format!("boot/config-{release}"),
            format!("lib/modules/{release}/config"),
        ] {
            self.copy(&file, option)?;
        }
        let path = self.root.join(files::CONFIG_GZ);
        let text = optional(files::read_packed(&path, EXPECTED, LIMIT));
        match self.known(text).flatten() {
            // It comes before the files, and is packed; as a file it says the same.
            Some(text) => self.write(&format!("boot/config-{release}"), &option(&text)),
            None => Ok(()),
        }
    }

    fn release(&mut self) -> Option<String> {
        let path = self.root.join("proc/sys/kernel/osrelease");
        let text = optional(files::read_text(&path, EXPECTED, LIMIT));
        let text = self.known(text).flatten()?;
        let release = text.trim_end();
        let is_name = !release.is_empty() && !release.contains('/') && release != "..";
        is_name.then(|| release.into())
    }

    /// Records rules of udev that bring memory online, without what they do else.
    fn rules(&mut self) -> Result<()> {
        let mut errors = Vec::new();
        let rules = udev::onlining_rules(self.root, |error| errors.push(error));
        self.errors.append(&mut errors);
        let mut files: Vec<_> = rules.iter().filter_map(udev::Rule::file).collect();
        files.dedup();
        for file in files {
            self.copy(file, udev::of_interest)?;
        }
        Ok(())
    }

    /// Records the state of all memory blocks, and the nodes that they belong to.
    fn memory_blocks(&mut self) -> Result<()> {
        for name in self.names(MEMORY) {
            if files::is_numbered("memory", &name) {
                for file in OF_BLOCK {
                    self.copy(&format!("{MEMORY}/{name}/{file}"), str::to_owned)?;
                }
            }
        }
        for node in self.names(NODES) {
            if !files::is_numbered("node", &node) {
                continue;
            }
            self.make(&format!("{NODES}/{node}"))?;
            for block in self.names(&format!("{NODES}/{node}")) {
                if files::is_numbered("memory", &block) {
                    let target = format!("../../memory/{block}");
                    self.link(&format!("{NODES}/{node}/{block}"), &target)?;
                }
            }
        }
        Ok(())
    }

    /// Records all virtio devices: their kinds, drivers, and what a memory device's driver says.
    fn devices(&mut self) -> Result<()> {
        self.make(bus::DEVICES)?;
        for name in self.names(bus::DEVICES) {
            if !files::is_numbered(bus::PREFIX, &name) {
                continue;
            }
            let link = format!("{}/{name}", bus::DEVICES);
            let real = fs::read_link(self.root.join(&link))
                .ok()
                .and_then(|target| inside(Path::new(bus::DEVICES), &target));
            if let Some((real, target)) = real {
                self.make(&real)?;
                self.link(&link, &target)?;
            }
            for file in OF_DEVICE {
                self.copy(&format!("{link}/{file}"), str::to_owned)?;
            }
            let driver = bus::driver(&bus::dir(self.root, &name));
            if let Some(driver) = self.known(driver).flatten() {
                self.link(&format!("{link}/driver"), &format!("../{driver}"))?;
            }
            let group = format!("{link}/{GROUP}");
            for file in self.names(&group) {
                // Some can only be written.
                if file != "retry" {
                    self.copy(&format!("{group}/{file}"), str::to_owned)?;
                }
            }
        }
        Ok(())
    }
}

/// Where a link in `dir` leads to, from the top, and the link itself; `None` if that is out of /sys.
fn inside(dir: &Path, target: &Path) -> Option<(String, String)> {
    let mut path = PathBuf::new();
    for part in dir.join(target).components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::ParentDir if path.pop() => {}
            Component::CurDir => {}
            _ => return None,
        }
    }
    let is_inside = path.starts_with("sys") && !path.starts_with(dir);
    is_inside.then_some(())?;
    Some((path.to_str()?.into(), target.to_str()?.into()))
}

fn unusable(path: &Path, source: io::Error) -> Error {
    Error::Unusable {
        action: "write",
        place: path.display().to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect;
    use crate::doctor::examine::examine;
    use crate::doctor::testing::Tree;

    /// Everything in a directory, as text.
    fn contents(dir: &Path) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            text.push_str(&path.display().to_string());
            if path.is_symlink() {
                text.push_str(&fs::read_link(&path).unwrap().display().to_string());
            } else if path.is_dir() {
                text.push_str(&contents(&path));
            } else {
                text.push_str(&String::from_utf8_lossy(&fs::read(&path).unwrap()));
            }
        }
        text
    }

    fn recorded(tree: &Tree) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(tree.path(""));
        let errors = record(&root, dir.path()).unwrap();
        assert!(errors.is_empty(), "{errors:?}");
        dir
    }

    #[test]
    fn what_is_recorded_is_what_is_read() {
        let rule = "SUBSYSTEM==\"memory\", ATTR{state}==\"offline\", ATTR{state}=\"online\"\n";
        for tree in [Tree::ours(), Tree::theirs(), Tree::busy()] {
            tree.write("etc/udev/rules.d/40-vendor.rules", rule);
            tree.write("sys/devices/system/memory/auto_online_blocks", "offline\n");
            tree.write("boot/config-7.2.12", "CONFIG_INIT_ON_ALLOC_DEFAULT_ON=y\n");
            tree.write("sys/devices/system/node/node1/memory32/state", "");
            let dir = recorded(&tree);
            let (there, here) = (Root::new(tree.path("")), Root::new(dir.path().into()));

            let collected = collect::collect(&here, None).status;
            assert_eq!(collected, collect::collect(&there, None).status);
            assert_eq!(collected.devices.len(), 1);
            let findings = examine(&here, None).findings.list;
            assert_eq!(findings, examine(&there, None).findings.list);
            assert!(findings.iter().any(|finding| finding.id == "init-on-alloc"));
        }
    }

    #[test]
    fn no_secrets_are_recorded() {
        const SECRET: &str = "hunter2";
        let tree = Tree::busy();
        tree.write(
            "proc/cmdline",
            format!("init_on_alloc=1 key={SECRET} -- init_on_alloc={SECRET}\n"),
        );
        tree.write(
            "proc/iomem",
            "00000000-0000000f : Kernel code hunter2\n\
             100000000-13fffffff : virtio0\n  100000000-107ffffff : System RAM (virtio_mem)\n\
             \u{20}   100000000-100000fff : Kernel data hunter2\n",
        );
        tree.write(
            "etc/kdump.conf",
            format!("ssh {SECRET}\nvirtio_mem {SECRET}\n"),
        );
        tree.write("etc/dracut.conf.d/a.conf", format!("key={SECRET}\n"));
        tree.write("boot/config-7.2.12", format!("CONFIG_X=\"{SECRET}\"\n"));
        tree.write("sys/class/dmi/id/product_serial", SECRET);
        tree.write(
            "etc/udev/rules.d/40-memory.rules",
            format!(
                "SUBSYSTEM==\"net\", RUN+=\"/bin/x {SECRET}\"\n# {SECRET}\n\
                 SUBSYSTEM==\"memory\", ATTR{{state}}=\"online\", RUN+=\"/bin/x {SECRET}\"\n"
            ),
        );
        tree.write("etc/udev/rules.d/80-net.rules", SECRET);
        let dir = recorded(&tree);
        let text = contents(dir.path());
        assert!(!text.contains(SECRET), "{text}");
        assert!(text.contains("40-memory.rules"), "{text}");
        assert!(text.contains("init_on_alloc=1"), "{text}");
    }

    #[test]
    fn nothing_is_written_over() {
        let tree = Tree::ours();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("precious"), "").unwrap();
        let root = Root::new(tree.path(""));
        let error = record(&root, dir.path()).unwrap_err().to_string();
        assert!(error.ends_with(": is not empty"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_lead_to_places_inside() {
        let devices = Path::new(bus::DEVICES);
        let real = |target: &str| inside(devices, Path::new(target)).map(|(real, _)| real);
        let target = "../../../devices/pci0000:00/0000:00:04.0/virtio1";
        assert_eq!(
            real(target).as_deref(),
            Some("sys/devices/pci0000:00/0000:00:04.0/virtio1")
        );
        for bad in ["/etc", "../../../../etc", "../../../../../../etc", "x"] {
            assert_eq!(real(bad), None, "{bad}");
        }
    }
}
