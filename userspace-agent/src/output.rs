// SPDX-License-Identifier: GPL-2.0

//! What is printed: text and JSON on standard output, messages on standard error.

use crate::error::Error;
use crate::error::Result;
use crate::plain::plain;
use crate::terminal;
use serde::Serialize;
use std::fmt::Display;
use std::io;
use std::io::Write;

/// The name under which messages appear.
pub(crate) const NAME: &str = env!("CARGO_PKG_NAME");

/// Clears the rest of a line.
pub(crate) const CLEAR_LINE: &str = "\x1b[K";

/// Writes a message to standard error, on one line; where even that fails, nothing else is left.
pub(crate) fn complain(message: &dyn Display) {
    let message = plain(&message.to_string());
    let _ = writeln!(io::stderr(), "{NAME}: {message}");
}

/// The messages of a command that goes on and on, each written when what it is about begins.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Vec<String>);

impl Complaints {
    /// Takes all that is wrong now, and writes what was not wrong before.
    pub(crate) fn are(&mut self, now: Vec<String>) {
        for message in now.iter().filter(|message| !self.0.contains(message)) {
            complain(message);
        }
        self.0 = now;
    }
}

/// A line on standard error that is written over, if that is a terminal, and removed in the end.
#[derive(Debug)]
pub(crate) struct Progress {
    is_shown: bool,
    last: String,
}

impl Progress {
    /// Shows nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            is_shown: terminal::can_redraw(io::stderr()),
            last: String::new(),
        }
    }

    /// Shows a line, unless it is the one before.
    pub(crate) fn show(&mut self, line: &str) {
        if !self.is_shown || line == self.last {
            return;
        }
        let width = terminal::size_of(io::stderr()).map_or(80, |(width, _)| width);
        // The last column is left free: some terminals go to the next line with it.
        let text = terminal::cut(&plain(line), width.saturating_sub(1));
        let _ = write!(io::stderr(), "\r{text}{CLEAR_LINE}");
        self.last = line.into();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if !self.last.is_empty() {
            let _ = write!(io::stderr(), "\r{CLEAR_LINE}");
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

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
