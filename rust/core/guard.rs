// SPDX-License-Identifier: GPL-2.0

//! The last check before memory is given up: Linux itself is asked whether it uses any of it.
//!
//! The engine's map says which memory Linux does not use. Where the map is wrong, UNPLUG destroys
//! what is in memory that is in use, so the map alone is not believed. Whoever sends a request asks
//! [`first_in_use`] before, which looks at what Linux has at these addresses.
//!
//! Of the range of an UNPLUG, or of the whole region for UNPLUG_ALL, every page must be
//!
//! 1. in no memory section and under no busy `System RAM` resource, or
//! 2. in an online memory block, PageOffline, and tagged by this driver, or
//! 3. in an offline memory block that the engine keeps offline until the device has answered.

use crate::geometry::Geometry;
use crate::wire::Config;
use crate::wire::Request;
use core::ops::Range;

/// What Linux has in a range of addresses that lies in one memory block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sections {
    /// No memory section.
    Absent,
    /// Memory sections, all of them offline.
    Offline,
    /// Memory sections that are online, and each page of the range is PageOffline with the tag of
    /// this driver.
    FakeOffline,
    /// Anything else: some page of the range may be in use.
    InUse,
}

/// What can be found out about Linux' use of memory.
pub trait Usage {
    /// What Linux has in a range of addresses that is not empty and lies in one memory block.
    fn sections(&self, range: Range<u64>) -> Sections;

    /// Whether a busy `System RAM` resource has a part of a range of addresses that is not empty.
    fn has_system_ram(&self, range: Range<u64>) -> bool;

    /// Whether the engine refuses to let this memory block, which is offline, go online before the
    /// request under way is answered ([`crate::engine::Engine::keeps_offline`]).
    fn keeps_offline(&self, memory_block: u32) -> bool;
}

/// The address of memory that `request` would have the device take away although Linux may use it:
/// the start of the first piece, one for each memory block, that does not pass the check. `None`: the
/// request may be sent. `config` is that of the device. Calls `usage` only.
pub fn first_in_use(
    geometry: &Geometry,
    config: &Config,
    request: Request,
    usage: &impl Usage,
) -> Option<u64> {
    let region = config.addr..config.addr.saturating_add(config.region_size);
    let blocks = |count: u16| geometry.device_block_size().saturating_mul(count.into());
    let (range, all) = match request {
        Request::Plug { .. } | Request::State { .. } => return None,
        Request::Unplug {
            addr,
            blocks: count,
        } => (addr..addr.saturating_add(blocks(count)), false),
        Request::UnplugAll => (region, true),
    };
    let mut at = range.start;
    while at < range.end {
        let number = geometry.memory_block_at(at);
        let end = match number {
            Some(number) => geometry.memory_block_addr(number.saturating_add(1)),
            // Below the first memory block that is managed, or above the last one.
            None if at < geometry.memory_block_addr(0) => geometry.memory_block_addr(0),
            None => range.end,
        };
        let piece = at..end.min(range.end);
        let unused = match number {
            Some(number) => is_unused(number, piece.clone(), usage),
            // Never plugged by this driver. It may share a memory section with memory of the machine,
            // so that Linux has pages for it, which it uses only where there is such a resource.
            None => all && !usage.has_system_ram(piece.clone()),
        };
        if !unused {
            return Some(at);
        }
        at = piece.end;
    }
    None
}

/// Whether Linux uses nothing of `piece`, which lies in `memory_block`.
fn is_unused(memory_block: u32, piece: Range<u64>, usage: &impl Usage) -> bool {
    match usage.sections(piece.clone()) {
        Sections::Absent => !usage.has_system_ram(piece),
        Sections::Offline => usage.keeps_offline(memory_block),
        Sections::FakeOffline => true,
        Sections::InUse => false,
    }
}
