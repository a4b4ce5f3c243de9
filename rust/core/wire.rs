// SPDX-License-Identifier: GPL-2.0

//! The device's wire format.
//!
//! Virtio specification, section "Memory Device" (device ID 24); `uapi/linux/virtio_mem.h` has the
//! same layouts. Everything is little endian: the device exists only as a modern one.

use bitflags::bitflags;
use core::fmt;
use static_assertions::const_assert;
use static_assertions::const_assert_eq;

/// The virtio device ID of a memory device.
pub const DEVICE_ID: u32 = 24;

/// Bytes of a request buffer.
pub const REQUEST_LEN: usize = 24;

/// Bytes of a response buffer.
pub const RESPONSE_LEN: usize = 10;

/// Most device blocks that one request can name (its count is a `u16`).
pub const MAX_BLOCKS_PER_REQUEST: u64 = 65535;

bitflags! {
    /// Feature bits of the device, as a mask of bit numbers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// `node_id` in the config space is an ACPI proximity domain.
        const ACPI_PXM = 1 << 0;
        /// Unplugged memory must not be accessed at all, not even read.
        const UNPLUGGED_INACCESSIBLE = 1 << 1;
        /// Plugged memory keeps its content while the machine is suspended.
        const PERSISTENT_SUSPEND = 1 << 2;
    }
}

impl fmt::Display for Features {
    /// Their names, separated by spaces.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        for (feature, name) in [
            (Self::ACPI_PXM, "acpi-pxm"),
            (Self::UNPLUGGED_INACCESSIBLE, "unplugged-inaccessible"),
            (Self::PERSISTENT_SUSPEND, "persistent-suspend"),
        ] {
            if self.contains(feature) {
                write!(f, "{gap}{name}")?;
                gap = " ";
            }
        }
        Ok(())
    }
}

// The bits are fixed by the specification.
const_assert_eq!(Features::all().bits(), 0b111);

/// A request to the device. Addresses are guest physical, in bytes; counts are in device blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Plug `blocks` blocks from `addr`, all of them unplugged so far.
    Plug {
        /// Start.
        addr: u64,
        /// Device blocks.
        blocks: u16,
    },
    /// Unplug `blocks` blocks from `addr`, all of them plugged so far.
    Unplug {
        /// Start.
        addr: u64,
        /// Device blocks.
        blocks: u16,
    },
    /// Unplug everything; the usable region may shrink.
    UnplugAll,
    /// Ask whether `blocks` blocks from `addr` are plugged.
    State {
        /// Start.
        addr: u64,
        /// Device blocks.
        blocks: u16,
    },
}

impl Request {
    const PLUG: u16 = 0;
    const UNPLUG: u16 = 1;
    const UNPLUG_ALL: u16 = 2;
    const STATE: u16 = 3;

    /// The request as the device reads it: type, padding, address, count, padding.
    pub fn encode(self) -> [u8; REQUEST_LEN] {
        let (kind, addr, blocks) = match self {
            Self::Plug { addr, blocks } => (Self::PLUG, addr, blocks),
            Self::Unplug { addr, blocks } => (Self::UNPLUG, addr, blocks),
            Self::UnplugAll => (Self::UNPLUG_ALL, 0, 0),
            Self::State { addr, blocks } => (Self::STATE, addr, blocks),
        };
        let mut bytes = [0; REQUEST_LEN];
        let fields = [
            (0, &kind.to_le_bytes()[..]),
            (8, &addr.to_le_bytes()[..]),
            (16, &blocks.to_le_bytes()[..]),
        ];
        for (offset, field) in fields {
            for (to, from) in bytes.iter_mut().skip(offset).zip(field) {
                *to = *from;
            }
        }
        bytes
    }

