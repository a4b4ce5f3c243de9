// SPDX-License-Identifier: GPL-2.0

//! Sizes as people read and write them.

use std::fmt;
use std::str::FromStr;

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

/// What may be written for a size.
const EXPECTED: &str = "expected a number of bytes, or a number with a unit: K, M, G, T, P, E \
                        (or KiB, MiB ...), of 1024 each";

impl FromStr for Size {
    type Err = &'static str;

    /// Takes `536870912`, `512M` and `512 MiB` for the same.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let end = text.find(|c: char| !c.is_ascii_digit());
        let (number, unit) = text.split_at(end.unwrap_or(text.len()));
        let number: u64 = number.parse().map_err(|_| EXPECTED)?;
        let unit = unit.trim_start_matches(' ');
        let is_unit = |name: &str| {
            // "GB" could be a power of ten as well, and is refused.
            [name, &name[..1]]
                .iter()
                .any(|name| name.eq_ignore_ascii_case(unit))
        };
        let shift = match unit {
            "" | "B" => 0,
            _ => {
                let found = UNITS.iter().find(|(_, name)| is_unit(name));
                found.ok_or(EXPECTED)?.0
            }
        };

        let bytes = number.checked_mul(1 << shift);
        bytes
            .map(Self)
            .ok_or("expected at most 16 EiB less one byte")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::target;
    use crate::fuzz::text_of;
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

    #[test]
    fn what_people_write() {
        let size = |text: &str| text.parse::<Size>().map(|size| size.0).ok();

        assert_eq!(size("1073741824"), Some(1 << 30));
        assert_eq!(size("1G"), Some(1 << 30));
        assert_eq!(size("512MiB"), Some(512 << 20));
        assert_eq!(size("3 tib"), Some(3 << 40));
        assert_eq!(size("0"), Some(0));
        assert_eq!(size("7B"), Some(7));
        for bad in [
            "",
            "G",
            "1GB",
            "-1",
            "+1",
            "1.5G",
            "1 x",
            "16E",
            "18446744073709551616",
            "1é",
        ] {
            assert_eq!(size(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text: String) {
            let _ = text.parse::<Size>();
        }

        #[test]
        fn what_is_printed_is_read(bytes: u64, shift in 0_u32..64) {
            let bytes = bytes << shift;
            prop_assert_eq!(Size(bytes).to_string().parse::<Size>().unwrap().0, bytes);
        }

        #[test]
        fn nothing_is_lost(bytes: u64, shift in 0_u32..64) {
            let bytes = bytes << shift;
            let text = Size(bytes).to_string();
            let (number, unit) = text.split_once(' ').unwrap();
            let shift = UNITS.iter().find(|(_, name)| *name == unit).map_or(0, |(shift, _)| *shift);

            prop_assert_eq!(number.parse::<u64>().unwrap() << shift, bytes);
        }
    }

    #[test]
    fn any_size() {
        target("any_size", 24, |bytes| {
            let text = text_of(
                bytes,
                &[
                    "1",
                    "0",
                    "9",
                    " ",
                    "K",
                    "MiB",
                    "g",
                    "TiB",
                    "E",
                    "B",
                    "18446744073709551615",
                    "+",
                    "-",
                    ".",
                ],
            );
            if let Ok(Size(size)) = text.parse::<Size>() {
                assert_eq!(
                    Size(size).to_string().parse::<Size>().map(|size| size.0),
                    Ok(size)
                );
                assert!(text.starts_with(|c: char| c.is_ascii_digit()));
            }
            let _ = String::from_utf8_lossy(bytes).parse::<Size>();
        });
    }
}
