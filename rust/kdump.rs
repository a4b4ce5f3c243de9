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
use kernel::device;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::new_mutex;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use virtio_mem_core::state_search;
use virtio_mem_core::state_search::Next;
use virtio_mem_core::state_search::StateSearch;
use virtio_mem_core::wire::Config;
use virtio_mem_core::wire::Request;
use virtio_mem_core::wire::Response;

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
    search: StateSearch,
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
            search: StateSearch::new(config),
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

    /// Sends a request and waits for its answer, but not for ever.
    fn ask(&self, queue: &mut Queue, request: Request) -> Option<Response> {
        self.events.clear(ANSWERED);
        let answer = match queue.send(&request.encode()) {
            Err(_) => None,
            Ok(()) => loop {
                if let Some(answer) = queue.receive() {
                    break Some(answer);
                }
                if !self.events.wait(ANSWERED, Some(NO_ANSWER_MS)) {
                    break None;
                }
                self.events.clear(ANSWERED);
            },
        };
        if answer.is_none() {
            dev_err!(
                self.dev,
                "no answer to {}: its memory is left out\n",
                request.name()
            );
        }
        answer.map(|(bytes, written)| Response::decode(request, &bytes, written))
    }
}

impl vmcore::Dump for Dump {
    fn is_ram(&self, addr: u64) -> bool {
        // Without the lock: who reads other memory does not wait for the device.
        if let Some(known) = state_search::known(&self.config, addr) {
            return known;
        }
        let mut asked = self.asked.lock();
        loop {
            match asked.search.next(addr) {
                Next::Known(plugged) => return plugged,
                Next::Ask(request) => {
                    let response = self.ask(&mut asked.queue, request);
                    asked.search.handle_answer(response);
                }
            }
        }
    }
}
