// SPDX-License-Identifier: GPL-2.0

//! What is wrong: said on standard error, by what goes on and on only when it begins, and by the
//! exit status.

use std::fmt::Display;
use std::io;
use std::io::Write;

/// The name under which messages appear.
const NAME: &str = env!("CARGO_PKG_NAME");

/// The exit status where something could not be read or written.
pub(crate) const EXIT_ERROR: u8 = 1;
/// The exit status where there is no such device. (2 is clap's, for a wrong command line.)
pub(crate) const EXIT_NO_DEVICE: u8 = 3;

/// Says something on standard error. There is nowhere to report it where that fails.
pub(crate) fn complain(message: &dyn Display) {
    let _ = writeln!(io::stderr(), "{NAME}: {message}");
}

/// What a command that goes on and on has said.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Vec<String>);

impl Complaints {
    /// Takes all that is wrong now, and says it unless it was said the last time.
    pub(crate) fn are(&mut self, now: Vec<String>) {
        for message in now.iter().filter(|message| !self.0.contains(message)) {
            complain(message);
        }
        self.0 = now;
    }
}
