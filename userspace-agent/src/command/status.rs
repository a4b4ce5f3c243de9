// SPDX-License-Identifier: GPL-2.0

//! `status`: what the devices are doing now.

use crate::bus;
use crate::collect;
use crate::error::Result;
use crate::exit;
use crate::files::Root;
use crate::output::complain;
use crate::output::json;
use crate::output::print;
use crate::output::Layout;
use crate::status::Status;
use crate::table;
use crate::table::Look;
use clap::Args;
use std::process::ExitCode;

/// Arguments of `status`, and of `watch` too.
#[derive(Args, Debug, Default)]
pub(crate) struct StatusArgs {
    /// Prints JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,

    /// Prints sizes in bytes (JSON always does)
    #[arg(long)]
    pub(crate) bytes: bool,

    /// Shows all columns of which something is known
    #[arg(long)]
    pub(crate) wide: bool,

    /// Shows this device only
    #[arg(long, value_name = "NAME")]
    pub(crate) device: Option<String>,
}

/// Collects the state of all devices and prints it.
pub(crate) fn run(root: &Root, args: &StatusArgs) -> ExitCode {
    let only = args.device.as_deref();
    let collected = collect::collect(root, only);
    let none = collected.status.devices.is_empty();
    let failed = !collected.errors.is_empty();

    for message in collected.messages() {
        complain(&message);
    }
    if none && !failed {
        complain(&bus::absence(only));
    }
    if let Err(error) = show(&collected.status, args) {
        complain(&error);
        return ExitCode::from(exit::ERROR);
    }

    match (failed, none) {
        (true, _) => ExitCode::from(exit::ERROR),
        (false, true) => ExitCode::from(exit::NO_DEVICE),
        (false, false) => ExitCode::SUCCESS,
    }
}

/// Writes the status to standard output, in the form that was asked for.
fn show(status: &Status, args: &StatusArgs) -> Result<()> {
    if args.json {
        print(&format!("{}\n", json(status, Layout::Lines)?))
    } else if status.devices.is_empty() {
        Ok(())
    } else {
        let look = Look::for_stdout(args.bytes, args.wide);
        print(&table::render(&status.devices, look))
    }
}
