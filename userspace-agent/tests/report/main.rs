// SPDX-License-Identifier: GPL-2.0

//! Runs the agent's `report` with a pseudo-terminal in the place of the virtio-serial port.

mod messages;
mod port;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "../status/tree.rs"]
mod tree;
