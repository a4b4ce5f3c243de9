// SPDX-License-Identifier: GPL-2.0

//! `retry`: has the driver try at once what it waits to try again.

use crate::bus;
use crate::command::device::DeviceArgs;
use crate::error::Result;
use crate::exit;
use crate::files;
use crate::files::Root;
use crate::output::complain;
use crate::sysfs;
use clap::Args;
use std::process::ExitCode;

/// The attribute that is written to.
const ATTRIBUTE: &str = "retry";

/// Arguments of `retry`.
#[derive(Args, Debug)]
pub(crate) struct RetryArgs {
    /// The device.
    #[command(flatten)]
    device: DeviceArgs,
}

/// Writes to each device's attribute. One that cannot be written to keeps no other from it.
pub(crate) fn run(root: &Root, args: &RetryArgs) -> ExitCode {
    let only = args.device.name();
    let (done, failed) = match retry(root, only) {
        Ok(counts) => counts,
        Err(error) => {
            complain(&error);
            return ExitCode::from(exit::ERROR);
        }
    };

    if failed > 0 {
        ExitCode::from(exit::ERROR)
    } else if done == 0 {
        complain(&bus::absence(only));
        ExitCode::from(exit::NO_DEVICE)
    } else {
        ExitCode::SUCCESS
    }
}

/// How many devices it was done for, and for how many it failed.
fn retry(root: &Root, only: Option<&str>) -> Result<(usize, usize)> {
    let (mut done, mut failed) = (0, 0);

    for name in bus::selected(root, only)? {
        let written = match bus::look(root, &name) {
            Ok(None) => continue,
            Ok(Some(device)) => {
                files::write_value(&device.dir.join(sysfs::GROUP).join(ATTRIBUTE), "1\n")
            }
            Err(error) => Err(error),
        };
        match written {
            Ok(()) => done += 1,
            Err(error) => {
                complain(&error);
                failed += 1;
            }
        }
    }
    Ok((done, failed))
}
