// SPDX-License-Identifier: GPL-2.0

//! udev's rules that bring memory online.
//!
//! Rules are read as far as it takes to tell those for memory from others: what is known of a new
//! memory block and of the machine's vendor is compared, everything else is taken for a condition
//! that may hold. So a rule for guests of another hypervisor is passed over, as udev does.

use crate::doctor::udev_syntax::glob;
use crate::doctor::udev_syntax::lines;
use crate::doctor::udev_syntax::tokens;
use crate::doctor::udev_syntax::Token;
use crate::error::optional;
use crate::error::Result;
use crate::files;
use crate::files::Root;
use std::collections::BTreeMap;

/// The directories, from `/`: a file hides those of the same name in later ones.
const DIRS: [&str; 5] = [
    "etc/udev/rules.d",
    "run/udev/rules.d",
    "usr/local/lib/udev/rules.d",
    "usr/lib/udev/rules.d",
    "lib/udev/rules.d",
];
/// What is expected in a file.
const EXPECTED: &str = "udev rules";
/// Rules are written by people.
const LIMIT: u64 = 4 << 20;
/// What describes the machine, from `/`.
const DMI: &str = "sys/class/dmi/id";

/// A rule that brings memory online.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Rule {
    /// The file, from `/`, and the line.
    pub(crate) place: String,
    /// What it writes to a memory block's `state`; none if it computes that.
    pub(crate) state: Option<String>,
}

impl Rule {
    /// The file, from `/` but without that.
    pub(crate) fn file(&self) -> Option<&str> {
        let (file, _) = self.place.rsplit_once(':')?;
        file.strip_prefix('/')
    }
}

/// What is looked at of a file's text, each line where it was: conditions, labels, and what is written
/// to the state of memory.
pub(crate) fn of_interest(text: &str) -> String {
    let mut lines_before = 0;
    let mut kept = String::new();

    for (number, line) in lines(text) {
        // Where a backslash joins lines, the first has it all.
        for _ in lines_before..number.saturating_sub(1) {
            kept.push('\n');
        }
        lines_before = number;
        let tokens = tokens(&line);
        let tokens: Vec<_> = tokens.iter().filter_map(Token::of_interest).collect();
        kept.push_str(&tokens.join(", "));
        kept.push('\n');
    }
    kept
}

/// Whether conditions hold.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Holds {
    No,
    Maybe,
    Yes,
}

impl Token<'_> {
    /// What says when a rule holds, where it leads to, or what it writes to memory, as it may stand in a
    /// file. What it is compared with is left out where that is not known here either.
    fn of_interest(&self) -> Option<String> {
        let is_condition = matches!(self.operator, "==" | "!=");
        let is_known = match (self.key, self.attribute) {
            ("SUBSYSTEM" | "ACTION" | "KERNEL" | "DEVPATH", _) | ("ATTR", "state") => is_condition,
            ("ATTR", attribute) => is_condition && attribute.starts_with("[dmi/id]"),
            ("GOTO" | "LABEL", _) => true,
            _ => false,
        };
        let text = |key, attribute, operator, value| match attribute {
            "" => format!("{key}{operator}\"{value}\""),
            _ => format!("{key}{{{attribute}}}{operator}\"{value}\""),
        };
        match written(self) {
            Some(state) => Some(text("ATTR", "state", "=", state.as_deref().unwrap_or("$"))),
            None if is_known => Some(text(self.key, self.attribute, self.operator, self.value)),
            None if is_condition => Some(text(self.key, self.attribute, self.operator, "")),
            None => None,
        }
    }
}

/// Finds the rules that bring memory online. A file that cannot be read is given to `failed`.
pub(crate) fn onlining_rules(
    root: &Root,
    mut failed: impl FnMut(crate::error::Error),
) -> Vec<Rule> {
    let mut chosen = BTreeMap::new();
    for dir in DIRS {
        match optional(files::names(&root.join(dir))) {
            Ok(names) => {
                for name in names.into_iter().flatten() {
                    if name.ends_with(".rules") {
                        chosen.entry(name).or_insert(dir);
                    }
                }
            }
            Err(error) => failed(error),
        }
    }

    let mut rules = Vec::new();
    for (name, dir) in chosen {
        let place = format!("{dir}/{name}");
        // A link to /dev/null is how a file of the distribution is turned off.
        if !root.join(&place).is_file() {
            continue;
        }
        match files::read_text(&root.join(&place), EXPECTED, LIMIT) {
            Ok(text) => rules.extend(find(root, &place, &text)),
            Err(error) => failed(error),
        }
    }
    rules
}

