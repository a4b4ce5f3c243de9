// SPDX-License-Identifier: GPL-2.0

//! How devices differ: the manners of four hypervisors.

use virtio_mem_core::wire::Features;

/// Whose device it is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Personality {
    /// Says BUSY while it migrates; breaks over malformed requests.
    #[default]
    Qemu,
    /// Everything is usable at once; an error may come after the fact, uncounted.
    CloudHypervisor,
    /// ERROR to who asks for too much; nothing is usable after UNPLUG_ALL until the next resize.
    Firecracker,
    /// Blocks of 4 MiB, none of a request beyond a multiple of 2 GiB.
    Dragonball,
}

const MIB: u64 = 1 << 20;

/// What Firecracker makes usable at once.
const SLOT: u64 = 128 * MIB;

impl Personality {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Qemu,
        Self::CloudHypervisor,
        Self::Firecracker,
        Self::Dragonball,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Firecracker => "firecracker",
            Self::Dragonball => "dragonball",
        }
    }

    /// The opposite of [`Personality::as_str`].
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|this| this.as_str() == word)
    }

    /// The features that it offers.
    pub fn features(self) -> Features {
        match self {
            Self::Qemu => Features::all(),
            Self::CloudHypervisor | Self::Dragonball => Features::ACPI_PXM,
            Self::Firecracker => Features::UNPLUGGED_INACCESSIBLE,
        }
    }

    /// Whether it works with a driver that has accepted these features.
    pub fn accepts(self, features: Features) -> bool {
        self != Self::Firecracker || features.contains(Features::UNPLUGGED_INACCESSIBLE)
    }

    /// The size of its blocks.
    pub fn block_size(self) -> u64 {
        match self {
            Self::Dragonball => 4 * MIB,
            _ => 2 * MIB,
        }
    }

    /// The usable region that belongs to a request.
    pub fn usable(self, requested: u64, region: u64) -> u64 {
        let usable = match self {
            Self::Qemu if requested == 0 => 0,
            Self::Qemu | Self::Dragonball => requested.saturating_add(256 * MIB),
            Self::CloudHypervisor => region,
            Self::Firecracker => requested.div_ceil(SLOT).saturating_mul(SLOT),
        };
        usable.min(region)
    }

    /// The usable region after UNPLUG_ALL.
    pub fn usable_after_unplug_all(self, requested: u64, region: u64) -> u64 {
        match self {
            Self::Firecracker => 0,
            _ => self.usable(requested, region),
        }
    }

    /// Whether a request for these addresses crosses a border that it does not go over.
    pub fn refuses(self, first: u64, last: u64) -> bool {
        const BORDER: u64 = 2048 * MIB;
        self == Self::Dragonball && first / BORDER != last / BORDER
    }

    /// Whether it is able to answer BUSY.
    pub fn migrates(self) -> bool {
        self == Self::Qemu
    }

    /// Whether it answers ERROR, not NACK, to a request for more than is requested.
    pub fn errs_at_too_much(self) -> bool {
        self == Self::Firecracker
    }

    /// Whether what is done but answered with an error goes uncounted.
    pub fn miscounts(self) -> bool {
        self == Self::CloudHypervisor
    }

    /// Whether it answers ERROR to a request of a kind that it does not know. Firecracker says
    /// nothing, and QEMU nothing any more.
    pub fn answers_unknown(self) -> bool {
        matches!(self, Self::CloudHypervisor | Self::Dragonball)
    }
}
