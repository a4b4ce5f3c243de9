// SPDX-License-Identifier: GPL-2.0

//! A memory device that plays one of four hypervisors, makes mistakes to order, and checks what the
//! driver does.
//!
//! This is all of the device but its memory and its transport: a state machine without I/O and
//! without `unsafe`, part of the module `virtio_mem_test`, and a Cargo crate for tests on the host.
//!
//! - [`personality`]: how the four hypervisors differ.
//! - [`blocks`]: which blocks are plugged, and what the driver can know of that.
//! - [`config`]: what the driver reads from the config space, which need not be the truth.
//! - [`fault`]: answers that are wrong, late, lost, or given twice.
//! - [`rules`]: what a driver must never do, and the record of what it did.
//! - [`device`]: the device, made of these.
//! - [`command`]: the words in which a script tells it what to be.

// Kbuild says so on the command line.
#![cfg_attr(not(MODULE), no_std)]

pub mod blocks;
pub mod command;
pub mod config;
pub mod device;
pub mod fault;
pub mod personality;
pub mod report;
pub mod rules;

use core::ops::DerefMut;
use core::ops::Range;

/// Where the model keeps what it has many of.
pub trait Store {
    /// A slice of fixed length.
    type Of<T: Copy>: DerefMut<Target = [T]>;

    /// One with `len` times `value`; `None` without memory.
    fn make<T: Copy>(value: T, len: usize) -> Option<Self::Of<T>>;
}

/// The memory that the device offers. Addresses are guest physical.
pub trait Memory {
    /// Writes the pattern all over that no unplugged block ever loses. (A fresh block still has it:
    /// its content is undefined.)
    fn poison(&mut self, range: Range<u64>);

    /// The first address where that pattern is not.
    fn damage(&mut self, range: Range<u64>) -> Option<u64>;

    /// The first address that the guest uses: online, and not kept away by its driver.
    fn in_use(&mut self, range: Range<u64>) -> Option<u64>;
}
