// SPDX-License-Identifier: GPL-2.0

//! Whether added memory comes online, and in a zone that gives it back.

use crate::doctor::facts::Facts;
use crate::doctor::facts::Onlining;
use crate::doctor::finding::Findings;
use crate::doctor::finding::Kind;
use crate::doctor::finding::Severity;
use crate::doctor::udev;
use crate::error::optional;
use crate::error::Result;
use crate::size::Size;
use crate::status::Device;
use crate::words::Word;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;

/// The kernel's default policy, from `/`.
const POLICY: &str = "sys/devices/system/memory/auto_online_blocks";
/// What is expected there.
const EXPECTED_POLICY: &str = "offline, online, online_kernel or online_movable";
/// How the kernel chooses a zone for `online`, from `/`.
const ZONES: &str = "sys/module/memory_hotplug/parameters/online_policy";
/// What is expected there.
const EXPECTED_ZONES: &str = "contig-zones or auto-movable";

/// How to have memory brought online for good.
const SET_POLICY: &str = "boot with memhp_default_state=online_movable, or echo online_movable \
    > /sys/devices/system/memory/auto_online_blocks; this project's driver (online_type=movable) \
    does it by itself";

/// Nothing brings memory online.
pub(crate) const POLICY_OFFLINE: Kind = Kind {
    id: "policy-offline",
    severity: Severity::Warning,
    about: "nothing brings added memory online",
};

/// Memory may come online in a kernel zone by the policy.
pub(crate) const POLICY_NOT_MOVABLE: Kind = Kind {
    id: "policy-not-movable",
    severity: Severity::Warning,
    about: "the default policy brings added memory online where it may not be given back",
};

/// Memory may come online in a kernel zone by a udev rule.
pub(crate) const UDEV_NOT_MOVABLE: Kind = Kind {
    id: "udev-rule-not-movable",
    severity: Severity::Warning,
    about: "a udev rule brings added memory online where it may not be given back",
};

/// A udev rule that does nothing.
pub(crate) const UDEV_IDLE: Kind = Kind {
    id: "udev-rule-idle",
    severity: Severity::Note,
    about: "a udev rule that brings memory online comes too late, or is refused",
};

/// Memory that is not used.
pub(crate) const OFFLINE: Kind = Kind {
    id: "memory-offline",
    severity: Severity::Error,
    about: "memory that was added is offline: the guest does not use it",
};

/// Memory that is in the way of a shrink.
pub(crate) const IN_KERNEL_ZONE: Kind = Kind {
    id: "plugged-in-kernel-zone",
    severity: Severity::Warning,
    about: "a shrink waits, and plugged memory is in a kernel zone, where much cannot be migrated",
};

/// Looks where the memory is that a shrink waits for. It is the usual cause after memory was taken over
/// from the kernel's own driver, for which the default policy decides.
pub(crate) fn kernel_zone(_: &Facts, device: &Device, findings: &mut Findings) -> Result<()> {
    let in_use = device.reason == Some(Word::Known(Reason::MemoryInUse));
    let size = device
        .plugged_kernel_size
        .filter(|size| *size > 0 && in_use);
    if let Some(size) = size {
        findings.add(
            &IN_KERNEL_ZONE,
            Some(device.device.as_str()),
            format!(
                "{} of what is plugged are in a kernel zone: memory that the kernel itself uses there \
                 cannot be migrated",
                Size(size)
            ),
            "none while it runs but to end what the kernel uses it for; memory that is plugged from now \
             on goes to ZONE_MOVABLE with online_type=movable, and all of it does after a reboot",
        );
    }
    Ok(())
}

/// Looks at the default policy and at udev's rules.
pub(crate) fn policy(facts: &Facts, findings: &mut Findings) -> Result<()> {
    let mut by_policy = Vec::new();
    for device in facts.driven() {
        if facts.onlining(device)? == Onlining::Policy {
            by_policy.push(device.device.as_str());
        }
    }
    if facts.driven().next().is_none() {
        return Ok(());
    }
    let rules = udev::onlining_rules(facts.root(), |error| findings.not_checked(&error));
    if by_policy.is_empty() {
        for rule in rules {
            if rule.state.as_deref() != Some("online_movable") {
                findings.add(
                    &UDEV_IDLE,
                    None,
                    format!(
                        "{} brings memory online too; the driver refuses all zones but \
                         ZONE_MOVABLE, and udev may log that",
                        rule.place
                    ),
                    "none; remove the rule to be rid of the messages",
                );
            }
        }
        return Ok(());
    }

    let devices = by_policy.join(", ");
    let policy = facts.value(POLICY, EXPECTED_POLICY, |text| {
        ["offline", "online", "online_kernel", "online_movable"]
            .into_iter()
            .find(|word| *word == text)
    })?;
    let by_ratio = by_ratio(facts)?;
    match policy {
        "offline" if rules.is_empty() => findings.add(
            &POLICY_OFFLINE,
            None,
            format!(
                "/{POLICY} is offline and no udev rule brings memory online: what {devices} adds \
                 stays unusable"
            ),
            SET_POLICY,
        ),
        "online_kernel" => not_movable(findings, policy, &devices),
        "online" if !by_ratio => not_movable(findings, policy, &devices),
        _ => {}
    }
    for rule in rules {
        let writes = rule.state.as_deref().unwrap_or("a word that it computes");
        if policy != "offline" {
            findings.add(
                &UDEV_IDLE,
                None,
                format!(
                    "{} brings memory online ({writes}), but /{POLICY} ({policy}) has already \
                     done so",
                    rule.place
                ),
                "none",
            );
        } else if writes != "online_movable" && !(writes == "online" && by_ratio) {
            findings.add(
                &UDEV_NOT_MOVABLE,
                None,
                format!(
                    "{} brings memory online ({writes}), whatever the policy is: what {devices} \
                     adds may come into a zone from which it cannot be unplugged",
                    rule.place
                ),
                "have the rule write online_movable: copy it to /etc/udev/rules.d and change it \
                 there",
            );
        }
    }
    Ok(())
}

