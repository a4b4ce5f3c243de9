// SPDX-License-Identifier: GPL-2.0

//! When to try again.

/// A delay that doubles with every failure, up to a limit. In milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    next_ms: u64,
    min_ms: u64,
    max_ms: u64,
}

impl Backoff {
    /// The host is busy, refused something, or called it an error. When it has room again, a growing
    /// guest is to notice that within five seconds.
    pub const HOST: Self = Self::new(100, 4_000);

    /// Memory is in use. Attempts are also made as soon as memory was freed, so that the limit
    /// only matters for pages that were pinned and no longer are.
    pub const MEMORY_IN_USE: Self = Self::new(1_000, 60_000);

    /// Linux had no memory for what it has to allocate, or refused to bring a block online.
    pub const LINUX: Self = Self::new(250, 10_000);

    /// The device would not say which blocks it has, or what it said could not be put right.
    pub const AUDIT: Self = Self::new(100, 30_000);

    const fn new(min_ms: u64, max_ms: u64) -> Self {
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
