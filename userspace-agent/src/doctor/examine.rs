// SPDX-License-Identifier: GPL-2.0

//! All checks, and making them.

use crate::collect;
use crate::doctor::balloon;
use crate::doctor::driver;
use crate::doctor::facts::Facts;
use crate::doctor::finding;
use crate::doctor::finding::Findings;
use crate::doctor::finding::Kind;
use crate::doctor::kernel;
use crate::doctor::memory;
use crate::doctor::onlining;
use crate::doctor::power;
use crate::error::Result;
use crate::files::Root;
use crate::status::Device;

/// A check and what it can find.
struct Check {
    run: Run,
    kinds: &'static [Kind],
}

/// How a check is made.
enum Run {
    /// Once.
    Machine(fn(&Facts, &mut Findings) -> Result<()>),
    /// For each device.
    Device(fn(&Facts, &Device, &mut Findings) -> Result<()>),
}

/// All checks.
const CHECKS: [Check; 15] = [
    Check {
        run: Run::Device(driver::driver),
        kinds: &[driver::NO_DRIVER, driver::OTHER_DRIVER, driver::C_DRIVER],
    },
    Check {
        run: Run::Device(driver::says),
        kinds: &[driver::STALLED, driver::WAITING],
    },
    Check {
        run: Run::Device(driver::map),
        kinds: &[driver::NOT_SENT],
    },
    Check {
        run: Run::Device(onlining::offline),
        kinds: &[onlining::OFFLINE],
    },
    Check {
        run: Run::Device(onlining::kernel_zone),
        kinds: &[onlining::IN_KERNEL_ZONE],
    },
    Check {
        run: Run::Machine(onlining::policy),
        kinds: &[
            onlining::POLICY_OFFLINE,
            onlining::POLICY_NOT_MOVABLE,
            onlining::UDEV_NOT_MOVABLE,
            onlining::UDEV_IDLE,
        ],
    },
    Check {
        run: Run::Machine(memory::ratio),
        kinds: &[memory::RATIO, memory::RATIO_HIGH],
    },
    Check {
        run: Run::Machine(memory::metadata),
        kinds: &[memory::METADATA_SHORT],
    },
    Check {
        run: Run::Device(memory::alignment),
        kinds: &[memory::UNUSABLE, memory::UNALIGNED],
    },
    Check {
        run: Run::Machine(balloon::balloon),
        kinds: &[balloon::INFLATED, balloon::BESIDE],
    },
    Check {
        run: Run::Machine(kernel::signature),
        kinds: &[kernel::SIGNATURE_REQUIRED, kernel::UNSIGNED],
    },
    Check {
        run: Run::Machine(kernel::init_on_alloc),
        kinds: &[kernel::INIT_ON_ALLOC],
    },
    Check {
        run: Run::Device(power::suspend),
        kinds: &[power::SUSPEND],
    },
    Check {
        run: Run::Machine(power::hibernation),
        kinds: &[power::HIBERNATION],
    },
    Check {
        run: Run::Machine(power::crash),
        kinds: &[power::CRASH_KERNEL, power::CRASH_INITRD],
    },
];

/// What was examined.
#[derive(Debug)]
pub(crate) struct Examination {
    /// What was found.
    pub(crate) findings: Findings,
    /// Whether there was a device to examine.
    pub(crate) any: bool,
}

