// SPDX-License-Identifier: GPL-2.0

//! What is recorded of files in which there may be secrets.

use crate::bus;
use crate::files;

/// What is taken from a file in which there is more.
pub(crate) type Filter = fn(&str) -> String;

/// Files that are recorded in part, from `/`.
pub(crate) const IN_PART: [(&str, Filter); 6] = [
    ("proc/cmdline", |text| {
        let words = text.split_ascii_whitespace();
        let words: Vec<_> = words
            .take_while(|word| *word != "--")
            .filter(|word| word.starts_with("init_on_alloc="))
            .collect();
        format!("{}\n", words.join(" "))
    }),
    ("proc/iomem", memory_devices),
    ("etc/kdump.conf", naming_the_module),
    ("etc/sysconfig/kdump", naming_the_module),
    ("etc/dracut.conf", naming_the_module),
    ("etc/initramfs-tools/modules", naming_the_module),
];
/// Directories of files that are recorded in part, from `/`.
pub(crate) const DIRS_IN_PART: [&str; 3] = [
    "etc/dracut.conf.d",
    "usr/lib/dracut/dracut.conf.d",
    "etc/modules-load.d",
];

/// Of `/proc/iomem`, what belongs to virtio devices.
fn memory_devices(text: &str) -> String {
    let mut kept = String::new();
    // How deep the device is that the line belongs to.
    let mut inside: Option<usize> = None;

    for line in text.lines() {
        let depth = line.len() - line.trim_start().len();
        let name = line.split_once(" : ").map_or("", |(_, name)| name);
        inside = inside.filter(|outer| depth > *outer);
        if inside.is_none() && files::is_numbered(bus::PREFIX, name) {
            inside = Some(depth);
        }
        let is_memory = name.starts_with("System RAM (virtio_mem)");
        if inside == Some(depth) || (inside.is_some() && is_memory) {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// The module's name, if a line that is no comment has it.
pub(crate) fn naming_the_module(text: &str) -> String {
    let is_named = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .any(|line| line.contains("virtio_mem") || line.contains("virtio-mem"));
    if is_named { "virtio_mem\n" } else { "" }.into()
}

/// Of the kernel's configuration, the one option that is of interest.
pub(crate) fn option(text: &str) -> String {
    let is_option = |line: &&str| line.contains("CONFIG_INIT_ON_ALLOC_DEFAULT_ON");
    let lines: Vec<_> = text.lines().filter(is_option).collect();
    format!("{}\n", lines.join("\n"))
}
