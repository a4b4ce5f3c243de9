// SPDX-License-Identifier: GPL-2.0

//! Metrics in Prometheus' text format: [`page`] makes the text, [`server`] serves it.

mod connection;
mod http;
pub(crate) mod listen;
pub(crate) mod page;
pub(crate) mod server;
