// SPDX-License-Identifier: GPL-2.0

//! Which driver a device has, and what it says.

use crate::advice;
use crate::bus;
use crate::doctor::facts::Facts;
use crate::doctor::facts::Module;
use crate::doctor::finding::Findings;
use crate::doctor::finding::Kind;
use crate::doctor::finding::Severity;
use crate::error::Result;
use crate::size::Size;
use crate::status::Device;
use crate::words::Word;
use virtio_mem_core::vocabulary::State;

/// No driver.
pub(crate) const NO_DRIVER: Kind = Kind {
    id: "no-driver",
    severity: Severity::Error,
    about: "no driver is bound to a device: none of its memory can be plugged",
};

/// A driver for something else.
pub(crate) const OTHER_DRIVER: Kind = Kind {
    id: "other-driver",
    severity: Severity::Error,
    about: "a driver that is not for memory devices is bound to a device",
};

/// The kernel's own driver.
pub(crate) const C_DRIVER: Kind = Kind {
    id: "c-driver",
    severity: Severity::Warning,
    about: "the kernel's own driver is loaded, not this project's",
};

/// The request is not met.
pub(crate) const WAITING: Kind = Kind {
    id: "driver-waiting",
    severity: Severity::Warning,
    about: "the driver says why it does not meet the host's request",
};

/// The device is silent.
pub(crate) const STALLED: Kind = Kind {
    id: "driver-stalled",
    severity: Severity::Error,
    about: "the device does not answer the driver",
};

/// The driver was about to take memory away that Linux may use.
pub(crate) const NOT_SENT: Kind = Kind {
    id: "unplugs-not-sent",
    severity: Severity::Error,
    about: "the driver's map was wrong: it did not unplug memory that Linux may use",
};

/// Looks at the driver.
pub(crate) fn driver(facts: &Facts, device: &Device, findings: &mut Findings) -> Result<()> {
    let name = Some(device.device.as_str());
    let module = facts.module();

    match device.driver.as_deref() {
        None if module == Module::Absent => findings.add(
            &NO_DRIVER,
            name,
            "the module virtio_mem is not loaded",
            "modprobe virtio_mem; where it fails, its message and dmesg tell why (under Secure \
             Boot it has to be signed)",
        ),
        None => findings.add(
            &NO_DRIVER,
            name,
            "virtio_mem is loaded but not bound: it was unbound, or has refused the device",
            format!(
                "see dmesg | grep virtio_mem, then echo {0} > \
                 /sys/bus/virtio/drivers/virtio_mem/bind; where the device's queue cannot be set up, \
                 echo 1 > /sys/bus/virtio/devices/{0}/../reset before that",
                device.device
            ),
        ),
        Some(bus::DRIVER) if module == Module::Theirs => findings.add(
            &C_DRIVER,
            name,
            "it is driven by the kernel's own driver: /sys/module/virtio_mem/parameters has no \
             online_type",
            "install virtio_mem.ko to /lib/modules/$(uname -r)/updates, depmod, modprobe -r \
             virtio_mem, modprobe virtio_mem; rebuild the initrd if it has the other one",
        ),
        Some(bus::DRIVER) => {}
        Some(other) => findings.add(
            &OTHER_DRIVER,
            name,
            // A driver's name is the kernel's, but the link may be anything.
            format!("it is driven by {other:?}"),
            "unbind that driver and bind virtio_mem",
        ),
    }
    Ok(())
}

/// Looks at what the driver says.
pub(crate) fn says(_: &Facts, device: &Device, findings: &mut Findings) -> Result<()> {
    let (kind, state) = match device.state.as_ref().and_then(Word::known) {
        Some(state @ State::Waiting) => (&WAITING, state),
        Some(state @ State::Stalled) => (&STALLED, state),
        _ => return Ok(()),
    };
    let (mut message, remedy) = match advice::of(device) {
        Some(advice) => (advice.matter, advice.remedy),
        None => (
            format!("it is {state} for a reason that it does not give"),
            "see in dmesg what it said last",
        ),
    };
    if let (Some(plugged), Some(requested)) = (device.plugged_size, device.requested_size) {
        message.push_str(&format!(
            "; {} are plugged, {} requested",
            Size(plugged),
            Size(requested)
        ));
    }
    if let Some(wait) = device.next_attempt_ms {
        message.push_str(&format!("; it tries again in {wait} ms"));
    }
    findings.add(kind, Some(&device.device), message, remedy);
    Ok(())
}

/// Looks at what the driver has kept itself from doing.
pub(crate) fn map(_: &Facts, device: &Device, findings: &mut Findings) -> Result<()> {
    let counters = device.counters.as_ref();
    let count = counters.and_then(|counters| counters.unplugs_not_sent_total);
    if let Some(count) = count.filter(|count| *count != 0) {
        findings.add(
            &NOT_SENT,
            Some(&device.device),
            format!(
                "{count} requests to unplug memory were not sent, because Linux may have been using \
                 it: what the driver knew of it was wrong"
            ),
            "nothing was lost, and the driver has looked again at all of its memory; report it with \
             the output of dmesg and the files in /sys/kernel/debug/virtio_mem",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::Tree;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn drivers() {
        assert_eq!(Tree::theirs().ids(), [C_DRIVER.id]);
        assert_eq!(Tree::ours().ids(), Vec::<&str>::new());

        let tree = Tree::ours();
        let link = tree.path("sys/bus/virtio/devices/virtio0/driver");
        fs::remove_file(&link).unwrap();
        assert!(tree.finding(NO_DRIVER.id).message.contains("not bound"));
        symlink("../../drivers/virtio_pmem", &link).unwrap();
        assert!(tree
            .finding(OTHER_DRIVER.id)
            .message
            .contains("virtio_pmem"));

        fs::remove_file(&link).unwrap();
        fs::remove_dir_all(tree.path("sys/module/virtio_mem")).unwrap();
        assert!(tree.finding(NO_DRIVER.id).message.contains("not loaded"));
    }

    #[test]
    fn what_the_driver_says() {
        let tree = Tree::ours();
        tree.attribute("state", "waiting\n");
        tree.attribute("reason", "memory-in-use\n");
        tree.attribute("requested_size", "0\n");
        tree.attribute("plugged_size", "2097152\n");
        tree.attribute("next_attempt_ms", "800\n");
        tree.attribute("last_error", "remove in-use\n");
        let finding = tree.finding(WAITING.id);
        assert_eq!(
            finding.message,
            "memory that should go is in use and cannot be migrated (last failure: remove \
             in-use); 2 MiB are plugged, 0 B requested; it tries again in 800 ms"
        );
        assert!(finding.remedy.contains("end or restart"));

        tree.attribute("state", "stalled\n");
        tree.attribute("reason", "no-answer\n");
        assert_eq!(tree.ids(), [STALLED.id]);
        tree.attribute("state", "settled\n");
        assert_eq!(tree.ids(), Vec::<&str>::new());
    }

    #[test]
    fn requests_that_were_not_sent() {
        let tree = Tree::ours();
        tree.attribute("unplugs_not_sent_total", "0\n");
        assert_eq!(tree.ids(), Vec::<&str>::new());

        tree.attribute("unplugs_not_sent_total", "2\n");
        let finding = tree.finding(NOT_SENT.id);
        assert_eq!(finding.severity, Severity::Error);
        assert!(finding.message.starts_with("2 requests to unplug"));
    }
}
