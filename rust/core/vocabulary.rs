// SPDX-License-Identifier: GPL-2.0

//! The words in which the driver says what it does, and in which the agent reads it.

use core::fmt;

/// Defines an enum whose variants have a name each, with conversions both ways.
macro_rules! words {
    (
        $(#[$meta:meta])*
        $name:ident { $( $(#[$doc:meta])* $variant:ident = $word:literal, )* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $( $(#[$doc])* $variant, )* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$( Self::$variant, )*];

            /// The word.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )* }
            }

            /// The opposite of `as_str`.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $( $word => Some(Self::$variant), )* _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// What a device is doing.
    State {
        /// As much is plugged as is requested.
        Settled = "settled",
        /// Memory is being added.
        Plugging = "plugging",
        /// Memory is being taken away.
        Unplugging = "unplugging",
        /// Neither, because of the reason given; tried again later.
        Waiting = "waiting",
        /// The machine is being suspended, or resumes.
        Suspended = "suspended",
        /// The device does not answer, and nothing can be done until it does.
        Stalled = "stalled",
    }
}

words! {
    /// Why a request is not met yet.
    Reason {
        /// It is met, or being worked on.
        None = "none",
        /// The host answered BUSY: it migrates the guest, or has no memory.
        HostBusy = "host-busy",
        /// The host answered NACK although the request allows it.
        HostRefused = "host-refused",
        /// The host answered ERROR or something unknown.
        HostError = "host-error",
        /// The host has not answered for a while.
        NoAnswer = "no-answer",
        /// What should go is in use and cannot be moved.
        MemoryInUse = "memory-in-use",
        /// The guest has no memory for the metadata of more memory.
        NoMemory = "no-memory",
        /// Too much memory was added that nobody has brought online.
        OfflineLimit = "offline-limit",
        /// What is left of the region cannot be used by Linux, or may not be plugged.
        NotAddressable = "not-addressable",
        /// Linux refused to bring a memory block online.
        OnliningRefused = "onlining-refused",
        /// What the driver knew of Linux' memory was wrong: it looks again, and unplugs nothing
        /// meanwhile.
        MapMismatch = "map-mismatch",
    }
}

words! {
    /// What can fail.
    Action {
        /// The request PLUG.
        Plug = "plug",
        /// The request UNPLUG.
        Unplug = "unplug",
        /// The request UNPLUG_ALL.
        UnplugAll = "unplug-all",
        /// The request STATE.
        State = "state",
        /// Adding a memory block to Linux.
        Add = "add",
        /// Bringing a memory block online.
        Online = "online",
        /// Taking memory blocks offline and removing them.
        Remove = "remove",
        /// Taking sub-blocks out of the page allocator.
        Take = "take",
        /// Taking out of use what the device does not have.
        Withdraw = "withdraw",
        /// Finding out anew what Linux has of the device's memory.
        Resync = "resync",
    }
}

words! {
    /// How the device answered.
    Answer {
        /// Done.
        Ack = "ack",
        /// Refused, because of its configuration or that of the guest.
        Nack = "nack",
        /// Not now.
        Busy = "busy",
        /// It calls the request wrong.
        Error = "error",
        /// Not as the specification allows, or not before a suspend or reset ended the wait.
        Garbled = "garbled",
    }
}

words! {
    /// How something failed.
    Trouble {
        /// [`Answer::Nack`].
        Nack = "nack",
        /// [`Answer::Busy`].
        Busy = "busy",
        /// [`Answer::Error`].
        Error = "error",
        /// [`Answer::Garbled`].
        Garbled = "garbled",
        /// Memory is in use, or somebody else is in the way.
        InUse = "in-use",
        /// It took longer than it may, or the request changed.
        Interrupted = "interrupted",
        /// No memory for what Linux has to allocate.
        NoMemory = "no-memory",
        /// Linux has something else than the driver believed.
        Mismatch = "mismatch",
        /// Linux refused.
        Refused = "refused",
    }
}

words! {
    /// How the driver cuts its region up.
    Mode {
        /// Parts of memory blocks can be plugged.
        SubBlock = "sub-block",
        /// Only one or more whole memory blocks can be.
        BigBlock = "big-block",
    }
}

words! {
    /// Who brings added memory online.
    OnlineType {
        /// The driver, into ZONE_MOVABLE.
        Movable = "movable",
        /// The kernel's default policy, and user space.
        Policy = "policy",
    }
}
