// SPDX-License-Identifier: GPL-2.0

//! The block map beside the plainest thing that can stand for it.

use std::ops::Range;
use virtio_mem_core::block_map::BlockMap;
use virtio_mem_core::block_map::Class;
use virtio_mem_core::block_map::Flags;
use virtio_mem_core::block_map::MemoryBlockState;
use virtio_mem_core::geometry::BigBlocks;
use virtio_mem_core::geometry::Geometry;
use virtio_mem_core::geometry::LinuxLimits;
use virtio_mem_core::wire::Config;

const MIB: u64 = 1 << 20;
/// What a memory block of Linux can be.
const STATES: [MemoryBlockState; 4] = [
    MemoryBlockState::Absent,
    MemoryBlockState::Offline,
    MemoryBlockState::Movable,
    MemoryBlockState::Kernel,
];

/// What is asked of the map.
macro_rules! same {
    ($map:expr, $model:expr) => {{
        let (map, model) = ($map, $model);
        if map != model {
            let what = stringify!($map);
            return Err(format!("{what}: {map:?}, should be {model:?}"));
        }
    }};
}

pub(crate) struct Model {
    map: BlockMap<Vec<u64>>,
    plugged: Vec<bool>,
    /// Memory blocks, and whether they move.
    states: Vec<(MemoryBlockState, bool)>,
    /// Blocks.
    flags: Vec<Flags>,
}

impl Model {
    /// A region of 1 GiB in eight memory blocks; with big blocks of so many MiB, unless 0.
    pub(crate) fn new(big: u64) -> Self {
        let config = Config {
            block_size: 2 * MIB,
            addr: 4096 * MIB,
            region_size: 1024 * MIB,
            usable_region_size: 1024 * MIB,
            ..Config::default()
        };
        let linux = LinuxLimits {
            memory_block: 128 * MIB,
            pageblock: 2 * MIB,
            first: 0,
            last: u64::MAX >> 8,
            metadata: 2 * MIB,
        };
        let big = BigBlocks {
            force: big != 0,
            size: big * MIB,
        };
        let (geometry, _) = Geometry::new(&config, &linux, &big).unwrap();
        let words = vec![0; BlockMap::<Vec<u64>>::words_needed(&geometry)];
        Self {
            map: BlockMap::new(geometry, words),
            plugged: vec![false; geometry.subs() as usize],
            states: vec![(MemoryBlockState::Absent, false); geometry.memory_blocks() as usize],
            flags: vec![Flags::empty(); geometry.blocks() as usize],
        }
    }

    pub(crate) fn set_plugged(&mut self, start: u32, len: u32, on: bool) {
        let start = start % self.map.geometry().subs();
        self.map.set_plugged(start..start + len, on);
        let bits = self.plugged.iter_mut();
        for bit in bits.skip(start as usize).take(len as usize) {
            *bit = on;
        }
    }

    pub(crate) fn set_memory_block_state(&mut self, number: u32, state: u8, moving: bool) {
        let state = STATES[usize::from(state)];
        self.map.set_memory_block_state(number, state, moving);
        self.states[number as usize] = (state, moving);
    }

    pub(crate) fn set_flags(&mut self, block: u32, flags: u8, on: bool) {
        let block = block % self.map.geometry().blocks();
        let flags = Flags::from_bits_truncate(flags);
        self.map.set_flags(block, flags, on);
        self.flags[block as usize].set(flags, on);
    }

    fn count(&self, subs: Range<u32>) -> u32 {
        let bits = &self.plugged[subs.start as usize..subs.end as usize];
        bits.iter().filter(|bit| **bit).count() as u32
    }

    fn states_of(&self, block: u32) -> Vec<MemoryBlockState> {
        let numbers = self.map.geometry().memory_blocks_of(block);
        numbers.map(|n| self.states[n as usize].0).collect()
    }

    /// The state of that memory block of `block` which is hardest to get back.
    fn state_of(&self, block: u32) -> MemoryBlockState {
        let states = self.states_of(block);
        let hardest = STATES.iter().rev().find(|state| states.contains(state));
        *hardest.unwrap_or(&MemoryBlockState::Absent)
    }