/// Makes all checks, or those of the machine and of the device called `only`.
pub(crate) fn examine(root: &Root, only: Option<&str>) -> Examination {
    let collected = collect::collect(root, only);
    let mut findings = Findings::default();

    for note in collected.notes {
        findings.add(&finding::NOT_CHECKED, None, note, "see there");
    }
    for error in &collected.errors {
        findings.not_checked(error);
    }
    let names: Vec<_> = collected
        .status
        .devices
        .iter()
        .map(|device| device.device.clone())
        .collect();
    // The machine has all its devices, but why another one is missing is of no interest.
    let devices = match only {
        Some(_) => collect::collect(root, None).status.devices,
        None => collected.status.devices,
    };
    let facts = Facts::new(root.clone(), devices);
    let wanted = |device: &&Device| names.contains(&device.device);
    let any = facts.devices.iter().any(|device| wanted(&device));
    if !any {
        return Examination { findings, any };
    }

    for check in &CHECKS {
        match check.run {
            Run::Machine(run) => {
                let result = run(&facts, &mut findings);
                result.unwrap_or_else(|error| findings.not_checked(&error));
            }
            Run::Device(run) => {
                for device in facts.devices.iter().filter(wanted) {
                    let result = run(&facts, device, &mut findings);
                    result.unwrap_or_else(|error| findings.not_checked(&error));
                }
            }
        }
    }
    Examination { findings, any }
}

