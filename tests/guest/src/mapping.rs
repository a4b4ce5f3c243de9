// SPDX-License-Identifier: GPL-2.0

//! Anonymous memory as the load wants it: aligned, page by page, to be given back
//! in parts.

use std::io;
use std::ptr::NonNull;
use std::slice;

/// Bytes in a page, and in the huge page that a device block usually is.
pub(crate) const PAGE: usize = 4096;
pub(crate) const HUGE: usize = 2 << 20;

/// 64-bit words in a page.
pub(crate) const WORDS: usize = PAGE / 8;

/// An anonymous private mapping, aligned to [`HUGE`].
pub(crate) struct Mapping {
    start: NonNull<libc::c_void>,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes, a multiple of [`HUGE`], in pages of [`PAGE`] bytes.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        assert!(len > 0 && len % HUGE == 0);
        // SAFETY: A new private mapping at an address of the kernel's choice
        // overlaps nothing.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len + HUGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let slack = address.align_offset(HUGE);
        // SAFETY: `slack` is less than HUGE, by which the mapping is longer than
        // `len`: the result lies in the mapping with `len` bytes after it. The
        // unaligned ends stay mapped, untouched and so without memory.
        let start = unsafe { address.byte_add(slack) };
        let start = NonNull::new(start).expect("mmap() never returns address 0 unasked");
        let mapping = Self { start, len };
        // With huge pages a single page left in use would keep all of its 2 MiB.
        mapping.advise(0, len, libc::MADV_NOHUGEPAGE)?;
        Ok(mapping)
    }

    /// The number of pages.
    pub(crate) fn pages(&self) -> usize {
        self.len / PAGE
    }

    /// Where page `index` is mapped.
    pub(crate) fn address(&self, index: usize) -> usize {
        assert!(index < self.pages());
        self.start.as_ptr().addr() + index * PAGE
    }

    /// Page `index`, as words. Reading a page that was given back reads zeroes.
    pub(crate) fn page(&self, index: usize) -> &[u64] {
        assert!(index < self.pages());
        // SAFETY: The page lies in the mapping, is aligned, initialised by the
        // kernel, and shared with nobody; writing needs `&mut self`.
        unsafe {
            let address = self.start.as_ptr().cast::<u64>().add(index * WORDS);
            slice::from_raw_parts(address, WORDS)
        }
    }

    /// Page `index`, to be written.
    pub(crate) fn page_mut(&mut self, index: usize) -> &mut [u64] {
        assert!(index < self.pages());
        // SAFETY: As in `page()`, and `&mut self` keeps others away.
        unsafe {
            let address = self.start.as_ptr().cast::<u64>().add(index * WORDS);
            slice::from_raw_parts_mut(address, WORDS)
        }
    }

    /// Gives the memory of `count` pages from `first` on back to the kernel.
    pub(crate) fn give_back(&mut self, first: usize, count: usize) -> io::Result<()> {
        assert!(first + count <= self.pages());
        if count == 0 {
            return Ok(());
        }
        self.advise(first * PAGE, count * PAGE, libc::MADV_DONTNEED)
    }

    /// Locks all pages that are in memory now; those given back stay away.
    pub(crate) fn lock(&self) -> io::Result<()> {
        // SAFETY: The range is the mapping; `mlock2` changes no content.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_mlock2,
                self.start.as_ptr(),
                self.len,
                libc::MLOCK_ONFAULT,
            )
        };
        if rc == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    fn advise(&self, offset: usize, len: usize, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: Callers keep the range inside the mapping. Anonymous pages that
        // are given back read as zeroes, which every `u64` may be; the one caller
        // that gives pages back has `&mut self`.
        let rc = unsafe {
            let address = self.start.as_ptr().byte_add(offset);
            libc::madvise(address, len, advice)
        };
        if rc == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}