    /// Whether the map says what it should.
    pub(crate) fn check(&self) -> Result<(), String> {
        let map = &self.map;
        let geometry = map.geometry();
        for (number, (state, moving)) in (0..).zip(&self.states) {
            same!(map.memory_block_state(number), *state);
            same!(map.is_moving(number), *moving);
        }
        for block in 0..geometry.blocks() {
            self.check_block(block)?;
            self.check_runs(block)?;
        }
        let plugged = |state| {
            let blocks = (0..geometry.blocks()).filter(|block| self.state_of(*block) == state);
            blocks
                .map(|block| self.count(geometry.subs_of(block)))
                .sum::<u32>()
        };
        let memory_blocks = |state| self.states.iter().filter(|(s, _)| *s == state).count() as u32;
        same!(map.plugged(), self.count(0..geometry.subs()));
        same!(map.plugged_not_added(), plugged(MemoryBlockState::Absent));
        same!(map.offline(), memory_blocks(MemoryBlockState::Offline));
        let standing = map.standing();
        same!(standing.movable, plugged(MemoryBlockState::Movable));
        same!(standing.kernel, plugged(MemoryBlockState::Kernel));
        same!(standing.offline, plugged(MemoryBlockState::Offline));
        same!(standing.not_added, plugged(MemoryBlockState::Absent));
        same!(
            standing.added,
            geometry.memory_blocks() - memory_blocks(MemoryBlockState::Absent)
        );
        Ok(())
    }

    fn check_block(&self, block: u32) -> Result<(), String> {
        let (map, geometry) = (&self.map, self.map.geometry());
        let (states, state) = (self.states_of(block), self.state_of(block));
        let mut numbers = geometry.memory_blocks_of(block);
        let flags = self.flags[block as usize];
        let plugged = self.count(geometry.subs_of(block));
        let moves = numbers.any(|n| self.states[n as usize].1);
        same!(map.moves(block), moves);
        same!(map.flags(block), flags);
        same!(map.state_of(block), state);
        same!(map.plugged_in(block), plugged);
        let all = geometry.subs_per_block();
        let expected = match (state, plugged) {
            (MemoryBlockState::Absent, 0) => Class::Unused,
            (MemoryBlockState::Absent, _) => Class::PluggedNotAdded,
            (MemoryBlockState::Offline, 0) => Class::OfflineEmpty,
            (MemoryBlockState::Movable, 0) => Class::MovableEmpty,
            (MemoryBlockState::Kernel, 0) => Class::KernelEmpty,
            _ if states.contains(&MemoryBlockState::Absent) => Class::Incomplete,
            (MemoryBlockState::Offline, n) if n == all => Class::OfflineFull,
            (MemoryBlockState::Offline, _) => Class::OfflinePartial,
            (MemoryBlockState::Movable, n) if n == all => Class::MovableFull,
            (MemoryBlockState::Movable, _) => Class::MovablePartial,
            (MemoryBlockState::Kernel, n) if n == all => Class::KernelFull,
            (MemoryBlockState::Kernel, _) => Class::KernelPartial,
        };
        let idle = !flags.intersects(Flags::HELD | Flags::TRANSIT) && !moves;
        let refused = flags.contains(Flags::REFUSED);
        let wanted = states.contains(&MemoryBlockState::Offline) && flags.contains(Flags::WANTED);
        for class in [
            Class::Unused,
            Class::PluggedNotAdded,
            Class::OfflineEmpty,
            Class::OfflinePartial,
            Class::OfflineFull,
            Class::MovableEmpty,
            Class::MovablePartial,
            Class::MovableFull,
            Class::KernelEmpty,
            Class::KernelPartial,
            Class::KernelFull,
            Class::Wanted,
            Class::Incomplete,
            Class::Refused,
        ] {
            let member = match class {
                Class::Unused => class == expected && !refused,
                Class::Wanted => wanted && !refused,
                Class::Refused => refused,
                _ => class == expected,
            };
            same!(
                (class, map.class(class).contains(block)),
                (class, idle && member)
            );
        }
        Ok(())
    }

    fn check_runs(&self, block: u32) -> Result<(), String> {
        const MOST: u32 = 5;
        let (map, subs) = (&self.map, self.map.geometry().subs_of(block));
        let is = |sub: &u32| self.plugged[*sub as usize];
        let first = subs.clone().find(|sub| !is(sub));
        let run = first.map(|first| {
            let stop = (first..subs.end.min(first + MOST)).find(is);
            first..stop.unwrap_or(subs.end.min(first + MOST))
        });
        same!(map.unplugged_run(block, MOST), run);
        for limit in [subs.end, subs.start + (subs.end - subs.start) / 2] {
            let last = (subs.start..limit).rev().find(is);
            let run = last.map(|last| {
                let least = subs.start.max((last + 1).saturating_sub(MOST));
                let below = (least..last).rev().find(|sub| !is(sub));
                below.map_or(least, |below| below + 1)..last + 1
            });
            same!(map.plugged_run_below(block, limit, MOST), run);
        }
        for sub in [subs.start, subs.end - 1] {
            let stop = (sub..subs.end).find(|other| is(other) != is(&sub));
            let run = sub..stop.unwrap_or(subs.end);
            same!(map.same_from(sub, subs.end), (is(&sub), run));
        }
        Ok(())
    }
}