/// Finds the rules in a file's text.
fn find(root: &Root, place: &str, text: &str) -> Vec<Rule> {
    let mut rules = Vec::new();
    // The label up to which rules are skipped.
    let mut label: Option<String> = None;

    for (number, line) in lines(text) {
        let tokens = tokens(&line);
        let assigned = |key: &str| {
            tokens
                .iter()
                .find(|token| token.key == key && token.operator == "=")
                .map(|token| token.value)
        };
        if let Some(wanted) = &label {
            if assigned("LABEL") != Some(wanted.as_str()) {
                continue;
            }
            label = None;
        }

        let holds = tokens
            .iter()
            .map(|token| holds(root, token))
            .min()
            .unwrap_or(Holds::No);
        if holds == Holds::No {
            continue;
        }
        for state in tokens.iter().filter_map(written) {
            rules.push(Rule {
                place: format!("/{place}:{number}"),
                state,
            });
        }
        if holds == Holds::Yes {
            label = assigned("GOTO").map(String::from);
        }
    }
    rules
}

/// Whether a condition holds when a memory block is added; what is none always does.
fn holds(root: &Root, token: &Token<'_>) -> Holds {
    let negated = match token.operator {
        "==" => false,
        "!=" => true,
        _ => return Holds::Yes,
    };
    let dmi;
    let actual = match (token.key, token.attribute) {
        ("SUBSYSTEM", _) => "memory",
        ("ACTION", _) => "add",
        ("KERNEL", _) => "memory1",
        ("DEVPATH", _) => "/devices/system/memory/memory1",
        ("ATTR", "state") => "offline",
        ("ATTR", attribute) => match attribute.strip_prefix("[dmi/id]") {
            Some(name) if !name.contains(['/', '.']) => {
                let path = root.join(DMI).join(name);
                let read: Result<_> = files::read_text(&path, "a name", LIMIT);
                let Ok(text) = read else {
                    return Holds::No;
                };
                dmi = text;
                dmi.trim_end()
            }
            _ => return Holds::Maybe,
        },
        _ => return Holds::Maybe,
    };

    let matches = token
        .value
        .split('|')
        .any(|pattern| glob(pattern.as_bytes(), actual.as_bytes()));
    if matches == negated {
        Holds::No
    } else {
        Holds::Yes
    }
}

