// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers for kernel facilities, with all `unsafe` code: some of the driver's, and what only
//! a device needs.

pub(crate) mod balloon;
pub(crate) mod control;
#[path = "../../../rust/linux/debug_dir.rs"]
pub(crate) mod debug_dir;
#[allow(dead_code)]
#[path = "../../../rust/linux/event_flags.rs"]
pub(crate) mod event_flags;
pub(crate) mod hidden;
#[allow(dead_code)]
#[path = "../../../rust/linux/hotplug.rs"]
pub(crate) mod hotplug;
#[allow(dead_code)]
#[path = "../../../rust/linux/memory_notifier.rs"]
pub(crate) mod memory_notifier;
#[allow(dead_code)]
#[path = "../../../rust/linux/pages.rs"]
pub(crate) mod pages;
#[allow(dead_code)]
#[path = "../../../rust/linux/param.rs"]
pub(crate) mod param;
#[path = "../../../rust/linux/raw.rs"]
mod raw;
pub(crate) mod ring;
#[path = "../../../rust/linux/section.rs"]
mod section;
#[allow(dead_code)]
#[path = "../../../rust/linux/thread.rs"]
pub(crate) mod thread;
pub(crate) mod transport;
