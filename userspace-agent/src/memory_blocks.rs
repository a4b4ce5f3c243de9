// SPDX-License-Identifier: GPL-2.0

//! `/sys/devices/system/memory`: how the memory that was added stands.
//!
//! Linux adds and removes memory in blocks (128 MiB as a rule). Each has a directory `memoryN`,
//! with N the block's number, so that its address is N times the block size (`phys_index` says the
//! same once more).

use crate::error::optional;
use crate::error::Result;
use crate::files;
use crate::files::Root;
use crate::iomem::Range;
use crate::values;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

/// The directory, from `/`.
const DIR: &str = "sys/devices/system/memory";
/// The directory of the nodes, each with links to its memory blocks, from `/`.
const NODES: &str = "sys/devices/system/node";
/// What is expected in `block_size_bytes`.
const EXPECTED_SIZE: &str = "a hexadecimal size other than 0";
/// What is expected in `state`.
const EXPECTED_STATE: &str = "online, offline or going-offline";
/// What is expected in `valid_zones`.
const EXPECTED_ZONES: &str = "names of zones";

/// The memory blocks there were at one moment.
#[derive(Debug)]
pub(crate) struct MemoryBlocks {
    dir: PathBuf,
    block_size: u64,
    numbers: BTreeSet<u64>,
    /// The nodes, and which memory blocks each has.
    nodes: Vec<(u32, BTreeSet<u64>)>,
}

/// How many bytes of some ranges are in memory blocks, and how those stand.
///
/// A block counts in full, even if the device has plugged only a part of it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Standing {
    /// Online in ZONE_MOVABLE.
    pub(crate) movable: u64,
    /// Online in another zone.
    pub(crate) kernel: u64,
    /// Online in a zone that the kernel does not tell.
    pub(crate) unknown: u64,
    /// Not online, or on its way there.
    pub(crate) offline: u64,
    /// The nodes the blocks belong to.
    pub(crate) nodes: BTreeSet<u32>,
}

impl Standing {
    /// All of it.
    pub(crate) fn total(&self) -> u64 {
        [self.movable, self.kernel, self.unknown, self.offline]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

/// The state of one block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Online,
    Offline,
}

/// The zone of a block that is online.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Zone {
    Movable,
    Kernel,
    Unknown,
}

impl MemoryBlocks {
    /// Lists the memory blocks; `None` where the kernel does not show any.
    pub(crate) fn list(root: &Root) -> Result<Option<Self>> {
        let dir = root.join(DIR);
        let Some(numbers) = optional(files::numbers(&dir, "memory"))? else {
            return Ok(None);
        };
        let block_size = files::read_value(&dir.join("block_size_bytes"), EXPECTED_SIZE, |text| {
            values::hexadecimal(text).filter(|size| *size != 0)
        })?;

        Ok(Some(Self {
            dir,
            block_size,
            numbers,
            nodes: nodes(root)?,
        }))
    }

    /// How the blocks stand that lie in one of the ranges. Blocks that went away meanwhile are left
    /// out.
    pub(crate) fn standing(&self, ranges: &[Range]) -> Result<Standing> {
        let mut standing = Standing::default();

        for (number, block) in self.blocks() {
            if !ranges.iter().any(|range| range.contains(block)) {
                continue;
            }
            let dir = self.dir.join(format!("memory{number}"));
            let Some((state, zone)) = optional(read_block(&dir))? else {
                continue;
            };

            let sum = match (state, zone) {
                (State::Offline, _) => &mut standing.offline,
                (State::Online, Zone::Movable) => &mut standing.movable,
                (State::Online, Zone::Kernel) => &mut standing.kernel,
                (State::Online, Zone::Unknown) => &mut standing.unknown,
            };
            *sum = sum.saturating_add(block.size());
            let has = |(_, blocks): &&(u32, BTreeSet<u64>)| blocks.contains(&number);
            let nodes = self.nodes.iter().filter(has);
            standing.nodes.extend(nodes.map(|(node, _)| *node));
        }
        Ok(standing)
    }

    /// The numbers and ranges of all blocks; those beyond the address space are nobody's.
    fn blocks(&self) -> impl Iterator<Item = (u64, Range)> + '_ {
        self.numbers.iter().filter_map(|number| {
            let range = Range::new(number.checked_mul(self.block_size)?, self.block_size)?;
            Some((*number, range))
        })
    }
}