/// What a rule writes to `state`, if anything.
fn written(token: &Token<'_>) -> Option<Option<String>> {
    let value = token.value;

    match (token.key, token.attribute, token.operator) {
        ("ATTR", "state", "=") => match value {
            "online" | "online_kernel" | "online_movable" => Some(Some(value.into())),
            _ => value.contains(['$', '%']).then_some(None),
        },
        ("ATTR", "online", "=") => (value == "1").then(|| Some("online".into())),
        ("RUN", _, "=" | "+=" | ":=") if value.contains("/state") && value.contains("online") => {
            Some(
                ["online_movable", "online_kernel"]
                    .into_iter()
                    .find(|word| value.contains(word))
                    .or(Some("online"))
                    .map(Into::into),
            )
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What Ubuntu ships.
    const UBUNTU: &str = r#"
# On Hyper-V and Xen Virtual Machines we want to add memory and cpus as soon as they appear
ATTR{[dmi/id]sys_vendor}=="Microsoft Corporation", ATTR{[dmi/id]product_name}=="Virtual Machine", GOTO="vm_hotadd_apply"
ATTR{[dmi/id]sys_vendor}=="Xen", GOTO="vm_hotadd_apply"
GOTO="vm_hotadd_end"

LABEL="vm_hotadd_apply"

# Memory hotadd request
SUBSYSTEM=="memory", ACTION=="add", DEVPATH=="/devices/system/memory/memory[0-9]*", TEST=="state", ATTR{state}!="online", ATTR{state}="online"

# CPU hotadd request
SUBSYSTEM=="cpu", ACTION=="add", DEVPATH=="/devices/system/cpu/cpu[0-9]*", TEST=="online", ATTR{online}!="1", ATTR{online}="1"

LABEL="vm_hotadd_end"
"#;

    /// What RHEL ships.
    const RHEL: &str = r#"
SUBSYSTEM!="memory", GOTO="memory_hotplug_end"
ACTION!="add", GOTO="memory_hotplug_end"
PROGRAM="/bin/uname -p", RESULT=="s390*", GOTO="memory_hotplug_end"

ENV{.state}="online"
PROGRAM="/bin/systemd-detect-virt", RESULT=="none", ENV{.state}="online_movable"
ATTR{state}=="offline", ATTR{state}="$env{.state}"

LABEL="memory_hotplug_end"
"#;

    fn states(vendor: &str, text: &str) -> Vec<(String, Option<String>)> {
        let dir = tempfile::tempdir().unwrap();
        let dmi = dir.path().join(DMI);
        std::fs::create_dir_all(&dmi).unwrap();
        std::fs::write(dmi.join("sys_vendor"), format!("{vendor}\n")).unwrap();
        let root = Root::new(dir.path().into());
        find(&root, "r", text)
            .into_iter()
            .map(|rule| (rule.place, rule.state))
            .collect()
    }

    #[test]
    fn rules_of_distributions() {
        assert_eq!(states("QEMU", UBUNTU), []);
        let online = Some("online".to_owned());
        assert_eq!(states("Xen", UBUNTU), [("/r:10".into(), online)]);
        assert_eq!(states("QEMU", RHEL), [("/r:8".into(), None)]);
    }

    #[test]
    fn what_is_of_interest_says_the_same() {
        let secret = "hunter2";
        let run = "SUBSYSTEM==\"memory\", RUN+=\"/bin/sh -c 'echo online > /sys$devpath/state'\"";
        let joined = "# hunter2\nSUBSYSTEM==\"memory\", \\\n ENV{X}==\"hunter2\",\\\nATTR{state}=\"online\"\n\n";
        for text in [UBUNTU, RHEL, run, joined] {
            let filtered = of_interest(text);
            assert!(!filtered.contains(secret), "{filtered}");
            for vendor in ["QEMU", "Xen"] {
                assert_eq!(
                    states(vendor, &filtered),
                    states(vendor, text),
                    "{filtered}"
                );
            }
        }
    }

    #[test]
    fn other_spellings() {
        let movable = Some("online_movable".to_owned());
        let online = Some("online".to_owned());
        let run =
            r#"SUBSYSTEM=="memory", RUN+="/bin/sh -c 'echo online_movable > /sys$devpath/state'""#;
        assert_eq!(states("", run), [("/r:1".into(), movable.clone())]);
        let joined = "SUBSYSTEM==\"memory\", \\\n  ACTION==\"add|change\",\\\n# why\nATTR{state}=\"online_movable\"";
        assert_eq!(states("", joined), [("/r:1".into(), movable)]);
        let attribute = r#"SUBSYSTEM=="memory",ATTR{online}="1""#;
        assert_eq!(states("", attribute), [("/r:1".into(), online)]);
    }

    #[test]
    fn rules_for_something_else() {
        for other in [
            r#"SUBSYSTEM=="cpu", ATTR{online}="1""#,
            r#"SUBSYSTEM=="memory", ACTION=="remove", ATTR{state}="online""#,
            r#"SUBSYSTEM=="memory", ATTR{state}=="online", ENV{X}="1""#,
            r#"KERNEL=="sd*", ATTR{state}="running""#,
            r#"#SUBSYSTEM=="memory", ATTR{state}="online""#,
            "",
        ] {
            assert_eq!(states("", other), [], "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in ".{0,200}", syntax in "[A-Z{}=!\"\\\\, \n*\\[\\]-]{0,60}") {
            states("", &text);
            states("", &syntax);
            glob(syntax.as_bytes(), text.as_bytes());
        }
    }
}
