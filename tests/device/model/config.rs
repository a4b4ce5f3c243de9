// SPDX-License-Identifier: GPL-2.0

//! The config space as the driver reads it, which need not be the truth.

use virtio_mem_core::wire::offset;
use virtio_mem_core::wire::Config;

/// A field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `block_size`.
    BlockSize,
    /// `node_id`.
    Node,
    /// `addr`.
    Addr,
    /// `region_size`.
    RegionSize,
    /// `usable_region_size`.
    UsableRegionSize,
    /// `plugged_size`.
    PluggedSize,
    /// `requested_size`.
    RequestedSize,
}

impl Field {
    /// All of them, in their order.
    pub const ALL: [Self; 7] = [
        Self::BlockSize,
        Self::Node,
        Self::Addr,
        Self::RegionSize,
        Self::UsableRegionSize,
        Self::PluggedSize,
        Self::RequestedSize,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlockSize => "block_size",
            Self::Node => "node_id",
            Self::Addr => "addr",
            Self::RegionSize => "region_size",
            Self::UsableRegionSize => "usable_region_size",
            Self::PluggedSize => "plugged_size",
            Self::RequestedSize => "requested_size",
        }
    }

    /// The opposite of [`Field::as_str`].
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.as_str() == word)
    }

    fn number(self) -> usize {
        match self {
            Self::BlockSize => 0,
            Self::Node => 1,
            Self::Addr => 2,
            Self::RegionSize => 3,
            Self::UsableRegionSize => 4,
            Self::PluggedSize => 5,
            Self::RequestedSize => 6,
        }
    }

    /// Where it begins. Each has eight bytes: `node_id` with its padding.
    pub fn offset(self) -> u32 {
        match self {
            Self::BlockSize => offset::BLOCK_SIZE,
            Self::Node => offset::NODE_ID,
            Self::Addr => offset::ADDR,
            Self::RegionSize => offset::REGION_SIZE,
            Self::UsableRegionSize => offset::USABLE_REGION_SIZE,
            Self::PluggedSize => offset::PLUGGED_SIZE,
            Self::RequestedSize => offset::REQUESTED_SIZE,
        }
    }
}

/// What a field reads as, instead of the truth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lie {
    /// The truth.
    #[default]
    None,
    /// Always this.
    Fixed(u64),
    /// The first, then the second, in turns.
    Flap(u64, u64),
}

/// The lies about all fields.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lies {
    lies: [Lie; Field::ALL.len()],
    /// How often the generation still changes while it is read.
    pub generations: u32,
    /// The generation.
    pub generation: u32,
}

impl Lies {
    /// Sets what a field reads as.
    pub fn set(&mut self, field: Field, lie: Lie) {
        if let Some(place) = self.lies.get_mut(field.number()) {
            *place = lie;
        }
    }

    /// Nothing but the truth from now on.
    pub fn forget(&mut self) {
        *self = Self {
            generation: self.generation.wrapping_add(1),
            ..Self::default()
        };
    }

    /// Whether any field reads as something else than the truth.
    pub fn any(&self) -> bool {
        self.lies.iter().any(|lie| *lie != Lie::None)
    }

    /// Reads a field.
    pub fn read(&mut self, field: Field, truth: u64) -> u64 {
        let Some(lie) = self.lies.get_mut(field.number()) else {
            return truth;
        };
        match *lie {
            Lie::None => truth,
            Lie::Fixed(value) => value,
            Lie::Flap(first, second) => {
                *lie = Lie::Flap(second, first);
                first
            }
        }
    }

    /// Reads the generation.
    pub fn read_generation(&mut self) -> u32 {
        if self.generations > 0 {
            self.generations = self.generations.saturating_sub(1);
            self.generation = self.generation.wrapping_add(1);
        }
        self.generation
    }
}

/// The true value of a field.
pub fn truth(config: &Config, node: u16, field: Field) -> u64 {
    match field {
        Field::BlockSize => config.block_size,
        // What pads it is nobody's business.
        Field::Node => u64::from(node) | (0xdead_beef_0bad << 16),
        Field::Addr => config.addr,
        Field::RegionSize => config.region_size,
        Field::UsableRegionSize => config.usable_region_size,
        Field::PluggedSize => config.plugged_size,
        Field::RequestedSize => config.requested_size,
    }
}
