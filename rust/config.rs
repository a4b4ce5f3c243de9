// SPDX-License-Identifier: GPL-2.0

//! What a device says of itself: its config space, and the features that it and the driver agree
//! on.

use crate::linux::hotplug;
use crate::linux::virtio::Device;
use kernel::device;
use virtio_mem_core::wire;
use virtio_mem_core::wire::Config;
use virtio_mem_core::wire::Features;
use virtio_mem_core::wire::Reading;

const ACPI_PXM: u32 = Features::ACPI_PXM.bits().trailing_zeros();
/// The number of the feature bit that says that memory stays plugged through a suspend.
pub(crate) const PERSISTENT_SUSPEND: u32 = Features::PERSISTENT_SUSPEND.bits().trailing_zeros();
const UNPLUGGED_INACCESSIBLE: u32 = Features::UNPLUGGED_INACCESSIBLE.bits().trailing_zeros();

/// The numbers of the feature bits that the driver understands. A kernel that does not read the
/// proximity domains of ACPI's tables makes nothing of their numbers.
pub(crate) const FEATURES: &[u32] = if cfg!(all(CONFIG_NUMA, CONFIG_ACPI_NUMA)) {
    &[ACPI_PXM, UNPLUGGED_INACCESSIBLE, PERSISTENT_SUSPEND]
} else {
    &[UNPLUGGED_INACCESSIBLE, PERSISTENT_SUSPEND]
};

/// Reads all fields of the config space that the driver uses; all but the block size are of one
/// generation. May sleep.
pub(crate) fn read<Ctx: device::DeviceContext>(vdev: &Device<Ctx>) -> Config {
    let [block_size] = vdev.read_u64s(wire::offset::BLOCK_SIZE);
    let [addr, region_size, usable_region_size, plugged_size, requested_size] =
        vdev.read_u64s(wire::offset::ADDR);
    Config {
        block_size,
        addr,
        region_size,
        usable_region_size,
        plugged_size,
        requested_size,
    }
}

/// Reads anew what changes of the config space, and no more: reading a field may take the host as
/// long as anything in a small request. May sleep.
pub(crate) fn reread<Ctx: device::DeviceContext>(vdev: &Device<Ctx>) -> Reading {
    let [usable_region_size, plugged_size, requested_size] =
        vdev.read_u64s(wire::offset::USABLE_REGION_SIZE);
    Reading {
        usable_region_size,
        plugged_size,
        requested_size,
    }
}

/// The features of memory devices that were negotiated.
pub(crate) fn features(vdev: &Device<device::Core<'_>>) -> Features {
    Features::all()
        .iter()
        .filter(|feature| vdev.has_feature(feature.bits().trailing_zeros()))
        .collect()
}

/// The node that the device names for its memory, or -1.
pub(crate) fn named_node(vdev: &Device<device::Core<'_>>) -> i32 {
    if vdev.has_feature(ACPI_PXM) {
        hotplug::node_of_proximity_domain(vdev.read_u16(wire::offset::NODE_ID))
    } else {
        -1
    }
}

/// The node that the device's memory belongs to.
pub(crate) fn node(vdev: &Device<device::Core<'_>>, addr: u64) -> i32 {
    let named = named_node(vdev);
    if named < 0 {
        hotplug::node_of_address(addr)
    } else {
        named
    }
}
