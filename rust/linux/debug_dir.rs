// SPDX-License-Identifier: GPL-2.0

//! Files in debugfs: a directory of the module, with one for each device.
//!
//! The kernel crate's files have no owner: one that is still open when the module goes would be
//! closed by code that is no longer there. Those here keep the module as long as they are open.
//!
//! Without debugfs all of this does nothing.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h)

use super::raw;
use core::fmt;
use core::mem::offset_of;
use core::ptr;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Release;
use kernel::sync::Arc;

/// The module's directory, or an error pointer, which debugfs takes in place of one.
static ROOT: Atomic<*mut raw::dentry> = Atomic::new(ptr::null_mut());

/// Holds the module's directory. One at a time, which outlives all [`Directory`]s.
pub(crate) struct Root(());

impl Root {
    /// Creates the directory. May sleep.
    pub(crate) fn new(name: &CStr) -> Self {
        // SAFETY: A valid name; a null pointer stands for the root of debugfs.
        let dentry = unsafe { raw::vmem_debug_dir(name.as_char_ptr(), ptr::null_mut()) };
        ROOT.store(dentry, Release);
        Self(())
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // SAFETY: What `debugfs_create_dir()` returned to `new`, and removed once. Of an error pointer
        // `debugfs_remove()` makes nothing (`IS_ERR_OR_NULL()`).
        unsafe { raw::vmem_debug_remove(ROOT.load(Acquire)) };
    }
}

/// Writes what a file has to say. May sleep.
pub(crate) type Show<T> = fn(&T, &mut dyn fmt::Write) -> fmt::Result;

/// A file.
///
/// # Invariants
///
/// `raw` is what debugfs knows of it, with the callback of this type.
#[repr(C)]
struct File<T> {
    raw: raw::vmem_debug_file,
    show: Show<T>,
    data: Arc<T>,
}

impl<T: Send + Sync> File<T> {
    extern "C" fn show(seq: *mut raw::seq_file, _: *mut c_void) -> c_int {
        // SAFETY: `seq_read()` calls with a valid `seq_file`, whose `private` is what
        // `vmem_debug_open()` has given to `single_open()`: the file. That is still there: the file
        // operations run between `debugfs_file_get()` and `debugfs_file_put()`, and
        // `debugfs_remove()`, before which the directory's files are not freed, waits for the latter.
        let file = unsafe { &*(*seq).private.cast_const().cast::<Self>() };
        match (file.show)(&file.data, &mut Sequence(seq)) {
            Ok(()) => 0,
            Err(fmt::Error) => ENOMEM.to_errno(),
        }
    }
}

const _: () = assert!(offset_of!(File<()>, raw) == 0);

/// What is written to a `seq_file`. What does not fit makes the kernel start again with more room.
struct Sequence(*mut raw::seq_file);

impl fmt::Write for Sequence {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: The `seq_file` is valid while its show callback runs.
        unsafe { raw::seq_write(self.0, text.as_ptr().cast(), text.len()) };
        Ok(())
    }
}

/// A device's directory; it goes when this is dropped.
pub(crate) struct Directory<T> {
    dentry: *mut raw::dentry,
    /// Whose addresses debugfs knows.
    _files: KVec<KBox<File<T>>>,
}

// SAFETY: The dentry is only handed to `debugfs_remove()`, which takes its locks itself and may be
// called by any thread; `T`, which the files share with those who read them, is `Send` and `Sync`.
unsafe impl<T: Send + Sync> Send for Directory<T> {}
// SAFETY: With a shared reference nothing can be done.
unsafe impl<T: Send + Sync> Sync for Directory<T> {}

impl<T: Send + Sync> Directory<T> {
    /// Creates a directory with these files in that of the module. May sleep.
    pub(crate) fn new(name: &CStr, data: &Arc<T>, files: &[(&CStr, Show<T>)]) -> Result<Self> {
        let mut boxes = KVec::with_capacity(files.len(), GFP_KERNEL)?;
        for (_, show) in files {
            let file = File {
                raw: raw::vmem_debug_file {
                    show: Some(File::<T>::show),
                },
                show: *show,
                data: data.clone(),
            };
            boxes.push(KBox::new(file, GFP_KERNEL)?, GFP_KERNEL)?;
        }
        // SAFETY: A valid name, which is copied, and what `debugfs_create_dir()` returned to
        // `Root::new`. Given an error pointer, `debugfs_start_creating()`, with which all that create
        // something begin, returns that error and does nothing else.
        let dentry = unsafe { raw::vmem_debug_dir(name.as_char_ptr(), ROOT.load(Acquire)) };
        for ((name, _), file) in files.iter().zip(&mut boxes) {
            let file: *mut File<T> = &raw mut **file;
            // SAFETY: As above, also for `dentry`; the file stays where it is, in a box that `Self`
            // keeps until `debugfs_remove()` of the directory has returned.
            unsafe { raw::vmem_debug_create(name.as_char_ptr(), dentry, file.cast()) };
        }
        Ok(Self {
            dentry,
            _files: boxes,
        })
    }

    /// What debugfs knows of the directory: an error pointer where there is none.
    #[allow(dead_code)] // The test device adds a file of another kind; the driver has none.
    pub(super) fn dentry(&self) -> *mut raw::dentry {
        self.dentry
    }
}

impl<T> Drop for Directory<T> {
    fn drop(&mut self) {
        // SAFETY: As in `Root::drop`. For each file, `remove_one()` waits for those who read it.
        unsafe { raw::vmem_debug_remove(self.dentry) };
    }
}
