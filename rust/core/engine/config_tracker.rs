// SPDX-License-Identifier: GPL-2.0

//! What is believed of the device's config space, and when it is read again.

use crate::wire::Config;

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

/// What came of reading the config space.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
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
        }
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// The device says that its config space has changed.
    pub(super) fn handle_change(&mut self) {
        self.reread = true;
        self.announced = true;
    }

    /// Believes what makes sense of a config space read at runtime, and no more: the region never
    /// changes, and sizes outside of it are a mistake of the device. `None`: it makes no sense.
    ///
    /// A change ends all waiting, but that for the host only if the device has announced it: one
    /// whose config space is another one whenever it is read, and that refuses everything, is not to
    /// keep us busy.
    pub(super) fn handle_reading(
        &mut self,
        read: &Config,
        waits_for_host: bool,
    ) -> Option<Reading> {
        let announced = core::mem::take(&mut self.announced);
        // Where it makes no sense it tells nothing of what is plugged either.
        let purpose = core::mem::take(&mut self.reread_for);
        let old = self.config;
        let merged = Config {
            usable_region_size: read.usable_region_size,
            plugged_size: read.plugged_size,
            requested_size: read.requested_size,
            ..old
        };
        merged.check_request().ok()?;
        let resized = merged.requested_size != old.requested_size;
        self.config = merged;
        self.changed_unannounced |= resized || merged.usable_region_size != old.usable_region_size;
        let held_up = !announced && waits_for_host;
        Some(Reading {
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
