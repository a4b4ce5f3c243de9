// SPDX-License-Identifier: GPL-2.0

//! The commands, one a file.

pub(crate) mod device;
pub(crate) mod doctor;
pub(crate) mod metrics;
pub(crate) mod report;
pub(crate) mod retry;
pub(crate) mod status;
pub(crate) mod wait;
pub(crate) mod watch;
