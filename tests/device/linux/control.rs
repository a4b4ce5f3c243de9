// SPDX-License-Identifier: GPL-2.0

//! A file in debugfs that is written to.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h)

use super::debug_dir::Directory;
use super::raw;
use core::mem::offset_of;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Takes what was written to a file. May sleep.
pub(crate) type Take<T> = fn(&Arc<T>, &str) -> Result;

/// The file.
///
/// # Invariants
///
/// `raw` is what debugfs knows of it, with the callback of this type.
#[repr(C)]
struct File<T> {
    raw: raw::vmem_test_file,
    take: Take<T>,
    data: Arc<T>,
}

const _: () = assert!(offset_of!(File<()>, raw) == 0);

impl<T: Send + Sync> File<T> {
    extern "C" fn write(file: *mut raw::vmem_test_file, text: *const c_char) -> c_int {
        // SAFETY: Called by `vmem_test_write` with a terminated text and the file. That is there:
        // debugfs calls between `debugfs_file_get()` and `debugfs_file_put()`, for which the removal
        // of the directory waits, and `Control` drops that before the file.
        let (file, text) = unsafe { (&*file.cast::<Self>(), CStr::from_char_ptr(text)) };
        kernel::error::from_result(|| {
            let text = text.to_str().map_err(|_| EINVAL)?;
            (file.take)(&file.data, text).map(|()| 0)
        })
    }
}

/// A directory that has such a file besides others; both go when this is dropped.
pub(crate) struct Control<T> {
    // Dropped first, which waits for those who write.
    _directory: Directory<T>,
    _file: KBox<File<T>>,
}

impl<T: Send + Sync> Control<T> {
    /// Adds the file to a directory. May sleep.
    pub(crate) fn new(
        directory: Directory<T>,
        name: &CStr,
        data: &Arc<T>,
        take: Take<T>,
    ) -> Result<Self> {
        let file = File {
            raw: raw::vmem_test_file {
                write: Some(File::<T>::write),
            },
            take,
            data: data.clone(),
        };
        let mut file = KBox::new(file, GFP_KERNEL)?;
        let raw: *mut File<T> = &raw mut *file;
        // SAFETY: The directory, or an error, which debugfs takes in place of one. The file stays
        // where it is until the directory has been removed.
        unsafe { raw::vmem_test_create_file(name.as_char_ptr(), directory.dentry(), raw.cast()) };
        Ok(Self {
            _directory: directory,
            _file: file,
        })
    }
}
