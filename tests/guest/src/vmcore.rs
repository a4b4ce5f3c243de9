// SPDX-License-Identifier: GPL-2.0

//! Reading the memory of a kernel that has crashed, from the one after it.
//!
//! Checks the pages that are named, of a load's pattern, then reads all that the
//! dump has of a range of physical addresses, and says so in a line of JSON.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::ptr;
use std::slice;

use serde_json::json;

use crate::mapping::PAGE;
use crate::mapping::WORDS;
use crate::pattern;
use crate::range::parse_address;
use crate::range::parse_range;

/// For the usage message.
pub(crate) const USAGE: &str = "vmem-guest vmcore read|map START-END SEED [INDEX@ADDRESS...]";

const DUMP: &str = "/proc/vmcore";

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// `vmem-guest vmcore`. The exit status is 1 if a page is not as it should be.
pub(crate) fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let Some(options) = Options::parse(args) else {
        eprintln!("usage: {USAGE}");
        return ExitCode::from(2);
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("vmcore: {error}");
            ExitCode::from(3)
        }
    }
}

/// A page that a load had, and where it was.
#[derive(Debug, PartialEq)]
struct Place {
    index: usize,
    address: u64,
}

/// How to get at the content: the kernel does it in different ways.
#[derive(Clone, Copy)]
enum How {
    Read,
    Map,
}

struct Options {
    how: How,
    range: Range<u64>,
    seed: u64,
    places: Vec<Place>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Option<Self> {
        Some(Self {
            how: match args.next()?.as_str() {
                "read" => How::Read,
                "map" => How::Map,
                _ => return None,
            },
            range: parse_range(&args.next()?)?,
            seed: args.next()?.parse().ok()?,
            places: args.map(|word| parse_place(&word)).collect::<Option<_>>()?,
        })
    }
}

fn parse_place(word: &str) -> Option<Place> {
    let (index, address) = word.split_once('@')?;
    Some(Place {
        index: index.parse().ok()?,
        address: parse_address(address)?,
    })
}

/// Whether all pages named are as they should be.
fn run(options: &Options) -> io::Result<bool> {
    let dump = Dump::open(DUMP, options.how)?;
    let mut wrong = Vec::new();
    for place in &options.places {
        if !pattern::intact(&dump.page(place.address)?, options.seed, place.index) {
            wrong.push(place.address);
        }
    }
    let content = dump.read_all(&options.range)?;
    let line = json!({
        "checked": options.places.len(),
        "wrong": wrong,
        "bytes": content.bytes,
        "zeroes": content.zeroes,
    });
    println!("{line}");
    Ok(wrong.is_empty())
}

/// A part of the dumped memory.
#[derive(Debug, PartialEq)]
struct Segment {
    /// Physical addresses.
    memory: Range<u64>,
    /// Where it begins in the file.
    offset: u64,
}

/// How much was read, and how much of it in pages that are nothing but zeroes.
#[derive(Debug, Default, PartialEq)]
struct Content {
    bytes: u64,
    zeroes: u64,
}

/// An ELF core file of physical memory.
struct Dump {
    file: File,
    how: How,
    segments: Vec<Segment>,
}

