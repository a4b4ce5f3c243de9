// SPDX-License-Identifier: GPL-2.0

//! The table a person reads.

use crate::bus;
use crate::size::Size;
use crate::status::Device;
use comfy_table::presets;
use comfy_table::CellAlignment;
use comfy_table::ContentArrangement;
use comfy_table::Table;

/// What stands for a value that cannot be known.
const UNKNOWN: &str = "unknown";

/// A column of sizes.
struct Column {
    title: &'static str,
    value: fn(&Device) -> Option<u64>,
    /// Whether it is shown even if no device's value is known.
    always: bool,
}

/// The sizes, in the order in which they are shown.
const COLUMNS: [Column; 9] = [
    column("BLOCK", |device| device.block_size, false),
    column("REGION", |device| device.region_size, true),
    column("USABLE", |device| device.usable_region_size, false),
    column("REQUESTED", |device| device.requested_size, true),
    column("PLUGGED", |device| device.plugged_size, true),
    column("ADDED", |device| device.added_size, true),
    column("MOVABLE", |device| device.online_movable_size, false),
    column("KERNEL", |device| device.online_kernel_size, false),
    column("OFFLINE", |device| device.offline_size, false),
];

const fn column(title: &'static str, value: fn(&Device) -> Option<u64>, always: bool) -> Column {
    Column {
        title,
        value,
        always,
    }
}

/// Lays out one line per device under a line of titles.
pub(crate) fn render(devices: &[Device], bytes: bool) -> String {
    let shown: Vec<_> = COLUMNS
        .iter()
        .filter(|column| {
            column.always
                || devices
                    .iter()
                    .any(|device| (column.value)(device).is_some())
        })
        .collect();
    let size = |value: Option<u64>| match value {
        None => UNKNOWN.into(),
        Some(value) if bytes => value.to_string(),
        Some(value) => Size(value).to_string(),
    };

    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(
            ["DEVICE", "NODE"]
                .into_iter()
                .chain(shown.iter().map(|column| column.title))
                .chain(["STATE"]),
        );
    for device in devices {
        let node = device.node.map_or(UNKNOWN.into(), |node| node.to_string());
        let sizes = shown.iter().map(|column| size((column.value)(device)));
        let first = [device.device.clone(), node].into_iter();
        table.add_row(first.chain(sizes).chain([state(device)]));
    }

    let last = table.column_count().saturating_sub(1);
    for (index, column) in table.column_iter_mut().enumerate() {
        let left = if index == 0 { 0 } else { 1 };
        column.set_padding((left, 1));
        if index != 0 && index != last {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// What the device is doing, in a few words.
fn state(device: &Device) -> String {
    match &device.driver {
        None => return "no driver bound".into(),
        Some(driver) if driver != bus::DRIVER => {
            return format!("bound to {}", driver.escape_default());
        }
        Some(_) => {}
    }
    match (device.state.as_deref(), device.reason.as_deref()) {
        (None, _) => UNKNOWN.into(),
        (Some(state), None | Some("none")) => state.into(),
        (Some(state), Some(reason)) => format!("{state}: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> Device {
        Device {
            device: "virtio0".into(),
            driver: Some(bus::DRIVER.into()),
            ..Device::default()
        }
    }

    #[test]
    fn states() {
        let mut device = device();
        assert_eq!(state(&device), "unknown");
        device.state = Some("waiting".into());
        assert_eq!(state(&device), "waiting");
        device.reason = Some("none".into());
        assert_eq!(state(&device), "waiting");
        device.reason = Some("memory-in-use".into());
        assert_eq!(state(&device), "waiting: memory-in-use");
        device.driver = Some("vfio\u{1b}".into());
        assert_eq!(state(&device), "bound to vfio\\u{1b}");
        device.driver = None;
        assert_eq!(state(&device), "no driver bound");
    }

    #[test]
    fn layout() {
        let known = Device {
            node: Some(1),
            region_size: Some(16 << 30),
            added_size: Some(1664 << 20),
            ..device()
        };

        assert_eq!(
            render(&[known, device()], false),
            "DEVICE      NODE   REGION  REQUESTED  PLUGGED     ADDED  STATE
virtio0        1   16 GiB    unknown  unknown  1664 MiB  unknown
virtio0  unknown  unknown    unknown  unknown   unknown  unknown"
        );
    }
}
