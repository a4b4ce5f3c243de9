// SPDX-License-Identifier: GPL-2.0

//! What there is to see of a device: how it stands, and where sysfs shows that to those who poll.

use crate::device::Device;
use kernel::prelude::*;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;

/// The name of the group of attributes in sysfs.
pub(crate) const GROUP: &CStr = c"virtio_mem";

/// The attribute for [`Status::state`], which can be polled.
pub(crate) const STATE: &CStr = c"state";
/// The attribute for [`Status::reason`], which can be polled.
pub(crate) const REASON: &CStr = c"reason";
/// The attribute for [`Status::requested_size`], which can be polled.
pub(crate) const REQUESTED_SIZE: &CStr = c"requested_size";
/// The attribute for [`Status::plugged_size`], which can be polled.
pub(crate) const PLUGGED_SIZE: &CStr = c"plugged_size";

/// How a device stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) state: State,
    pub(crate) reason: Reason,
    /// Bytes.
    pub(crate) requested_size: u64,
    /// Bytes.
    pub(crate) plugged_size: u64,
    /// `None`: when something happens.
    pub(crate) next_attempt_ms: Option<u64>,
    pub(crate) attempts: u32,
}

impl Status {
    /// How a device stands at `now_ms`, as far as its engine knows. Takes the engine's lock.
    pub(crate) fn of(device: &Device, now_ms: u64) -> Self {
        device.with_engine(|engine| {
            let status = engine.status();
            Self {
                state: status.state,
                reason: status.reason,
                requested_size: engine.config().requested_size,
                plugged_size: engine.plugged_size(),
                next_attempt_ms: status.retry_at_ms.map(|at| at.saturating_sub(now_ms)),
                attempts: status.attempts,
            }
        })
    }
}
