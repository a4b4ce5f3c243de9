// SPDX-License-Identifier: GPL-2.0

//! Runs the agent's `status` over trees of every kind a machine, or an attacker, could show it, and
//! `watch` and `wait` over trees that change.

mod hostile;
mod render;
mod terminal;
mod tree;
mod wait;
mod watch;
