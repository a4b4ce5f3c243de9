// SPDX-License-Identifier: GPL-2.0

//! Times as they are written on the command line.

use crate::values;
use std::time::Duration;

/// The shortest interval at which to look: less would be a busy loop.
pub(crate) const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// A time as it is written on the command line; a number alone is one of seconds.
pub(crate) fn duration(text: &str) -> std::result::Result<Duration, String> {
    match values::decimal(text) {
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
}
