// SPDX-License-Identifier: GPL-2.0

//! `/proc/iomem`: where a device's memory lies, and what of it was added to Linux.
//!
//! Every virtio_mem driver reserves the device's region under the device's name, and adds memory
//! under it as `System RAM (virtio_mem)`:
//!
//! ```text
//! 140000000-53fffffff : virtio0
//!   140000000-17fffffff : System RAM (virtio_mem)
//! ```
//!
//! Who lacks CAP_SYS_ADMIN sees the names, but every address as zero.

use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::Root;
use crate::values;

/// The file, from `/`.
const FILE: &str = "proc/iomem";
/// What it should be.
const EXPECTED: &str = "lines of the form \"START-END : NAME\"";
/// A line per resource: even thousands of them are far from this.
const LIMIT: u64 = 16 << 20;
/// What added memory is called.
const ADDED: &str = "System RAM (virtio_mem)";

/// A range of physical addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Range {
    /// The first address.
    pub(crate) start: u64,
    /// The last address (so that a range can reach the end of the address space).
    pub(crate) last: u64,
}

impl Range {
    /// `size` bytes at `start`; `None` if there are none or they do not fit the address space.
    pub(crate) fn new(start: u64, size: u64) -> Option<Self> {
        let last = start.checked_add(size.checked_sub(1)?)?;
        Some(Self { start, last })
    }

    /// The number of bytes, one short for the whole address space.
    pub(crate) fn size(self) -> u64 {
        (self.last - self.start).saturating_add(1)
    }

    /// Whether all of `other` lies in it.
    pub(crate) fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.last <= self.last
    }
}

/// What is known of a device's region.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Region {
    /// Nothing has the device's name.
    Absent,
    /// It is there, but addresses are not shown to this user.
    Hidden,
    /// It is there.
    Known {
        /// The whole region.
        range: Range,
        /// What of it was added to Linux.
        added: Vec<Range>,
    },
}

/// One line.
#[derive(Debug)]
struct Entry<'a> {
    depth: usize,
    range: Range,
    name: &'a str,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let text = line.trim_start_matches(' ');
        let (range, name) = text.split_once(" : ")?;
        let (start, last) = range.split_once('-')?;
        let range = Range {
            start: values::hexadecimal(start)?,
            last: values::hexadecimal(last)?,
        };

        (range.start <= range.last).then_some(Self {
            depth: line.len() - text.len(),
            range,
            name,
        })
    }
}

/// Finds the region of the device called `name`.
pub(crate) fn region(root: &Root, name: &str) -> Result<Region> {
    let path = root.join(FILE);
    let text = files::read_text(&path, EXPECTED, LIMIT)?;

    find(&text, name).map_err(|line| Error::content(&path, EXPECTED, line))
}

/// Finds the region in the file's text; or returns the line that is none.
fn find<'a>(text: &'a str, name: &str) -> std::result::Result<Region, &'a str> {
    // The region and its depth, once it was found; and whether the lines still belong to it.
    let mut region: Option<(Range, usize)> = None;
    let mut inside = false;
    let mut added = Vec::new();

    for line in text.lines() {
        let entry = Entry::parse(line).ok_or(line)?;

        match region {
            None if entry.name == name => {
                region = Some((entry.range, entry.depth));
                inside = true;
            }
            Some((range, depth)) if inside => {
                inside = entry.depth > depth;
                if inside && entry.name == ADDED && range.contains(entry.range) {
                    added.push(entry.range);
                }
            }
            _ => {}
        }
    }

    Ok(match region {
        None => Region::Absent,
        Some((Range { start: 0, last: 0 }, _)) => Region::Hidden,
        Some((range, _)) => Region::Known { range, added },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "\
00001000-0009ffff : System RAM
100000000-13fffffff : System RAM
  101000000-101ffffff : Kernel code
140000000-53fffffff : virtio0
  140000000-17fffffff : System RAM (virtio_mem)
  188000000-18fffffff : System RAM (virtio_mem)
    188000000-188ffffff : Kernel code
540000000-93fffffff : virtio1
  540000000-547ffffff : System RAM (virtio_mem)
940000000-947ffffff : System RAM (virtio_mem)
";

    fn range(start: u64, size: u64) -> Range {
        Range::new(start, size).unwrap()
    }

    #[test]
    fn region_and_what_was_added() {
        assert_eq!(
            find(TEXT, "virtio0"),
            Ok(Region::Known {
                range: range(0x1_4000_0000, 16 << 30),
                added: vec![
                    range(0x1_4000_0000, 1 << 30),
                    range(0x1_8800_0000, 128 << 20)
                ],
            })
        );
        assert_eq!(
            find(TEXT, "virtio1"),
            Ok(Region::Known {
                range: range(0x5_4000_0000, 16 << 30),
                added: vec![range(0x5_4000_0000, 128 << 20)],
            })
        );
        assert_eq!(find(TEXT, "virtio"), Ok(Region::Absent));
    }

    #[test]
    fn nested_region() {
        let nested = TEXT.trim_end().replace('\n', "\n  ");
        let nested = format!("00000000-fffffffff : PCI Bus\n  {nested}\n");

        assert_eq!(find(&nested, "virtio1"), find(TEXT, "virtio1"));
    }

    #[test]
    fn ordinary_users_see_zeros() {
        let text = "00000000-00000000 : virtio0\n  00000000-00000000 : System RAM (virtio_mem)\n";

        assert_eq!(find(text, "virtio0"), Ok(Region::Hidden));
    }

    #[test]
    fn whole_address_space() {
        let all = Range {
            start: 0,
            last: u64::MAX,
        };
        let text = "0-ffffffffffffffff : virtio0\n 0-ffffffffffffffff : System RAM (virtio_mem)\n";

        assert_eq!(
            find(text, "virtio0"),
            Ok(Region::Known {
                range: all,
                added: vec![all]
            })
        );
        assert_eq!(all.size(), u64::MAX);
        assert_eq!(Range::new(u64::MAX, 2), None);
        assert_eq!(Range::new(0, 0), None);
    }

    #[test]
    fn the_wrong_line_is_named() {
        for bad in [
            "", "x", "1-2", "2-1 : a", "1 : a", "-1 : a", "g-h : a", "1-+2 : a",
        ] {
            let text = format!("0-1 : a\n{bad}\n0-1 : b\n");
            assert_eq!(find(&text, "virtio0"), Err(bad));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = find(&String::from_utf8_lossy(&bytes), "virtio0");
        }

        #[test]
        fn any_ranges_are_survived(
            lines in proptest::collection::vec(
                (0_usize..6, any::<u64>(), any::<u64>(), 0_usize..4),
                0..50,
            )
        ) {
            let names = ["virtio0", ADDED, "System RAM", ""];
            let lines: Vec<_> = lines
                .iter()
                .map(|(depth, a, b, name)| {
                    let (start, last) = (a.min(b), a.max(b));
                    let (indent, name) = ("  ".repeat(*depth), names[*name]);
                    format!("{indent}{start:08x}-{last:08x} : {name}\n")
                })
                .collect();

            if let Region::Known { range, added } = find(&lines.concat(), "virtio0").unwrap() {
                prop_assert!(added.iter().all(|part| range.contains(*part)));
            }
        }
    }
}
