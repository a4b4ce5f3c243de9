// SPDX-License-Identifier: GPL-2.0

//! The driver's own attributes, a group in the device's directory with one value per file.
//!
//! The kernel's C driver has none. A file that is not there is a value that is not known.

use crate::error::optional;
use crate::error::Result;
use crate::files;
use std::path::Path;
use std::path::PathBuf;

/// The group's name.
const GROUP: &str = "virtio_mem";
/// What is expected in a size's file.
const EXPECTED_BYTES: &str = "a decimal number of bytes";
/// What is expected in `start_address`.
const EXPECTED_ADDRESS: &str = "a decimal address";
/// What is expected in `node`.
const EXPECTED_NODE: &str = "the number of a node, or -1";
/// What is expected in `state` and `reason`.
const EXPECTED_WORD: &str = "a word of lower-case letters, digits and dashes";

/// What the driver says of a device.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Attributes {
    /// What the host asks for.
    pub(crate) requested_size: Option<u64>,
    /// What the host gave.
    pub(crate) plugged_size: Option<u64>,
    /// The most the device can ever give.
    pub(crate) region_size: Option<u64>,
    /// How far into the region blocks can be plugged now.
    pub(crate) usable_region_size: Option<u64>,
    /// The size of the device's blocks.
    pub(crate) block_size: Option<u64>,
    /// Where the region starts.
    pub(crate) start_address: Option<u64>,
    /// The node its memory belongs to.
    pub(crate) node: Option<u32>,
    /// What the driver is doing.
    pub(crate) state: Option<String>,
    /// Why it is not done.
    pub(crate) reason: Option<String>,
}

/// Reads the attributes of the device in `dir`; `None` if its driver has none.
pub(crate) fn read(dir: &Path) -> Result<Option<Attributes>> {
    let group = Group(dir.join(GROUP));
    if !group.exists() {
        return Ok(None);
    }
    let attributes = Attributes {
        requested_size: group.bytes("requested_size")?,
        plugged_size: group.bytes("plugged_size")?,
        region_size: group.bytes("region_size")?,
        usable_region_size: group.bytes("usable_region_size")?,
        block_size: group.bytes("block_size")?,
        start_address: group.value("start_address", EXPECTED_ADDRESS, files::decimal)?,
        node: group.value("node", EXPECTED_NODE, files::node)?.flatten(),
        state: group.value("state", EXPECTED_WORD, files::word)?,
        reason: group.value("reason", EXPECTED_WORD, files::word)?,
    };

    // If the driver was unbound meanwhile, missing files mean nothing.
    Ok(group.exists().then_some(attributes))
}

/// The group's directory.
struct Group(PathBuf);

impl Group {
    fn exists(&self) -> bool {
        self.0.is_dir()
    }

    fn value<T>(
        &self,
        name: &str,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        optional(files::read_value(&self.0.join(name), expected, parse))
    }

    fn bytes(&self, name: &str) -> Result<Option<u64>> {
        self.value(name, EXPECTED_BYTES, files::decimal)
    }
}
