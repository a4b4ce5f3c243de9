// SPDX-License-Identifier: GPL-2.0

//! Finds out what can be known of each device, from the best source there is.
//!
//! Nothing stands still while it is read: devices go away, drivers are unbound, memory comes and
//! goes. A device whose files vanish or contradict each other is looked at again; one that has
//! vanished is left out with a note.

use crate::bus;
use crate::bus::BusDevice;
use crate::error::optional;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::Root;
use crate::iomem;
use crate::iomem::Range;
use crate::iomem::Region;
use crate::memory_blocks::MemoryBlocks;
use crate::memory_blocks::Standing;
use crate::plain::plain;
use crate::status::Device;
use crate::status::Failure;
use crate::status::Source;
use crate::status::Status;
use crate::status::VERSION;
use crate::sysfs;
use crate::sysfs::Said;
use crate::values;
use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

/// The module's version, from `/`.
const MODULE_VERSION: &str = "sys/module/virtio_mem/version";

/// For how long what is cached is taken for what is there, should the kernel not tell, as in some
/// containers.
const FRESH: Duration = Duration::from_secs(300);

/// How often a device is looked at until its files agree with each other.
const ATTEMPTS: usize = 4;

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

/// How the memory blocks of each device stood when they were last looked at, for those who are told
/// when memory blocks change: there may be thousands.
#[derive(Debug, Default)]
pub(crate) struct Cache(BTreeMap<String, Known>);

/// How a device's memory blocks stood.
#[derive(Debug)]
struct Known {
    when: Instant,
    ranges: Vec<Range>,
    /// What the driver said of its memory then.
    sizes: [Option<u64>; 5],
    standing: Option<Standing>,
}

impl Cache {
    /// Memory blocks have come, gone or changed, or may have.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }

