// SPDX-License-Identifier: GPL-2.0

//! Looks for what usually goes wrong, and says how to put it right.
//!
//! A check is a function from [`facts`] to [`finding`]s, one file a subject; [`examine`] makes them
//! all. None keeps another from being made: what a check cannot read becomes a finding of its own.

mod balloon;
mod driver;
pub(crate) mod examine;
mod facts;
pub(crate) mod finding;
mod kernel;
mod memory;
mod onlining;
mod power;
pub(crate) mod record;
mod redact;
pub(crate) mod render;
#[cfg(test)]
mod testing;
mod udev;
mod udev_syntax;
mod zoneinfo;
