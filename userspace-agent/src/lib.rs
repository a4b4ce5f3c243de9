// SPDX-License-Identifier: GPL-2.0

//! Says what the virtio-mem devices of this machine are doing.
//!
//! `bus` finds the devices; `collect` asks, for each of them, either the driver's own
//! attributes (`sysfs`) or, where there are none, the places in which any kernel shows memory
//! that was added (`iomem`, `memory_blocks`). What comes out is a `status::Device`, printed
//! by `table` or as JSON, offered to Prometheus by `metrics`, and told to the host by
//! `report`. What cannot be known is left out, never guessed.
//!
//! Each command is a file of `command`, with its arguments. Those that wait are woken by `events`.
//! `doctor` has the checks, `metrics` the page and its server, `report` the host's end.
//!
//! A file uses those below it only: `lib`, `cli`, `command`; then `doctor`, `metrics`, `report`, `events`;
//! `collect`; what it reads from; and what all use, `files`, `output`, `error`, `exit`, `values`.

#![forbid(unsafe_code)]

mod advice;
mod attributes;
mod bar;
mod bus;
mod cache;
mod cli;
mod collect;
mod columns;
mod command;
mod doctor;
mod error;
mod events;
mod exit;
mod files;
#[cfg(test)]
mod fuzz;
mod iomem;
mod memory_blocks;
mod metrics;
mod output;
mod plain;
mod report;
mod size;
mod status;
mod sysfs;
mod table;
mod terminal;
mod times;
mod uevents;
mod values;
mod verdict;
mod view;
mod words;

use clap::CommandFactory;
use clap::Parser;
use cli::Cli;
use cli::Command;
use files::Root;
use std::process::ExitCode;

pub use exit::of as exit_statuses;
pub use exit::Exit;

/// The command line as defined, for what is made from it: man pages and completions.
pub fn definition() -> clap::Command {
    <Cli as CommandFactory>::command()
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let root = match Root::find(cli.root.clone()) {
        Ok(root) => root,
        Err(error) => {
            output::complain(&error);
            return ExitCode::from(exit::ERROR);
        }
    };

    match cli.command().unwrap_or_else(|error| error.exit()) {
        Command::Status(args) => command::status::run(&root, &args),
        Command::Watch(args) => command::watch::run(&root, &args),
        Command::Wait(args) => command::wait::run(&root, &args),
        Command::Retry(args) => command::retry::run(&root, &args),
        Command::Metrics(args) => command::metrics::run(&root, &args),
        Command::Report(args) => command::report::run(&root, &args),
        Command::Doctor(args) => command::doctor::run(&root, &args),
    }
}
