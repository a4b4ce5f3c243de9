// SPDX-License-Identifier: GPL-2.0

//! What is wrong, said when it begins and not over and over again.

use crate::complain;

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
