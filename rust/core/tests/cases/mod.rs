// SPDX-License-Identifier: GPL-2.0

//! How many random cases are tried, and what is said of it.

#![allow(dead_code)] // No test uses all of it.

use bolero::produce;
use bolero::ValueGenerator;
use proptest::test_runner::Config;
use std::cell::Cell;
use std::time::Instant;

/// As many cases as `PROPTEST_CASES` says, or else so many.
pub(crate) fn config(cases: u32) -> Config {
    let mut config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    config
}

/// Any bytes, at most so many.
pub(crate) fn bytes(most: usize) -> impl ValueGenerator<Output = Vec<u8>> {
    produce::<Vec<u8>>().with().len(0..=most)
}

/// Counts the cases of a target, and says how many there were when it is dropped.
pub(crate) struct Cases {
    target: &'static str,
    begun: Instant,
    count: Cell<u64>,
}

impl Cases {
    pub(crate) fn of(target: &'static str) -> Self {
        Self {
            target,
            begun: Instant::now(),
            count: Cell::new(0),
        }
    }

    /// One more.
    pub(crate) fn count(&self) {
        self.count.set(self.count.get() + 1);
    }
}

impl Drop for Cases {
    fn drop(&mut self) {
        let seconds = self.begun.elapsed().as_secs_f64();
        println!(
            "{}: {} cases in {seconds:.1} s",
            self.target,
            self.count.get()
        );
    }
}
