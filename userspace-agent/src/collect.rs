// SPDX-License-Identifier: GPL-2.0

//! Collects what can be known of all devices, and why something is not.

use crate::bus;
use crate::cache::Cache;
use crate::error::Error;
use crate::files::Root;
use crate::plain::plain;
use crate::status::Failure;
use crate::status::Status;
use crate::status::VERSION;
use crate::view;

/// What was found, and what there is to say about it.
#[derive(Debug)]
pub(crate) struct Collected {
    /// The devices, and the errors as they are printed in JSON.
    pub(crate) status: Status,
    /// Why something is not known.
    pub(crate) notes: Vec<String>,
    /// What could not be read.
    pub(crate) errors: Vec<Error>,
    /// Whether a driver's attributes changed each time they were read, so that they may not fit
    /// together.
    pub(crate) torn: bool,
}

impl Collected {
    /// All notes and errors.
    pub(crate) fn messages(&self) -> Vec<String> {
        let errors = self.errors.iter().map(ToString::to_string);
        let all = self.notes.iter().cloned().chain(errors);
        all.map(|message| plain(&message)).collect()
    }

    /// Takes an error, once, with the device if the file is one of its own.
    fn fail(&mut self, error: Error, device: Option<&str>) {
        let failure = Failure {
            device: device.map(Into::into),
            message: plain(&error.to_string()),
        };
        if !self.status.errors.contains(&failure) {
            self.status.errors.push(failure);
            self.errors.push(error);
        }
    }
}

/// Collects what is known of all devices, or of the one called `only`, from nothing.
pub(crate) fn collect(root: &Root, only: Option<&str>) -> Collected {
    collect_again(root, only, &mut Cache::default())
}

/// Collects what is known of all devices, or of the one called `only`. What cannot be read of a device
/// leaves a value unknown, not the device.
pub(crate) fn collect_again(root: &Root, only: Option<&str>, cache: &mut Cache) -> Collected {
    let mut collected = Collected {
        status: Status {
            version: VERSION,
            devices: Vec::new(),
            errors: Vec::new(),
        },
        notes: Vec::new(),
        errors: Vec::new(),
        torn: false,
    };
    let names = bus::selected(root, only).unwrap_or_else(|error| {
        collected.fail(error, None);
        Vec::new()
    });

    for name in names {
        let dir = bus::dir(root, &name);
        match view::observe(root, &name, cache) {
            Ok(Some(view)) => {
                let note = view.note.map(|note| format!("{name}: {note}"));
                collected.notes.extend(note);
                collected.torn |= view.torn;
                collected.status.devices.push(view.device);
                for error in view.errors {
                    let own = error.is_about(&dir).then_some(name.as_str());
                    collected.fail(error, own);
                }
            }
            Ok(None) => {}
            Err(error) if error.is_absent_from(&dir) => {
                collected
                    .notes
                    .push(format!("{name}: vanished while it was read"));
            }
            // Not even known to be a memory device.
            Err(error) => collected.fail(error, Some(&name)),
        }
    }
    collected
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::Form;
    use crate::table;
    use crate::table::Look;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    /// Every file the agent reads, with what the kernel would write there.
    const FILES: [(&str, &str); 20] = [
        ("sys/bus/virtio/devices/virtio0/device", "0x0018\n"),
        ("sys/bus/virtio/devices/virtio1/device", "0x0018\n"),
        (
            "sys/bus/virtio/devices/virtio1/virtio_mem/requested_size",
            "0\n",
        ),
        (
            "sys/bus/virtio/devices/virtio1/virtio_mem/region_size",
            "1073741824\n",
        ),
        (
            "sys/bus/virtio/devices/virtio1/virtio_mem/start_address",
            "4294967296\n",
        ),
        ("sys/bus/virtio/devices/virtio1/virtio_mem/node", "-1\n"),
        (
            "sys/bus/virtio/devices/virtio1/virtio_mem/state",
            "settled\n",
        ),
        (
            "sys/bus/virtio/devices/virtio1/virtio_mem/requests_plug_busy",
            "3\n",
        ),
        (
            "sys/bus/virtio/devices/virtio1/virtio_mem/mode",
            "sub-block\n",
        ),
        (
            "sys/bus/virtio/devices/virtio1/virtio_mem/features",
            "acpi-pxm unplugged-inaccessible\n",
        ),
        (
            "sys/bus/virtio/devices/virtio1/virtio_mem/online_type",
            "movable\n",
        ),
        (
            "sys/bus/virtio/devices/virtio1/virtio_mem/next_attempt_ms",
            "-1\n",
        ),
        ("sys/bus/virtio/devices/virtio1/virtio_mem/attempts", "0\n"),
        (
            "sys/bus/virtio/devices/virtio1/virtio_mem/last_error",
            "plug busy\n",
        ),
        ("sys/bus/virtio/devices/virtio1/virtio_mem/reason", "none\n"),
        (
            "sys/bus/virtio/devices/virtio1/virtio_mem/plugged_offline_size",
            "0\n",
        ),
        (
            "proc/iomem",
            "100000000-13fffffff : virtio0\n  100000000-107ffffff : System RAM (virtio_mem)\n",
        ),
        ("sys/devices/system/memory/block_size_bytes", "8000000\n"),
        ("sys/devices/system/memory/memory32/state", "online\n"),
        (
            "sys/devices/system/memory/memory32/valid_zones",
            "Movable\n",
        ),
    ];

    fn write(root: &Path, path: &str, content: &[u8]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in FILES {
            write(dir.path(), path, content.as_bytes());
        }
        for name in ["virtio0", "virtio1"] {
            let link = dir
                .path()
                .join("sys/bus/virtio/devices")
                .join(name)
                .join("driver");
            symlink("../../drivers/virtio_mem", link).unwrap();
        }
        dir
    }

    #[test]
    fn the_tree_is_sound() {
        let dir = tree();
        let collected = collect(&Root::new(dir.path().into()), None);

        assert!(collected.errors.is_empty(), "{:?}", collected.errors);
        assert!(collected.notes.is_empty(), "{:?}", collected.notes);
        for device in &collected.status.devices {
            assert_eq!(device.added_size, Some(128 << 20));
            assert_eq!(device.online_movable_size, Some(128 << 20));
        }
    }

    proptest! {
        #![proptest_config(crate::fuzz::cases(500))]

        // A device is shown, whatever stands in a file, but in the one that says what it is.
        #[test]
        fn any_bytes_in_any_file(
            file in 0..FILES.len(),
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let dir = tree();
            write(dir.path(), FILES[file].0, &bytes);
            let collected = collect(&Root::new(dir.path().into()), None);

            let devices = collected.status.devices.len();
            let known = FILES[file].0.ends_with("/device").then_some(collected.errors.len());
            prop_assert_eq!(devices + known.unwrap_or(0), 2);
            prop_assert_eq!(collected.errors.len(), collected.status.errors.len());
            prop_assert!(serde_json::to_string(&collected.status).is_ok());
            for wide in [false, true] {
                let form = Form { wide, bars: true, ..Form::default() };
                let look = Look { form, ..Look::default() };
                let text = table::render(&collected.status.devices, &look);
                prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
            }
            for error in &collected.errors {
                let path = dir.path().join(FILES[file].0);
                prop_assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
            }
        }
    }
}
