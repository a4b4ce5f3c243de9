// SPDX-License-Identifier: GPL-2.0

//! In a crash kernel: no memory is added, and `/proc/vmcore` is told which of the crashed kernel's
//! memory is plugged.
//!
//! The dump covers whole memory blocks. What is unplugged of them must not be read: with
//! UNPLUGGED_INACCESSIBLE an access may be fatal, and without it makes the host allocate memory.

use crate::events::Events;
use crate::events::ANSWERED;
use crate::linux::vmcore;
use crate::queue::Queue;
use crate::queue::NO_ANSWER_MS;
use core::ops::Range;
use kernel::device;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::new_mutex;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use virtio_mem_core::wire::Config;
use virtio_mem_core::wire::Plugged;
use virtio_mem_core::wire::Request;
use virtio_mem_core::wire::Response;
use virtio_mem_core::wire::MAX_BLOCKS_PER_REQUEST;

/// A device of the crashed kernel.
#[pin_data]
pub(crate) struct Dump {
    dev: ARef<device::Device>,
    events: Arc<Events>,
    config: Config,
    #[pin]
    asked: Mutex<Asked>,
}

struct Asked {
    queue: Queue,
    /// What the device has told last: these addresses are plugged, or none of them is. A dump is
    /// read from one end to the other.
    last: (Range<u64>, bool),
    /// How many device blocks that was about.
    blocks: u16,
    /// The device does not answer. Nothing is asked any more, and nothing read.
    silent: bool,
}

impl Dump {
    pub(crate) fn new(
        dev: &device::Device,
        events: Arc<Events>,
        config: Config,
        queue: Queue,
    ) -> Result<Arc<Self>> {
        let asked = Asked {
            queue,
            last: (0..0, false),
            blocks: u16::MAX,
            silent: false,
        };
        Arc::pin_init(
            pin_init!(Self {
                dev: dev.into(),
                events,
                config,
                asked <- new_mutex!(asked),
            }),
            GFP_KERNEL,
        )
    }

    /// Asks about `blocks` device blocks from `addr`. `None`: the device does not say.
    fn ask(&self, asked: &mut Asked, addr: u64, blocks: u16) -> Option<Plugged> {
        let request = Request::State { addr, blocks };
        self.events.clear(ANSWERED);
        let answer = match asked.queue.send(&request.encode()) {
            Err(_) => None,
            Ok(()) => loop {
                if let Some(answer) = asked.queue.receive() {
                    break Some(answer);
                }
                if !self.events.wait(ANSWERED, Some(NO_ANSWER_MS)) {
                    break None;
                }
                self.events.clear(ANSWERED);
            },
        };
        let Some((bytes, written)) = answer else {
            dev_err!(
                self.dev,
                "no answer to {}: its memory is left out\n",
                request.name()
            );
            asked.silent = true;
            return None;
        };
        match Response::decode(request, &bytes, written) {
            Response::State(plugged) => Some(plugged),
            _ => None,
        }
    }

    /// Finds out about as much as possible from `addr` on, at least one device block.
    fn look(&self, asked: &mut Asked, addr: u64, usable: u64) -> bool {
        let size = self.config.block_size;
        let offset = addr.saturating_sub(self.config.addr);
        let Some(number) = offset.checked_div(size) else {
            return false;
        };
        let start = number.saturating_mul(size).saturating_add(self.config.addr);
        let left = usable.saturating_sub(start).checked_div(size).unwrap_or(0);
        let most = u64::from(asked.blocks)
            .saturating_mul(2)
            .min(MAX_BLOCKS_PER_REQUEST);
        let mut blocks = u16::try_from(left.min(most)).unwrap_or(u16::MAX);
        while blocks > 0 && !asked.silent {
            let plugged = match self.ask(asked, start, blocks) {
                // A refusal may be for the size of the request.
                Some(Plugged::Mixed) | None if blocks > 1 => {
                    blocks /= 2;
                    continue;
                }
                // Whoever does not say so clearly does not want it to be read.
                answer => answer == Some(Plugged::All),
            };
            let end = start.saturating_add(u64::from(blocks).saturating_mul(size));
            asked.last = (start..end, plugged);
            asked.blocks = blocks;
            return plugged;
        }
        false
    }
}

impl vmcore::Dump for Dump {
    fn is_ram(&self, addr: u64) -> bool {
        let start = self.config.addr;
        if !(start..start.saturating_add(self.config.region_size)).contains(&addr) {
            return true;
        }
        let usable = start.saturating_add(self.config.usable_region_size);
        if self.config.plugged_size == 0 || addr >= usable {
            return false;
        }
        let mut asked = self.asked.lock();
        if asked.last.0.contains(&addr) {
            return asked.last.1;
        }
        self.look(&mut asked, addr, usable)
    }
}
