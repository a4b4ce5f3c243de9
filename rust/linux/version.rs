// SPDX-License-Identifier: GPL-2.0

//! Which version of the module this is.

use super::raw;
use kernel::prelude::*;

/// The version of the workspace, and the revision in git if that was known when the module was built.
pub(crate) fn version() -> &'static CStr {
    // SAFETY: A string literal of the module's own.
    unsafe { CStr::from_char_ptr(raw::vmem_version()) }
}
