// SPDX-License-Identifier: GPL-2.0

//! Parsers fed with random bytes, in the tests of their modules. `tests/host/fuzz.sh` has these run
//! for longer than the moment that each takes by itself.

use bolero::produce;
use proptest::prelude::ProptestConfig;
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use std::time::Instant;

/// As many cases as `PROPTEST_CASES` says, or else so many.
pub(crate) fn cases(count: u32) -> ProptestConfig {
    let mut config = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = count;
    }
    config
}

/// Runs `case` for random bytes, at most so many, and says how many cases there were.
pub(crate) fn target(name: &str, most: usize, case: impl Fn(&[u8])) {
    let (begun, cases) = (Instant::now(), Cell::new(0_u64));
    let run = AssertUnwindSafe(|bytes: &[u8]| {
        cases.set(cases.get() + 1);
        case(bytes);
    });
    bolero::check!()
        .with_test_time(Duration::from_millis(500))
        .with_generator(produce::<Vec<u8>>().with().len(0..=most))
        .for_each(|bytes| {
            let run = &run;
            run.0(bytes);
        });
    let seconds = begun.elapsed().as_secs_f64();
    println!("{name}: {} cases in {seconds:.1} s", cases.get());
}

/// A text of what a parser knows, and of what it does not: each byte stands for a word, in the
/// upper half for itself.
pub(crate) fn text_of(bytes: &[u8], words: &[&str]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match words.get(usize::from(*byte)) {
            Some(word) => text.push_str(word),
            None if *byte < 128 => text.push_str(words[usize::from(*byte) % words.len()]),
            None => text.push(char::from(byte - 128)),
        }
    }
    text
}

/// Draws numbers from bytes: small ones, powers of two and what is one off, and any.
pub(crate) struct Numbers<'a>(pub(crate) &'a [u8]);

impl Numbers<'_> {
    /// The next byte; 0 when there are no more.
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        let kind = self.byte();
        let power = 1_u64 << (self.byte() % 64);
        match kind % 6 {
            0 => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
            1 => power.wrapping_sub(1),
            2 => 0_u64.wrapping_sub(power),
            3 => power.wrapping_mul(self.byte().into()),
            4 => self.byte().into(),
            _ => power,
        }
    }
}
