// SPDX-License-Identifier: GPL-2.0

//! The check before memory is given up: what passes it, and what does not.

use std::cell::RefCell;
use std::ops::Range;
use virtio_mem_core::geometry::BigBlocks;
use virtio_mem_core::geometry::Geometry;
use virtio_mem_core::geometry::LinuxLimits;
use virtio_mem_core::guard::first_in_use;
use virtio_mem_core::guard::Sections;
use virtio_mem_core::guard::Usage;
use virtio_mem_core::wire::Config;
use virtio_mem_core::wire::Request;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 128 * MIB;
const UNIT: u64 = 2 * MIB;

/// A region that begins and ends in the middle of a memory block.
const REGION: Range<u64> = 32 * BLOCK + 64 * MIB..40 * BLOCK + 32 * MIB;

/// The first memory block that lies in it.
const FIRST: u64 = 33 * BLOCK;

/// A Linux that has nothing in the region but for what is said here.
#[derive(Default)]
struct Linux {
    /// Memory sections, by memory blocks from [`FIRST`] on.
    sections: Vec<(u32, Sections)>,
    /// Under a busy resource.
    ram: Option<Range<u64>>,
    /// Memory blocks that stay offline.
    kept: Vec<u32>,
    /// Where it was looked for memory sections.
    looked: RefCell<Vec<Range<u64>>>,
}

impl Usage for Linux {
    fn sections(&self, range: Range<u64>) -> Sections {
        assert_eq!(range.start / BLOCK, (range.end - 1) / BLOCK, "{range:x?}");
        let number = ((range.start - FIRST) / BLOCK) as u32;
        self.looked.borrow_mut().push(range);
        let found = self.sections.iter().find(|(block, _)| *block == number);
        found.map_or(Sections::Absent, |(_, sections)| *sections)
    }

    fn has_system_ram(&self, range: Range<u64>) -> bool {
        assert!(range.start < range.end, "{range:x?}");
        let overlaps = |ram: &Range<u64>| ram.start < range.end && range.start < ram.end;
        self.ram.as_ref().is_some_and(overlaps)
    }

    fn keeps_offline(&self, memory_block: u32) -> bool {
        self.kept.contains(&memory_block)
    }
}

fn check(request: Request, linux: &Linux) -> Option<u64> {
    let config = Config {
        block_size: UNIT,
        addr: REGION.start,
        region_size: REGION.end - REGION.start,
        usable_region_size: REGION.end - REGION.start,
        plugged_size: 0,
        requested_size: 0,
    };
    let limits = LinuxLimits {
        memory_block: BLOCK,
        pageblock: UNIT,
        first: 0,
        last: u64::MAX >> 8,
        metadata: 2 * MIB,
    };
    let (geometry, _) = Geometry::new(&config, &limits, &BigBlocks::default()).unwrap();
    assert_eq!(geometry.memory_block_addr(0), FIRST);
    first_in_use(&geometry, &config, request, linux)
}

fn unplug(range: Range<u64>, linux: &Linux) -> Option<u64> {
    let blocks = ((range.end - range.start) / UNIT) as u16;
    let addr = range.start;
    check(Request::Unplug { addr, blocks }, linux)
}

#[test]
fn memory_that_linux_does_not_have_may_go() {
    let linux = Linux::default();
    assert_eq!(unplug(FIRST..FIRST + 3 * BLOCK, &linux), None);
    assert_eq!(check(Request::UnplugAll, &linux), None);
    // All of it has been looked at, in pieces of memory blocks.
    let looked = linux.looked.borrow();
    let blocks = |count: u64| (0..count).map(|n| FIRST + n * BLOCK..FIRST + (n + 1) * BLOCK);
    assert!(looked.iter().cloned().eq(blocks(3).chain(blocks(7))));
}

#[test]
fn memory_in_a_section_or_under_a_resource_stays() {
    for (block, at) in [(0, FIRST), (2, FIRST + 2 * BLOCK)] {
        let used = Linux {
            sections: vec![(block, Sections::InUse)],
            ..Linux::default()
        };
        assert_eq!(unplug(FIRST..FIRST + 3 * BLOCK, &used), Some(at));
        assert_eq!(check(Request::UnplugAll, &used), Some(at));
        let page = at + 5 * UNIT..at + 5 * UNIT + 4096;
        let ram = Linux {
            ram: Some(page),
            ..Linux::default()
        };
        assert_eq!(unplug(FIRST..FIRST + 3 * BLOCK, &ram), Some(at));
        assert_eq!(check(Request::UnplugAll, &ram), Some(at));
        // Beside it.
        assert_eq!(unplug(at..at + 5 * UNIT, &ram), None);
        assert_eq!(unplug(at + 6 * UNIT..at + BLOCK, &ram), None);
    }
}

#[test]
fn pages_that_are_fake_offline_may_go() {
    let linux = Linux {
        sections: vec![(1, Sections::FakeOffline)],
        ram: Some(FIRST + BLOCK..FIRST + 2 * BLOCK),
        ..Linux::default()
    };
    let at = FIRST + BLOCK + 7 * UNIT;
    assert_eq!(unplug(at..at + 2 * UNIT, &linux), None);
    assert_eq!(linux.looked.borrow().last(), Some(&(at..at + 2 * UNIT)));
}

#[test]
fn offline_memory_may_go_only_while_it_is_kept_offline() {
    let mut linux = Linux {
        sections: vec![(1, Sections::Offline), (2, Sections::Offline)],
        ram: Some(FIRST + BLOCK..FIRST + 3 * BLOCK),
        kept: vec![1],
        ..Linux::default()
    };
    let range = FIRST + BLOCK..FIRST + 3 * BLOCK;
    assert_eq!(unplug(range.clone(), &linux), Some(FIRST + 2 * BLOCK));
    linux.kept.push(2);
    assert_eq!(unplug(range, &linux), None);
}

#[test]
fn ends_of_the_region_need_no_resource_and_are_never_unplugged_alone() {
    // What is not managed may share a memory section with memory of the machine.
    for ram in [
        REGION.start..REGION.start + UNIT,
        REGION.end - 1..REGION.end,
    ] {
        let at = ram.start.clamp(REGION.start, 40 * BLOCK);
        let linux = Linux {
            ram: Some(ram),
            ..Linux::default()
        };
        assert_eq!(check(Request::UnplugAll, &linux), Some(at));
        assert_eq!(unplug(FIRST..FIRST + 7 * BLOCK, &linux), None);
    }
    let linux = Linux::default();
    let below = FIRST - UNIT..FIRST + UNIT;
    assert_eq!(unplug(below.clone(), &linux), Some(below.start));
    let above = 40 * BLOCK - UNIT..40 * BLOCK + UNIT;
    assert_eq!(unplug(above, &linux), Some(40 * BLOCK));
    // Whatever it names.
    let (addr, blocks) = (u64::MAX - 5, 9);
    let nonsense = Request::Unplug { addr, blocks };
    assert_eq!(check(nonsense, &linux), Some(addr));
}

#[test]
fn requests_that_give_nothing_up_are_not_checked() {
    let linux = Linux {
        sections: vec![(0, Sections::InUse)],
        ram: Some(REGION),
        ..Linux::default()
    };
    let (addr, blocks) = (FIRST, 4);
    assert_eq!(check(Request::Plug { addr, blocks }, &linux), None);
    assert_eq!(check(Request::State { addr, blocks }, &linux), None);
}