fn not_movable(findings: &mut Findings, policy: &str, devices: &str) {
    findings.add(
        &POLICY_NOT_MOVABLE,
        None,
        format!(
            "/{POLICY} is {policy}: what {devices} adds may come into a zone from which it cannot \
             be unplugged"
        ),
        SET_POLICY,
    );
}

/// Whether the kernel chooses ZONE_MOVABLE for `online` as long as the ratio of zones allows it.
fn by_ratio(facts: &Facts) -> Result<bool> {
    let policy = optional(facts.value(ZONES, EXPECTED_ZONES, |text| match text {
        "contig-zones" => Some(false),
        "auto-movable" => Some(true),
        _ => None,
    }))?;
    Ok(policy.unwrap_or(false))
}

/// Looks for memory blocks that are offline.
pub(crate) fn offline(facts: &Facts, device: &Device, findings: &mut Findings) -> Result<()> {
    let Some(size) = device.offline_size.filter(|size| *size > 0) else {
        return Ok(());
    };
    // Then memory blocks are offline in passing.
    let state = device.state.as_ref().and_then(Word::known);
    if matches!(state, Some(State::Plugging | State::Unplugging)) {
        return Ok(());
    }
    let blocks = size / facts.memory_block()?;
    findings.add(
        &OFFLINE,
        Some(&device.device),
        format!(
            "{} in {blocks} memory blocks is added but offline: the guest does not use it",
            Size(size)
        ),
        remedy(device, facts.memory_block()?),
    );
    Ok(())
}

