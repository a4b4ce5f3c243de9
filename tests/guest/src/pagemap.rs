// SPDX-License-Identifier: GPL-2.0

//! Where pages of this process are in physical memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::mapping::PAGE;

const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;

/// `/proc/self/pagemap`: an entry of 64 bits for each page.
pub(crate) struct Pagemap(File);

impl Pagemap {
    pub(crate) fn open() -> io::Result<Self> {
        File::open("/proc/self/pagemap").map(Self)
    }

    /// The physical address of the page at `address`; none if it is not in memory,
    /// or if we may not know.
    pub(crate) fn physical(&self, address: usize) -> io::Result<Option<u64>> {
        let mut entry = [0; 8];
        let offset = address / PAGE * entry.len();
        self.0.read_exact_at(&mut entry, offset as u64)?;
        let entry = u64::from_ne_bytes(entry);
        let frame = entry & FRAME;
        Ok((entry & PRESENT != 0 && frame != 0).then_some(frame * PAGE as u64))
    }
}
