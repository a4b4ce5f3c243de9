// SPDX-License-Identifier: GPL-2.0

//! A virtio-mem device inside of the guest, for tests of its driver.
//!
//! It plays a hypervisor, on RAM that the kernel was told not to use (`mem=`), so that plugged
//! memory is real, and unplugged memory can be watched. What it is like and which mistakes it makes
//! is written to `virtio_mem_test/device/control` in debugfs; see `model/command.rs`.
//!
//! - [`model`] is the device, without a kernel;
//! - [`linux`] wraps kernel facilities, with all `unsafe` code;
//! - [`host`] binds the two: memory, commands, the thread that answers requests;
//! - [`floor`] has Linux use the RAM without any device, for benchmarks.

// `linux` allows it for itself.
#![deny(unsafe_code)]

mod floor;
mod host;
#[allow(unsafe_code)]
mod linux;
// What only the tests on the host use is dead here.
#[allow(dead_code, unreachable_pub)]
mod model;
mod module;
