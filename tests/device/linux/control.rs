// SPDX-License-Identifier: GPL-2.0

//! A directory in debugfs with files that can be read, and written to.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h)

use super::raw;
use core::fmt;
use core::mem::offset_of;
use core::ptr;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Writes what a file has to say. May sleep.
pub(crate) type Show<T> = fn(&T, &mut dyn fmt::Write) -> fmt::Result;

/// Takes what was written to a file. May sleep.
pub(crate) type Take<T> = fn(&Arc<T>, &str) -> Result;

/// A file's name, what it says, and what is done with what is written to it.
pub(crate) type Named<T> = (&'static CStr, Show<T>, Option<Take<T>>);

/// A file.
///
/// # Invariants
///
/// `raw` is what debugfs knows of it, with the callbacks of this type.
#[repr(C)]
struct File<T> {
    raw: raw::vmem_test_file,
    show: Show<T>,
    take: Option<Take<T>>,
    data: Arc<T>,
}

const _: () = assert!(offset_of!(File<()>, raw) == 0);

impl<T: Send + Sync> File<T> {
    extern "C" fn show(seq: *mut raw::seq_file, _: *mut c_void) -> c_int {
        // SAFETY: Called with a valid `seq_file`, whose `private` is what `vmem_test_open` has
        // given to `single_open`: the file. debugfs does not call once that is removed, which the
        // drop of its directory waits for.
        let file = unsafe { &*(*seq).private.cast_const().cast::<Self>() };
        match (file.show)(&file.data, &mut Sequence(seq)) {
            Ok(()) => 0,
            Err(fmt::Error) => ENOMEM.to_errno(),
        }
    }

    extern "C" fn write(file: *mut raw::vmem_test_file, text: *const c_char) -> c_int {
        // SAFETY: Called by `vmem_test_write` with the file, which is there as above, and a
        // terminated text.
        let (file, text) = unsafe { (&*file.cast::<Self>(), CStr::from_char_ptr(text)) };
        kernel::error::from_result(|| {
            let take = file.take.ok_or(EPERM)?;
            take(&file.data, text.to_str().map_err(|_| EINVAL)?).map(|()| 0)
        })
    }
}

/// What is written to a `seq_file`. What does not fit makes the kernel start again with more room.
struct Sequence(*mut raw::seq_file);

impl fmt::Write for Sequence {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: The `seq_file` is valid while its show callback runs.
        unsafe { raw::seq_write(self.0, text.as_ptr().cast(), text.len()) };
        Ok(())
    }
}

/// The directory; it goes when this is dropped.
pub(crate) struct Directory<T> {
    dentry: *mut raw::dentry,
    /// Whose addresses debugfs knows.
    _files: KVec<KBox<File<T>>>,
}

// SAFETY: debugfs may be used from any thread, and `T` may be shared.
unsafe impl<T: Send + Sync> Send for Directory<T> {}
// SAFETY: As above.
unsafe impl<T: Send + Sync> Sync for Directory<T> {}

impl<T: Send + Sync> Directory<T> {
    /// Creates a directory with these files. May sleep.
    pub(crate) fn new(name: &CStr, data: &Arc<T>, files: &[Named<T>]) -> Result<Self> {
        type Write = unsafe extern "C" fn(*mut raw::vmem_test_file, *const c_char) -> c_int;
        let mut boxes = KVec::with_capacity(files.len(), GFP_KERNEL)?;
        for (_, show, take) in files {
            let write: Write = File::<T>::write;
            let file = File {
                raw: raw::vmem_test_file {
                    show: Some(File::<T>::show),
                    write: take.map(|_| write),
                },
                show: *show,
                take: *take,
                data: data.clone(),
            };
            boxes.push(KBox::new(file, GFP_KERNEL)?, GFP_KERNEL)?;
        }
        // SAFETY: A valid name; a null pointer stands for the root of debugfs.
        let dentry = unsafe { raw::debugfs_create_dir(name.as_char_ptr(), ptr::null_mut()) };
        for ((name, _, _), file) in files.iter().zip(&mut boxes) {
            let file: *mut File<T> = &raw mut **file;
            // SAFETY: The directory, or an error, which debugfs takes in place of one. The file
            // stays where it is until the directory has been removed.
            unsafe { raw::vmem_test_create_file(name.as_char_ptr(), dentry, file.cast()) };
        }
        Ok(Self {
            dentry,
            _files: boxes,
        })
    }
}

impl<T> Drop for Directory<T> {
    fn drop(&mut self) {
        // SAFETY: Created by `new`; waits for callbacks under way. Errors are ignored.
        unsafe { raw::debugfs_remove(self.dentry) };
    }
}
