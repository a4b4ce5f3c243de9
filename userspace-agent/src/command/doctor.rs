// SPDX-License-Identifier: GPL-2.0

//! `doctor`: looks for what usually goes wrong, and says how to put it right.

use crate::bus;
use crate::command::device::DeviceArgs;
use crate::doctor::examine;
use crate::doctor::examine::Examination;
use crate::doctor::finding::Finding;
use crate::doctor::finding::Kind;
use crate::doctor::finding::Severity;
use crate::doctor::record;
use crate::doctor::render;
use crate::error::Error;
use crate::exit;
use crate::files::Root;
use crate::output::complain;
use crate::output::json;
use crate::output::print;
use crate::output::Layout;
use clap::Args;
use serde::Serialize;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

/// The version of the JSON form. It grows when a field changes its meaning or goes away, not when
/// one is added.
const VERSION: u32 = 1;

/// Arguments of `doctor`.
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Prints JSON
    #[arg(short = 'J', long)]
    json: bool,

    /// The device, beside the machine.
    #[command(flatten)]
    device: DeviceArgs,

    /// Lists what can be found, and examines nothing
    #[arg(long, conflicts_with_all = ["position", "device", "save"])]
    list: bool,

    /// Examines nothing, and records in DIR all that it would read, for --root DIR elsewhere
    ///
    /// DIR is made, or has to be empty. Of files in which there may be secrets, only what is of interest
    /// is recorded: of the kernel's command line init_on_alloc, of /proc/iomem the memory devices.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["json", "position", "device"])]
    save: Option<PathBuf>,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    findings: &'a [Finding],
}

/// What can be found, as JSON.
#[derive(Serialize)]
struct List {
    version: u32,
    kinds: Vec<&'static Kind>,
}

/// Records the machine.
fn save(root: &Root, dir: &Path) -> ExitCode {
    match record::record(root, dir) {
        Ok(errors) if errors.is_empty() => ExitCode::SUCCESS,
        Ok(errors) => {
            errors.iter().for_each(|error| complain(error));
            ExitCode::from(exit::ERROR)
        }
        Err(error) => failure(&error),
    }
}

/// Examines the machine and prints what is found.
pub(crate) fn run(root: &Root, args: &DoctorArgs) -> ExitCode {
    if let Some(dir) = &args.save {
        return save(root, dir);
    }
    if args.list {
        let text = if args.json {
            let list = List {
                version: VERSION,
                kinds: examine::kinds().collect(),
            };
            json(&list, Layout::Lines)
        } else {
            Ok(render::kinds(examine::kinds()))
        };
        return match text.and_then(|text| print(&format!("{text}\n"))) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failure(&error),
        };
    }

    let Examination { mut findings, any } = examine::examine(root, args.device.name());
    findings.sort();
    if !any && !findings.failed {
        complain(&bus::absence(args.device.name()));
    }
    let text = if args.json {
        let report = Report {
            version: VERSION,
            findings: &findings.list,
        };
        json(&report, Layout::Lines)
    } else if any || findings.failed {
        Ok(render::findings(&findings.list))
    } else {
        return ExitCode::from(exit::NO_DEVICE);
    };
    if let Err(error) = text.and_then(|text| print(&format!("{text}\n"))) {
        return failure(&error);
    }

    ExitCode::from(match findings.worst() {
        Some(Severity::Error) => exit::FINDING,
        Some(Severity::Warning) => exit::WARNING,
        _ if findings.failed => exit::ERROR,
        _ if !any => exit::NO_DEVICE,
        _ => return ExitCode::SUCCESS,
    })
}

fn failure(error: &Error) -> ExitCode {
    complain(error);
    ExitCode::from(exit::ERROR)
}
