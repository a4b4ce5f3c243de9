// SPDX-License-Identifier: GPL-2.0

//! What is known of the devices, in the form in which it is printed as JSON.
//!
//! `Documentation/agent-json.md` says what each field means.

use crate::bus;
use crate::words::Word;
use serde::Serialize;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;

/// The version of the JSON form. It grows when a field changes its meaning or goes away, not when
/// one is added.
pub(crate) const VERSION: u32 = 1;

/// All devices.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Status {
    /// [`VERSION`].
    pub(crate) version: u32,
    /// The devices, in the order of their numbers.
    pub(crate) devices: Vec<Device>,
    /// Why something of them is not known that could be.
    pub(crate) errors: Vec<Failure>,
}

/// A file that could not be read, or held something else than it should.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Failure {
    /// The device that the file belongs to; none for a file of the machine.
    pub(crate) device: Option<String>,
    /// What is wrong with which file.
    pub(crate) message: String,
}

/// Where a device's sizes come from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// The driver's own attributes.
    Sysfs,
    /// `/proc/iomem` and the memory blocks.
    Iomem,
    /// Nowhere: `/proc/iomem` hides addresses from this user.
    Hidden,
    /// Nowhere: no driver is bound, or it shows nothing.
    #[default]
    None,
}

/// One device. Sizes are in bytes; `None` (null) stands for what cannot be known.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Device {
    /// Its name on the virtio bus.
    pub(crate) device: String,
    /// The driver that is bound to it.
    pub(crate) driver: Option<String>,
    /// The driver's version, if it is this project's.
    pub(crate) driver_version: Option<String>,
    /// Where the sizes come from.
    pub(crate) source: Source,
    /// The node its memory belongs to.
    pub(crate) node: Option<u32>,
    /// Where its region starts.
    pub(crate) start_address: Option<u64>,
    /// The size of the device's blocks.
    pub(crate) block_size: Option<u64>,
    /// The most it can ever give.
    pub(crate) region_size: Option<u64>,
    /// How far into the region blocks can be plugged now.
    pub(crate) usable_region_size: Option<u64>,
    /// What the host asks for.
    pub(crate) requested_size: Option<u64>,
    /// What the host gave.
    pub(crate) plugged_size: Option<u64>,
    /// What the driver is doing.
    pub(crate) state: Option<Word<State>>,
    /// Why it is not done.
    pub(crate) reason: Option<Word<Reason>>,
    /// When the driver tries again; `None` also if it does so only when something happens.
    pub(crate) next_attempt_ms: Option<u64>,
    /// How often it has had to wait since the requested size last changed.
    pub(crate) attempts: Option<u64>,
    /// What failed last, and how.
    pub(crate) last_error: Option<String>,
    /// How the driver works: in sub-blocks or big blocks.
    pub(crate) mode: Option<String>,
    /// In the mode of that name: the least the driver plugs.
    pub(crate) sub_block_size: Option<u64>,
    /// In the mode of that name: the least the driver plugs.
    pub(crate) big_block_size: Option<u64>,
    /// The features driver and device have agreed on.
    pub(crate) features: Option<Vec<String>>,
    /// Who brings memory online.
    pub(crate) online_type: Option<String>,
    /// What was added to Linux, in whole memory blocks.
    pub(crate) added_size: Option<u64>,
    /// What of that is online in ZONE_MOVABLE.
    pub(crate) online_movable_size: Option<u64>,
    /// What of that is online in another zone.
    pub(crate) online_kernel_size: Option<u64>,
    /// What of that is not online.
    pub(crate) offline_size: Option<u64>,
    /// What is plugged in memory blocks that are online in ZONE_MOVABLE.
    pub(crate) plugged_movable_size: Option<u64>,
    /// What is plugged in memory blocks that are online in another zone.
    pub(crate) plugged_kernel_size: Option<u64>,
    /// What is plugged in memory blocks that are not online.
    pub(crate) plugged_offline_size: Option<u64>,
    /// What is plugged and not added.
    pub(crate) plugged_not_added_size: Option<u64>,
    /// What the driver has counted; `None` where it shows nothing.
    pub(crate) counters: Option<Counters>,
}

/// What the driver has counted since it was bound.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Counters {
    /// How the device has answered.
    pub(crate) requests: Requests,
    /// Device blocks plugged.
    pub(crate) plugged_blocks_total: Option<u64>,
    /// Bytes plugged.
    pub(crate) plugged_bytes_total: Option<u64>,
    /// Device blocks unplugged.
    pub(crate) unplugged_blocks_total: Option<u64>,
    /// Bytes unplugged.
    pub(crate) unplugged_bytes_total: Option<u64>,
    /// Attempts to empty online memory that have failed.
    pub(crate) migrations_failed_total: Option<u64>,
    /// Requests to unplug memory that were not sent, because Linux may have used some of it.
    pub(crate) unplugs_not_sent_total: Option<u64>,
}

/// The answers to each kind of request.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Requests {
    /// Requests to plug blocks.
    pub(crate) plug: Answers,
    /// Requests to unplug blocks.
    pub(crate) unplug: Answers,
    /// Requests to unplug all blocks.
    pub(crate) unplug_all: Answers,
    /// Questions about the state of blocks.
    pub(crate) state: Answers,
}

/// How many requests were answered in which way.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Answers {
    /// Done.
    pub(crate) ack: Option<u64>,
    /// Refused.
    pub(crate) nack: Option<u64>,
    /// Not now.
    pub(crate) busy: Option<u64>,
    /// The request makes no sense to the device.
    pub(crate) error: Option<u64>,
    /// No answer that makes sense.
    pub(crate) garbled: Option<u64>,
}

impl Device {
    /// Whether it is driven by a virtio_mem driver.
    pub(crate) fn is_driven(&self) -> bool {
        self.driver.as_deref() == Some(bus::DRIVER)
    }

    /// Whether as much is plugged as is requested; `None` if the driver does not say.
    pub(crate) fn is_settled(&self) -> Option<bool> {
        let state = self.state.as_ref()?;
        Some(state.known() == Some(State::Settled))
    }

    /// Why the request is not met, if there is a reason.
    pub(crate) fn hindrance(&self) -> Option<&Word<Reason>> {
        self.reason
            .as_ref()
            .filter(|reason| reason.known() != Some(Reason::None))
    }
}

impl Status {
    /// Whether something has happened between `before` and now. That time passes is nothing.
    pub(crate) fn differs_from(&self, before: &Self) -> bool {
        let timeless = |status: &Self| {
            let mut status = status.clone();
            for device in &mut status.devices {
                device.next_attempt_ms = None;
            }
            status
        };
        timeless(self) != timeless(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_countdown_is_no_change() {
        let status = |next_attempt_ms, attempts| Status {
            version: VERSION,
            errors: Vec::new(),
            devices: vec![Device {
                next_attempt_ms,
                attempts,
                ..Device::default()
            }],
        };

        assert!(!status(Some(1), Some(1)).differs_from(&status(Some(2), Some(1))));
        assert!(status(Some(1), Some(2)).differs_from(&status(Some(1), Some(1))));
    }
}
