// SPDX-License-Identifier: GPL-2.0

//! The device: what it answers, and as what kind of device.

use super::take;
use super::Doubt;
use super::Owner;
use super::Sim;
use super::BLOCK;
use super::SUB;
use std::ops::Range;
use virtio_mem_core::wire::Plugged;
use virtio_mem_core::wire::Request;
use virtio_mem_core::wire::Response;
use virtio_mem_core::wire::RESPONSE_LEN;

/// An answer that need not make sense.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Odd {
    pub(crate) bytes: [u8; RESPONSE_LEN],
    /// How many of them the device says it has written.
    pub(crate) written: u32,
    /// The request is treated as any other, whatever the answer says of it.
    pub(crate) acts: bool,
}

/// What kind of a device it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    /// The answer to who asks for too much.
    pub(crate) too_much: Response,
    /// Usable region beyond the requested size.
    pub(crate) slack: u64,
    /// Requests that cross a multiple of this are refused.
    pub(crate) boundary: u64,
    /// After UNPLUG_ALL nothing is usable until the next resize.
    pub(crate) closes: bool,
    /// What is done but answered with an error is not counted in the plugged size.
    pub(crate) miscounts: bool,
}

/// In the manner of four hypervisors, with their sizes scaled down as memory blocks are here.
pub(crate) const MANNERS: [Manners; 4] = [
    // QEMU, to a guest whose memory blocks are larger than its 256 MiB
    Manners {
        too_much: Response::Nack,
        slack: 2 * SUB,
        boundary: u64::MAX,
        closes: false,
        miscounts: false,
    },
    // Cloud Hypervisor
    Manners {
        too_much: Response::Nack,
        slack: u64::MAX / 2,
        boundary: u64::MAX,
        closes: false,
        miscounts: true,
    },
    // Firecracker
    Manners {
        too_much: Response::Error,
        slack: BLOCK,
        boundary: u64::MAX,
        closes: true,
        miscounts: false,
    },
    // Dragonball
    Manners {
        too_much: Response::Nack,
        slack: 2 * BLOCK,
        boundary: 4 * BLOCK,
        closes: false,
        miscounts: false,
    },
];

impl Sim {
    pub(crate) fn plugged(&self) -> u64 {
        self.device.iter().filter(|plugged| **plugged).count() as u64 * SUB
    }

    /// The device has been changed by hand: what the driver knows may be wrong anywhere.
    pub(crate) fn misled(&mut self) {
        self.doubt.fill(Doubt::Misled);
    }

    /// The device changes its mind by itself, about the sub-block that a cell is in.
    pub(crate) fn change_mind(&mut self, cell: usize) {
        let sub = cell as u32 / (self.geometry.sub_size() / SUB) as u32;
        let cells = self.cells(&(sub..sub + 1));
        if cells.end as u64 * SUB > self.config.usable_region_size {
            return;
        }
        let plugged = !self.device[cell];
        self.device[cells.clone()].fill(plugged);
        self.doubt[cells].fill(Doubt::Misled);
        self.fickle = true;
    }

    pub(super) fn answer(&mut self, request: Request) -> Response {
        self.requests += 1;
        let Some(odd) = self.odd.take() else {
            return self.answer_honestly(request);
        };
        self.confused = true;
        if odd.acts {
            self.answer_honestly(request);
        }
        let answer = Response::decode(request, &odd.bytes, odd.written);
        self.fickle |= matches!(answer, Response::State(_));
        if self.misleads(request, answer) {
            let cells = self.cells_in(request);
            self.doubt[cells].fill(Doubt::Misled);
        }
        match request {
            // Whoever says that something is plugged which it says is not usable cannot be helped:
            // about that it can not even be asked.
            Request::Plug { addr, blocks } | Request::State { addr, blocks }
                if matches!(answer, Response::Ack | Response::State(_)) =>
            {
                let end = addr + u64::from(blocks) * SUB;
                if end > self.config.addr + self.config.usable_region_size {
                    return Response::Error;
                }
            }
            _ => {}
        }
        answer
    }

