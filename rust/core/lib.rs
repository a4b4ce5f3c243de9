// SPDX-License-Identifier: GPL-2.0

//! What the virtio-mem driver knows and decides, without the kernel.
//!
//! Nothing here allocates, performs I/O, sleeps or uses `unsafe`. The same files are compiled into
//! the kernel module and, as a Cargo crate, on the host, where the tests run the engine against a
//! simulated device and a simulated Linux.
//!
//! - [`wire`]: requests, responses, config space and features of the device.
//! - [`geometry`]: how a device's memory region is cut into memory blocks and sub-blocks.
//! - [`block_set`] and [`block_map`]: which of them are plugged, and how Linux uses them.
//! - [`engine`]: events in, next step out; the only place where decisions are made.
//! - [`state_search`]: which memory a crash kernel may read.
//! - [`guard`]: the check before memory is given up, for which Linux is asked.
//! - [`kernel_memory`]: how much of it there is for what has to be allocated to add memory.
//! - [`emptying`]: in which way memory in use is emptied.
//! - [`backoff`], [`portion`] and [`migration_budget`]: when to try again, for how much, and
//!   how much may be migrated.
//! - [`statistics`]: what came of it so far.
//! - [`vocabulary`]: the words for states and reasons that the driver shows and the agent reads.

// Kbuild says so on the command line.
#![cfg_attr(not(MODULE), no_std)]
#![deny(unsafe_code)]

pub mod backoff;
pub mod block_map;
pub mod block_set;
pub mod emptying;
pub mod engine;
pub mod geometry;
pub mod guard;
pub mod kernel_memory;
pub mod migration_budget;
pub mod portion;
pub mod state_search;
pub mod statistics;
pub mod vocabulary;
pub mod wire;
