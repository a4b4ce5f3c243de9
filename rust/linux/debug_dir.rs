// SPDX-License-Identifier: GPL-2.0

//! The module's directory in debugfs, which its devices share.

use kernel::debugfs::Dir;
use kernel::prelude::*;

kernel::sync::global_lock! {
    // SAFETY: Initialised by `Root::new`, before anything else here is called.
    unsafe(uninit) static ROOT: Mutex<Option<Dir>> = None;
}

/// Holds the directory, whose name is that of the module. One at a time.
pub(crate) struct Root(());

impl Root {
    /// Creates the directory. To be called once, when the module is loaded. May sleep.
    pub(crate) fn new(name: &CStr) -> Self {
        // SAFETY: Called once, by the module's initialisation.
        unsafe { ROOT.init() };
        *ROOT.lock() = Some(Dir::new(name));
        Self(())
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        drop(ROOT.lock().take());
    }
}

/// Calls `f` with the directory, which is there as long as a [`Root`] is. May sleep.
pub(crate) fn with<R>(f: impl FnOnce(&Dir) -> R) -> Option<R> {
    ROOT.lock().as_ref().map(f)
}
