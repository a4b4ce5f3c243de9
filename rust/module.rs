// SPDX-License-Identifier: GPL-2.0

//! The module: its metadata, and what is there as long as it is loaded.

// The kernel's `module!` macro expands to unsafe code.
#![allow(unsafe_code)]

use crate::driver::VirtioMem;
use crate::linux::debug_dir;
use crate::linux::memory_block;
use crate::linux::online_page;
use crate::linux::version::version;
use crate::linux::virtio;
use kernel::prelude::*;

impl Module {
    /// Does what comes before the first device is bound.
    fn prepare() -> Result<debug_dir::Root> {
        pr_info!("version {}\n", version());
        online_page::init();
        memory_block::init().inspect_err(|_| {
            pr_err!("this kernel has no devices for its memory blocks\n");
        })?;
        Ok(debug_dir::Root::new(<Self as kernel::ModuleMetadata>::NAME))
    }
}

#[pin_data]
struct Module {
    #[pin]
    _driver: kernel::driver::Registration<virtio::Adapter<VirtioMem>>,
    // Goes after the driver, whose devices have directories in it.
    _debug: debug_dir::Root,
}

impl kernel::InPlaceModule for Module {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _debug: Self::prepare()?,
            _driver <- kernel::driver::Registration::new(
                <Self as kernel::ModuleMetadata>::NAME,
                module,
            ),
        })
    }
}

kernel::prelude::module! {
    type: Module,
    name: "virtio_mem",
    authors: ["virtio-mem developers"],
    description: "Virtio-mem driver",
    license: "GPL",
}
