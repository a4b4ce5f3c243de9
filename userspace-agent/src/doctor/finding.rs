// SPDX-License-Identifier: GPL-2.0

//! What a check finds.

use crate::error::Error;
use crate::plain::plain;
use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Good to know; nothing has to be done.
    Note,
    /// It works, but less well than it could, or not for long.
    Warning,
    /// Memory cannot be used, or the device cannot do its work.
    Error,
}

/// A kind of finding.
#[derive(Debug, Serialize)]
pub(crate) struct Kind {
    /// Its name, which stays the same in all versions.
    pub(crate) id: &'static str,
    /// How bad it is.
    pub(crate) severity: Severity,
    /// What it is about, in one line.
    pub(crate) about: &'static str,
}

/// Something could not be read, so that a check was not made, or only in part.
pub(crate) const NOT_CHECKED: Kind = Kind {
    id: "not-checked",
    severity: Severity::Note,
    about: "a file that a check needs could not be read or made no sense",
};

/// One finding.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Finding {
    /// The kind's name.
    pub(crate) id: &'static str,
    /// The kind's severity.
    pub(crate) severity: Severity,
    /// The device it is about; none if it is about the machine.
    pub(crate) device: Option<String>,
    /// The facts.
    pub(crate) message: String,
    /// What to do.
    pub(crate) remedy: String,
}

/// What all checks have found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// The findings.
    pub(crate) list: Vec<Finding>,
    /// Whether something that is there, and that this user may read, could not be read.
    pub(crate) failed: bool,
}

impl Findings {
    /// Adds a finding.
    pub(crate) fn add(
        &mut self,
        kind: &Kind,
        device: Option<&str>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let finding = Finding {
            id: kind.id,
            severity: kind.severity,
            device: device.map(Into::into),
            message: plain(&message.into()),
            remedy: remedy.into(),
        };

        // Two checks may need the same file.
        if !self.list.contains(&finding) {
            self.list.push(finding);
        }
    }

    /// Notes that a file could not be read.
    pub(crate) fn not_checked(&mut self, error: &Error) {
        let remedy = if error.is_denied() {
            "run as root"
        } else if error.is_absent() {
            "none, if this kernel has no such file"
        } else {
            self.failed = true;
            "look at the file"
        };

        self.add(&NOT_CHECKED, None, error.to_string(), remedy);
    }

    /// The worst there is.
    pub(crate) fn worst(&self) -> Option<Severity> {
        self.list.iter().map(|finding| finding.severity).max()
    }

    /// Brings the worst to the front, each severity in the order in which it was found.
    pub(crate) fn sort(&mut self) {
        self.list
            .sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_reported_once() {
        let mut findings = Findings::default();
        for _ in 0..2 {
            findings.add(&NOT_CHECKED, None, "x", "y");
        }
        assert_eq!(findings.list.len(), 1);
        assert_eq!(findings.worst(), Some(Severity::Note));
    }
}
