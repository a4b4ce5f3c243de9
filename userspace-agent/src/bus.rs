// SPDX-License-Identifier: GPL-2.0

//! The virtio bus: which of its devices are virtio-mem devices, and what drives them.

use crate::error::optional;
use crate::error::Result;
use crate::files;
use crate::files::Root;
use crate::values;
use std::path::Path;
use std::path::PathBuf;

/// The bus's devices, from `/`.
pub(crate) const DEVICES: &str = "sys/bus/virtio/devices";
/// What devices are called, before their number.
pub(crate) const PREFIX: &str = "virtio";
/// The driver's name: the kernel's own and this project's have the same.
pub(crate) const DRIVER: &str = "virtio_mem";
/// The virtio specification's number for memory devices.
const MEMORY_DEVICE: u64 = 24;
/// What is expected in a device's `device`.
const EXPECTED_ID: &str = "a virtio device id in hexadecimal";
/// What is expected of a device's `driver`.
const EXPECTED_DRIVER: &str = "a link to a driver";

/// A virtio-mem device.
#[derive(Clone, Debug)]
pub(crate) struct BusDevice {
    /// Its name, `virtioN`.
    pub(crate) name: String,
    /// Its directory.
    pub(crate) dir: PathBuf,
    /// The driver bound to it.
    pub(crate) driver: Option<String>,
}

impl BusDevice {
    /// Whether it is driven by a virtio_mem driver.
    pub(crate) fn is_driven(&self) -> bool {
        self.driver.as_deref() == Some(DRIVER)
    }
}

/// The names of all virtio devices in the order of their numbers; none where there is no such bus.
pub(crate) fn names(root: &Root) -> Result<Vec<String>> {
    let numbers = files::numbers(&root.join(DEVICES), PREFIX);
    let numbers = optional(numbers)?.unwrap_or_default();

    Ok(numbers
        .iter()
        .map(|number| format!("{PREFIX}{number}"))
        .collect())
}

/// The names of all virtio devices, or of the one called `only`: by its name, or by the address of
/// the PCI device that it is part of, with or without the domain 0000.
pub(crate) fn selected(root: &Root, only: Option<&str>) -> Result<Vec<String>> {
    let mut names = names(root)?;
    if let Some(only) = only {
        let long = format!("0000:{only}");
        names.retain(|name| {
            *name == only || pci(&dir(root, name)).is_some_and(|pci| pci == only || pci == long)
        });
    }
    Ok(names)
}

/// The address of the PCI device that a virtio device is part of: the name of the directory above.
fn pci(dir: &Path) -> Option<String> {
    let target = std::fs::read_link(dir).ok()?;
    let parent = target.parent()?.file_name()?.to_str()?;
    // As in 0000:00:04.0; others are the directories of bridges, or of devices without PCI.
    let is_address = parent.contains('.')
        && !parent.contains(|c: char| c.is_alphabetic() && !c.is_ascii_hexdigit());
    is_address.then(|| parent.into())
}

/// What there is to say where there is no device, or none that is called `only`.
pub(crate) fn absence(only: Option<&str>) -> String {
    match only {
        Some(name) => format!("no virtio-mem device {name:?}"),
        None => "no virtio-mem device".into(),
    }
}

/// The directory of a device.
pub(crate) fn dir(root: &Root, name: &str) -> PathBuf {
    root.join(DEVICES).join(name)
}

/// Looks at one device; `None` if it is something other than a virtio-mem device.
pub(crate) fn look(root: &Root, name: &str) -> Result<Option<BusDevice>> {
    let dir = dir(root, name);
    let driver = driver(&dir)?;
    let device = BusDevice {
        name: name.into(),
        dir,
        driver,
    };

    // The driver says it all; the id has to be asked for only where there is none.
    if device.is_driven() || id(&device.dir)? == MEMORY_DEVICE {
        Ok(Some(device))
    } else {
        Ok(None)
    }
}

/// The name of the driver that is bound to the device.
pub(crate) fn driver(dir: &Path) -> Result<Option<String>> {
    optional(files::link_name(&dir.join("driver"), EXPECTED_DRIVER))
}

/// The device's virtio id.
fn id(dir: &Path) -> Result<u64> {
    files::read_value(&dir.join("device"), EXPECTED_ID, values::hexadecimal)
}
