// SPDX-License-Identifier: GPL-2.0

//! Findings as people read them.

use crate::doctor::finding::Finding;
use crate::doctor::finding::Kind;
use crate::doctor::finding::Severity;
use std::fmt::Write;

/// Prints findings that are in order: a heading for each severity, then the findings with what to
/// do.
pub(crate) fn findings(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut severity = None;

    for finding in findings {
        if severity != Some(finding.severity) {
            severity = Some(finding.severity);
            let count = findings
                .iter()
                .filter(|other| other.severity == finding.severity)
                .count();
            let _ = writeln!(text, "{} ({count})", name(finding.severity));
        }
        let device = match &finding.device {
            Some(device) => format!(" {device}:"),
            None => String::new(),
        };
        let _ = writeln!(text, "  {}:{device} {}", finding.id, finding.message);
        let _ = writeln!(text, "    -> {}", finding.remedy);
    }
    if findings.is_empty() {
        text.push_str("Nothing found.\n");
    }
    text.pop();
    text
}

/// Prints what can be found.
pub(crate) fn kinds<'a>(kinds: impl Iterator<Item = &'a Kind>) -> String {
    let lines: Vec<_> = kinds
        .map(|kind| {
            let severity = name(kind.severity).to_ascii_lowercase();
            format!("{:<22} {severity:<8} {}", kind.id, kind.about)
        })
        .collect();
    lines.join("\n")
}

fn name(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "NOTE",
        Severity::Warning => "WARNING",
        Severity::Error => "ERROR",
    }
}
