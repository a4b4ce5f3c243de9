// SPDX-License-Identifier: GPL-2.0

//! Text that cannot upset a terminal.

/// Escapes what is a control character to a terminal. Names of files and drivers may hold any.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());

    for c in text.chars() {
        if c.is_control() {
            plain.extend(c.escape_default());
        } else {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(
            plain("a\u{1b}[2J\n\u{e9}\u{9b}"),
            "a\\u{1b}[2J\\n\u{e9}\\u{9b}"
        );
    }
}
