// SPDX-License-Identifier: GPL-2.0

//! Ranges of physical addresses on the command line: `START-END` in hexadecimal,
//! the end not included.

use std::ops::Range;

/// The number, with or without `0x`.
pub(crate) fn parse_address(word: &str) -> Option<u64> {
    u64::from_str_radix(word.trim_start_matches("0x"), 16).ok()
}

pub(crate) fn parse_range(word: &str) -> Option<Range<u64>> {
    let (start, end) = word.split_once('-')?;
    let range = parse_address(start)?..parse_address(end)?;
    (!range.is_empty()).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::parse_range;

    #[test]
    fn ranges() {
        assert_eq!(parse_range("0x10-0x20"), Some(0x10..0x20));
        assert_eq!(parse_range("ab-abc"), Some(0xab..0xabc));
        for word in ["", "10", "10-", "20-10", "10-10", "1-2-3", "x-y"] {
            assert_eq!(parse_range(word), None, "{word}");
        }
    }
}
