// SPDX-License-Identifier: GPL-2.0

//! The agent's program; all of it is in the library.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    virtio_mem_agent::main()
}
