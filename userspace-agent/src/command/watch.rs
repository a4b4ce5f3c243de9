// SPDX-License-Identifier: GPL-2.0

//! `watch`: what the devices are doing, whenever that changes.

use crate::bus;
use crate::collect::Collected;
use crate::command::device::DeviceArgs;
use crate::command::status::ShowArgs;
use crate::error::Result;
use crate::events::Events;
use crate::events::Woken;
use crate::exit;
use crate::files::Root;
use crate::output::complain;
use crate::output::json;
use crate::output::print;
use crate::output::Complaints;
use crate::output::Layout;
use crate::output::CLEAR_LINE;
use crate::table;
use crate::table::Look;
use crate::terminal;
use crate::times;
use clap::Args;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

/// How often a countdown is redrawn.
const SECOND: Duration = Duration::from_secs(1);
/// Clears a terminal.
const CLEAR: &str = "\x1b[2J";
/// Goes to the upper left corner.
const HOME: &str = "\x1b[H";
/// Clears the rest of the terminal.
const CLEAR_BELOW: &str = "\x1b[J";

/// Arguments of `watch`.
#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// The device.
    #[command(flatten)]
    device: DeviceArgs,

    /// What to show.
    #[command(flatten)]
    show: ShowArgs,

    /// Looks at least this often for what nobody announces
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = times::interval)]
    interval: Duration,

    /// Ends after showing this many changes, the first look being one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Shows the state of all devices until it is told to stop, or nobody reads on.
pub(crate) fn run(root: &Root, args: &WatchArgs) -> ExitCode {
    match watch(root, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(exit::ERROR)
        }
    }
}

fn watch(root: &Root, args: &WatchArgs) -> Result<()> {
    let only = args.device.name();
    // Before the first look, so that nothing is missed after it.
    let mut events = Events::until_ended()?;
    let mut display = Display::new(&args.show, only);
    let mut left = args.count;

    loop {
        let collected = events.look(root, only);
        let counts_down = collected
            .status
            .devices
            .iter()
            .any(|device| device.next_attempt_ms.is_some());

        if display.show(collected)? {
            left = left.map(|left| left.saturating_sub(1));
        }
        if left == Some(0) {
            return Ok(());
        }

        let interval = if display.is_screen() && counts_down {
            args.interval.min(SECOND)
        } else {
            args.interval
        };
        if events.wait(interval)? == Woken::End {
            return Ok(());
        }
    }
}

/// Where, and in which form, changes are shown.
struct Display<'a> {
    form: Form,
    look: Look,
    /// The device that is wanted, if it is one.
    only: Option<&'a str>,
    last: Option<Collected>,
    /// The table that was printed last.
    table: String,
    /// The terminal's size when something was drawn last.
    size: Option<(usize, usize)>,
    complaints: Complaints,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    /// A line for each change.
    Json,
    /// A table for each change, after an empty line.
    Tables,
    /// One table, redrawn.
    Screen,
}

impl<'a> Display<'a> {
    fn new(args: &ShowArgs, only: Option<&'a str>) -> Self {
        let form = if args.json {
            Form::Json
        } else if terminal::can_redraw(io::stdout()) {
            Form::Screen
        } else {
            Form::Tables
        };

        Self {
            form,
            look: args.look(),
            only,
            last: None,
            table: String::new(),
            size: None,
            complaints: Complaints::default(),
        }
    }

    fn is_screen(&self) -> bool {
        self.form == Form::Screen
    }

    /// Shows what was found, if it is something new; whether it was.
    fn show(&mut self, collected: Collected) -> Result<bool> {
        let last = self.last.as_ref();
        let messages = collected.messages();
        let mut is_new = last.is_none_or(|last| collected.status.differs_from(&last.status));

        if !self.is_screen() {
            self.complaints.are(messages.clone());
        }
        match self.form {
            Form::Screen => {
                let size = terminal::size();
                // A terminal that has another size has moved what was on it.
                let clear = last.is_none() || size != self.size;
                let table = self.table_or_none(&collected);
                let screen = screen(table, &messages, size);
                print(&format!("{}{screen}", if clear { CLEAR } else { "" }))?;
                self.size = size;
            }
            Form::Json if is_new => {
                let line = json(&collected.status, Layout::Line)?;
                print(&format!("{line}\n"))?;
            }
            Form::Tables if is_new => {
                let table = self.table_or_none(&collected);
                // What has changed may be in no column.
                is_new = last.is_none() || table != self.table;
                if is_new {
                    let between = if last.is_none() { "" } else { "\n" };
                    print(&format!("{between}{table}"))?;
                    self.table = table;
                }
            }
            Form::Json | Form::Tables => {}
        }
        self.last = Some(collected);
        Ok(is_new)
    }

    fn table_or_none(&self, collected: &Collected) -> String {
        if collected.status.devices.is_empty() {
            format!("{}\n", bus::absence(self.only))
        } else {
            table::render(&collected.status.devices, &self.look)
        }
    }
}

/// What is drawn over what was there before: no flicker, as nothing is cleared first. What does not
/// fit the terminal is cut off.
fn screen(mut text: String, messages: &[String], size: Option<(usize, usize)>) -> String {
    for message in messages {
        text.push_str(&format!("\n{message}\n"));
    }
    let (width, height) = size.unwrap_or((usize::MAX, usize::MAX));
    // The cursor is left on a line of its own, below.
    let lines = text.lines().take(height.saturating_sub(1).max(1));
    let lines = lines.map(|line| format!("{}{CLEAR_LINE}\n", terminal::cut(line, width)));
    let lines: Vec<_> = lines.collect();

    format!("{HOME}{}{CLEAR_BELOW}", lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_drawn_over() {
        assert_eq!(
            screen("no device\n".into(), &["note".into()], None),
            "\x1b[Hno device\x1b[K\n\x1b[K\nnote\x1b[K\n\x1b[J"
        );
    }

    #[test]
    fn a_screen_fits_the_terminal() {
        assert_eq!(
            screen(
                "DEVICE  NODE\nvirtio0  0\nvirtio1  0\n".into(),
                &[],
                Some((8, 3))
            ),
            "\x1b[HDEVICE  \x1b[K\nvirtio0 \x1b[K\n\x1b[J"
        );
    }
}
