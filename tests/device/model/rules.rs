// SPDX-License-Identifier: GPL-2.0

//! What a driver must never do, and the record of what it did.

use super::Store;
use core::fmt;
use virtio_mem_core::wire::Request;

/// How a rule was broken. Addresses are those of the first block, or byte, that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// The config space was written.
    ConfigWritten(u32),
    /// The config space was read beyond its end.
    ConfigBeyond(u32),
    /// Buffers that hold no request, or have no room for an answer.
    Malformed,
    /// A request of a kind that there is not.
    UnknownKind(u16),
    /// A request before the driver said that it was ready.
    NotReady,
    /// A request for no block.
    Empty(Request),
    /// A request from within a block.
    Unaligned(Request),
    /// A request for what is not in the region.
    OutOfRegion(Request),
    /// PLUG of what is not in the usable region that the driver has read.
    Unusable(Request, u64),
    /// PLUG of more than is requested, as far as the driver could know: what it had, and the limit.
    TooMuch(Request, u64, u64),
    /// PLUG of what the driver knew to be plugged.
    Plugged(Request, u64),
    /// UNPLUG of what the driver knew to be unplugged.
    Unplugged(Request, u64),
    /// UNPLUG of memory that was in use.
    InUse(Request, u64),
    /// Unplugged memory was written.
    Damaged(u64),
}

struct Shown<'a>(&'a Request);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self.0 {
            Request::UnplugAll => f.write_str(self.0.name()),
            Request::Plug { addr, blocks }
            | Request::Unplug { addr, blocks }
            | Request::State { addr, blocks } => {
                write!(f, "{} {addr:#x}+{blocks}", self.0.name())
            }
        }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConfigWritten(at) => write!(f, "config space written at {at}"),
            Self::ConfigBeyond(at) => write!(f, "config space read beyond its end, at {at}"),
            Self::Malformed => write!(f, "buffers that hold no request"),
            Self::UnknownKind(kind) => write!(f, "request of kind {kind}"),
            Self::NotReady => write!(f, "request before DRIVER_OK"),
            Self::Empty(request) => write!(f, "{} names no block", Shown(request)),
            Self::Unaligned(request) => write!(f, "{} begins within a block", Shown(request)),
            Self::OutOfRegion(request) => write!(f, "{} leaves the region", Shown(request)),
            Self::Unusable(request, usable) => {
                write!(f, "{} leaves the usable {usable:#x}", Shown(request))
            }
            Self::TooMuch(request, plugged, limit) => write!(
                f,
                "{} exceeds the request: {plugged:#x} plugged, {limit:#x} requested",
                Shown(request)
            ),
            Self::Plugged(request, at) => {
                write!(f, "{}: {at:#x} is known to be plugged", Shown(request))
            }
            Self::Unplugged(request, at) => {
                write!(f, "{}: {at:#x} is known to be unplugged", Shown(request))
            }
            Self::InUse(request, at) => write!(f, "{}: {at:#x} is in use", Shown(request)),
            Self::Damaged(at) => write!(f, "unplugged memory was written at {at:#x}"),
        }
    }
}

/// What happened to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The number of the request.
    pub number: u64,
    /// When it came, in milliseconds.
    pub at_ms: u64,
    /// The request; none if it was not one.
    pub request: Option<Request>,
    /// What the device has answered, or will: type, and state.
    pub answer: Option<(u16, u16)>,
    /// Whether it has done what it was asked for.
    pub acted: bool,
    /// Whether a fault has struck.
    pub faulty: bool,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ms: ", self.number, self.at_ms)?;
        match &self.request {
            Some(request) => write!(f, "{}", Shown(request))?,
            None => write!(f, "?")?,
        }
        match self.answer {
            Some((code, state)) => write!(f, " -> {code}/{state}")?,
            None => write!(f, " -> nothing")?,
        }
        if self.acted {
            write!(f, ", done")?;
        }
        if self.faulty {
            write!(f, ", fault")?;
        }
        Ok(())
    }
}

/// How many of the last requests are remembered.
const ENTRIES: usize = 512;
/// How many of the first breaches are.
const BREACHES: usize = 64;

/// The record.
pub struct Journal<S: Store> {
    entries: S::Of<Option<Entry>>,
    breaches: S::Of<Option<(u64, Breach)>>,
    /// How many requests there were.
    pub requests: u64,
    /// How often a rule was broken.
    pub violations: u64,
}

impl<S: Store> Journal<S> {
    /// An empty one; `None` without memory.
    pub fn new() -> Option<Self> {
        Some(Self {
            entries: S::make(None, ENTRIES)?,
            breaches: S::make(None, BREACHES)?,
            requests: 0,
            violations: 0,
        })
    }

    /// Notes a request.
    pub fn note(&mut self, entry: Entry) {
        let place = usize::try_from(entry.number).unwrap_or(0) % ENTRIES;
        if let Some(place) = self.entries.get_mut(place) {
            *place = Some(entry);
        }
    }

    /// Notes a breach, of the request that came last.
    pub fn accuse(&mut self, breach: Breach) {
        let place = usize::try_from(self.violations).unwrap_or(BREACHES);
        self.violations = self.violations.saturating_add(1);
        if let Some(place) = self.breaches.get_mut(place) {
            *place = Some((self.requests, breach));
        }
    }

    /// The breaches, with the number of the last request before.
    pub fn breaches(&self) -> impl Iterator<Item = &(u64, Breach)> {
        self.breaches.iter().flatten()
    }

    /// The last requests, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        let next = usize::try_from(self.requests).unwrap_or(0) % ENTRIES;
        let first = next.saturating_add(1);
        let old = self.entries.iter().skip(first);
        old.chain(self.entries.iter().take(first)).flatten()
    }
}
