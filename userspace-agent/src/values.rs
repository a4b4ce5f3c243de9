// SPDX-License-Identifier: GPL-2.0

//! The few kinds of value that the kernel's small text files hold.
//!
//! Nothing here trusts what it reads: numbers have to be written the way the kernel writes them, and
//! words consist of letters that cannot upset a terminal.

/// The longest word taken for one.
const WORD_LIMIT: usize = 64;

/// N from `prefixN`, if N is written as the kernel writes it: decimal, no sign, no leading zeros.
pub(crate) fn number_after(prefix: &str, name: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    if digits.len() > 1 && digits.starts_with('0') {
        return None;
    }
    decimal(digits)
}

/// A decimal number without a sign.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    digits(text, 10)
}

/// A hexadecimal number, with or without `0x`.
pub(crate) fn hexadecimal(text: &str) -> Option<u64> {
    digits(text.strip_prefix("0x").unwrap_or(text), 16)
}

/// A NUMA node, or -1 for none.
pub(crate) fn node(text: &str) -> Option<Option<u32>> {
    if text == "-1" {
        return Some(None);
    }
    decimal(text)?.try_into().ok().map(Some)
}

/// A number of milliseconds, or -1 for none.
pub(crate) fn milliseconds(text: &str) -> Option<Option<u64>> {
    if text == "-1" {
        return Some(None);
    }
    decimal(text).map(Some)
}

/// A word as in a state or reason: lower-case letters, digits, dashes.
pub(crate) fn word(text: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';

    (!text.is_empty() && text.len() <= WORD_LIMIT && text.chars().all(fits)).then(|| text.into())
}

/// A version: visible characters of ASCII.
pub(crate) fn version(text: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_graphic();

    (!text.is_empty() && text.len() <= WORD_LIMIT && text.chars().all(fits)).then(|| text.into())
}

/// Any number of words, separated by one space.
pub(crate) fn words(text: &str) -> Option<Vec<String>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(' ').map(word).collect()
}

/// Digits and nothing else: `from_str_radix` alone would take a sign too.
fn digits(text: &str, radix: u32) -> Option<u64> {
    if !text.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(text, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_what_the_kernel_writes() {
        assert_eq!(decimal("18446744073709551615"), Some(u64::MAX));
        assert_eq!(hexadecimal("8000000"), Some(128 << 20));
        assert_eq!(hexadecimal("0x0018"), Some(24));
        for bad in [
            "",
            "+1",
            "-1",
            " 1",
            "1 ",
            "18446744073709551616",
            "0x",
            "1\n",
        ] {
            assert_eq!(decimal(bad), None, "{bad:?}");
        }
        for bad in ["", "0x", "0x0x1", "g", "+1", "1ffffffffffffffff"] {
            assert_eq!(hexadecimal(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn names_have_one_spelling() {
        assert_eq!(number_after("virtio", "virtio0"), Some(0));
        assert_eq!(number_after("virtio", "virtio10"), Some(10));
        for bad in [
            "virtio", "virtio01", "virtio+1", "virtio1a", "memory1", "virtio-1",
        ] {
            assert_eq!(number_after("virtio", bad), None, "{bad:?}");
        }
    }

    #[test]
    fn nodes_and_words() {
        assert_eq!(node("3"), Some(Some(3)));
        assert_eq!(node("-1"), Some(None));
        assert_eq!(node("-2"), None);
        assert_eq!(node("4294967296"), None);
        assert_eq!(word("memory-in-use").as_deref(), Some("memory-in-use"));
        assert_eq!(word(""), None);
        assert_eq!(word("\u{1b}[2J"), None);
        assert_eq!(word(&"a".repeat(65)), None);
        assert_eq!(words(""), Some(vec![]));
        assert_eq!(words("plug busy"), Some(vec!["plug".into(), "busy".into()]));
        assert_eq!(words("plug  busy"), None);
        assert_eq!(words("plug \u{1b}"), None);
    }

    #[test]
    fn times() {
        assert_eq!(milliseconds("250"), Some(Some(250)));
        assert_eq!(milliseconds("-1"), Some(None));
        assert_eq!(milliseconds("-2"), None);
        assert_eq!(milliseconds(""), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let text = String::from_utf8_lossy(&bytes);
            let _ = (decimal(&text), hexadecimal(&text), node(&text));
            let _ = number_after("virtio", &text);
            if let Some(word) = word(&text) {
                prop_assert!(word.chars().all(|c| c.is_ascii_graphic()));
            }
        }

        #[test]
        fn numbers_come_back(number: u64) {
            prop_assert_eq!(decimal(&number.to_string()), Some(number));
            prop_assert_eq!(hexadecimal(&format!("{number:x}")), Some(number));
            prop_assert_eq!(number_after("memory", &format!("memory{number}")), Some(number));
        }
    }
}