/// Reads what is of interest in a block's directory.
fn read_block(dir: &Path) -> Result<(State, Zone)> {
    let state = files::read_value(&dir.join("state"), EXPECTED_STATE, parse_state)?;
    let zone = match state {
        State::Offline => Zone::Unknown,
        State::Online => {
            let zones = dir.join("valid_zones");
            optional(files::read_value(&zones, EXPECTED_ZONES, parse_zone))?
                .unwrap_or(Zone::Unknown)
        }
    };
    Ok((state, zone))
}

/// Which memory blocks each node has: a directory a node, where a directory a memory block would take
/// thousands. None where the kernel knows no nodes.
fn nodes(root: &Root) -> Result<Vec<(u32, BTreeSet<u64>)>> {
    let dir = root.join(NODES);
    let numbers = optional(files::numbers(&dir, "node"))?.unwrap_or_default();
    let mut nodes = Vec::new();

    for number in numbers {
        let Ok(node) = u32::try_from(number) else {
            continue;
        };
        let blocks = files::numbers(&dir.join(format!("node{node}")), "memory");
        nodes.extend(optional(blocks)?.map(|blocks| (node, blocks)));
    }
    Ok(nodes)
}

/// A block that is being taken offline is no longer counted on.
fn parse_state(text: &str) -> Option<State> {
    match text {
        "online" => Some(State::Online),
        "offline" | "going-offline" => Some(State::Offline),
        _ => None,
    }
}

/// The zone from `valid_zones`, which for a block that is online names its one zone, or `none` if
/// it spans several. (For others it lists the zones in which it could be brought online.)
fn parse_zone(text: &str) -> Option<Zone> {
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric());

    match text {
        "Movable" => Some(Zone::Movable),
        "none" => Some(Zone::Unknown),
        name if is_name(name) => Some(Zone::Kernel),
        // The block went offline since its state was read.
        names if !names.is_empty() && names.split(' ').all(is_name) => Some(Zone::Unknown),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK: u64 = 128 << 20;

    fn blocks(block_size: u64, numbers: &[u64]) -> MemoryBlocks {
        MemoryBlocks {
            dir: PathBuf::new(),
            block_size,
            numbers: numbers.iter().copied().collect(),
            nodes: Vec::new(),
        }
    }

    #[test]
    fn states_and_zones() {
        assert_eq!(parse_state("online"), Some(State::Online));
        assert_eq!(parse_state("offline"), Some(State::Offline));
        assert_eq!(parse_state("going-offline"), Some(State::Offline));
        assert_eq!(parse_state("offline "), None);
        assert_eq!(parse_zone("Movable"), Some(Zone::Movable));
        assert_eq!(parse_zone("Normal"), Some(Zone::Kernel));
        assert_eq!(parse_zone("DMA32"), Some(Zone::Kernel));
        assert_eq!(parse_zone("none"), Some(Zone::Unknown));
        assert_eq!(parse_zone("Normal Movable"), Some(Zone::Unknown));
        assert_eq!(parse_zone(""), None);
        assert_eq!(parse_zone("Normal  Movable"), None);
        assert_eq!(parse_zone("\u{1b}"), None);
    }

    #[test]
    fn addresses() {
        let blocks = blocks(BLOCK, &[0, 8]);
        let ranges: Vec<_> = blocks.blocks().map(|(_, range)| range.start).collect();

        assert_eq!(ranges, [0, 1 << 30]);
    }

    #[test]
    fn blocks_beyond_the_address_space() {
        assert_eq!(blocks(1 << 63, &[0, 1, 2, u64::MAX]).blocks().count(), 2);
        assert_eq!(blocks(u64::MAX, &[0, 1, 2]).blocks().count(), 1);
    }

    #[test]
    fn a_block_that_is_gone_counts_nothing() {
        let range = Range::new(0, BLOCK).unwrap();
        let standing = blocks(BLOCK, &[0]).standing(&[range]).unwrap();

        assert_eq!(standing, Standing::default());
        assert_eq!(standing.total(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let text = String::from_utf8_lossy(&bytes);
            let _ = (parse_state(&text), parse_zone(&text));
        }

        #[test]
        fn any_block_size_is_survived(size in 1_u64.., numbers: Vec<u64>) {
            for (number, range) in blocks(size, &numbers).blocks() {
                prop_assert_eq!(u128::from(range.start), u128::from(number) * u128::from(size));
            }
        }
    }
}
