// SPDX-License-Identifier: GPL-2.0

//! The driver, as the virtio bus sees it.

use crate::attributes;
use crate::config;
use crate::instance::Instance;
use crate::linux::groups::Groups;
use crate::linux::virtio;
use crate::linux::virtio::Device;
use crate::probe;
use kernel::device::Core;
use kernel::prelude::*;
use virtio_mem_core::wire;

/// The driver.
pub(crate) struct VirtioMem;

virtio::id_table!(
    /// Memory devices.
    TABLE,
    wire::DEVICE_ID
);

impl virtio::Driver for VirtioMem {
    type Data = Instance;
    const ID_TABLE: &'static virtio::IdTable = &TABLE;
    const FEATURES: &'static [u32] = config::FEATURES;
    const ATTRIBUTES: &'static Groups<Instance> = &attributes::ATTRIBUTES;

    fn probe<'bound>(vdev: &'bound Device<Core<'_>>) -> impl PinInit<Instance, Error> + 'bound {
        probe::bind(vdev)
    }

    fn unbind<'bound>(_: &'bound Device<Core<'_>>, instance: Pin<&Instance>) {
        instance.unbind();
    }

    fn freeze<'bound>(vdev: &'bound Device<Core<'_>>, instance: Pin<&Instance>) -> Result {
        instance.freeze(vdev)
    }

    fn prepare_reset<'bound>(_: &'bound Device<Core<'_>>, instance: Pin<&Instance>) -> Result {
        instance.prepare_reset()
    }

    fn restore<'bound>(vdev: &'bound Device<Core<'_>>, instance: Pin<&Instance>) -> Result {
        instance.restore(vdev)
    }
}
