// SPDX-License-Identifier: GPL-2.0

//! The messages between host and guest: one JSON object a line, in both
//! directions. Every request has an id, every answer names the request's.

use serde::Deserialize;
use serde::Serialize;

/// A request from the host.
#[derive(Deserialize)]
pub(crate) struct Request {
    /// Chosen by the host, repeated in everything that answers the request.
    pub(crate) id: u64,
    #[serde(flatten)]
    pub(crate) op: Op,
}

/// What the host can ask for.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Op {
    /// Run a program. Any number may run at a time.
    Run(Run),
    /// Feed the standard input of the streaming program started by `target`.
    Input { target: u64, data: String },
    /// Send a signal to the process group of the program started by `target`.
    Signal { target: u64, signal: i32 },
    /// Read a file without starting a process, which may need memory that a full
    /// guest no longer has.
    Read { path: String },
    /// Write a file in one `write()`, as sysfs wants it, and tell the errno.
    Write { path: String, data: String },
    /// Wait until a value of `/proc/meminfo` lies between two bounds (in KiB).
    AwaitMeminfo {
        key: String,
        min: u64,
        max: u64,
        timeout: f64,
    },
}

/// A program to run.
#[derive(Deserialize)]
pub(crate) struct Run {
    pub(crate) argv: Vec<String>,
    /// Text for the program's standard input; empty if absent.
    #[serde(default)]
    pub(crate) stdin: Option<String>,
    /// Seconds until the program is killed; absent: never.
    #[serde(default)]
    pub(crate) timeout: Option<f64>,
    /// Send each line of output as it comes, and keep standard input open.
    #[serde(default)]
    pub(crate) stream: bool,
}

/// What the guest says about a request. Only the last message of a request has
/// `done` set.
#[derive(Default, Serialize)]
pub(crate) struct Reply {
    pub(crate) id: u64,
    pub(crate) done: bool,
    /// The program runs under this process id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<i32>,
    /// A line of output of a streaming program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<String>,
    /// Exit status, or the negated number of the signal that ended the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rc: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stdout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stderr: Option<String>,
    /// How long the request took inside the guest, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ms: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) timed_out: bool,
    /// Content of a file that was read, or a value that was waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<String>,
    /// Why the request could not be served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) errno: Option<i32>,
}

impl Reply {
    /// The last message of request `id`, to be filled in.
    pub(crate) fn done(id: u64) -> Self {
        Self {
            id,
            done: true,
            ..Self::default()
        }
    }

    /// The last message of a request that could not be served.
    pub(crate) fn failed(id: u64, error: &std::io::Error) -> Self {
        Self {
            error: Some(error.to_string()),
            errno: error.raw_os_error(),
            ..Self::done(id)
        }
    }
}
