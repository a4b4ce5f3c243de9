// SPDX-License-Identifier: GPL-2.0

//! The columns of the table: what each shows of a device, and when it is there.

use crate::bar;
use crate::bus;
use crate::size::Size;
use crate::status::Device;
use anstyle::AnsiColor;
use anstyle::Style;
use virtio_mem_core::vocabulary::State;

/// What stands for a value that cannot be known.
pub(crate) const UNKNOWN: &str = "unknown";

/// What sizes and bars depend on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Form {
    /// Whether sizes are in bytes.
    pub(crate) bytes: bool,
    /// Whether all is shown that is known.
    pub(crate) wide: bool,
    /// Whether there are bars.
    pub(crate) bars: bool,
}

/// When a column is shown, unless it is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum When {
    /// Always.
    Always,
    /// If it is not 0 for every device.
    Some,
    /// If it stands in for a plugged size that is not known.
    PluggedUnknown,
    /// If all is asked for, and it is known of a device.
    Wide,
    /// If there are bars, and one for a device.
    Bars,
    /// If it is known of a device.
    Known,
    /// Never.
    Asked,
}

/// What a column shows.
#[derive(Clone, Copy)]
enum Value {
    /// A size.
    Size(fn(&Device) -> Option<u64>),
    /// Something else, if it is known.
    Text(fn(&Device) -> Option<String>),
}

/// A column.
pub(crate) struct Column {
    /// What it is asked for by.
    pub(crate) name: &'static str,
    /// What stands above it.
    pub(crate) title: &'static str,
    /// Whether it is of numbers, which belong to the right.
    pub(crate) right: bool,
    value: Value,
    when: When,
}

const fn size(
    name: &'static str,
    title: &'static str,
    value: fn(&Device) -> Option<u64>,
    when: When,
) -> Column {
    Column {
        name,
        title,
        right: true,
        value: Value::Size(value),
        when,
    }
}

const fn text(
    name: &'static str,
    title: &'static str,
    value: fn(&Device) -> Option<String>,
    when: When,
) -> Column {
    Column {
        name,
        title,
        right: false,
        value: Value::Text(value),
        when,
    }
}

/// All columns, in the order in which they are shown.
pub(crate) const COLUMNS: &[Column] = &[
    text("device", "DEVICE", |d| Some(d.device.clone()), When::Always),
    Column {
        right: true,
        ..text(
            "node",
            "NODE",
            |d| d.node.map(|n| n.to_string()),
            When::Always,
        )
    },
    text("driver", "DRIVER", |d| d.driver.clone(), When::Asked),
    text(
        "version",
        "VERSION",
        |d| d.driver_version.clone(),
        When::Asked,
    ),
    text("mode", "MODE", |d| d.mode.clone(), When::Asked),
    text(
        "start",
        "START",
        |d| d.start_address.map(|a| format!("{a:#x}")),
        When::Asked,
    ),
    size("block", "BLOCK", |d| d.block_size, When::Wide),
    size("region", "REGION", |d| d.region_size, When::Always),
    size("usable", "USABLE", |d| d.usable_region_size, When::Wide),
    size("requested", "REQUESTED", |d| d.requested_size, When::Always),
    size("plugged", "PLUGGED", |d| d.plugged_size, When::Always),
    size("added", "ADDED", |d| d.added_size, When::PluggedUnknown),
    size("movable", "MOVABLE", movable_size, When::Wide),
    size("kernel", "KERNEL", kernel_size, When::Some),
    size("offline", "OFFLINE", offline_size, When::Some),
    size(
        "not-added",
        "NOT-ADDED",
        |d| d.plugged_not_added_size,
        When::Some,
    ),
    text("bar", "OF REGION", bar::of, When::Bars),
    text("state", "STATE", |d| Some(state(d)), When::Always),
    text(
        "reason",
        "REASON",
        |d| d.reason.as_ref().map(|r| r.to_string()),
        When::Asked,
    ),
    text("next-try", "NEXT TRY", next_attempt, When::Known),
    Column {
        right: true,
        ..text(
            "attempts",
            "ATTEMPTS",
            |d| d.attempts.map(|n| n.to_string()),
            When::Asked,
        )
    },
    text(
        "last-error",
        "LAST ERROR",
        |d| d.last_error.clone(),
        When::Asked,
    ),
];

/// The names of all columns.
pub(crate) fn names() -> Vec<&'static str> {
    COLUMNS.iter().map(|column| column.name).collect()
}

/// The columns of these names, in the order of the names.
pub(crate) fn named(names: &[String]) -> Vec<&'static Column> {
    let named = |name: &String| {
        let is_so = |column: &&Column| column.name.eq_ignore_ascii_case(name);
        COLUMNS.iter().find(is_so)
    };
    names.iter().filter_map(named).collect()
}

/// The columns that say something of these devices.
pub(crate) fn shown(devices: &[Device], form: Form) -> Vec<&'static Column> {
    let is_shown = |column: &&Column| column.is_shown(devices, form);
    COLUMNS.iter().filter(is_shown).collect()
}

