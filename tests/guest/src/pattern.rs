// SPDX-License-Identifier: GPL-2.0

//! The content of a page, a function of its index and a seed: any page that
//! arrives in the wrong place, stale or zeroed is recognised.

/// Fills a page.
pub(crate) fn fill(page: &mut [u64], seed: u64, index: usize) {
    for (word, value) in page.iter_mut().zip(words(seed, index)) {
        *word = value;
    }
}

/// Whether a page is still as [`fill`] left it.
pub(crate) fn intact(page: &[u64], seed: u64, index: usize) -> bool {
    page.iter()
        .zip(words(seed, index))
        .all(|(word, value)| *word == value)
}

fn words(seed: u64, index: usize) -> impl Iterator<Item = u64> {
    let base = mix(seed.wrapping_add(index as u64));
    (0u64..).map(move |offset| base.wrapping_add(offset.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// The finaliser of splitmix64.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::fill;
    use super::intact;

    #[test]
    fn a_page_knows_itself_and_no_other() {
        let mut page = [0; 512];
        assert!(!intact(&page, 7, 3));
        fill(&mut page, 7, 3);
        assert!(intact(&page, 7, 3));
        assert!(!intact(&page, 7, 4));
        assert!(!intact(&page, 8, 3));
        page[511] ^= 1 << 63;
        assert!(!intact(&page, 7, 3));
    }
}
