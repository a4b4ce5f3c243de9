// SPDX-License-Identifier: GPL-2.0

//! Runs the agent's `metrics`: what it prints, writes into a file, and serves.

mod render;
mod served;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "../status/tree.rs"]
mod tree;
