// SPDX-License-Identifier: GPL-2.0

//! The commands, and what several of them need.

pub(crate) mod status;
pub(crate) mod wait;
pub(crate) mod watch;

use crate::error::Error;
use crate::error::Result;
use crate::files;
use serde::Serialize;
use std::io;
use std::io::Write;
use std::time::Duration;

/// The shortest interval at which to look: less would be a busy loop.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// Writes to standard output, all at once. Whoever reads it may have seen enough: that is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();

    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(Error::Write),
    }
}

/// How JSON is laid out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Layout {
    /// On one line, for programs that read a line at a time.
    Line,
    /// Indented, for people too.
    Lines,
}

/// Something as JSON, without the end of the last line.
pub(crate) fn json(value: &impl Serialize, layout: Layout) -> Result<String> {
    match layout {
        Layout::Line => serde_json::to_string(value),
        Layout::Lines => serde_json::to_string_pretty(value),
    }
    .map_err(|error| Error::Write(error.into()))
}

/// What there is to say where there is no device, or none that is called `only`.
pub(crate) fn absence(only: Option<&str>) -> String {
    match only {
        Some(name) => format!("no virtio-mem device {name:?}"),
        None => "no virtio-mem device".into(),
    }
}

/// A time as it is written on the command line; a number alone is one of seconds.
pub(crate) fn duration(text: &str) -> std::result::Result<Duration, String> {
    match files::decimal(text) {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => humantime::parse_duration(text).map_err(|error| error.to_string()),
    }
}

/// A time between two looks.
pub(crate) fn interval(text: &str) -> std::result::Result<Duration, String> {
    let interval = duration(text)?;
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
        assert_eq!(interval("5"), Ok(Duration::from_secs(5)));
        for bad in ["", "0", "99ms", "-1s", "-1", "1.5", "x"] {
            assert!(interval(bad).is_err(), "{bad:?}");
        }
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("60"), duration("1m"));
        assert!(duration("1.5").is_err());
    }

    #[test]
    fn json_on_one_line_or_several() {
        let value = ["a\nb", "c"];

        assert_eq!(json(&value, Layout::Line).unwrap(), r#"["a\nb","c"]"#);
        assert_eq!(
            json(&value, Layout::Lines).unwrap(),
            "[\n  \"a\\nb\",\n  \"c\"\n]"
        );
    }
}
