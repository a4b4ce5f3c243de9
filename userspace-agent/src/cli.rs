// SPDX-License-Identifier: GPL-2.0

//! The command line.

use crate::command::device::DeviceArgs;
use crate::command::doctor::DoctorArgs;
use crate::command::metrics::MetricsArgs;
use crate::command::report::ReportArgs;
use crate::command::retry::RetryArgs;
use crate::command::status::ShowArgs;
use crate::command::status::StatusArgs;
use crate::command::wait::WaitArgs;
use crate::command::watch::WatchArgs;
use crate::exit;
use clap::error::ErrorKind;
use clap::Parser;
use clap::Subcommand;
use std::path::PathBuf;

/// Says what the virtio-mem devices of this machine are doing.
///
/// Without a command it does what `status` does.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = exit::help("status")
)]
pub(crate) struct Cli {
    /// Reads sys and proc in DIR instead of / (for tests and recorded trees)
    #[arg(long, global = true, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,

    /// What `status` shows, without the word.
    #[command(flatten)]
    pub(crate) show: ShowArgs,

    /// Shows this device only: its name (virtio0) or its PCI address (0000:00:04.0)
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,

    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

impl Cli {
    /// The command: `status` where none is named, which alone takes its options without the word.
    pub(crate) fn command(self) -> Result<Command, clap::Error> {
        let device = DeviceArgs::of(self.device);
        let is_plain = self.show == ShowArgs::default() && device.name().is_none();
        match self.command {
            None => Ok(Command::Status(StatusArgs {
                device,
                show: self.show,
            })),
            Some(command) if is_plain => Ok(command),
            Some(_) => Err(<Self as clap::CommandFactory>::command().error(
                ErrorKind::ArgumentConflict,
                "options of a command come after its name",
            )),
        }
    }
}

/// What the agent can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows each device's sizes and state
    ///
    /// REQUESTED is what the host asks for, PLUGGED what it gave, REGION the most it can give. On a
    /// terminal a bar shows how much of the region is plugged (#), still to come (-) and to go (x).
    /// KERNEL, OFFLINE and NOT-ADDED appear where some memory is online in a zone other than
    /// ZONE_MOVABLE, not online, or plugged and not known to Linux: with MOVABLE they add up to
    /// PLUGGED. ADDED is how much Linux was told of, in whole memory blocks, of which some may be
    /// plugged only in part; it is shown where what is plugged is unknown, as with a driver that does
    /// not show its sizes in sysfs, and then the others are in whole memory blocks too. --wide shows
    /// all of them. Reading addresses from /proc/iomem takes root.
    #[command(after_help = exit::help("status"))]
    Status(StatusArgs),

    /// Looks for what usually goes wrong, and says how to put it right
    ///
    /// Findings are notes (good to know, also when something could not be checked), warnings (it
    /// works, but less well than it could, or not for long) and errors (memory cannot be used, or a
    /// device cannot do its work). Some files can be read by root only.
    #[command(after_help = exit::help("doctor"))]
    Doctor(DoctorArgs),

    /// Shows the same again whenever something changes
    ///
    /// On a terminal the table is redrawn; elsewhere there is a table per change, with --json one
    /// line per change, the first at once. Changes within 50 ms are shown as one. Beside a driver
    /// that announces nothing, changes are seen when memory blocks come or go, and at each interval.
    /// Ends with exit status 0 on SIGINT and SIGTERM and when nobody reads its output any longer.
    #[command(after_help = exit::help("watch"))]
    Watch(WatchArgs),

    /// Waits until the devices are settled, or enough is plugged
    ///
    /// With several devices, all have to be settled; what they have plugged is summed up. If both
    /// conditions are given, both have to hold. A device without a driver is waited for.
    ///
    /// Only the host can help where a device waits with reason not-addressable, or more is requested
    /// than its region has; and where SIZE is more than the devices can come to have. Of each, that is
    /// what is plugged or requested, whichever is more; but no more than is plugged where it is settled
    /// or waits with reason not-addressable; and all of its region where it is suspended or what is
    /// requested is unknown.
    ///
    /// With a driver that does not show its state in sysfs, --settled fails (exit status 1), and
    /// --at-least counts what was added to Linux, in whole memory blocks, which takes root.
    #[command(after_help = exit::help("wait"))]
    Wait(WaitArgs),

    /// Has the driver try at once what it waits to try again
    ///
    /// A driver that waits for the host or for memory tries again after longer and longer times; this is
    /// for when the cause is known to be gone. It takes root, and this project's driver.
    #[command(after_help = exit::help("retry"))]
    Retry(RetryArgs),

    /// Prints, writes or serves metrics in Prometheus' text format
    ///
    /// Without an option they are printed once. A metric whose value cannot be known is absent;
    /// virtio_mem_scrape_errors says how many devices are missing as they could not be read.
    #[command(after_help = exit::help("metrics"))]
    Metrics(MetricsArgs),

    /// Tells the host the status, at once when it changes and at an interval
    ///
    /// It is told on one line, as `watch --json` prints it. Nothing that the host sends is acted on.
    /// As long as the host does not read, only the newest line is kept for it, and tried again every
    /// five seconds. What cannot be opened is tried again less and less often, up to once a minute.
    /// A line that was cut short by a lost connection is followed by an empty one.
    #[command(after_help = exit::help("report"))]
    Report(ReportArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::target;
    use crate::times::interval;
    use clap::CommandFactory;

    #[test]
    fn definition_is_sound() {
        <Cli as CommandFactory>::command().debug_assert();
    }

    #[test]
    fn any_command_line() {
        let words = [
            "status",
            "watch",
            "wait",
            "metrics",
            "report",
            "doctor",
            "--json",
            "--bytes",
            "--timeout",
            "--interval",
            "--at-least",
            "--settled",
            "--listen",
            "--port",
            "--vsock",
            "1G",
            "5s",
            "1h 3m",
            "2:1024",
            "127.0.0.1:9",
            "--root",
            "/x",
            "virtio0",
            "--wide",
            "99999999999999999999s",
            "18446744073709551615",
            "-",
            "--",
            "=",
            "",
        ];
        target("any_command_line", 12, |bytes| {
            let args = bytes
                .iter()
                .map(|byte| words[usize::from(*byte) % words.len()]);
            // Refused or taken, at no great length.
            if let Err(error) = Cli::try_parse_from(std::iter::once("agent").chain(args)) {
                assert!(error.to_string().len() < 64 << 10);
            }
            let _ = interval(&String::from_utf8_lossy(bytes));
        });
    }
}
