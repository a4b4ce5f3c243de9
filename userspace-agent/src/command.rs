// SPDX-License-Identifier: GPL-2.0

//! The commands, and what several of them need.

pub(crate) mod status;
pub(crate) mod wait;
pub(crate) mod watch;

use crate::complain;
use crate::error::Error;
use crate::error::Result;
use std::io;
use std::io::Write;
use std::time::Duration;

/// The shortest interval at which to look: less would be a busy loop.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// Writes to standard output, all at once.
fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();

    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(Error::Write)
}

/// Says that there is nothing to look at.
fn complain_of_absence(only: Option<&str>) {
    complain(&match only {
        Some(name) => format!("no virtio-mem device {name:?}"),
        None => "no virtio-mem device".into(),
    });
}

/// An interval as it is written on the command line.
fn interval(text: &str) -> std::result::Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if interval < SHORTEST_INTERVAL {
        return Err(format!("less than {SHORTEST_INTERVAL:?}"));
    }
    Ok(interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals() {
        assert_eq!(interval("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(interval("1m 30s"), Ok(Duration::from_secs(90)));
        for bad in ["", "5", "0", "99ms", "-1s", "x"] {
            assert!(interval(bad).is_err(), "{bad:?}");
        }
    }
}
