// SPDX-License-Identifier: GPL-2.0

//! The table a person reads, and what there is to say below it.

use crate::advice;
use crate::columns;
use crate::columns::Column;
use crate::columns::Form;
use crate::status::Device;
use crate::terminal;
use anstyle::Style;
use std::fmt::Write;
use std::io;
use std::io::IsTerminal;

/// What stands between two columns.
const GAP: &str = "  ";

/// How the table is to look.
#[derive(Clone, Default)]
pub(crate) struct Look {
    /// How values are shown.
    pub(crate) form: Form,
    /// The columns that are asked for, if any.
    pub(crate) columns: Option<Vec<&'static Column>>,
    /// Whether the titles are left out.
    pub(crate) bare: bool,
    /// Whether there are colours.
    pub(crate) colours: bool,
}

impl Look {
    /// Bars and colours where standard output is a terminal that has them; no colours for those
    /// who have set `NO_COLOR`.
    pub(crate) fn for_stdout(bytes: bool, wide: bool) -> Self {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let form = Form {
            bytes,
            wide,
            bars: io::stdout().is_terminal(),
        };

        Self {
            form,
            colours: terminal::can_redraw(io::stdout()) && !is_set("NO_COLOR"),
            ..Self::default()
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

/// Lays out one line per device under a line of titles, and below it what there is to say of
/// devices that have not done what is requested, unless columns are asked for or titles left out: then
/// a program reads it. Every line ends with a line feed.
pub(crate) fn render(devices: &[Device], look: &Look) -> String {
    let mut text = lay_out(&rows(devices, look), look);
    if look.columns.is_some() || look.bare {
        return text;
    }

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
fn rows(devices: &[Device], look: &Look) -> Vec<Vec<Cell>> {
    let columns = match &look.columns {
        Some(columns) => columns.clone(),
        None => columns::shown(devices, look.form),
    };
    let cell = |column: &Column, text: String| Cell {
        text,
        right: column.right,
        ..Cell::default()
    };
    let title = |column: &&Column| Cell {
        style: Style::new().bold(),
        ..cell(column, column.title.into())
    };
    let row = |device: &Device| {
        let cells = columns.iter().map(|column| Cell {
            style: column.style(device),
            ..cell(column, column.text(device, look.form))
        });
        cells.collect()
    };

    let titles = (!look.bare).then(|| columns.iter().map(title).collect());
    titles.into_iter().chain(devices.iter().map(row)).collect()
}

/// Makes every column as wide as its widest cell.
fn lay_out(rows: &[Vec<Cell>], look: &Look) -> String {
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
fn paint(text: &str, style: Style, look: &Look) -> String {
    if look.colours && style != Style::new() {
        format!("{style}{text}{style:#}")
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus;
    use crate::words::Word;

    fn device() -> Device {
        Device {
            device: "virtio0".into(),
            driver: Some(bus::DRIVER.into()),
            ..Device::default()
        }
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
            render(&[known, device()], &Look::default()),
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
        let form = Form {
            bars: true,
            ..Form::default()
        };
        let look = Look {
            form,
            ..Look::default()
        };
        let text = render(&[device.clone()], &look);

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
        let painted = render(&[device], &colours);
        assert!(painted.contains("\u{1b}[33mwaiting: memory-in-use\u{1b}[0m  2 s\n"));
    }
}
