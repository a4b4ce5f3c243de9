// SPDX-License-Identifier: GPL-2.0

//! How much of a region is requested and plugged, at a glance.

use crate::status::Device;

/// How many characters stand for the whole region.
const CELLS: u16 = 16;

/// A bar for the device's region: `#` is plugged, `-` requested and still to come, `x` plugged and
/// to go, `.` the rest. ASCII, because a guest's console is often a serial line.
pub(crate) fn of(device: &Device) -> Option<String> {
    let region = device.region_size.filter(|size| *size != 0)?;
    let requested = cells(device.requested_size?, region);
    let plugged = cells(device.plugged_size?, region);
    let bar = (0..CELLS).map(|cell| match (cell < plugged, cell < requested) {
        (true, true) => '#',
        (true, false) => 'x',
        (false, true) => '-',
        (false, false) => '.',
    });

    Some(bar.collect())
}

/// The number of characters for a size: none for nothing, all for the whole region only.
fn cells(size: u64, region: u64) -> u16 {
    if size == 0 {
        0
    } else if size >= region {
        CELLS
    } else {
        let cells = u128::from(size) * u128::from(CELLS) / u128::from(region);
        u16::try_from(cells).map_or(CELLS, |cells| cells.clamp(1, CELLS - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bar(region: u64, requested: u64, plugged: u64) -> Option<String> {
        of(&Device {
            region_size: Some(region),
            requested_size: Some(requested),
            plugged_size: Some(plugged),
            ..Device::default()
        })
    }

    #[test]
    fn shapes() {
        assert_eq!(bar(16, 0, 0).as_deref(), Some("................"));
        assert_eq!(bar(16, 16, 16).as_deref(), Some("################"));
        assert_eq!(bar(16, 8, 4).as_deref(), Some("####----........"));
        assert_eq!(bar(16, 4, 8).as_deref(), Some("####xxxx........"));
        assert_eq!(bar(1 << 30, 1, 0).as_deref(), Some("-..............."));
        assert_eq!(
            bar(u64::MAX, u64::MAX - 1, u64::MAX).as_deref(),
            Some("###############x")
        );
        assert_eq!(bar(0, 1, 1), None);
        assert_eq!(of(&Device::default()), None);
    }

    proptest! {
        #[test]
        fn any_sizes_fit(region: u64, requested: u64, plugged: u64) {
            if let Some(bar) = bar(region, requested, plugged) {
                prop_assert_eq!(bar.len(), usize::from(CELLS));
            }
        }
    }
}
