// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers for what the kernel crate does not have yet, one file for each kernel facility.
//!
//! All `unsafe` code of the module is here.

pub(crate) mod attributes;
pub(crate) mod debug_dir;
pub(crate) mod event_flags;
pub(crate) mod groups;
pub(crate) mod hotplug;
pub(crate) mod interruptible;
pub(crate) mod memory_block;
pub(crate) mod memory_notifier;
pub(crate) mod online_page;
pub(crate) mod pages;
pub(crate) mod param;
pub(crate) mod pm_notifier;
mod raw;
mod section;
pub(crate) mod thread;
pub(crate) mod trace;
pub(crate) mod version;
pub(crate) mod virtio;
pub(crate) mod virtqueue;
#[cfg(CONFIG_PROC_VMCORE)]
pub(crate) mod vmcore;
