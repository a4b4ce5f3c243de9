// SPDX-License-Identifier: GPL-2.0

//! Sizes as people read them.

use std::fmt;

/// Units from the largest to the smallest.
const UNITS: [(u32, &str); 6] = [
    (60, "EiB"),
    (50, "PiB"),
    (40, "TiB"),
    (30, "GiB"),
    (20, "MiB"),
    (10, "KiB"),
];

/// A size that prints itself in the largest unit that gives a whole number: 2 GiB, but 1538 MiB.
/// Nothing is ever rounded away.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS
            .iter()
            .find(|(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= *shift);

        match unit {
            Some((shift, name)) => write!(f, "{} {name}", self.0 >> shift),
            None => write!(f, "{} B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn largest_whole_unit() {
        let text = |bytes| Size(bytes).to_string();

        assert_eq!(text(0), "0 B");
        assert_eq!(text(1538 << 20), "1538 MiB");
        assert_eq!(text(2 << 30), "2 GiB");
        assert_eq!(text(3 << 40), "3 TiB");
        assert_eq!(text((1 << 30) + 1), "1073741825 B");
        assert_eq!(text(u64::MAX), "18446744073709551615 B");
        assert_eq!(text(1 << 63), "8 EiB");
    }

    proptest! {
        #[test]
        fn nothing_is_lost(bytes: u64, shift in 0_u32..64) {
            let bytes = bytes << shift;
            let text = Size(bytes).to_string();
            let (number, unit) = text.split_once(' ').unwrap();
            let shift = UNITS.iter().find(|(_, name)| *name == unit).map_or(0, |(shift, _)| *shift);

            prop_assert_eq!(number.parse::<u64>().unwrap() << shift, bytes);
        }
    }
}
