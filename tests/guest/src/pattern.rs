// SPDX-License-Identifier: GPL-2.0

//! The content of a page, a function of its index and a seed: any page that
//! arrives in the wrong place, stale or zeroed is recognised.

/// From one word of a page to the next.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// So many words, of which a page has a multiple, are looked at between two branches, each of which costs an emulated processor as much
/// as several words.
const RUN: usize = 16;

/// Fills a page.
pub(crate) fn fill(page: &mut [u64], seed: u64, index: usize) {
    let mut first = base(seed, index);
    for run in page.chunks_exact_mut(RUN) {
        for (offset, word) in (0_u64..).zip(run) {
            *word = first.wrapping_add(offset.wrapping_mul(STEP));
        }
        first = first.wrapping_add((RUN as u64).wrapping_mul(STEP));
    }
}

/// Whether a page is still as [`fill`] left it.
pub(crate) fn intact(page: &[u64], seed: u64, index: usize) -> bool {
    let mut first = base(seed, index);
    page.chunks_exact(RUN).all(|run| {
        let wrong = (0_u64..).zip(run).fold(0, |wrong, (offset, word)| {
            wrong | (word ^ first.wrapping_add(offset.wrapping_mul(STEP)))
        });
        first = first.wrapping_add((RUN as u64).wrapping_mul(STEP));
        wrong == 0
    })
}

/// The first word of a page.
fn base(seed: u64, index: usize) -> u64 {
    mix(seed.wrapping_add(index as u64))
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
