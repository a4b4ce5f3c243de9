// SPDX-License-Identifier: GPL-2.0

//! Answers that are wrong, late, lost, or given twice.

use virtio_mem_core::wire::Request;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// PLUG.
    Plug,
    /// UNPLUG.
    Unplug,
    /// UNPLUG_ALL.
    UnplugAll,
    /// STATE.
    State,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Plug, Self::Unplug, Self::UnplugAll, Self::State];

    /// That of a request.
    pub fn of(request: &Request) -> Self {
        match request {
            Request::Plug { .. } => Self::Plug,
            Request::Unplug { .. } => Self::Unplug,
            Request::UnplugAll => Self::UnplugAll,
            Request::State { .. } => Self::State,
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plug => "plug",
            Self::Unplug => "unplug",
            Self::UnplugAll => "unplug-all",
            Self::State => "state",
        }
    }

    /// The opposite of [`Kind::as_str`].
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// How an answer reaches the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// Once.
    #[default]
    Once,
    /// Twice.
    Twice,
    /// A second time when there is another request, before that is answered.
    Again,
    /// Not before it is released.
    Hold,
    /// Never.
    Never,
    /// As that of a request which was never made.
    Stray,
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Its type, instead of what it would be.
    pub code: Option<u16>,
    /// With it, whether the device does what it was asked for all the same.
    pub act: bool,
    /// The state in it, instead of what it would be.
    pub state: Option<u16>,
    /// How many bytes of it the device says it has written.
    pub len: Option<u32>,
    /// How late it comes, in milliseconds.
    pub delay_ms: u32,
    /// How it is delivered.
    pub delivery: Delivery,
}

/// A fault: when, and what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fault {
    /// Only for requests of this kind.
    pub kind: Option<Kind>,
    /// Not for this many of them, at first.
    pub skip: u32,
    /// With this probability, in percent; 0 means always.
    pub percent: u32,
    /// This often, then never again; 0 means without end.
    pub times: u32,
    /// What happens.
    pub effect: Effect,
    /// How often it has happened.
    pub hits: u32,
}

/// Most faults at a time.
pub const MAX_FAULTS: usize = 8;

/// The faults in force.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    faults: [Option<Fault>; MAX_FAULTS],
    seed: u64,
    /// How often any of them has happened.
    pub hits: u64,
}

impl Faults {
    /// None.
    pub fn new() -> Self {
        Self {
            faults: [None; MAX_FAULTS],
            seed: 1,
            hits: 0,
        }
    }

    /// Sets where probabilities come from.
    pub fn seed(&mut self, seed: u64) {
        // Zero stays zero for ever.
        self.seed = seed.max(1);
    }

    /// Adds a fault; fails when there is no room for another.
    pub fn add(&mut self, fault: Fault) -> bool {
        let free = self.faults.iter_mut().find(|place| place.is_none());
        free.map(|place| *place = Some(fault)).is_some()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.faults = [None; MAX_FAULTS];
    }

    /// Those in force.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter().flatten()
    }

    /// xorshift64
    fn random(seed: &mut u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    }

    /// What happens to the answer to a request of this kind: the effect of the first fault that
    /// applies. Each that could have is asked, so that all of them count.
    pub fn strike(&mut self, kind: Kind) -> Option<Effect> {
        let mut effect = None;
        for place in &mut self.faults {
            let Some(fault) = place.as_mut().filter(|f| f.kind.is_none_or(|k| k == kind)) else {
                continue;
            };
            if fault.skip > 0 {
                fault.skip = fault.skip.saturating_sub(1);
                continue;
            }
            let lucky =
                fault.percent > 0 && Self::random(&mut self.seed) % 100 >= u64::from(fault.percent);
            let spent = fault.times > 0 && fault.hits >= fault.times;
            if effect.is_some() || lucky || spent {
                continue;
            }
            fault.hits = fault.hits.saturating_add(1);
            self.hits = self.hits.saturating_add(1);
            effect = Some(fault.effect);
        }
        effect
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::new()
    }
}
