// SPDX-License-Identifier: GPL-2.0

//! The device's region of the address space: whose it is, and how it is cut up.

use crate::linux::hotplug::Limits;
use crate::linux::hotplug::Region;
use kernel::device::Core;
use kernel::device::Device;
use kernel::prelude::*;
use virtio_mem_core::geometry::BigBlocks;
use virtio_mem_core::geometry::Geometry;
use virtio_mem_core::geometry::LinuxLimits;
use virtio_mem_core::wire::Config;

/// Reserves the device's region, cut up as is `wanted`, or takes it over from an earlier driver
/// that has left memory in it; then the last result is true. May sleep.
pub(crate) fn reserve(
    dev: &Device<Core<'_>>,
    config: &Config,
    wanted: &BigBlocks,
    node: i32,
) -> Result<(Region, Geometry, bool)> {
    let (start, size) = (config.addr, config.region_size);
    let mut geometry = cut(dev, config, wanted)?;
    match Region::new(start, size, dev.name(), node, geometry.block_size()) {
        Ok(region) => return Ok((region, geometry, false)),
        Err(EBUSY) => {}
        Err(error) => return Err(error),
    }
    if wanted.force || wanted.size != 0 {
        // An earlier driver may have plugged parts of what would be a big block now.
        dev_warn!(
            dev,
            "force_bbm and bbm_block_size have to wait: memory is taken over\n"
        );
        geometry = cut(dev, config, &BigBlocks::default())?;
    }
    match Region::take_over(start, size, node, geometry.block_size()) {
        Ok(region) => Ok((region, geometry, true)),
        Err(_) => {
            dev_warn!(dev, "could not reserve device region\n");
            dev_info!(
                dev,
                "what is there was not left by a driver of this device\n"
            );
            Err(EBUSY)
        }
    }
}

/// Cuts the device's region up, or says why not.
fn cut(dev: &Device<Core<'_>>, config: &Config, big: &BigBlocks) -> Result<Geometry> {
    let limits = Limits::get();
    let end = config.addr.saturating_add(config.region_size);
    for (what, addr) in [("start", config.addr), ("end", end)] {
        if addr % limits.memory_block.max(1) != 0 {
            dev_warn!(
                dev,
                "The alignment of the physical {} address can make some memory unusable.\n",
                what
            );
        }
    }
    if config.addr < limits.first || end.saturating_sub(1) > limits.last {
        dev_warn!(
            dev,
            "Some device memory is not addressable/pluggable. This can make some memory unusable.\n"
        );
    }
    let linux = LinuxLimits {
        memory_block: limits.memory_block,
        pageblock: limits.pageblock,
        first: limits.first,
        last: limits.last,
        metadata: limits.metadata,
    };
    let (geometry, bad) = Geometry::new(config, &linux, big).map_err(|why| {
        dev_err!(dev, "cannot be used: {}\n", why.as_str());
        EINVAL
    })?;
    if let Some(bad) = bad {
        dev_warn!(dev, "bbm_block_size is {}\n", bad.as_str());
    }
    Ok(geometry)
}

/// Says how the region is cut up.
pub(crate) fn describe(dev: &Device<Core<'_>>, geometry: &Geometry) {
    let memory_block_size = geometry.memory_block_size();
    dev_info!(dev, "memory block size: {:#x}\n", memory_block_size);
    if geometry.is_big() {
        dev_info!(dev, "big block size: {:#x}\n", geometry.block_size());
    } else {
        dev_info!(dev, "subblock size: {:#x}\n", geometry.sub_size());
    }
}
