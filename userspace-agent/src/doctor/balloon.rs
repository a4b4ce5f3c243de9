// SPDX-License-Identifier: GPL-2.0

//! A balloon beside the memory device.

use crate::bus;
use crate::doctor::facts::Facts;
use crate::doctor::finding::Findings;
use crate::doctor::finding::Kind;
use crate::doctor::finding::Severity;
use crate::error::optional;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::values;

/// The virtio specification's number for a balloon.
const BALLOON_DEVICE: u64 = 5;
/// The feature with which a balloon tells the host of free pages.
const REPORTING: usize = 5;
/// What counts the pages that balloons have, from `/`.
const VMSTAT: &str = "proc/vmstat";
/// What is expected there.
const EXPECTED_VMSTAT: &str = "lines of the form \"NAME NUMBER\"";
/// The most it can hold.
const LIMIT: u64 = 1 << 20;

/// A balloon that has memory.
pub(crate) const INFLATED: Kind = Kind {
    id: "balloon-inflated",
    severity: Severity::Warning,
    about: "a balloon has taken memory from the guest",
};

/// A balloon that has none, yet.
pub(crate) const BESIDE: Kind = Kind {
    id: "balloon-beside",
    severity: Severity::Note,
    about: "there is a balloon beside the memory device",
};

/// Looks for balloons with a driver, and whether they have memory. Inflating is no feature that
/// could be off: what matters is whether the host does it.
pub(crate) fn balloon(facts: &Facts, findings: &mut Findings) -> Result<()> {
    for name in bus::names(facts.root())? {
        let dir = bus::dir(facts.root(), &name);
        let id = optional(files::read_value(
            &dir.join("device"),
            "a virtio device id in hexadecimal",
            values::hexadecimal,
        ))?;
        if id != Some(BALLOON_DEVICE) || !dir.join("driver").is_symlink() {
            continue;
        }
        let pages = pages(facts)?;
        if pages > 0 {
            findings.add(
                &INFLATED,
                Some(&name),
                format!(
                    "the balloon has taken {pages} pages: it fights with the memory device for \
                     the same memory, and splits what could be unplugged"
                ),
                "deflate the balloon (QEMU: balloon, libvirt: virsh setmem) and resize the guest \
                 with the memory device only",
            );
        } else {
            let use_ = if facts.feature(&name, REPORTING)? {
                "its free page reporting does no harm"
            } else {
                "without free page reporting it is of use for statistics only"
            };
            findings.add(
                &BESIDE,
                Some(&name),
                format!("a balloon is there and empty; {use_}"),
                "do not inflate it: resize the guest with the memory device only",
            );
        }
    }
    Ok(())
}

/// How many pages balloons have: older kernels count only what goes in and out.
fn pages(facts: &Facts) -> Result<u64> {
    let path = facts.path(VMSTAT);
    let text = files::read_text(&path, EXPECTED_VMSTAT, LIMIT)?;
    let mut pages = None;
    let (mut inflated, mut deflated) = (0, 0);

    for line in text.lines() {
        let number = |text| {
            values::decimal(text).ok_or_else(|| Error::content(&path, EXPECTED_VMSTAT, line))
        };
        match line.split_once(' ') {
            Some(("nr_balloon_pages", text)) => pages = Some(number(text)?),
            Some(("balloon_inflate", text)) => inflated = number(text)?,
            Some(("balloon_deflate", text)) => deflated = number(text)?,
            _ => {}
        }
    }
    Ok(pages.unwrap_or(u64::saturating_sub(inflated, deflated)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::Tree;
    use std::os::unix::fs::symlink;

    const DEVICE: &str = "sys/bus/virtio/devices/virtio7";

    fn tree(features: &str, vmstat: &str) -> Tree {
        let tree = Tree::ours();
        tree.write(&format!("{DEVICE}/device"), "0x0005\n");
        symlink(
            "../../drivers/virtio_balloon",
            tree.path(DEVICE).join("driver"),
        )
        .unwrap();
        tree.write(&format!("{DEVICE}/features"), features);
        tree.write(VMSTAT, vmstat);
        tree
    }

    #[test]
    fn balloons() {
        let reporting = "0000010000\n";
        let tree1 = tree(
            reporting,
            "nr_free_pages 1\nnr_balloon_pages 0\nballoon_inflate 5\n",
        );
        assert_eq!(tree1.ids(), [BESIDE.id]);
        assert!(tree1.finding(BESIDE.id).message.contains("no harm"));
        let tree2 = tree("1110\n", "balloon_inflate 5\nballoon_deflate 5\n");
        assert!(tree2.finding(BESIDE.id).message.contains("statistics"));

        assert_eq!(tree(reporting, "nr_balloon_pages 3\n").ids(), [INFLATED.id]);
        let tree = tree("0\n", "balloon_inflate 5\nballoon_deflate 4\n");
        assert!(tree.finding(INFLATED.id).message.contains("taken 1 pages"));
    }

    #[test]
    fn a_balloon_that_nothing_drives() {
        let tree = Tree::ours();
        tree.write(&format!("{DEVICE}/device"), "0x0005\n");
        assert_eq!(tree.ids(), Vec::<&str>::new());
    }
}