    /// The opposite of [`Request::encode`], for devices; `None` for an unknown type.
    pub fn decode(bytes: &[u8; REQUEST_LEN]) -> Option<Self> {
        let [k0, k1, _, _, _, _, _, _, a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, ..] = *bytes;
        let addr = u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]);
        let blocks = u16::from_le_bytes([b0, b1]);
        match u16::from_le_bytes([k0, k1]) {
            Self::PLUG => Some(Self::Plug { addr, blocks }),
            Self::UNPLUG => Some(Self::Unplug { addr, blocks }),
            Self::UNPLUG_ALL => Some(Self::UnplugAll),
            Self::STATE => Some(Self::State { addr, blocks }),
            _ => None,
        }
    }

    /// A word for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plug { .. } => "PLUG",
            Self::Unplug { .. } => "UNPLUG",
            Self::UnplugAll => "UNPLUG_ALL",
            Self::State { .. } => "STATE",
        }
    }
}

/// What a STATE request found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugged {
    /// All blocks of the range are plugged.
    All,
    /// None is.
    None,
    /// Some are.
    Mixed,
}

/// The device's answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Done.
    Ack,
    /// Done, and this is the state asked for. Only for STATE.
    State(Plugged),
    /// Refused: more than is requested by now, or outside of the usable region.
    Nack,
    /// Not now (the host migrates the guest, or has no memory).
    Busy,
    /// The device calls the request wrong.
    Error,
    /// Too short, or a code that the specification does not have. The device may have acted.
    Garbled,
}

impl Response {
    const ACK: u16 = 0;
    const NACK: u16 = 1;
    const BUSY: u16 = 2;
    const ERROR: u16 = 3;

    /// Reads the answer to `request` from a buffer of which the device wrote `written` bytes.
    ///
    /// Only what the response's type makes valid is looked at: the state is read from an ACK to a
    /// STATE request and from nothing else.
    pub fn decode(request: Request, bytes: &[u8; RESPONSE_LEN], written: u32) -> Self {
        let [t0, t1, _, _, _, _, _, _, s0, s1] = *bytes;
        if written < 2 {
            return Self::Garbled;
        }
        let is_state = matches!(request, Request::State { .. });
        match u16::from_le_bytes([t0, t1]) {
            Self::ACK if is_state && written < 10 => Self::Garbled,
            Self::ACK if is_state => match u16::from_le_bytes([s0, s1]) {
                0 => Self::State(Plugged::All),
                1 => Self::State(Plugged::None),
                2 => Self::State(Plugged::Mixed),
                _ => Self::Garbled,
            },
            Self::ACK => Self::Ack,
            Self::NACK => Self::Nack,
            Self::BUSY => Self::Busy,
            Self::ERROR => Self::Error,
            _ => Self::Garbled,
        }
    }
}

/// The device's config space as the driver last read it. Sizes and addresses in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Granularity of everything; a power of two.
    pub block_size: u64,
    /// Start of the region.
    pub addr: u64,
    /// The most that the device can ever have.
    pub region_size: u64,
    /// How much of the region, from its start, may be used now.
    pub usable_region_size: u64,
    /// How much is plugged, as the device counts.
    pub plugged_size: u64,
    /// How much the host wants to be plugged.
    pub requested_size: u64,
}

/// The fields of the config space that change at runtime, as read from a device and not checked yet.
/// Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// [`Config::usable_region_size`].
    pub usable_region_size: u64,
    /// [`Config::plugged_size`].
    pub plugged_size: u64,
    /// [`Config::requested_size`].
    pub requested_size: u64,
}

/// Byte offsets of the config space's fields.
pub mod offset {
    /// `le64 block_size`.
    pub const BLOCK_SIZE: u32 = 0;
    /// `le16 node_id`, valid with `Features::ACPI_PXM` only, followed by six bytes of padding.
    pub const NODE_ID: u32 = 8;
    /// `le64 addr`.
    pub const ADDR: u32 = 16;
    /// `le64 region_size`.
    pub const REGION_SIZE: u32 = 24;
    /// `le64 usable_region_size`.
    pub const USABLE_REGION_SIZE: u32 = 32;
    /// `le64 plugged_size`.
    pub const PLUGGED_SIZE: u32 = 40;
    /// `le64 requested_size`.
    pub const REQUESTED_SIZE: u32 = 48;
    /// Bytes in all.
    pub const END: u32 = 56;
}

