// SPDX-License-Identifier: GPL-2.0

//! What is known of the devices, in the form in which it is printed as JSON.

use serde::Serialize;

/// The version of the JSON form. It grows when a field changes its meaning or goes away, not when
/// one is added.
pub(crate) const VERSION: u32 = 1;

/// All devices.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    /// [`VERSION`].
    pub(crate) version: u32,
    /// The devices, in the order of their numbers.
    pub(crate) devices: Vec<Device>,
}

/// Where a device's sizes come from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// The driver's own attributes.
    Sysfs,
    /// `/proc/iomem` and the memory blocks.
    Iomem,
    /// Nowhere: `/proc/iomem` hides addresses from this user.
    Hidden,
    /// Nowhere: no driver is bound, or it shows nothing.
    #[default]
    None,
}

/// One device. Sizes are in bytes; `None` (null) stands for what cannot be known.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Device {
    /// Its name on the virtio bus.
    pub(crate) device: String,
    /// The driver that is bound to it.
    pub(crate) driver: Option<String>,
    /// Where the sizes come from.
    pub(crate) source: Source,
    /// The node its memory belongs to.
    pub(crate) node: Option<u32>,
    /// Where its region starts.
    pub(crate) start_address: Option<u64>,
    /// The size of the device's blocks.
    pub(crate) block_size: Option<u64>,
    /// The most it can ever give.
    pub(crate) region_size: Option<u64>,
    /// How far into the region blocks can be plugged now.
    pub(crate) usable_region_size: Option<u64>,
    /// What the host asks for.
    pub(crate) requested_size: Option<u64>,
    /// What the host gave.
    pub(crate) plugged_size: Option<u64>,
    /// What the driver is doing.
    pub(crate) state: Option<String>,
    /// Why it is not done.
    pub(crate) reason: Option<String>,
    /// What was added to Linux, in whole memory blocks.
    pub(crate) added_size: Option<u64>,
    /// What of that is online in ZONE_MOVABLE.
    pub(crate) online_movable_size: Option<u64>,
    /// What of that is online in another zone.
    pub(crate) online_kernel_size: Option<u64>,
    /// What of that is not online.
    pub(crate) offline_size: Option<u64>,
}
