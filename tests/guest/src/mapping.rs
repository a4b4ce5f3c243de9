// SPDX-License-Identifier: GPL-2.0

//! Anonymous memory as the load wants it: aligned, page by page, to be given back
//! in parts.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::slice;

/// Bytes in a page, and in the huge page that a device block usually is.
pub(crate) const PAGE: usize = 4096;
pub(crate) const HUGE: usize = 2 << 20;

/// 64-bit words in a page.
pub(crate) const WORDS: usize = PAGE / 8;

/// From `linux/mman.h`: make huge pages of small ones now.
const MADV_COLLAPSE: libc::c_int = 25;

/// How large pages ought to be.
#[derive(Clone, Copy)]
pub(crate) enum PageSize {
    /// New ones small.
    Small,
    /// New ones huge.
    Huge,
    /// Those that are there huge too, at once.
    Collapse,
}

/// An anonymous private mapping, aligned to [`HUGE`].
pub(crate) struct Mapping {
    start: NonNull<libc::c_void>,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes, a multiple of [`HUGE`], in pages of [`PAGE`] bytes.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let mapping = Self::reserve(len)?;
        // With huge pages a single page left in use would keep all of its 2 MiB.
        mapping.advise(0, len, libc::MADV_NOHUGEPAGE)?;
        Ok(mapping)
    }

    /// Maps `len` bytes, in huge pages where the kernel has some.
    pub(crate) fn huge(len: usize) -> io::Result<Self> {
        let mapping = Self::reserve(len)?;
        mapping.resize_pages(PageSize::Huge)?;
        Ok(mapping)
    }

    /// Maps `len` bytes of the pool of huge pages (hugetlb), of which nothing is reserved: to touch
    /// more of them than the pool has ends the process.
    pub(crate) fn pooled(len: usize) -> io::Result<Self> {
        // An address that the kernel chooses for these is aligned already.
        let kind = libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
        Self::map(len, kind, -1)
    }

    /// Maps `len` bytes of a file, which has at least [`HUGE`] more.
    pub(crate) fn of_file(file: &File, len: usize) -> io::Result<Self> {
        // Where it begins in the file is of no interest: less than HUGE from the start.
        Self::map(len, 0, file.as_raw_fd())
    }

    /// Maps `len` bytes, in pages of whatever size the kernel chooses.
    pub(crate) fn reserve(len: usize) -> io::Result<Self> {
        Self::map(len, libc::MAP_ANONYMOUS, -1)
    }

    fn map(len: usize, kind: libc::c_int, file: libc::c_int) -> io::Result<Self> {
        assert!(len > 0 && len % HUGE == 0);
        // SAFETY: A new private mapping at an address of the kernel's choice
        // overlaps nothing.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len + HUGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_NORESERVE | kind,
                file,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let slack = address.align_offset(HUGE);
        // SAFETY: `slack` is less than HUGE, by which the mapping is longer than
        // `len`: the result lies in the mapping with `len` bytes after it.
        let start = unsafe { address.byte_add(slack) };
        // SAFETY: The two unaligned ends belong to the new mapping, and nobody knows
        // of them. A length of 0 is refused, which does no harm.
        unsafe {
            libc::munmap(address, slack);
            libc::munmap(start.byte_add(len), HUGE - slack);
        }
        let start = NonNull::new(start).expect("mmap() never returns address 0 unasked");
        Ok(Self { start, len })
    }

    /// Moves the pages to other addresses, as they are.
    pub(crate) fn relocate(&mut self) -> io::Result<()> {
        let target = Self::reserve(self.len)?;
        // SAFETY: `target` is a mapping of our own of the same length, which nothing
        // refers to; `&mut self` is the only access to what is moved.
        let address = unsafe {
            libc::mremap(
                self.start.as_ptr(),
                self.len,
                self.len,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                target.start.as_ptr(),
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // What it was is unmapped by now, and `target` has become what `self` is.
        self.start = target.start;
        std::mem::forget(target);
        Ok(())
    }

    /// Has the kernel use, or make of what is there, pages of another size.
    pub(crate) fn resize_pages(&self, how: PageSize) -> io::Result<()> {
        let advice = match how {
            PageSize::Small => libc::MADV_NOHUGEPAGE,
            PageSize::Huge => libc::MADV_HUGEPAGE,
            PageSize::Collapse => MADV_COLLAPSE,
        };
        self.advise(0, self.len, advice)
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

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: The mapping is ours alone, and nobody can refer to it any more.
        unsafe { libc::munmap(self.start.as_ptr(), self.len) };
    }
}
