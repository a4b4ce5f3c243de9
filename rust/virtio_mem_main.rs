// SPDX-License-Identifier: GPL-2.0

//! Virtio-mem device driver.
//!
//! Three rooms, each with one reason to change:
//!
//! - the crate `virtio_mem_core` (`core/`) decides what to do: protocol, block map, resize engine;
//! - [`linux`] wraps the kernel facilities that the kernel crate lacks, with all `unsafe` code;
//! - the other files here bind the two: devices, memory notifiers, the thread that carries the
//!   engine's steps out, and what shows how it goes.
//!
//! `Documentation/architecture.md` has the order in which they use each other.

// `linux` allows it for itself.
#![deny(unsafe_code)]

/// What `pr_err!` puts before each message, as a terminated string.
const __LOG_PREFIX: &[u8] = b"virtio_mem\0";

mod attributes;
mod config;
mod debug;
mod device;
mod driver;
mod events;
mod instance;
#[cfg(CONFIG_PROC_VMCORE)]
mod kdump;
#[allow(unsafe_code)]
mod linux;
mod module;
mod parameters;
mod probe;
mod queue;
mod region;
mod report;
mod status;
mod worker;
