// SPDX-License-Identifier: GPL-2.0

//! What the device says about itself: `KEY VALUE` a line, and a log.

use super::device::Device;
use super::fault::Kind;
use super::Store;
use core::fmt;
use core::fmt::Write;

/// What is the case.
pub fn status<S: Store>(device: &Device<S>, to: &mut dyn Write) -> fmt::Result {
    let (setup, config) = (device.setup(), device.config());
    writeln!(to, "personality {}", setup.personality.as_str())?;
    writeln!(to, "addr {}", config.addr)?;
    writeln!(to, "region_size {}", config.region_size)?;
    writeln!(to, "block_size {}", config.block_size)?;
    writeln!(to, "usable_region_size {}", config.usable_region_size)?;
    writeln!(to, "plugged_size {}", config.plugged_size)?;
    writeln!(to, "requested_size {}", config.requested_size)?;
    writeln!(to, "plugged {}", device.plugged())?;
    writeln!(to, "requests {}", device.journal.requests)?;
    for (kind, count) in Kind::ALL.iter().zip(device.counts) {
        writeln!(to, "requests.{} {count}", kind.as_str())?;
    }
    let names = ["ack", "nack", "busy", "error", "other", "none"];
    for (name, count) in names.iter().zip(device.answers) {
        writeln!(to, "answers.{name} {count}")?;
    }
    writeln!(to, "faults {}", device.faults.hits)?;
    writeln!(to, "violations {}", device.journal.violations)
}

/// Which rules were broken, with the number of the last request before.
pub fn violations<S: Store>(device: &Device<S>, to: &mut dyn Write) -> fmt::Result {
    for (number, breach) in device.journal.breaches() {
        writeln!(to, "{number}: {breach}")?;
    }
    Ok(())
}

/// The last requests.
pub fn log<S: Store>(device: &Device<S>, to: &mut dyn Write) -> fmt::Result {
    for entry in device.journal.entries() {
        writeln!(to, "{entry}")?;
    }
    Ok(())
}
