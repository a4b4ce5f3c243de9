// SPDX-License-Identifier: GPL-2.0

//! What the machine does besides running: it sleeps, and it crashes.

use crate::doctor::facts::Facts;
use crate::doctor::finding::Findings;
use crate::doctor::finding::Kind;
use crate::doctor::finding::Severity;
use crate::error::optional;
use crate::error::Result;
use crate::files;
use crate::status::Device;
use crate::values;

/// How the machine can sleep, from `/`.
const STATES: &str = "sys/power/state";
/// What is expected there.
const EXPECTED_STATES: &str = "words such as freeze, mem and disk";
/// The feature of a device that keeps its memory while the machine sleeps.
const PERSISTENT_SUSPEND: usize = 2;

/// How much is set aside for a crash kernel, from `/`.
const CRASH_SIZE: &str = "sys/kernel/kexec_crash_size";
/// Whether there is one, from `/`.
const CRASH_LOADED: &str = "sys/kernel/kexec_crash_loaded";
/// Where people and distributions say what goes into an initrd, from `/`.
const INITRD_FILES: [&str; 4] = [
    "etc/kdump.conf",
    "etc/sysconfig/kdump",
    "etc/dracut.conf",
    "etc/initramfs-tools/modules",
];
/// The same for directories.
const INITRD_DIRS: [&str; 3] = [
    "etc/dracut.conf.d",
    "usr/lib/dracut/dracut.conf.d",
    "etc/modules-load.d",
];
/// What is expected in them.
const EXPECTED_INITRD: &str = "settings of initrds";
/// People write them.
const LIMIT: u64 = 1 << 20;
/// The module's names.
const NAMES: [&str; 2] = ["virtio_mem", "virtio-mem"];

/// No suspend to RAM.
pub(crate) const SUSPEND: Kind = Kind {
    id: "suspend-refused",
    severity: Severity::Note,
    about: "suspend to RAM is refused while a device has memory plugged",
};

/// No hibernation.
pub(crate) const HIBERNATION: Kind = Kind {
    id: "hibernation-refused",
    severity: Severity::Note,
    about: "hibernation is refused while a driver is bound",
};

/// No crash kernel.
pub(crate) const CRASH_KERNEL: Kind = Kind {
    id: "kdump-not-loaded",
    severity: Severity::Warning,
    about: "memory is set aside for a crash kernel, but none is loaded",
};

/// A crash kernel that may dump memory which is not there.
pub(crate) const CRASH_INITRD: Kind = Kind {
    id: "kdump-initrd",
    severity: Severity::Note,
    about: "the crash kernel's initrd is not known to have the module",
};

/// Looks whether the machine can sleep with the device's memory plugged.
pub(crate) fn suspend(facts: &Facts, device: &Device, findings: &mut Findings) -> Result<()> {
    if !device.is_driven()
        || !states(facts)?.iter().any(|state| state == "mem")
        || facts.feature(&device.device, PERSISTENT_SUSPEND)?
    {
        return Ok(());
    }
    findings.add(
        &SUSPEND,
        Some(&device.device),
        "it does not offer to keep its memory (PERSISTENT_SUSPEND): suspend to RAM is refused \
         while memory is plugged",
        "have the host unplug all before the guest is suspended; newer versions of QEMU offer it",
    );
    Ok(())
}

/// Looks whether somebody might want to hibernate.
pub(crate) fn hibernation(facts: &Facts, findings: &mut Findings) -> Result<()> {
    if facts.driven().next().is_some() && states(facts)?.iter().any(|state| state == "disk") {
        findings.add(
            &HIBERNATION,
            None,
            format!("/{STATES} offers disk, but virtio_mem refuses hibernation"),
            "suspend to RAM instead; or have the host unplug all, and unload virtio_mem first",
        );
    }
    Ok(())
}

/// The words in [`STATES`]; none where the kernel cannot sleep.
fn states(facts: &Facts) -> Result<Vec<String>> {
    let states = optional(facts.value(STATES, EXPECTED_STATES, |text| {
        text.split_ascii_whitespace().map(values::word).collect()
    }))?;
    Ok(states.unwrap_or_default())
}

