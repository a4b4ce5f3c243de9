// SPDX-License-Identifier: GPL-2.0

//! `status`: what the devices are doing now.

use crate::bus;
use crate::collect;
use crate::columns;
use crate::command::device::DeviceArgs;
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
use clap::builder::PossibleValuesParser;
use clap::Args;
use std::process::ExitCode;

/// How the status is shown.
#[derive(Args, Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct ShowArgs {
    /// Prints JSON instead of a table
    #[arg(short = 'J', long)]
    pub(crate) json: bool,

    /// Prints sizes in bytes (JSON always does)
    #[arg(short, long)]
    pub(crate) bytes: bool,

    /// Shows all columns of which something is known
    #[arg(short, long)]
    pub(crate) wide: bool,

    /// Shows these columns only, in this order, and nothing below the table
    #[arg(
        short = 'o',
        long = "output",
        value_name = "COLUMNS",
        value_delimiter = ',',
        ignore_case = true,
        value_parser = PossibleValuesParser::new(columns::names()),
        conflicts_with_all = ["json", "wide"]
    )]
    pub(crate) columns: Vec<String>,

    /// Leaves out the titles of the columns, and what is below the table
    #[arg(long, conflicts_with = "json")]
    pub(crate) noheadings: bool,
}

impl ShowArgs {
    /// How the table is to look.
    pub(crate) fn look(&self) -> Look {
        let columns = columns::named(&self.columns);
        Look {
            columns: (!columns.is_empty()).then_some(columns),
            bare: self.noheadings,
            ..Look::for_stdout(self.bytes, self.wide)
        }
    }
}

/// Arguments of `status`.
#[derive(Args, Debug, Default)]
pub(crate) struct StatusArgs {
    /// The device.
    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    /// What to show.
    #[command(flatten)]
    pub(crate) show: ShowArgs,
}

/// Collects the state of all devices and prints it.
pub(crate) fn run(root: &Root, args: &StatusArgs) -> ExitCode {
    let only = args.device.name();
    let collected = collect::collect(root, only);
    let none = collected.status.devices.is_empty();
    let failed = !collected.errors.is_empty();

    for message in collected.messages() {
        complain(&message);
    }
    if none && !failed {
        complain(&bus::absence(only));
    }
    if let Err(error) = show(&collected.status, &args.show) {
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
fn show(status: &Status, args: &ShowArgs) -> Result<()> {
    if args.json {
        print(&format!("{}\n", json(status, Layout::Lines)?))
    } else if status.devices.is_empty() {
        Ok(())
    } else {
        print(&table::render(&status.devices, &args.look()))
    }
}
