// SPDX-License-Identifier: GPL-2.0

//! Metrics in Prometheus' text format: [`page`] makes the text, [`http`] serves it.

pub(crate) mod http;
pub(crate) mod page;