impl Column {
    /// What it shows of a device.
    pub(crate) fn text(&self, device: &Device, form: Form) -> String {
        let text = match self.value {
            Value::Size(value) if form.bytes => value(device).map(|size| size.to_string()),
            Value::Size(value) => value(device).map(|size| Size(size).to_string()),
            Value::Text(value) => value(device),
        };
        text.unwrap_or_else(|| match self.when {
            When::Known => "-".into(),
            When::Bars => String::new(),
            _ => UNKNOWN.into(),
        })
    }

    /// In which style it does so.
    pub(crate) fn style(&self, device: &Device) -> Style {
        match self.name {
            "state" => state_style(device),
            _ => Style::new(),
        }
    }

    fn is_shown(&self, devices: &[Device], form: Form) -> bool {
        let size = |device: &Device| match self.value {
            Value::Size(value) => value(device),
            Value::Text(value) => value(device).map(|_| 1),
        };
        let any = |test: &dyn Fn(&Device, u64) -> bool| {
            devices
                .iter()
                .any(|device| size(device).is_some_and(|value| test(device, value)))
        };

        match self.when {
            When::Always => true,
            When::Asked => false,
            When::Bars => form.bars && any(&|_, _| true),
            When::Known => any(&|_, _| true),
            _ if form.wide => any(&|_, _| true),
            When::Some => any(&|_, value| value != 0),
            When::PluggedUnknown => any(&|device, _| device.plugged_size.is_none()),
            When::Wide => false,
        }
    }
}

/// What is plugged in ZONE_MOVABLE. A driver that does not tell what is plugged has whole memory blocks
/// shown, as it has in ADDED.
fn movable_size(device: &Device) -> Option<u64> {
    device.plugged_movable_size.or(device.online_movable_size)
}

/// What is plugged in a kernel zone: as [`movable_size`].
fn kernel_size(device: &Device) -> Option<u64> {
    device.plugged_kernel_size.or(device.online_kernel_size)
}

/// What is plugged in memory blocks that are offline: as [`movable_size`].
fn offline_size(device: &Device) -> Option<u64> {
    device.plugged_offline_size.or(device.offline_size)
}

/// What the device is doing, in a few words.
pub(crate) fn state(device: &Device) -> String {
    match &device.driver {
        None => return "no driver bound".into(),
        Some(driver) if driver != bus::DRIVER => {
            return format!("bound to {driver}");
        }
        Some(_) => {}
    }
    match (&device.state, device.hindrance()) {
        (None, _) => UNKNOWN.into(),
        (Some(state), None) => state.to_string(),
        (Some(state), Some(reason)) => format!("{state}: {reason}"),
    }
}

/// Green is well, cyan under way, yellow waiting, red in need of an administrator.
fn state_style(device: &Device) -> Style {
    let colour = match device.state.as_ref().map(|state| state.known()) {
        None if !device.is_driven() => AnsiColor::Red,
        None | Some(None) => return Style::new(),
        Some(Some(State::Settled)) => AnsiColor::Green,
        Some(Some(State::Plugging | State::Unplugging)) => AnsiColor::Cyan,
        Some(Some(State::Waiting | State::Suspended)) => AnsiColor::Yellow,
        Some(Some(State::Stalled)) => AnsiColor::Red,
    };
    colour.on_default()
}

/// When the driver tries again, without false precision.
fn next_attempt(device: &Device) -> Option<String> {
    Some(match device.next_attempt_ms? {
        milliseconds @ ..1000 => format!("{milliseconds} ms"),
        milliseconds => format!("{} s", milliseconds / 1000),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Word;

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
        device.state = Some(Word::new("waiting".into()));
        assert_eq!(state(&device), "waiting");
        device.reason = Some(Word::new("none".into()));
        assert_eq!(state(&device), "waiting");
        device.reason = Some(Word::new("memory-in-use".into()));
        assert_eq!(state(&device), "waiting: memory-in-use");
        device.driver = Some("vfio".into());
        assert_eq!(state(&device), "bound to vfio");
        device.driver = None;
        assert_eq!(state(&device), "no driver bound");
    }

    #[test]
    fn times() {
        let mut device = device();
        assert_eq!(next_attempt(&device), None);
        device.next_attempt_ms = Some(250);
        assert_eq!(next_attempt(&device).as_deref(), Some("250 ms"));
        device.next_attempt_ms = Some(2999);
        assert_eq!(next_attempt(&device).as_deref(), Some("2 s"));
    }

    #[test]
    fn columns_are_found_by_their_names() {
        let names: std::collections::BTreeSet<_> = names().into_iter().collect();
        assert_eq!(names.len(), COLUMNS.len());
        let found = named(&["STATE".into(), "next-try".into(), "x".into()]);
        let titles: Vec<_> = found.iter().map(|column| column.title).collect();
        assert_eq!(titles, ["STATE", "NEXT TRY"]);
    }
}
