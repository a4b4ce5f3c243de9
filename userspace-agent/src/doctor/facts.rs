// SPDX-License-Identifier: GPL-2.0

//! What the checks read: the devices, and files of the machine.

use crate::bus;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::Root;
use crate::status::Device;
use crate::sysfs;
use crate::values;
use std::path::PathBuf;

/// The directory of the module, whoever wrote it, from `/`.
const MODULE: &str = "sys/module/virtio_mem";
/// A parameter that this project's module has and the kernel's own has not.
const ONLINE_TYPE: &str = "sys/module/virtio_mem/parameters/online_type";
/// What is expected there.
const EXPECTED_ONLINE_TYPE: &str = "movable or policy";
/// The size of a memory block, from `/`.
const BLOCK_SIZE: &str = "sys/devices/system/memory/block_size_bytes";
/// What is expected there.
const EXPECTED_BLOCK_SIZE: &str = "a hexadecimal power of two";

/// The machine that is examined.
#[derive(Debug)]
pub(crate) struct Facts {
    root: Root,
    /// All its virtio-mem devices.
    pub(crate) devices: Vec<Device>,
}

/// The module that is loaded, or part of the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Module {
    /// None.
    Absent,
    /// This project's.
    Ours,
    /// The kernel's own, in C.
    Theirs,
}

/// Who brings memory online.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Onlining {
    /// The driver, into ZONE_MOVABLE.
    Movable,
    /// The kernel's default policy, and udev.
    Policy,
}

impl Facts {
    /// A machine with these devices.
    pub(crate) fn new(root: Root, devices: Vec<Device>) -> Self {
        Self { root, devices }
    }

    /// The place in which files are.
    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    /// Where a file is.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Reads a file that holds one value.
    pub(crate) fn value<T>(
        &self,
        path: &str,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T> {
        files::read_value(&self.path(path), expected, parse)
    }

    /// Whether a feature of a virtio device is in use. The file has a character for each one.
    pub(crate) fn feature(&self, device: &str, number: usize) -> Result<bool> {
        let path = bus::dir(&self.root, device).join("features");
        files::read_value(&path, "a string of 0 and 1", |text| {
            let bits = text.as_bytes();
            let sound = !bits.is_empty() && bits.iter().all(|bit| matches!(bit, b'0' | b'1'));
            sound.then(|| bits.get(number) == Some(&b'1'))
        })
    }

    /// The devices with a virtio_mem driver, whichever that is.
    pub(crate) fn driven(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(|device| device.is_driven())
    }

    /// Which module there is.
    pub(crate) fn module(&self) -> Module {
        if self.path(ONLINE_TYPE).exists() {
            Module::Ours
        } else if self.path(MODULE).exists() || self.driven().next().is_some() {
            Module::Theirs
        } else {
            Module::Absent
        }
    }

    /// Who brings a device's memory online.
    pub(crate) fn onlining(&self, device: &Device) -> Result<Onlining> {
        if self.module() != Module::Ours {
            return Ok(Onlining::Policy);
        }
        // The parameter may have been changed since the driver was bound.
        let Some(bound) = &device.online_type else {
            return self.value(ONLINE_TYPE, EXPECTED_ONLINE_TYPE, parse_onlining);
        };
        parse_onlining(bound).ok_or_else(|| {
            let group = bus::dir(&self.root, &device.device).join(sysfs::GROUP);
            Error::content(&group.join("online_type"), EXPECTED_ONLINE_TYPE, bound)
        })
    }

    /// The size of a memory block.
    pub(crate) fn memory_block(&self) -> Result<u64> {
        self.value(BLOCK_SIZE, EXPECTED_BLOCK_SIZE, |text| {
            values::hexadecimal(text).filter(|size| size.is_power_of_two())
        })
    }
}

fn parse_onlining(text: &str) -> Option<Onlining> {
    match text {
        "movable" => Some(Onlining::Movable),
        "policy" => Some(Onlining::Policy),
        _ => None,
    }
}
