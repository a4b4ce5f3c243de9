// SPDX-License-Identifier: GPL-2.0

//! What kind of terminal there is, and what fits it.

use std::io;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use terminal_size::terminal_size_of;

/// The end of an escape sequence that sets a style.
const STYLE_END: char = 'm';
/// Sets no style.
const RESET: &str = "\x1b[0m";

/// Whether this is a terminal on which text can be drawn over.
pub(crate) fn can_redraw(file: impl AsFd + IsTerminal) -> bool {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    file.is_terminal() && !is_dumb
}

/// How many columns and lines standard output has, if it is a terminal that tells.
pub(crate) fn size() -> Option<(usize, usize)> {
    size_of(io::stdout())
}

/// How many columns and lines a terminal has, if it tells. Some serial lines say 0.
pub(crate) fn size_of(file: impl AsFd) -> Option<(usize, usize)> {
    let (width, height) = terminal_size_of(file)?;
    (width.0 > 0 && height.0 > 0).then_some((width.0.into(), height.0.into()))
}

/// A line cut to a number of columns, of which styles take none.
pub(crate) fn cut(line: &str, width: usize) -> String {
    let (mut text, mut columns) = (String::new(), 0);
    let mut is_styled = false;
    let mut chars = line.chars();

    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            is_styled = true;
            text.push(c);
            for c in chars.by_ref() {
                text.push(c);
                if c == STYLE_END {
                    break;
                }
            }
        } else if columns == width {
            if is_styled {
                text.push_str(RESET);
            }
            return text;
        } else {
            columns += 1;
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut() {
        assert_eq!(cut("virtio0", 7), "virtio0");
        assert_eq!(cut("virtio0", 3), "vir");
        assert_eq!(cut("", 3), "");
        assert_eq!(
            cut("\u{1b}[33mwaiting\u{1b}[0m  x", 4),
            "\u{1b}[33mwait\u{1b}[0m"
        );
        assert_eq!(cut("\u{1b}[33mwait\u{1b}[0m", 4), "\u{1b}[33mwait\u{1b}[0m");
        assert_eq!(cut("\u{1b}", 1), "\u{1b}");
    }
}