    /// How the memory blocks in these ranges stand; none where the kernel does not show any.
    fn standing(
        &mut self,
        root: &Root,
        device: &Device,
        ranges: &[Range],
    ) -> Result<Option<Standing>> {
        let sizes = [
            device.added_size,
            device.plugged_movable_size,
            device.plugged_kernel_size,
            device.plugged_offline_size,
            device.plugged_not_added_size,
        ];
        if let Some(known) = self.0.get(&device.device) {
            let is_same = known.sizes == sizes && known.ranges == ranges;
            if is_same && known.when.elapsed() < FRESH {
                return Ok(known.standing.clone());
            }
        }
        let standing = match MemoryBlocks::list(root)? {
            Some(blocks) => Some(blocks.standing(ranges)?),
            None => None,
        };
        let known = Known {
            when: Instant::now(),
            ranges: ranges.into(),
            sizes,
            standing: standing.clone(),
        };
        self.0.insert(device.device.clone(), known);
        Ok(standing)
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
        match observe(root, &name, cache) {
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

/// A device as it was seen once.
#[derive(Debug)]
struct View {
    device: Device,
    /// Why something is not known.
    note: Option<String>,
    /// What could not be read.
    errors: Vec<Error>,
    /// Whether what was read fits together.
    consistent: bool,
    /// Whether the driver's attributes do not.
    torn: bool,
}

/// Looks at a device until what is read fits together, but not for ever. `None` if it is another
/// kind of device.
fn observe(root: &Root, name: &str, cache: &mut Cache) -> Result<Option<View>> {
    settle(|| {
        let Some(device) = bus::look(root, name)? else {
            return Ok(None);
        };
        let view = view(root, &device, cache)?;
        if !view.consistent {
            cache.0.remove(name);
        }
        Ok(Some(view))
    })
}

/// Looks until what is seen fits together, but not for ever.
fn settle(mut look: impl FnMut() -> Result<Option<View>>) -> Result<Option<View>> {
    for _ in 1..ATTEMPTS {
        match look() {
            Ok(Some(view)) if !view.consistent => {}
            Ok(Some(view)) if view.errors.iter().any(Error::is_absent) => {}
            Err(error) if error.is_absent() => {}
            settled => return settled,
        }
    }
    look()
}

/// Looks at a virtio-mem device.
fn view(root: &Root, device: &BusDevice, cache: &mut Cache) -> Result<View> {
    let mut view = View {
        device: Device {
            device: device.name.clone(),
            driver: device.driver.clone(),
            ..Device::default()
        },
        note: None,
        errors: Vec::new(),
        consistent: true,
        torn: false,
    };

    if !device.is_driven() {
        return Ok(view);
    }
    let taken = match sysfs::read(&device.dir, &mut view.device, &mut view.errors) {
        Said::Nothing => view.take_iomem(root, cache),
        said => {
            view.torn = said == Said::Torn;
            view.consistent = said == Said::Sound;
            view.device.driver_version =
                driver_version(root).unwrap_or_else(|error| view.fail(error));
            view.take_blocks_of_region(root, cache)
        }
    };
    taken.unwrap_or_else(|error| view.fail(error));
    Ok(view)
}

/// The version of the module that is loaded, which modules built into the kernel do not show.
fn driver_version(root: &Root) -> Result<Option<String>> {
    optional(files::read_value(
        &root.join(MODULE_VERSION),
        "a version without spaces",
        values::version,
    ))
}

impl View {
    /// Takes an error; nothing is known instead.
    fn fail<T: Default>(&mut self, error: Error) -> T {
        self.errors.push(error);
        T::default()
    }

    /// Takes how the memory blocks stand that lie in the region of which the driver speaks.
    fn take_blocks_of_region(&mut self, root: &Root, cache: &mut Cache) -> Result<()> {
        let device = &mut self.device;
        let (Some(start), Some(size)) = (device.start_address, device.region_size) else {
            return Ok(());
        };
        let Some(region) = Range::new(start, size) else {
            return Ok(());
        };

        if let Some(standing) = cache.standing(root, device, &[region])? {
            device.added_size.get_or_insert(standing.total());
            self.stand(&standing);
        }
        Ok(())
    }

    /// Takes what any kernel shows.
    fn take_iomem(&mut self, root: &Root, cache: &mut Cache) -> Result<()> {
        let region = match iomem::region(root, &self.device.device) {
            Err(error) if error.is_denied() => {
                self.hidden(&error.to_string());
                return Ok(());
            }
            region => region?,
        };

        match region {
            Region::Absent => {
                // The driver reserves it before it does anything else.
                self.consistent = false;
                self.note = Some("its region is not in /proc/iomem, its sizes are unknown".into());
            }
            Region::Hidden => self.hidden("/proc/iomem shows addresses to root only"),
            Region::Known { range, added } => {
                self.device.source = Source::Iomem;
                self.device.start_address = Some(range.start);
                self.device.region_size = Some(range.size());
                self.added(root, &added, cache)?;
            }
        }
        Ok(())
    }

    /// Takes what was added to Linux, and how it stands.
    fn added(&mut self, root: &Root, added: &[Range], cache: &mut Cache) -> Result<()> {
        let size = added
            .iter()
            .fold(0_u64, |sum, range| sum.saturating_add(range.size()));

        self.device.added_size = Some(size);
        if let Some(standing) = cache.standing(root, &self.device, added)? {
            self.consistent = standing.total() == size;
            self.stand(&standing);
        }
        Ok(())
    }

    /// Takes how the device's memory blocks stand.
    fn stand(&mut self, standing: &Standing) {
        let device = &mut self.device;

        // Where the zone of some is not known, neither sum is.
        if standing.unknown == 0 {
            device.online_movable_size = Some(standing.movable);
            device.online_kernel_size = Some(standing.kernel);
        }
        device.offline_size = Some(standing.offline);

        let mut nodes = standing.nodes.iter();
        if let (None, Some(node), None) = (device.node, nodes.next(), nodes.next()) {
            device.node = Some(*node);
        }
    }

    /// Notes that the user is not shown what there is.
    fn hidden(&mut self, why: &str) {
        self.device.source = Source::Hidden;
        self.note = Some(format!("{why}; run as root to see its sizes"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::Form;
    use crate::table;
    use crate::table::Look;
    use proptest::prelude::*;
    use std::fs;
    use std::io::ErrorKind;
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

    // Neither a view that does not fit together nor a file that was not there is the last word.
    #[test]
    fn what_does_not_fit_together_is_looked_at_again() {
        let view = |consistent, torn, plugged| View {
            device: Device {
                plugged_size: Some(plugged),
                ..Device::default()
            },
            note: None,
            errors: Vec::new(),
            consistent,
            torn,
        };
        let mut looks = [
            Ok(Some(view(false, true, 1))),
            Err(Error::read(Path::new("x"), ErrorKind::NotFound.into())),
            Ok(Some(view(true, false, 2))),
            Ok(Some(view(true, false, 3))),
        ]
        .into_iter();
        let settled = settle(|| looks.next().unwrap()).unwrap().unwrap();
        assert_eq!(settled.device.plugged_size, Some(2));
        assert_eq!(looks.count(), 1);

        let mut count = 0;
        let settled = settle(|| {
            count += 1;
            Ok(Some(view(false, true, count)))
        });
        assert!(settled.unwrap().unwrap().torn);
        assert_eq!(count, u64::try_from(ATTEMPTS).unwrap());
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