    /// Whether who believes an answer takes something for plugged that is not.
    fn misleads(&self, request: Request, answer: Response) -> bool {
        let says_so = matches!(
            (request, answer),
            (Request::Plug { .. }, Response::Ack)
                | (Request::State { .. }, Response::State(Plugged::All))
        );
        says_so && self.device[self.cells_in(request)].contains(&false)
    }

    /// The cells that a request is about.
    fn cells_in(&self, request: Request) -> Range<usize> {
        match request {
            Request::Plug { addr, blocks }
            | Request::Unplug { addr, blocks }
            | Request::State { addr, blocks } => {
                let first = ((addr - self.config.addr) / SUB) as usize;
                first..first + usize::from(blocks)
            }
            Request::UnplugAll => 0..self.device.len(),
        }
    }

    fn answer_honestly(&mut self, request: Request) -> Response {
        let range = self.cells_in(request);
        let mut size = 0;
        if let Request::Plug { addr, blocks } | Request::Unplug { addr, blocks } = request {
            size = u64::from(blocks) * SUB;
            let (first, last) = (addr, addr + size - 1);
            if first / self.manners.boundary != last / self.manners.boundary {
                return Response::Nack;
            }
        }
        match request {
            Request::Plug { addr, .. } => {
                if take(&mut self.faults.busy) {
                    return Response::Busy;
                }
                if take(&mut self.faults.nack) {
                    return Response::Nack;
                }
                if take(&mut self.faults.error) {
                    return Response::Error;
                }
                let wanted = self.engine.config().requested_size;
                if self.engine.plugged_size() + size > wanted {
                    self.violate(format!("asked for {range:?} beyond {wanted}"));
                }
                let end = addr + size;
                if end > self.config.addr + self.config.usable_region_size
                    || self.plugged() + size > self.config.requested_size
                {
                    return self.manners.too_much;
                }
                if self.device[range.clone()].contains(&true) {
                    if !self.confused && !self.doubtful() {
                        self.violate(format!("plugged {range:?} twice"));
                    }
                    return Response::Error;
                }
                if self.plugged() + size > self.room.saturating_mul(SUB) {
                    return Response::Busy;
                }
                self.device[range].fill(true);
            }
            Request::Unplug { .. } => {
                if take(&mut self.faults.busy) {
                    return Response::Busy;
                }
                if take(&mut self.faults.error) {
                    return Response::Error;
                }
                for cell in range.clone() {
                    if !matches!(self.owner[cell], Owner::Nobody | Owner::Driver) {
                        let owner = self.owner[cell];
                        self.violate(format!("unplugged cell {cell} of {owner:?}"));
                    }
                    if !self.device[cell] {
                        if !self.confused && !self.doubtful() {
                            self.violate(format!("unplugged cell {cell} twice"));
                        }
                        return Response::Error;
                    }
                }
                self.device[range].fill(false);
            }
            Request::UnplugAll => {
                if take(&mut self.faults.busy) {
                    return Response::Busy;
                }
                if self.owner.iter().any(|owner| *owner != Owner::Nobody) {
                    self.violate("UNPLUG_ALL while memory is in use".into());
                }
                self.device.fill(false);
                if self.manners.closes {
                    self.config.usable_region_size = 0;
                }
            }
            Request::State { .. } => {
                if take(&mut self.faults.mute) {
                    self.confused = true;
                    return Response::Error;
                }
                for doubt in &mut self.doubt[range.clone()] {
                    if *doubt == Doubt::Misled {
                        *doubt = Doubt::Told;
                    }
                }
                let states = &self.device[range];
                return Response::State(match (states.contains(&true), states.contains(&false)) {
                    (true, true) => Plugged::Mixed,
                    (true, false) => Plugged::All,
                    _ => Plugged::None,
                });
            }
        }
        if take(&mut self.faults.lie) {
            if self.manners.miscounts {
                self.plugged_size_skew = match request {
                    Request::Plug { .. } => self.plugged_size_skew.wrapping_sub(size),
                    _ => self.plugged_size_skew.wrapping_add(size),
                };
            }
            return if self.faults.lie % 2 == 0 {
                Response::Error
            } else {
                Response::Garbled
            };
        }
        Response::Ack
    }
}
