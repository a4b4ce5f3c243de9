// SPDX-License-Identifier: GPL-2.0

//! Finds out what can be known of a device, from the best source there is.
//!
//! Nothing stands still while it is read: devices go away, drivers are unbound, memory comes and
//! goes. A device whose files vanish or contradict each other is looked at again; one that has
//! vanished is left out with a note.

use crate::bus;
use crate::bus::BusDevice;
use crate::cache::Cache;
use crate::error::optional;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::Root;
use crate::iomem;
use crate::iomem::Range;
use crate::iomem::Region;
use crate::memory_blocks::Standing;
use crate::status::Device;
use crate::status::Source;
use crate::sysfs;
use crate::sysfs::Said;
use crate::values;

/// The module's version, from `/`.
const MODULE_VERSION: &str = "sys/module/virtio_mem/version";

/// How often a device is looked at until its files agree with each other.
const ATTEMPTS: usize = 4;

/// A device as it was seen once.
#[derive(Debug)]
pub(crate) struct View {
    /// What is known.
    pub(crate) device: Device,
    /// Why something is not known.
    pub(crate) note: Option<String>,
    /// What could not be read.
    pub(crate) errors: Vec<Error>,
    /// Whether what was read fits together.
    consistent: bool,
    /// Whether the driver's attributes do not.
    pub(crate) torn: bool,
}

/// Looks at a device until what is read fits together, but not for ever. `None` if it is another
/// kind of device.
pub(crate) fn observe(root: &Root, name: &str, cache: &mut Cache) -> Result<Option<View>> {
    settle(|| {
        let Some(device) = bus::look(root, name)? else {
            return Ok(None);
        };
        let view = view(root, &device, cache)?;
        if !view.consistent {
            cache.remove(name);
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
    use std::io::ErrorKind;
    use std::path::Path;

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
}
