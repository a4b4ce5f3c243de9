// SPDX-License-Identifier: GPL-2.0

//! The module: its metadata and its parameters.

// The kernel's `module!` macro expands to unsafe code.
#![allow(unsafe_code)]

use crate::floor;
use crate::floor::Floor;
use crate::host;
use crate::host::Host;
use crate::linux::debug_dir::Root;
use crate::linux::hidden::Hidden;
use crate::linux::memory_notifier;
use crate::linux::param;
use crate::linux::param::Plain;
use crate::linux::thread::Thread;
use kernel::prelude::*;
use kernel::sync::Arc;

static ADDR: Plain<c_ulong> = Plain::new(0);
param::module_parameter!(
    ADDR,
    "addr",
    "ulong",
    param::ULONG_OPS,
    0o444,
    "Where the hidden RAM is"
);

static SIZE: Plain<c_ulong> = Plain::new(0);
param::module_parameter!(
    SIZE,
    "size",
    "ulong",
    param::ULONG_OPS,
    0o444,
    "How much of it there is, in bytes"
);

/// In the order in which it goes away.
struct Module {
    _floor: floor::Files,
    _files: host::Files,
    _gone: GoesWithDevice,
    _thread: Thread<Host>,
    _notifier: Pin<KBox<memory_notifier::Registration<Hidden>>>,
    _parent: kernel::faux::Registration,
    _root: Root,
}

/// Takes the device away before what it needs.
struct GoesWithDevice(Arc<Host>);

impl Drop for GoesWithDevice {
    fn drop(&mut self) {
        self.0.destroy(false);
    }
}

impl kernel::Module for Module {
    fn init(_: &'static ThisModule) -> Result<Self> {
        let (addr, size) = (ADDR.get() as u64, SIZE.get() as u64);
        let hidden = Hidden::new(addr..addr.checked_add(size).ok_or(EINVAL)?)?;
        let notifier = KBox::pin_init(
            memory_notifier::Registration::new(hidden.clone()),
            GFP_KERNEL,
        )?;
        let parent = kernel::faux::Registration::new(c"virtio_mem_test", None)?;
        let host = Host::new(hidden, parent.as_ref().as_ref())?;
        let thread = Thread::start(host.clone(), -1, c"vmem_test")?;
        let root = Root::new(c"virtio_mem_test");
        Ok(Self {
            _floor: Floor::files(addr..addr.saturating_add(size))?,
            _files: Host::files(&host)?,
            _gone: GoesWithDevice(host),
            _thread: thread,
            _notifier: notifier,
            _parent: parent,
            _root: root,
        })
    }
}

kernel::prelude::module! {
    type: Module,
    name: "virtio_mem_test",
    authors: ["virtio-mem developers"],
    description: "Virtio-mem device for tests",
    license: "GPL",
}
