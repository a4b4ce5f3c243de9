// SPDX-License-Identifier: GPL-2.0

//! What is believed of the device's config space, and when it is read again.

use crate::wire::Config;
use crate::wire::ConfigError;
use crate::wire::Reading;

/// What the config space is read for next, besides the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reread {
    /// The device says that it has changed.
    #[default]
    Changed,
    /// The device has been asked about all its blocks: what its plugged size is now.
    Known,
    /// The device does not answer: whether its plugged size is that of the map.
    Agreed,
}

/// A config space read at runtime that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IgnoredConfig {
    /// What is wrong with it.
    pub error: ConfigError,
    /// All of it.
    pub config: Config,
}

/// What is new in a config space that is believed.
#[derive(Clone, Copy, Debug)]
pub(super) struct News {
    /// What it was before.
    pub(super) old: Config,
    /// What it was read for.
    pub(super) purpose: Reread,
    /// The requested size is another one.
    pub(super) resized: bool,
    /// There is news, on which everything that is waited for is tried at once.
    pub(super) news: bool,
}

/// The config space as last read and believed, and what is to be read of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConfigTracker {
    config: Config,
    /// It is to be read.
    reread: bool,
    /// It is read because the device says that it has changed.
    announced: bool,
    /// It was found changed when it was read for another reason.
    changed_unannounced: bool,
    reread_for: Reread,
    /// What it was when it was read last, if that makes no sense.
    ignored: Option<IgnoredConfig>,
}

impl ConfigTracker {
    /// It is read anew before anything else is done.
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            reread: true,
            announced: true,
            changed_unannounced: false,
            reread_for: Reread::Changed,
            ignored: None,
        }
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// What the last reading came to: the config space, or what makes no sense of it.
    pub(super) fn last_reading(&self) -> Result<Config, IgnoredConfig> {
        self.ignored.map_or(Ok(self.config), Err)
    }

    /// The device says that its config space has changed.
    pub(super) fn handle_change(&mut self) {
        self.reread = true;
        self.announced = true;
    }

    /// Believes a config space read at runtime if it makes sense: sizes outside of the region are a
    /// mistake of the device. `None`: it is ignored.
    ///
    /// A change ends all waiting, but that for the host only if the device has announced it: one
    /// whose config space is another one whenever it is read, and that refuses everything, is not to
    /// keep us busy.
    pub(super) fn handle_reading(&mut self, read: Reading, waits_for_host: bool) -> Option<News> {
        let announced = core::mem::take(&mut self.announced);
        // Where it makes no sense it tells nothing of what is plugged either.
        let purpose = core::mem::take(&mut self.reread_for);
        let old = self.config;
        let merged = old.with(read);
        self.ignored = merged.check_request().err().map(|error| IgnoredConfig {
            error,
            config: merged,
        });
        if self.ignored.is_some() {
            return None;
        }
        let resized = merged.requested_size != old.requested_size;
        self.config = merged;
        self.changed_unannounced |= resized || merged.usable_region_size != old.usable_region_size;
        let held_up = !announced && waits_for_host;
        Some(News {
            old,
            purpose,
            resized,
            news: !held_up && core::mem::take(&mut self.changed_unannounced),
        })
    }

    /// It could not be read.
    pub(super) fn handle_no_reading(&mut self) {
        self.announced = false;
    }

    /// Whether it is to be read next.
    pub(super) fn read_due(&self) -> bool {
        self.reread
    }

    /// It is being read.
    pub(super) fn begin_reading(&mut self) {
        self.reread = false;
    }

    /// It may have changed: it is to be read before anything else is done.
    pub(super) fn read_again(&mut self) {
        self.reread = true;
    }

    /// It is to be read again, as what it said of the plugged size is as old as it is.
    pub(super) fn read_again_for(&mut self, purpose: Reread) {
        self.reread = true;
        self.reread_for = purpose;
    }

    /// Whether it is read to find out whether its plugged size is what the audit has found.
    pub(super) fn confirms_audit(&self) -> bool {
        self.reread_for == Reread::Known
    }
}
