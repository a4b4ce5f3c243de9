// SPDX-License-Identifier: GPL-2.0

//! Says what the virtio-mem devices of this machine are doing.
//!
//! `bus` finds the devices; `collect` asks, for each of them, either the driver's own
//! attributes (`sysfs`) or, where there are none, the places in which any kernel shows memory
//! that was added (`iomem`, `memory_blocks`). What comes out is a `status::Device`, printed
//! by `table` or as JSON, offered to Prometheus by `metrics`, and told to the host by
//! `report`. What cannot be known is left out, never guessed.
//!
//! `status`, `watch` and `wait` are modules of `command`, which also has what all commands need;
//! `metrics`, `report` and `doctor` are modules of their own. Those that wait are woken by
//! `events`.

#![forbid(unsafe_code)]

mod advice;
mod bar;
mod bus;
mod cli;
mod collect;
mod command;
mod complaints;
mod doctor;
mod error;
mod events;
mod files;
#[cfg(test)]
mod fuzz;
mod iomem;
mod memory_blocks;
mod metrics;
mod report;
mod size;
mod status;
mod sysfs;
mod table;
mod words;

use clap::CommandFactory;
use clap::Parser;
use cli::Cli;
use cli::Command;
use command::status::StatusArgs;
use files::Root;
use std::process::ExitCode;

/// The command line as defined, for what is made from it: man pages and completions.
pub fn definition() -> clap::Command {
    Cli::command()
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let root = Root::new(cli.root);

    match cli
        .command
        .unwrap_or(Command::Status(StatusArgs::default()))
    {
        Command::Status(args) => command::status::run(&root, &args),
        Command::Watch(args) => command::watch::run(&root, &args),
        Command::Wait(args) => command::wait::run(&root, &args),
        Command::Metrics(args) => metrics::run(&root, &args),
        Command::Report(args) => report::run(&root, &args),
        Command::Doctor(args) => doctor::doctor(&root, &args),
    }
}
