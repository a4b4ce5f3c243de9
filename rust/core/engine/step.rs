// SPDX-License-Identifier: GPL-2.0

//! What the engine asks of its caller, and is told by it.

use crate::vocabulary::Action;
use crate::wire::Reading;
use crate::wire::Request;
use crate::wire::Response;
use core::ops::Range;

/// Which zone memory goes to when the driver brings it online.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onlining {
    /// The driver brings online what it adds, into ZONE_MOVABLE.
    Movable,
    /// The kernel's default policy, and user space, decide.
    Policy,
}

/// What the caller carries out next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read what changes of the config space; answer with [`Outcome::Config`].
    ReadConfig,
    /// Send a request; answer with [`Outcome::Answered`].
    Send(Request),
    /// Add a memory block to Linux.
    Add {
        /// Its number.
        memory_block: u32,
    },
    /// Bring a memory block online into ZONE_MOVABLE.
    Online {
        /// Its number.
        memory_block: u32,
    },
    /// Take memory blocks offline where they are online, and remove them from Linux: all or none.
    Remove {
        /// Their numbers.
        memory_blocks: Range<u32>,
        /// Whether that means to empty them first, which may take long or fail.
        online: bool,
        /// Not to try for long: it is one of many attempts.
        brief: bool,
    },
    /// Take sub-blocks of an online memory block out of the page allocator, as PageOffline.
    Take {
        /// Their numbers.
        subs: Range<u32>,
    },
    /// Make sure that sub-blocks of an online memory block, which the device does not have, are out
    /// of the page allocator, as PageOffline. Where Linux was using them, that is bad news.
    Withdraw {
        /// Their numbers.
        subs: Range<u32>,
    },
    /// Hand sub-blocks of an online memory block (back) to the page allocator.
    Give {
        /// Their numbers.
        subs: Range<u32>,
    },
    /// Look at what Linux has of the device's memory, and tell the engine of each memory block with
    /// [`super::Engine::handle_found`], as when a driver takes over.
    Resync,
    /// Nothing, until something happens or this many milliseconds have passed.
    Wait {
        /// `None`: only when something happens. 0: others only are to have their turn with the
        /// engine.
        ms: Option<u64>,
        /// Also until this much memory of the guest is free or easily freed, in bytes, of which
        /// nobody tells: to be looked at every [`WATCH_MS`].
        free: Option<u64>,
    },
}

impl Step {
    /// Waits for something to happen, or for this many milliseconds.
    pub(super) fn wait(ms: Option<u64>) -> Self {
        Self::Wait { ms, free: None }
    }

    /// A word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ReadConfig => "read-config",
            Self::Send(request) => Action::of_request(*request).as_str(),
            Self::Add { .. } => "add",
            Self::Online { .. } => "online",
            Self::Remove { .. } => "remove",
            Self::Take { .. } => "take",
            Self::Withdraw { .. } => "withdraw",
            Self::Give { .. } => "give",
            Self::Resync => "resync",
            Self::Wait { .. } => "wait",
        }
    }
}

/// How often free memory is looked at while waiting for memory in use, in milliseconds.
pub const WATCH_MS: u64 = 1_000;

/// Why a step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Memory is in use, or somebody else is in the way.
    Busy,
    /// It took longer than it may, or the request changed.
    Interrupted,
    /// No memory for what Linux has to allocate.
    NoMemory,
    /// Linux has a memory block already that was to be added, or no longer has one that was to be
    /// removed: the map is wrong about it.
    Mismatch,
    /// Anything else.
    Refused,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Done,
    /// Not done, and everything as before.
    Failed(Failure),
    /// The answer to [`Step::Send`].
    Answered(Response),
    /// The answer to [`Step::Send`] is not waited for any longer: the device may carry the request out,
    /// or have carried it out.
    Abandoned,
    /// The request to unplug memory was not sent: Linux may use some of it ([`crate::guard`]).
    NotSent,
    /// The answer to [`Step::ReadConfig`].
    Config(Reading),
}

/// What may have changed outside since the last step.
#[derive(Clone, Copy, Debug)]
pub struct Environment {
    /// A clock that never goes back, in milliseconds.
    pub now_ms: u64,
    /// Memory of the guest that is free or easily freed, in bytes.
    pub free: u64,
    /// How much the guest can spend on the metadata of more memory without missing it, in bytes.
    pub metadata_room: u64,
    /// Whether online memory may be unplugged (module parameter `unplug_online`).
    pub unplug_online: bool,
}

/// Tells how much of an online memory block is in use, in bytes.
pub type Look<'a> = &'a dyn Fn(u32) -> u64;