/// How to bring this device's memory blocks online, and no others: what else is offline may be so on
/// purpose.
fn remedy(device: &Device, block: u64) -> String {
    let blocks = || {
        let start = device.start_address?;
        // The end of the address space does not fit 64 bits.
        let end = u128::from(start) + u128::from(device.region_size?);
        let last = (end / u128::from(block)).checked_sub(1)?;
        Some((start.div_ceil(block), last))
    };
    match blocks() {
        Some((first, last)) => format!(
            "bring it online: for n in $(seq {first} {last}); do \
             s=/sys/devices/system/memory/memory$n/state; \
             if grep -sqx offline $s; then echo online_movable > $s; fi; done"
        ),
        None => "bring its memory blocks online: write online_movable to the state of each".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::Tree;

    fn policy_of(tree: &Tree, policy: &str) -> Vec<&'static str> {
        tree.write(POLICY, policy);
        tree.ids()
    }

    #[test]
    fn default_policy() {
        let tree = Tree::theirs();
        assert!(policy_of(&tree, "offline\n").contains(&POLICY_OFFLINE.id));
        assert!(policy_of(&tree, "online\n").contains(&POLICY_NOT_MOVABLE.id));
        assert!(policy_of(&tree, "online_kernel\n").contains(&POLICY_NOT_MOVABLE.id));
        assert!(!policy_of(&tree, "online_movable\n").contains(&POLICY_NOT_MOVABLE.id));

        tree.write(ZONES, "auto-movable\n");
        assert!(!policy_of(&tree, "online\n").contains(&POLICY_NOT_MOVABLE.id));
        assert!(policy_of(&tree, "online_kernel\n").contains(&POLICY_NOT_MOVABLE.id));
    }

    #[test]
    fn memory_in_a_kernel_zone() {
        let tree = Tree::ours();
        tree.attribute("plugged_kernel_size", "134217728\n");
        tree.attribute("state", "settled\n");
        assert!(!tree.ids().contains(&IN_KERNEL_ZONE.id));
        tree.attribute("state", "waiting\n");
        tree.attribute("reason", "host-busy\n");
        assert!(!tree.ids().contains(&IN_KERNEL_ZONE.id));

        tree.attribute("reason", "memory-in-use\n");
        let finding = tree.finding(IN_KERNEL_ZONE.id);
        assert!(
            finding.message.starts_with("128 MiB"),
            "{}",
            finding.message
        );
        // Who reads this has asked `doctor` already.
        let waiting = tree.finding("driver-waiting");
        assert!(!waiting.remedy.contains("doctor"), "{}", waiting.remedy);
        tree.attribute("plugged_kernel_size", "0\n");
        assert!(!tree.ids().contains(&IN_KERNEL_ZONE.id));
    }

    #[test]
    fn our_driver_needs_no_policy() {
        let tree = Tree::ours();
        for policy in ["offline\n", "online\n"] {
            assert_eq!(policy_of(&tree, policy), Vec::<&str>::new());
        }
        tree.write("sys/module/virtio_mem/parameters/online_type", "policy\n");
        assert!(policy_of(&tree, "offline\n").contains(&POLICY_OFFLINE.id));
        // What was in force when the driver was bound counts.
        tree.attribute("online_type", "movable\n");
        assert_eq!(policy_of(&tree, "offline\n"), Vec::<&str>::new());
    }

    #[test]
    fn udev_rules() {
        let rule = "SUBSYSTEM==\"memory\", ATTR{state}==\"offline\", ATTR{state}=\"online\"\n";
        let tree = Tree::theirs();
        tree.write("usr/lib/udev/rules.d/40-vendor.rules", rule);
        let ids = policy_of(&tree, "offline\n");
        assert!(ids.contains(&UDEV_NOT_MOVABLE.id) && !ids.contains(&POLICY_OFFLINE.id));
        assert!(policy_of(&tree, "online_movable\n").contains(&UDEV_IDLE.id));

        let message = tree.finding(UDEV_IDLE.id).message;
        assert!(
            message.starts_with("/usr/lib/udev/rules.d/40-vendor.rules:1 "),
            "{message}"
        );

        // A file of the same name in /etc is read instead.
        let movable = rule.replace("=\"online\"", "=\"online_movable\"");
        tree.write("etc/udev/rules.d/40-vendor.rules", &movable);
        let ids = policy_of(&tree, "offline\n");
        assert!(!ids.contains(&UDEV_NOT_MOVABLE.id) && !ids.contains(&POLICY_OFFLINE.id));

        let tree = Tree::ours();
        tree.write("lib/udev/rules.d/40-vendor.rules", rule);
        assert_eq!(tree.ids(), [UDEV_IDLE.id]);
    }

    // It is run as it stands, with another directory.
    #[test]
    fn the_remedy_leaves_other_memory_blocks_alone() {
        let tree = Tree::theirs();
        let all = "100000000-13fffffff";
        tree.write(
            "proc/iomem",
            format!("{all} : virtio0\n  {all} : System RAM (virtio_mem)\n"),
        );
        let state = |number: u64| format!("sys/devices/system/memory/memory{number}/state");
        for number in [31, 33, 39, 40] {
            tree.write(&state(number), "offline\n");
            tree.write(&state(number).replace("state", "valid_zones"), "Movable\n");
        }
        let remedy = tree.finding(OFFLINE.id).remedy;
        let command = remedy.split_once(": ").unwrap().1;
        let sys = tree.path("sys").display().to_string();
        let command = command.replace("/sys/", &format!("{sys}/"));
        let status = std::process::Command::new("sh")
            .args(["-c", &command])
            .status();
        assert!(status.unwrap().success());
        let content = |number| std::fs::read_to_string(tree.path(&state(number))).unwrap();
        for number in [31, 40] {
            assert_eq!(content(number), "offline\n", "{number}");
        }
        for number in [33, 39] {
            assert_eq!(content(number), "online_movable\n", "{number}");
        }
        assert_eq!(content(32), "online\n");
    }

    #[test]
    fn offline_blocks() {
        let tree = Tree::theirs();
        assert!(!tree.ids().contains(&OFFLINE.id));
        tree.write("sys/devices/system/memory/memory32/state", "offline\n");
        let finding = tree.finding(OFFLINE.id);
        assert_eq!(finding.device.as_deref(), Some("virtio0"));
        // The device's own memory blocks: others may be offline on purpose.
        assert!(
            finding.remedy.contains("$(seq 32 39)"),
            "{}",
            finding.remedy
        );
        assert!(
            finding.message.starts_with("128 MiB in 1 memory blocks"),
            "{}",
            finding.message
        );

        let tree = Tree::ours();
        tree.write("sys/devices/system/memory/memory32/state", "offline\n");
        assert!(tree.ids().contains(&OFFLINE.id));
        tree.attribute("state", "unplugging\n");
        assert!(!tree.ids().contains(&OFFLINE.id));
    }
}
