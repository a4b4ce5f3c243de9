// SPDX-License-Identifier: GPL-2.0

//! Says what the virtio-mem devices of this machine are doing.
//!
//! [`bus`] finds the devices; [`collect`] asks, for each of them, either the driver's own
//! attributes ([`sysfs`]) or, where there are none, the places in which any kernel shows memory
//! that was added ([`iomem`], [`memory_blocks`]). What comes out is a [`status::Device`], printed
//! by [`table`] or as JSON. What cannot be known is left out, never guessed.

#![forbid(unsafe_code)]

mod bus;
mod cli;
mod collect;
mod error;
mod files;
mod iomem;
mod memory_blocks;
mod size;
mod status;
mod sysfs;
mod table;

use clap::Parser;
use cli::Cli;
use cli::Command;
use cli::StatusArgs;
use collect::Collected;
use error::Error;
use files::Root;
use std::io;
use std::io::Write;
use std::process::ExitCode;

/// The name under which messages appear.
const NAME: &str = env!("CARGO_PKG_NAME");

/// Something could not be read or written.
const EXIT_ERROR: u8 = 1;
/// There is no such device. (2 is clap's, for a wrong command line.)
const EXIT_NO_DEVICE: u8 = 3;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let root = Root::new(cli.root);

    match cli
        .command
        .unwrap_or(Command::Status(StatusArgs::default()))
    {
        Command::Status(args) => status(&root, &args),
    }
}

/// Collects the state of all devices and prints it.
fn status(root: &Root, args: &StatusArgs) -> ExitCode {
    let collected = collect::collect(root, args.device.as_deref());

    for note in &collected.notes {
        complain(note);
    }
    for error in &collected.errors {
        complain(error);
    }

    let none = collected.status.devices.is_empty();
    let failed = !collected.errors.is_empty();
    if none && !failed {
        complain(&match &args.device {
            Some(name) => format!("no virtio-mem device {:?}", name.as_str()),
            None => "no virtio-mem device".into(),
        });
    }
    if let Err(error) = print(&collected, args) {
        complain(&error);
        return ExitCode::from(EXIT_ERROR);
    }

    match (failed, none) {
        (true, _) => ExitCode::from(EXIT_ERROR),
        (false, true) => ExitCode::from(EXIT_NO_DEVICE),
        (false, false) => ExitCode::SUCCESS,
    }
}

/// Writes the status to standard output, in the form that was asked for.
fn print(collected: &Collected, args: &StatusArgs) -> Result<(), Error> {
    let status = &collected.status;
    let text = if args.json {
        serde_json::to_string_pretty(status).map_err(|error| Error::Write(error.into()))?
    } else if status.devices.is_empty() {
        return Ok(());
    } else {
        table::render(&status.devices, args.bytes)
    };

    match writeln!(io::stdout(), "{text}") {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(Error::Write),
    }
}

/// Says something on standard error; where even that fails there is nobody to tell.
fn complain(message: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{NAME}: {message}");
}
