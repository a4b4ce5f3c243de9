// SPDX-License-Identifier: GPL-2.0

//! `/proc/zoneinfo`: how the machine's memory is divided into what the kernel can use for anything
//! and ZONE_MOVABLE.

use crate::doctor::facts::Facts;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::values;

/// The file, from `/`.
const FILE: &str = "proc/zoneinfo";
/// What it should be.
const EXPECTED: &str = "zones with numbers of pages";
/// Many processors and nodes make a long file.
const LIMIT: u64 = 64 << 20;
/// The file with the memory's size in bytes, from `/`.
const MEMINFO: &str = "proc/meminfo";
/// What it should be.
const EXPECTED_MEMINFO: &str = "MemTotal in kB, as much as the zones have pages";
/// Sizes that a page can have.
const PAGE_SIZES: [u64; 3] = [4 << 10, 16 << 10, 64 << 10];

/// The machine's memory in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Memory {
    /// What ZONE_MOVABLE has.
    pub(crate) movable: u64,
    /// What all other zones have.
    pub(crate) kernel: u64,
    /// What of that the kernel could take now: what is free above the zones' reserves, and half of
    /// what files are cached in, as in MemAvailable.
    pub(crate) available: u64,
    /// The size of a page.
    pub(crate) page: u64,
}

/// Zones of one kind, in pages.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Zones {
    managed: u64,
    free: u64,
    high: u64,
    files: u64,
}

impl Zones {
    /// Takes what a line says.
    fn take(&mut self, line: &str) -> Option<()> {
        let mut words = line.split_ascii_whitespace().rev();
        let (Some(number), Some(name)) = (words.next(), words.next()) else {
            return Some(());
        };
        let sum = match (name, words.next()) {
            ("free", Some("pages")) => &mut self.free,
            ("high", None) => &mut self.high,
            ("managed", None) => &mut self.managed,
            ("nr_zone_inactive_file" | "nr_zone_active_file", None) => &mut self.files,
            _ => return Some(()),
        };

        // Memory of more than 2^64 bytes there is none.
        *sum = sum.checked_add(values::decimal(number)?)?;
        (*sum <= u64::MAX >> 16).then_some(())
    }

    /// The pages that could be taken now.
    fn available(self) -> u64 {
        self.free.saturating_sub(self.high) + self.files / 2
    }
}

/// Reads how the machine's memory is divided.
pub(crate) fn read(facts: &Facts) -> Result<Memory> {
    let path = facts.path(FILE);
    let text = files::read_text(&path, EXPECTED, LIMIT)?;
    let (kernel, movable) = parse(&text).map_err(|line| Error::content(&path, EXPECTED, line))?;

    // No file tells the size of a page; but MemTotal is that of the zones' pages.
    let pages = kernel.managed + movable.managed;
    let path = facts.path(MEMINFO);
    let text = files::read_text(&path, EXPECTED_MEMINFO, LIMIT)?;
    let line = text.lines().next().unwrap_or_default();
    let page =
        page_size(line, pages).ok_or_else(|| Error::content(&path, EXPECTED_MEMINFO, line))?;

    Ok(Memory {
        movable: movable.managed * page,
        kernel: kernel.managed * page,
        available: kernel.available().saturating_mul(page),
        page,
    })
}

/// Sums up the kernel's zones and the movable ones; or returns the line that makes no sense.
fn parse(text: &str) -> std::result::Result<(Zones, Zones), &str> {
    let mut kernel = Zones::default();
    let mut movable = Zones::default();
    // Memory of devices is neither.
    let mut device = Zones::default();
    let mut zone = None;

    for line in text.lines() {
        if line.starts_with("Node ") {
            let (_, name) = line.split_once(", zone").ok_or(line)?;
            zone = Some(match name.trim() {
                "Movable" => &mut movable,
                "Device" => &mut device,
                _ => &mut kernel,
            });
        } else {
            zone.as_deref_mut().ok_or(line)?.take(line).ok_or(line)?;
        }
    }
    if kernel.managed == 0 {
        return Err("no zone with memory for the kernel");
    }
    Ok((kernel, movable))
}

