// SPDX-License-Identifier: GPL-2.0

//! How long the engine waits, for each reason.

use crate::backoff::Backoff;
use crate::engine::step::WATCH_MS;
use crate::vocabulary::Reason;

/// Whose turn it is to change something: each has a delay of its own, longer after each failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// The host is busy, refused something, or called it an error. When it has room again, a
    /// growing guest is to notice that within five seconds.
    Host,
    /// Memory is in use. Attempts are also made as soon as memory was freed, so that the limit
    /// only matters for pages that were pinned and no longer are.
    MemoryInUse,
    /// Linux had no memory for what it has to allocate, or refused to bring a block online.
    Linux,
    /// The device would not say which blocks it has, or what it said could not be put right.
    Audit,
}

impl Pace {
    /// From the shortest delay up to the longest one, in milliseconds.
    pub(super) const fn backoff(self) -> Backoff {
        match self {
            Self::Host => Backoff::new(100, 4_000),
            Self::MemoryInUse => Backoff::new(1_000, 60_000),
            Self::Linux => Backoff::new(250, 10_000),
            Self::Audit => Backoff::new(100, 30_000),
        }
    }
}

/// How long to wait, unless what happens ends it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delay {
    /// Until something happens.
    Event,
    /// So many milliseconds, each time.
    Fixed(u64),
    /// Longer after each failure.
    Growing(Pace),
}

/// The delay for each reason: after a failure, and where nothing was tried, as it would have been
/// in vain.
pub(super) const fn delays(reason: Reason) -> (Delay, Delay) {
    const HOST: Delay = Delay::Growing(Pace::Host);
    const MEMORY: Delay = Delay::Growing(Pace::MemoryInUse);
    const LINUX: Delay = Delay::Growing(Pace::Linux);
    match reason {
        Reason::HostBusy => (HOST, HOST),
        Reason::HostRefused => (HOST, HOST),
        Reason::HostError => (HOST, HOST),
        // Or longer, by what the last pass has cost: see `rest_ms()`.
        Reason::MemoryInUse => (MEMORY, MEMORY),
        // Where nothing was tried, another look costs nothing either.
        Reason::NoMemory => (LINUX, Delay::Fixed(WATCH_MS)),
        Reason::OfflineLimit => (LINUX, Delay::Event),
        Reason::NotAddressable => (LINUX, Delay::Event),
        Reason::OnliningRefused => (LINUX, LINUX),
        Reason::MapMismatch => (LINUX, LINUX),
        // The engine does not wait for these.
        Reason::None => (Delay::Event, Delay::Event),
        Reason::NoAnswer => (Delay::Event, Delay::Event),
    }
}

/// How much longer than the time that a pass has spent in vain the rest after it is in the end, so
/// that waiting costs less than a thousandth of the CPU time. The first few rests are shorter: what
/// has just been freed may still be on its way to the page allocator.
const REST_FACTOR: u64 = 2_000;

/// The longest rest, in milliseconds.
const MAX_REST_MS: u64 = 3_600_000;

/// How long to rest after a pass that has achieved nothing for `fruitless_ms`, when `passes` before
/// it have done no better, in milliseconds.
pub(super) fn rest_ms(fruitless_ms: u64, passes: u32) -> u64 {
    let factor = 4_u64.saturating_pow(passes).min(REST_FACTOR);
    fruitless_ms.saturating_mul(factor).min(MAX_REST_MS)
}
