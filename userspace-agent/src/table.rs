// SPDX-License-Identifier: GPL-2.0

//! The table a person reads, and what there is to say below it.

use crate::advice;
use crate::bar;
use crate::bus;
use crate::size::Size;
use crate::status::Device;
use anstyle::AnsiColor;
use anstyle::Style;
use std::fmt::Write;
use std::io;
use std::io::IsTerminal;
use virtio_mem_core::vocabulary::State;

/// What stands for a value that cannot be known.
pub(crate) const UNKNOWN: &str = "unknown";
/// What stands between two columns.
const GAP: &str = "  ";

/// How the table is to look.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Look {
    /// Whether sizes are in bytes.
    pub(crate) bytes: bool,
    /// Whether all is shown that is known.
    pub(crate) wide: bool,
    /// Whether there are bars.
    pub(crate) bars: bool,
    /// Whether there are colours.
    pub(crate) colours: bool,
}

impl Look {
    /// Bars and colours where standard output is a terminal that has them; no colours for those
    /// who have set `NO_COLOR`.
    pub(crate) fn for_stdout(bytes: bool, wide: bool) -> Self {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let bars = io::stdout().is_terminal();
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");

        Self {
            bytes,
            wide,
            bars,
            colours: bars && !dumb && !is_set("NO_COLOR"),
        }
    }
}

/// When a column of sizes is shown.
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
}

/// A column of sizes.
struct Column {
    title: &'static str,
    value: fn(&Device) -> Option<u64>,
    when: When,
}

/// The sizes, in the order in which they are shown.
const COLUMNS: [Column; 10] = [
    column("BLOCK", |device| device.block_size, When::Wide),
    column("REGION", |device| device.region_size, When::Always),
    column("USABLE", |device| device.usable_region_size, When::Wide),
    column("REQUESTED", |device| device.requested_size, When::Always),
    column("PLUGGED", |device| device.plugged_size, When::Always),
    column("ADDED", |device| device.added_size, When::PluggedUnknown),
    column("MOVABLE", movable_size, When::Wide),
    column("KERNEL", kernel_size, When::Some),
    column("OFFLINE", offline_size, When::Some),
    column(
        "NOT-ADDED",
        |device| device.plugged_not_added_size,
        When::Some,
    ),
];

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

const fn column(title: &'static str, value: fn(&Device) -> Option<u64>, when: When) -> Column {
    Column { title, value, when }
}

impl Column {
    fn is_shown(&self, devices: &[Device], look: Look) -> bool {
        let any = |test: &dyn Fn(&Device, u64) -> bool| {
            devices
                .iter()
                .any(|device| (self.value)(device).is_some_and(|value| test(device, value)))
        };

        match self.when {
            When::Always => true,
            _ if look.wide => any(&|_, _| true),
            When::Some => any(&|_, value| value != 0),
            When::PluggedUnknown => any(&|device, _| device.plugged_size.is_none()),
            When::Wide => false,
        }
    }
}

/// What stands in a row and column.
#[derive(Clone, Debug, Default)]
struct Cell {
    text: String,
    style: Style,
    /// Whether it belongs to the right of its column, as numbers do.
    right: bool,
}

