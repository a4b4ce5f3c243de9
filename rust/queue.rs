// SPDX-License-Identifier: GPL-2.0

//! The device's only virtqueue, over which the driver makes its requests.

use crate::linux::virtqueue::RequestQueue;
use kernel::prelude::*;
use virtio_mem_core::wire::REQUEST_LEN;
use virtio_mem_core::wire::RESPONSE_LEN;

/// The queue, with buffers for a memory device's messages.
pub(crate) type Queue = RequestQueue<REQUEST_LEN, RESPONSE_LEN>;

/// The queue's name.
pub(crate) const NAME: &CStr = c"guest-request";

/// After how long a request counts as not answered, in milliseconds. The worker reports that and
/// goes on waiting; a dump is written without the memory that was asked about.
pub(crate) const NO_ANSWER_MS: u64 = 5_000;