/// All that can be found.
pub(crate) fn kinds() -> impl Iterator<Item = &'static Kind> {
    CHECKS
        .iter()
        .flat_map(|check| check.kinds)
        .chain([&finding::NOT_CHECKED])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::Form;
    use crate::doctor::finding::Finding;
    use crate::doctor::render;
    use crate::doctor::testing::Tree;
    use crate::doctor::testing::ATTRIBUTES;
    use crate::doctor::testing::FILES;
    use crate::doctor::testing::WAITING;
    use crate::fuzz::target;
    use crate::fuzz::Numbers;
    use crate::table;
    use crate::table::Look;
    use proptest::collection;
    use proptest::prelude::*;
    use proptest::sample;
    use std::collections::BTreeSet;

    // What the tests of all checks ask a tree for.
    impl Tree {
        /// What is found.
        pub(crate) fn findings(&self) -> Findings {
            examine(&self.root(), None).findings
        }

        /// The names of what is found.
        pub(crate) fn ids(&self) -> Vec<&'static str> {
            let findings = self.findings();
            findings.list.iter().map(|finding| finding.id).collect()
        }

        /// The one finding of this name.
        pub(crate) fn finding(&self, id: &str) -> Finding {
            let mut findings = self.findings().list;
            findings.retain(|finding| finding.id == id);
            assert_eq!(findings.len(), 1, "{id}");
            findings.remove(0)
        }
    }

    #[test]
    fn a_healthy_machine() {
        let findings = Tree::ours().findings();
        assert_eq!(findings.list, []);
        assert!(!findings.failed);
        assert_eq!(render::findings(&findings.list), "Nothing found.");
    }

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let ids: BTreeSet<_> = kinds().map(|kind| kind.id).collect();

        assert_eq!(ids.len(), kinds().count());
        for id in ids {
            assert!(crate::values::word(id).is_some(), "{id}");
            assert!(id.len() <= 22, "{id} does not fit the list");
        }
    }

    #[test]
    fn worst_first() {
        let tree = Tree::theirs();
        tree.write("sys/devices/system/memory/memory32/state", "offline\n");
        tree.write("sys/module/virtio_mem/taint", "E\n");
        let mut findings = tree.findings();
        findings.sort();
        let text = render::findings(&findings.list);
        let heads: Vec<_> = text.lines().filter(|line| !line.starts_with(' ')).collect();

        assert_eq!(heads, ["ERROR (1)", "WARNING (1)", "NOTE (1)"]);
        assert!(
            text.contains("  memory-offline: virtio0: 128 MiB"),
            "{text}"
        );
    }

    #[test]
    fn one_file_does_not_hide_the_others() {
        let tree = Tree::theirs();
        std::fs::remove_file(tree.path("proc/zoneinfo")).unwrap();
        let findings = tree.findings();
        assert_eq!(tree.ids(), ["c-driver", "not-checked"]);
        assert!(!findings.failed);

        tree.write("proc/zoneinfo", "x");
        assert_eq!(tree.ids(), ["c-driver", "not-checked"]);
        assert!(tree.findings().failed);
        assert!(tree
            .finding("not-checked")
            .message
            .contains("proc/zoneinfo: expected zones"));
    }

    proptest! {
        #![proptest_config(crate::fuzz::cases(1000))]

        // Whatever stands in a file, there is a finding or not, and it can be printed.
        #[test]
        fn any_bytes_in_any_file(
            file in sample::select(files()),
            bytes in prop_oneof![
                collection::vec(any::<u8>(), 0..100),
                "[a-zA-Z0-9 :=\",{}\\[\\]\n-]{0,100}".prop_map(String::into_bytes),
            ],
        ) {
            let tree = Tree::busy();
            tree.write(&file, &bytes);
            let findings = tree.findings();

            let known: BTreeSet<_> = kinds().map(|kind| kind.id).collect();
            for finding in &findings.list {
                prop_assert!(known.contains(finding.id));
                prop_assert!(finding.message.chars().all(|c| !c.is_control()), "{finding:?}");
                prop_assert!(!finding.remedy.is_empty());
                // An error is one of this file, or of one that its content led to.
                let elsewhere = ["proc/sys/kernel/osrelease", "proc/zoneinfo", "proc/iomem"];
                if finding.id == "not-checked" && !elsewhere.contains(&file.as_str()) {
                    prop_assert!(finding.message.contains(&file), "{finding:?}");
                }
            }
            render::findings(&findings.list);
        }
    }

    /// All files that are read.
    fn files() -> Vec<String> {
        let attributes = ATTRIBUTES
            .iter()
            .chain(&WAITING)
            .map(|(name, _)| format!("sys/bus/virtio/devices/virtio0/virtio_mem/{name}"));
        FILES
            .iter()
            .map(|(path, _)| (*path).to_owned())
            .chain(attributes)
            .chain([
                "sys/module/virtio_mem/parameters/online_type".into(),
                "proc/config.gz".into(),
                "etc/udev/rules.d/80-new.rules".into(),
            ])
            .collect()
    }

    // Whatever stands in several files at once, numbers of any size above all.
    #[test]
    fn any_machine() {
        let files = files();
        target("any_machine", 200, |bytes| {
            let tree = Tree::busy();
            let mut numbers = Numbers(bytes);
            for _ in 0..=numbers.byte() % 4 {
                let file = &files[usize::from(numbers.byte()) % files.len()];
                let content = match numbers.byte() % 4 {
                    0 => format!("{}\n", numbers.next()).into_bytes(),
                    1 => format!("{:x}\n", numbers.next()).into_bytes(),
                    2 => {
                        let (start, last) = (numbers.next(), numbers.next());
                        format!("{start:x}-{last:x} : virtio0\n").into_bytes()
                    }
                    _ => {
                        let length = usize::from(numbers.byte());
                        let length = length.min(numbers.0.len());
                        let (content, rest) = numbers.0.split_at(length);
                        numbers.0 = rest;
                        content.to_vec()
                    }
                };
                tree.write(file, content);
            }
            let mut findings = tree.findings();
            findings.sort();
            let text = render::findings(&findings.list);
            assert!(
                text.chars().all(|c| c == '\n' || !c.is_control()),
                "{text:?}"
            );
            assert!(text.len() < 64 << 10, "{}", text.len());

            let collected = collect::collect(&Root::new(tree.path("")), None);
            assert!(serde_json::to_string(&collected.status).is_ok());
            for wide in [false, true] {
                let form = Form {
                    wide,
                    bars: true,
                    ..Form::default()
                };
                let look = Look {
                    form,
                    ..Look::default()
                };
                let text = table::render(&collected.status.devices, &look);
                assert!(
                    text.chars().all(|c| c == '\n' || !c.is_control()),
                    "{text:?}"
                );
                assert!(text.len() < 64 << 10, "{}", text.len());
            }
        });
    }
}
