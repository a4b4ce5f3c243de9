// SPDX-License-Identifier: GPL-2.0

//! The command line.

use crate::command::interval;
use crate::command::status::StatusArgs;
use crate::command::wait::WaitArgs;
use crate::command::watch::WatchArgs;
use crate::doctor::DoctorArgs;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Says what the virtio-mem devices of this machine are doing.
///
/// Without a command it does what `status` does.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit status: 0 done, 1 something could not be read or written, 2 wrong usage, \
                  3 no device; metrics, report and watch go without a device and never return 3. \
                  wait and doctor have more."
)]
pub(crate) struct Cli {
    /// Reads sys and proc in DIR instead of / (for tests and recorded trees)
    #[arg(long, global = true, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,

    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// How `wait` ends.
const WAIT_EXIT: &str = "\
Exit status:
  0  it is so
  1  something could not be read or waited for, or a driver does not tell
  2  wrong usage
  3  no device
  4  timed out
  5  it is not so, and only the host can change that:
     --settled   a device waits with reason not-addressable, or more is requested than its region has
     --at-least  SIZE is more than the devices can come to have. Of each, that is what is plugged or
                 requested, whichever is more; but no more than is plugged where it is settled or
                 waits with reason not-addressable; and all of its region where it is suspended or
                 what is requested is unknown.";

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
    Status(StatusArgs),

    /// Looks for what usually goes wrong, and says how to put it right
    ///
    /// Findings are notes (good to know, also when something could not be checked), warnings (it
    /// works, but less well than it could, or not for long) and errors (memory cannot be used, or a
    /// device cannot do its work). Some files can be read by root only.
    #[command(
        after_help = "Exit status: 0 nothing worse than notes, 1 something could not be read or \
                      written, 2 wrong usage, 3 no device, 4 the worst is a warning, 5 the worst \
                      is an error."
    )]
    Doctor(DoctorArgs),

    /// Shows the same again whenever something changes
    ///
    /// On a terminal the table is redrawn; elsewhere there is a table per change, with --json one
    /// line per change, the first at once. Changes within 50 ms are shown as one. Beside a driver
    /// that announces nothing, changes are seen when memory blocks come or go, and at each interval.
    /// Ends with exit status 0 on SIGINT and SIGTERM and when nobody reads its output any longer.
    #[command(
        after_help = "Exit status: 0 ended as told, 1 something could not be written or waited \
                      for, 2 wrong usage. What cannot be read, or is not there, does not end it."
    )]
    Watch(WatchArgs),

    /// Waits until the devices are settled, or enough is plugged
    ///
    /// With several devices, all have to be settled; what they have plugged is summed up. If both
    /// conditions are given, both have to hold. A device without a driver is waited for.
    ///
    /// With a driver that does not show its state in sysfs, --settled fails (exit status 1), and
    /// --at-least counts what was added to Linux, in whole memory blocks, which takes root.
    #[command(after_help = WAIT_EXIT)]
    Wait(WaitArgs),

    /// Prints, writes or serves metrics in Prometheus' text format
    ///
    /// Without an option they are printed once. A metric whose value cannot be known is absent;
    /// virtio_mem_scrape_errors says how many devices are missing as they could not be read.
    #[command(
        after_help = "Exit status: 0 done, also where there is no device, 1 something could not be \
                      read or written, or ADDRESS cannot be listened at, 2 wrong usage. What cannot \
                      be read does not end --listen."
    )]
    Metrics(MetricsArgs),

    /// Tells the host the status, at once when it changes and at an interval
    ///
    /// It is told on one line, as `watch --json` prints it. Nothing that the host sends is acted on.
    /// As long as the host does not read, only the newest line is kept for it, and tried again every
    /// five seconds. What cannot be opened is tried again less and less often, up to once a minute.
    /// A line that was cut short by a lost connection is followed by an empty one.
    #[command(
        after_help = "Exit status: 2 wrong usage. Nothing else ends it but a signal: what cannot be \
                      read or told is tried again."
    )]
    Report(ReportArgs),
}

/// Arguments of `metrics`.
#[derive(Args, Debug)]
pub(crate) struct MetricsArgs {
    /// Writes them to FILE, which is replaced in one go
    ///
    /// This is for the textfile collector of node_exporter, which takes files called *.prom. A
    /// device, a link or a directory is not replaced.
    #[arg(long, value_name = "FILE", conflicts_with = "listen")]
    pub(crate) output: Option<PathBuf>,

    /// Serves them at http://ADDRESS/metrics until it is stopped
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
}

/// Arguments of `report`.
#[derive(Args, Debug)]
pub(crate) struct ReportArgs {
    /// The virtio-serial port that the host reads
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/dev/virtio-ports/org.virtio_mem.agent.0"
    )]
    pub(crate) port: PathBuf,

    /// Connects to a vsock port instead (2 is the host's CID)
    #[arg(long, value_name = "CID:PORT", value_parser = vsock_address, conflicts_with = "port")]
    pub(crate) vsock: Option<(u32, u32)>,

    /// Tells the status at least this often, although it has not changed (30s, 5m)
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = interval)]
    pub(crate) interval: Duration,
}

/// `CID:PORT`, both decimal.
fn vsock_address(text: &str) -> Result<(u32, u32), String> {
    text.split_once(':')
        .and_then(|(cid, port)| Some((cid.parse().ok()?, port.parse().ok()?)))
        .ok_or_else(|| "expected CID:PORT, two decimal numbers".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::target;
    use clap::CommandFactory;

    #[test]
    fn definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn vsock_addresses() {
        assert_eq!(vsock_address("2:1024"), Ok((2, 1024)));
        for text in [
            "",
            "2",
            "2:",
            ":1",
            "2:1:1",
            "-1:1",
            "2:4294967296",
            "host:1",
        ] {
            assert!(vsock_address(text).is_err(), "{text}");
        }
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
            let text = String::from_utf8_lossy(bytes);
            let _ = (vsock_address(&text), interval(&text));
        });
    }
}
