// SPDX-License-Identifier: GPL-2.0

//! Telling the host the status: [`host`] is its end of a port or connection.

pub(crate) mod host;
