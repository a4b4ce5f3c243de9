// SPDX-License-Identifier: GPL-2.0

//! The command line.

use clap::Args;
use clap::Parser;
use clap::Subcommand;
use std::path::PathBuf;

/// Says what the virtio-mem devices of this machine are doing.
///
/// Without a command it does what `status` does.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit status: 0 done, 1 something could not be read, 2 wrong usage, 3 no device."
)]
pub(crate) struct Cli {
    /// Reads sys and proc in DIR instead of / (for tests and recorded trees)
    #[arg(long, global = true, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,

    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What the agent can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows each device's sizes and state
    ///
    /// REQUESTED is what the host asks for, PLUGGED what it gave, REGION the most it can give.
    /// ADDED is how much Linux was told of, in whole memory blocks, of which some may be plugged
    /// only in part; MOVABLE, KERNEL and OFFLINE say how those memory blocks stand: online in
    /// ZONE_MOVABLE, online in another zone, not online. With a driver that does not show its
    /// sizes in sysfs, what was requested and plugged is unknown (null in JSON). Reading addresses
    /// from /proc/iomem takes root.
    Status(StatusArgs),
}

/// Arguments of `status`.
#[derive(Args, Debug, Default)]
pub(crate) struct StatusArgs {
    /// Prints JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,

    /// Prints sizes in bytes (JSON always does)
    #[arg(long)]
    pub(crate) bytes: bool,

    /// Shows this device only
    #[arg(long, value_name = "NAME")]
    pub(crate) device: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definition_is_sound() {
        Cli::command().debug_assert();
    }
}
