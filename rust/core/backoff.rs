// SPDX-License-Identifier: GPL-2.0

//! Delays that grow.

/// A delay that doubles with every failure, up to a limit. In milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    next_ms: u64,
    min_ms: u64,
    max_ms: u64,
}

impl Backoff {
    /// Begins with `min_ms`.
    pub const fn new(min_ms: u64, max_ms: u64) -> Self {
        Self {
            next_ms: min_ms,
            min_ms,
            max_ms,
        }
    }

    /// The delay before the next attempt; the one after that will be longer.
    pub fn fail(&mut self) -> u64 {
        let delay = self.next_ms;
        self.next_ms = delay.saturating_mul(2).min(self.max_ms);
        delay
    }

    /// There was progress, or circumstances changed: start over with the shortest delay.
    pub fn reset(&mut self) {
        self.next_ms = self.min_ms;
    }
}