const_assert!(offset::END == offset::REQUESTED_SIZE + 8);
// Read in one go.
const_assert!(offset::REGION_SIZE == offset::ADDR + 8);
const_assert!(offset::USABLE_REGION_SIZE == offset::ADDR + 16);
const_assert!(offset::PLUGGED_SIZE == offset::ADDR + 24);
const_assert!(offset::REQUESTED_SIZE == offset::ADDR + 32);

/// A field of the config space that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// `block_size` is 0 or no power of two.
    BlockSize,
    /// `addr` or `region_size` is no multiple of the block size, or the region is empty.
    RegionAlignment,
    /// The region's end does not fit into 64 bits.
    RegionOverflow,
    /// `usable_region_size` is larger than the region.
    UsableRegion,
    /// `plugged_size` is larger than the region or no multiple of the block size.
    PluggedSize,
    /// `requested_size` is larger than the region or no multiple of the block size.
    RequestedSize,
}

impl ConfigError {
    /// The name of the offending field.
    pub fn field(self) -> &'static str {
        match self {
            Self::BlockSize => "block_size",
            Self::RegionAlignment | Self::RegionOverflow => "region",
            Self::UsableRegion => "usable_region_size",
            Self::PluggedSize => "plugged_size",
            Self::RequestedSize => "requested_size",
        }
    }

    /// What the specification asks of it.
    pub fn rule(self) -> &'static str {
        match self {
            Self::BlockSize => "must be a power of two",
            Self::RegionAlignment => "must start and end at a multiple of the block size",
            Self::RegionOverflow => "must end below 2^64",
            Self::UsableRegion => "must not exceed the region size",
            Self::PluggedSize | Self::RequestedSize => {
                "must be a multiple of the block size within the region"
            }
        }
    }
}

impl Config {
    /// This config space, of which a part has been read anew. The rest never changes: what else the
    /// device may say of its region by now would not be believed.
    #[must_use]
    pub fn with(&self, reading: Reading) -> Self {
        Self {
            usable_region_size: reading.usable_region_size,
            plugged_size: reading.plugged_size,
            requested_size: reading.requested_size,
            ..*self
        }
    }

    /// The fields that change at runtime.
    pub fn reading(&self) -> Reading {
        Reading {
            usable_region_size: self.usable_region_size,
            plugged_size: self.plugged_size,
            requested_size: self.requested_size,
        }
    }

    /// Checks the config space against the specification's "Device configuration layout".
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_region()?;
        let aligned = |size: u64| size & self.block_size.saturating_sub(1) == 0;
        if self.plugged_size > self.region_size || !aligned(self.plugged_size) {
            return Err(ConfigError::PluggedSize);
        }
        self.check_request()
    }

    /// The same for what says where the region is and how large its blocks are.
    pub fn check_region(&self) -> Result<(), ConfigError> {
        if !self.block_size.is_power_of_two() {
            return Err(ConfigError::BlockSize);
        }
        let aligned = |size: u64| size & self.block_size.saturating_sub(1) == 0;
        if self.region_size == 0 || !aligned(self.addr) || !aligned(self.region_size) {
            return Err(ConfigError::RegionAlignment);
        }
        if self.addr.checked_add(self.region_size).is_none() {
            return Err(ConfigError::RegionOverflow);
        }
        Ok(())
    }

    /// Checks what the driver follows at runtime. What the device says is plugged is not among it:
    /// that of some devices drifts away from the state of their blocks.
    pub fn check_request(&self) -> Result<(), ConfigError> {
        let aligned = |size: u64| size & self.block_size.saturating_sub(1) == 0;
        if self.usable_region_size > self.region_size {
            return Err(ConfigError::UsableRegion);
        }
        if self.requested_size > self.region_size || !aligned(self.requested_size) {
            return Err(ConfigError::RequestedSize);
        }
        Ok(())
    }
}
