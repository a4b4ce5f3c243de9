// SPDX-License-Identifier: GPL-2.0

//! `watch`: what the devices are doing, whenever that changes.

use crate::bus;
use crate::collect::Collected;
use crate::command::status::StatusArgs;
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
use crate::table;
use crate::table::Look;
use crate::times;
use clap::Args;
use std::io;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

/// How often a countdown is redrawn.
const SECOND: Duration = Duration::from_secs(1);
/// Clears a terminal.
const CLEAR: &str = "\x1b[2J";
/// Goes to the upper left corner.
const HOME: &str = "\x1b[H";
/// Clears the rest of a line.
const CLEAR_LINE: &str = "\x1b[K";
/// Clears the rest of the terminal.
const CLEAR_BELOW: &str = "\x1b[J";

/// Arguments of `watch`.
#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// What to show.
    #[command(flatten)]
    show: StatusArgs,

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
    let only = args.show.device.as_deref();
    // Before the first look, so that nothing is missed after it.
    let mut events = Events::until_ended()?;
    let mut display = Display::new(&args.show);
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
#[derive(Debug)]
struct Display {
    form: Form,
    last: Option<Collected>,
    complaints: Complaints,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    /// A line for each change.
    Json,
    /// A table for each change, after an empty line.
    Tables(Look),
    /// One table, redrawn.
    Screen(Look),
}

impl Display {
    fn new(args: &StatusArgs) -> Self {
        let look = Look::for_stdout(args.bytes, args.wide);
        let form = if args.json {
            Form::Json
        } else if io::stdout().is_terminal() {
            Form::Screen(look)
        } else {
            Form::Tables(look)
        };

        Self {
            form,
            last: None,
            complaints: Complaints::default(),
        }
    }

    fn is_screen(&self) -> bool {
        matches!(self.form, Form::Screen(_))
    }

    /// Shows what was found, if it is something new; whether it was.
    fn show(&mut self, collected: Collected) -> Result<bool> {
        let last = self.last.as_ref();
        let messages = collected.messages();
        let is_new = last.is_none_or(|last| collected.status.differs_from(&last.status));

        if !self.is_screen() {
            self.complaints.are(messages.clone());
        }
        match self.form {
            Form::Screen(look) => {
                let clear = if last.is_none() { CLEAR } else { "" };
                print(&format!("{clear}{}", screen(&collected, &messages, look)))?;
            }
            Form::Json if is_new => {
                let line = json(&collected.status, Layout::Line)?;
                print(&format!("{line}\n"))?;
            }
            Form::Tables(look) if is_new => {
                let between = if last.is_none() { "" } else { "\n" };
                print(&format!("{between}{}", table_or_none(&collected, look)))?;
            }
            Form::Json | Form::Tables(_) => {}
        }
        self.last = Some(collected);
        Ok(is_new)
    }
}

/// What is drawn over what was there before: no flicker, as nothing is cleared first.
fn screen(collected: &Collected, messages: &[String], look: Look) -> String {
    let mut text = table_or_none(collected, look);
    for message in messages {
        text.push_str(&format!("\n{message}\n"));
    }
    let lines = text.replace('\n', &format!("{CLEAR_LINE}\n"));

    format!("{HOME}{lines}{CLEAR_BELOW}")
}

fn table_or_none(collected: &Collected, look: Look) -> String {
    if collected.status.devices.is_empty() {
        format!("{}\n", bus::absence(None))
    } else {
        table::render(&collected.status.devices, look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Status;
    use crate::status::VERSION;

    #[test]
    fn a_screen_is_drawn_over() {
        let collected = Collected {
            status: Status {
                version: VERSION,
                devices: Vec::new(),
                errors: Vec::new(),
            },
            notes: Vec::new(),
            errors: Vec::new(),
            torn: false,
        };

        assert_eq!(
            screen(&collected, &["note".into()], Look::default()),
            "\x1b[Hno virtio-mem device\x1b[K\n\x1b[K\nnote\x1b[K\n\x1b[J"
        );
    }
}