/// The size of a page, from MemTotal's line and the number of pages, which may have changed
/// between the two.
fn page_size(line: &str, pages: u64) -> Option<u64> {
    let total = line.strip_prefix("MemTotal:")?.strip_suffix("kB")?.trim();
    let total = values::decimal(total)?.checked_mul(1 << 10)?;

    PAGE_SIZES
        .into_iter()
        .find(|size| total < pages.saturating_mul(size * 2) && total >= pages * (size / 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::target;
    use crate::fuzz::Numbers;

    const TEXT: &str = "\
Node 0, zone      DMA
  per-node stats
      nr_inactive_file 7
  pages free     1000
        boost    0
        min      10
        low      12
        high     14
        promo    16
        spanned  4095
        present  3998
        managed  3840
        cma      0
        protection: (0, 1900, 1900, 1900, 1900)
      nr_free_pages 1000
      nr_zone_inactive_file 4
      nr_zone_active_file 6
  pagesets
    cpu: 0
              count:    0
              high:     13
  node_unreclaimable:  0
Node 0, zone  Movable
  pages free     5
        high     2
        managed  100
Node 0, zone   Device
  pages free     0
        managed  1000
";

    #[test]
    fn zones() {
        let (kernel, movable) = parse(TEXT).unwrap();

        assert_eq!((kernel.managed, movable.managed), (3840, 100));
        assert_eq!(kernel.available(), 1000 - 14 + 5);
        assert_eq!(movable.free, 5);
    }

    #[test]
    fn lines_that_make_no_sense() {
        assert_eq!(parse("x\n"), Err("x"));
        assert_eq!(parse("Node 0\n"), Err("Node 0"));
        let bad = "        managed  -1";
        assert_eq!(parse(&format!("Node 0, zone DMA\n{bad}\n")), Err(bad));
        assert!(parse("").is_err());
        let huge = format!("Node 0, zone DMA\n managed {}\n", u64::MAX);
        assert!(parse(&huge).is_err());
    }

    #[test]
    fn pages() {
        assert_eq!(page_size("MemTotal:        4000 kB", 1000), Some(4 << 10));
        assert_eq!(page_size("MemTotal:       15000 kB", 1000), Some(16 << 10));
        assert_eq!(page_size("MemTotal:       64000 kB", 1000), Some(64 << 10));
        assert_eq!(page_size("MemTotal:       1000 kB", 1000), None);
        assert_eq!(page_size("MemFree:       4000 kB", 1000), None);
    }

    #[test]
    fn any_zoneinfo() {
        target("any_zoneinfo", 128, |bytes| {
            let mut numbers = Numbers(bytes);
            let mut text = String::new();
            while !numbers.0.is_empty() {
                let line = match numbers.byte() % 9 {
                    0 => "Node 0, zone Normal",
                    1 => "Node 1, zone Movable",
                    2 => "Node 0, zone  Device",
                    3 => "  pages free ",
                    4 => "  high ",
                    5 => "  managed ",
                    6 => "  nr_zone_inactive_file ",
                    7 => "  nr_zone_active_file ",
                    _ => "  spanned ",
                };
                text.push_str(line);
                if !line.starts_with("Node") {
                    text.push_str(&numbers.next().to_string());
                }
                text.push('\n');
            }
            let Ok((kernel, movable)) = parse(&text) else {
                return;
            };
            let pages = kernel.managed + movable.managed;
            let available = kernel.available();
            for total in [
                pages,
                pages.saturating_mul(4),
                pages.saturating_mul(64),
                u64::MAX >> 10,
            ] {
                if let Some(page) = page_size(&format!("MemTotal: {total} kB"), pages) {
                    assert!(PAGE_SIZES.contains(&page));
                    // What `read` makes of it.
                    let _ = (movable.managed * page, kernel.managed * page);
                    let _ = available.saturating_mul(page);
                }
            }
        });
    }

    #[test]
    fn any_text() {
        target("any_text", 512, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let _ = parse(&text);
            let _ = page_size(&text, 1 << 20);
        });
    }
}