impl Cell {
    fn left(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    fn right(text: impl Into<String>) -> Self {
        Self {
            right: true,
            ..Self::left(text)
        }
    }

    fn styled(self, style: Style) -> Self {
        Self { style, ..self }
    }
}

/// Lays out one line per device under a line of titles, and below it what there is to say of
/// devices that have not done what is requested. Every line ends with a line feed.
pub(crate) fn render(devices: &[Device], look: Look) -> String {
    let mut text = lay_out(&rows(devices, look), look);

    for device in devices {
        if let Some(advice) = advice::of(device) {
            let name = paint(&device.device, Style::new().bold(), look);
            let indent = device.device.len() + 2;
            // Writing to a string does not fail.
            let _ = writeln!(text, "\n{name}: {}", advice.matter);
            let more = if advice.doctor {
                "; see `virtio-mem-agent doctor`"
            } else {
                ""
            };
            let _ = writeln!(text, "{:indent$}{}{more}", "", advice.remedy);
        }
    }
    text
}

/// The titles and the devices.
fn rows(devices: &[Device], look: Look) -> Vec<Vec<Cell>> {
    let sizes: Vec<_> = COLUMNS
        .iter()
        .filter(|column| column.is_shown(devices, look))
        .collect();
    let bars = look.bars && devices.iter().any(|device| bar::of(device).is_some());
    let next = devices
        .iter()
        .any(|device| device.next_attempt_ms.is_some());

    let mut titles = vec![Cell::left("DEVICE"), Cell::right("NODE")];
    titles.extend(sizes.iter().map(|column| Cell::right(column.title)));
    titles.extend(bars.then(|| Cell::left("OF REGION")));
    titles.push(Cell::left("STATE"));
    titles.extend(next.then(|| Cell::left("NEXT TRY")));
    for title in &mut titles {
        title.style = Style::new().bold();
    }

    let row = |device: &Device| {
        let mut row = vec![
            Cell::left(&device.device),
            Cell::right(device.node.map_or(UNKNOWN.into(), |node| node.to_string())),
        ];
        row.extend(
            sizes
                .iter()
                .map(|column| size((column.value)(device), look)),
        );
        row.extend(bars.then(|| Cell::left(bar::of(device).unwrap_or_default())));
        row.push(Cell::left(state(device)).styled(state_style(device)));
        row.extend(next.then(|| Cell::left(next_attempt(device.next_attempt_ms))));
        row
    };
    std::iter::once(titles)
        .chain(devices.iter().map(row))
        .collect()
}

/// Makes every column as wide as its widest cell.
fn lay_out(rows: &[Vec<Cell>], look: Look) -> String {
    let widths: Vec<_> = (0..rows.first().map_or(0, Vec::len))
        .map(|index| {
            let cells = rows.iter().filter_map(|row| row.get(index));
            cells
                .map(|cell| cell.text.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();

    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            if !line.is_empty() {
                line.push_str(GAP);
            }
            // Padding stays outside of what is painted.
            let pad = " ".repeat(width.saturating_sub(cell.text.chars().count()));
            let painted = paint(&cell.text, cell.style, look);
            let parts = if cell.right {
                [&pad, &painted]
            } else {
                [&painted, &pad]
            };
            line.extend(parts.map(String::as_str));
        }
        text.push_str(line.trim_end_matches(' '));
        text.push('\n');
    }
    text
}

/// A text in a style, if there are styles.
fn paint(text: &str, style: Style, look: Look) -> String {
    if look.colours && style != Style::new() {
        format!("{style}{text}{style:#}")
    } else {
        text.into()
    }
}

fn size(value: Option<u64>, look: Look) -> Cell {
    Cell::right(match value {
        None => UNKNOWN.into(),
        Some(value) if look.bytes => value.to_string(),
        Some(value) => Size(value).to_string(),
    })
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

/// Green is well, cyan under way, yellow waiting, red in need of somebody.
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
fn next_attempt(milliseconds: Option<u64>) -> String {
    match milliseconds {
        None => "-".into(),
        Some(milliseconds @ ..1000) => format!("{milliseconds} ms"),
        Some(milliseconds) => format!("{} s", milliseconds / 1000),
    }
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
        assert_eq!(next_attempt(None), "-");
        assert_eq!(next_attempt(Some(250)), "250 ms");
        assert_eq!(next_attempt(Some(2999)), "2 s");
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
            render(&[known, device()], Look::default()),
            "DEVICE      NODE   REGION  REQUESTED  PLUGGED     ADDED  STATE
virtio0        1   16 GiB    unknown  unknown  1664 MiB  unknown
virtio0  unknown  unknown    unknown  unknown   unknown  unknown
"
        );
    }

    #[test]
    fn on_a_terminal() {
        let device = Device {
            node: Some(0),
            region_size: Some(16 << 30),
            requested_size: Some(1536 << 20),
            plugged_size: Some(3 << 30),
            state: Some(Word::new("waiting".into())),
            reason: Some(Word::new("memory-in-use".into())),
            next_attempt_ms: Some(2500),
            ..device()
        };
        let look = Look {
            bars: true,
            ..Look::default()
        };
        let text = render(&[device.clone()], look);

        assert!(text.starts_with(
            "DEVICE   NODE  REGION  REQUESTED  PLUGGED  OF REGION         STATE                   NEXT TRY
virtio0     0  16 GiB   1536 MiB    3 GiB  #xx.............  waiting: memory-in-use  2 s

virtio0: memory that should go is in use and cannot be migrated
         end or restart what uses it"
        ));
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");

        let colours = Look {
            colours: true,
            ..look
        };
        let painted = render(&[device], colours);
        assert!(painted.contains("\u{1b}[33mwaiting: memory-in-use\u{1b}[0m  2 s\n"));
    }
}