/// Looks whether a crash would leave a dump that has all memory and nothing else.
pub(crate) fn crash(facts: &Facts, findings: &mut Findings) -> Result<()> {
    let size = optional(facts.value(CRASH_SIZE, "a number of bytes", values::decimal))?;
    if facts.driven().next().is_none() || size.unwrap_or(0) == 0 {
        return Ok(());
    }
    let loaded = facts.value(CRASH_LOADED, "0 or 1", |text| match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    })?;
    if !loaded {
        findings.add(
            &CRASH_KERNEL,
            None,
            format!(
                "/{CRASH_SIZE} is {}, but /{CRASH_LOADED} is 0: a crash leaves no dump",
                size.unwrap_or(0)
            ),
            "start the distribution's service (kdump or kdump-tools), or kexec -p",
        );
    }
    if !named(facts, findings) {
        findings.add(
            &CRASH_INITRD,
            None,
            "nothing in /etc says that virtio_mem is in the crash kernel's initrd; without it the \
             dump reads memory that is not plugged",
            "look with lsinitrd or lsinitramfs; add it with dracut_args --add-drivers virtio_mem \
             in /etc/kdump.conf, or a line virtio_mem in /etc/initramfs-tools/modules",
        );
    }
    Ok(())
}

/// Whether a setting of initrds names the module.
fn named(facts: &Facts, findings: &mut Findings) -> bool {
    let mut places: Vec<String> = INITRD_FILES.map(Into::into).into();
    for dir in INITRD_DIRS {
        match optional(files::names(&facts.path(dir))) {
            Ok(names) => {
                let names = names.into_iter().flatten();
                places.extend(names.map(|name| format!("{dir}/{name}")));
            }
            Err(error) => findings.not_checked(&error),
        }
    }

    let mut named = false;
    for place in places {
        let path = facts.path(&place);
        if !path.is_file() {
            continue;
        }
        match optional(files::read_text(&path, EXPECTED_INITRD, LIMIT)) {
            Ok(text) => named |= text.is_some_and(|text| names_it(&text)),
            Err(error) => findings.not_checked(&error),
        }
    }
    named
}

/// Whether a line that is no comment names the module.
fn names_it(text: &str) -> bool {
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .any(|line| NAMES.iter().any(|name| line.contains(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::Tree;

    const FEATURES: &str = "sys/bus/virtio/devices/virtio0/features";

    #[test]
    fn sleep() {
        let tree = Tree::ours();
        tree.write(STATES, "freeze mem\n");
        assert_eq!(tree.ids(), Vec::<&str>::new());
        tree.write(FEATURES, "110000\n");
        assert_eq!(tree.ids(), [SUSPEND.id]);
        tree.write(STATES, "freeze\n");
        assert_eq!(tree.ids(), Vec::<&str>::new());
        tree.write(STATES, "freeze disk\n");
        assert_eq!(tree.ids(), [HIBERNATION.id]);
    }

    #[test]
    fn crashes() {
        let tree = Tree::ours();
        tree.write(CRASH_SIZE, "268435456\n");
        tree.write(CRASH_LOADED, "0\n");
        assert_eq!(tree.ids(), [CRASH_KERNEL.id, CRASH_INITRD.id]);
        tree.write(CRASH_LOADED, "1\n");
        tree.write("etc/kdump.conf", "# virtio_mem\npath /var/crash\n");
        assert_eq!(tree.ids(), [CRASH_INITRD.id]);
        tree.write(
            "etc/dracut.conf.d/x.conf",
            "add_drivers+=\" virtio_mem \"\n",
        );
        assert_eq!(tree.ids(), Vec::<&str>::new());

        let tree = Tree::ours();
        tree.write(CRASH_SIZE, "0\n");
        assert_eq!(tree.ids(), Vec::<&str>::new());
    }
}