impl Dump {
    fn open(path: &str, how: How) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut header = [0; 64];
        file.read_exact_at(&mut header, 0)?;
        // The class for 64 bits, with the least significant byte first.
        if header[..6] != *b"\x7fELF\x02\x01" {
            return Err(io::Error::other("not an ELF file of 64 bits"));
        }
        let table = number(&header, 32, 8);
        let size = number(&header, 54, 2);
        let count = number(&header, 56, 2);
        let mut segments = Vec::new();
        for index in 0..count {
            let mut entry = [0; 56];
            file.read_exact_at(&mut entry, table + index * size)?;
            const PT_LOAD: u64 = 1;
            if number(&entry, 0, 4) == PT_LOAD {
                let start = number(&entry, 24, 8);
                segments.push(Segment {
                    memory: start..start.saturating_add(number(&entry, 32, 8)),
                    offset: number(&entry, 8, 8),
                });
            }
        }
        Ok(Self {
            file,
            how,
            segments,
        })
    }

    /// Gets a part of the file, which is to begin with a page.
    fn get(&self, part: &mut [u8], offset: u64) -> io::Result<()> {
        match self.how {
            How::Read => self.file.read_exact_at(part, offset),
            How::Map => self.map(part, offset),
        }
    }

    fn map(&self, part: &mut [u8], offset: u64) -> io::Result<()> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: A new private mapping at an address of the kernel's choice
        // overlaps nothing.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                part.len(),
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                self.file.as_raw_fd(),
                offset,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: The mapping is as long as `part`; nobody changes or cuts off what a
        // kernel has left that does not run any more.
        part.copy_from_slice(unsafe { slice::from_raw_parts(address.cast(), part.len()) });
        // SAFETY: Nothing refers to the mapping any more.
        unsafe { libc::munmap(address, part.len()) };
        Ok(())
    }

    /// The page at a physical address.
    fn page(&self, address: u64) -> io::Result<[u64; WORDS]> {
        let segment = self
            .segments
            .iter()
            .find(|segment| segment.memory.contains(&address))
            .ok_or_else(|| io::Error::other(format!("{address:#x} is not in the dump")))?;
        let mut bytes = [0; PAGE];
        let offset = segment.offset + (address - segment.memory.start);
        self.get(&mut bytes, offset)?;
        let mut page = [0; WORDS];
        for (word, bytes) in page.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = number(bytes, 0, 8);
        }
        Ok(page)
    }

    /// Reads all that there is of a range.
    fn read_all(&self, range: &Range<u64>) -> io::Result<Content> {
        let mut content = Content::default();
        let mut buffer = vec![0; CHUNK];
        for segment in &self.segments {
            let mut address = segment.memory.start.max(range.start);
            let end = segment.memory.end.min(range.end);
            while address < end {
                let wanted = usize::try_from(end - address).map_or(CHUNK, |left| left.min(CHUNK));
                let part = &mut buffer[..wanted];
                let offset = segment.offset + (address - segment.memory.start);
                self.get(part, offset)?;
                address += part.len() as u64;
                content.bytes += part.len() as u64;
                for page in part.chunks(PAGE) {
                    if page.iter().all(|&byte| byte == 0) {
                        content.zeroes += page.len() as u64;
                    }
                }
            }
        }
        Ok(content)
    }
}

/// The number of `size` bytes at `offset`.
fn number(bytes: &[u8], offset: usize, size: usize) -> u64 {
    let bytes = bytes[offset..offset + size].iter().rev();
    bytes.fold(0, |value, &byte| (value << 8) | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::parse_place;
    use super::Content;
    use super::Dump;
    use super::How;
    use super::Place;
    use super::Segment;
    use super::PAGE;

    /// A note and two pieces of memory: two pages at 0x10000, the second of which
    /// holds bytes of 3, and a page of bytes of 5 at 0x20000.
    fn dump() -> Vec<u8> {
        let mut file = vec![0; 4 * PAGE];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32] = 64;
        file[54] = 56;
        file[56] = 3;
        for (index, kind, offset, address, size) in [
            (0, 4u8, 0, 0, 4),
            (1, 1, PAGE, 0x10000, 2 * PAGE),
            (2, 1, 3 * PAGE, 0x20000, PAGE),
        ] {
            let entry = &mut file[64 + index * 56..][..56];
            entry[0] = kind;
            entry[8..16].copy_from_slice(&offset.to_le_bytes());
            entry[24..32].copy_from_slice(&u64::to_le_bytes(address));
            entry[32..40].copy_from_slice(&size.to_le_bytes());
        }
        file[2 * PAGE..3 * PAGE].fill(3);
        file[3 * PAGE..].fill(5);
        file
    }

    #[test]
    fn reads_a_dump() {
        gets_at_a_dump("read", How::Read);
    }

    #[test]
    fn maps_a_dump() {
        gets_at_a_dump("map", How::Map);
    }

    fn gets_at_a_dump(name: &str, how: How) {
        let path = std::env::temp_dir().join(format!("vmcore-{name}-{}", std::process::id()));
        fs::write(&path, dump()).expect("a temporary file");
        let dump = Dump::open(path.to_str().expect("a path of Unicode"), how);
        fs::remove_file(&path).expect("it is there");
        let dump = dump.expect("a dump");
        let last = Segment {
            memory: 0x20000..0x21000,
            offset: 0x3000,
        };
        assert_eq!(dump.segments.len(), 2);
        assert_eq!(dump.segments[1], last);
        let page = |address| dump.page(address).map(|page| page[0] & 0xff).ok();
        assert_eq!(page(0x10000), Some(0));
        assert_eq!(page(0x11000), Some(3));
        assert_eq!(page(0x20000), Some(5));
        assert_eq!(page(0x12000), None);
        let read = |range| {
            let Content { bytes, zeroes } = dump.read_all(&range).expect("reading");
            (bytes, zeroes)
        };
        assert_eq!(read(0..0x100000), (3 * 0x1000, 0x1000));
        assert_eq!(read(0x11000..0x20000), (0x1000, 0));
        assert_eq!(read(0x12000..0x20000), (0, 0));
    }

    #[test]
    fn places() {
        let place = Place {
            index: 12,
            address: 0x3000,
        };
        assert_eq!(parse_place("12@0x3000"), Some(place));
        assert_eq!(parse_place("12"), None);
        assert_eq!(parse_place("x@1"), None);
    }
}
