// SPDX-License-Identifier: GPL-2.0

//! Finds out which memory is plugged, where nothing but the device knows: in a crash kernel.
//!
//! A dump is read from one end to the other, and what the device says of an address holds for many
//! that follow. So each request is about as much as possible: twice as much as the last one that had
//! a clear answer, and half as much where the answer is none. What the device does not clearly call
//! plugged is not read.

use crate::wire::Config;
use crate::wire::Plugged;
use crate::wire::Request;
use crate::wire::Response;
use core::ops::Range;

/// Whether memory at an address may be read, or how that is found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It may, or not.
    Known(bool),
    /// This request is sent first, and its answer told with [`StateSearch::handle_answer`].
    Ask(Request),
}

/// Whether memory at `addr` may be read, where the config space alone says so.
pub fn known(config: &Config, addr: u64) -> Option<bool> {
    let start = config.addr;
    if !(start..start.saturating_add(config.region_size)).contains(&addr) {
        // Not the device's.
        return Some(true);
    }
    let usable = start.saturating_add(config.usable_region_size);
    (config.plugged_size == 0 || addr >= usable).then_some(false)
}

/// What a device has said of its memory, and what it is asked next.
#[derive(Clone, Debug)]
pub struct StateSearch {
    config: Config,
    /// What the device has said last: these addresses are plugged, or none of them is.
    last: (Range<u64>, bool),
    /// How many device blocks the next request is about, at most.
    most: u16,
    /// The request under way: its address, and how many device blocks it is about.
    asked: Option<(u64, u16)>,
    /// The device does not answer. It is asked nothing any more, and nothing is read.
    silent: bool,
}

impl StateSearch {
    /// Nothing is known but the config space (checked).
    pub fn new(config: Config) -> Self {
        Self {
            config,
            last: (0..0, false),
            most: u16::MAX,
            asked: None,
            silent: false,
        }
    }

    /// Whether memory at `addr` may be read, or what to ask before that is known.
    pub fn next(&mut self, addr: u64) -> Next {
        if let Some(known) = known(&self.config, addr) {
            return Next::Known(known);
        }
        if self.last.0.contains(&addr) {
            return Next::Known(self.last.1);
        }
        let request = (!self.silent).then(|| self.request(addr)).flatten();
        self.asked = request;
        request.map_or(Next::Known(false), |(addr, blocks)| {
            Next::Ask(Request::State { addr, blocks })
        })
    }

    /// A request about as much as possible from the device block of `addr` on. `None`: no whole block
    /// of it is usable.
    fn request(&self, addr: u64) -> Option<(u64, u16)> {
        let Config {
            block_size,
            addr: region,
            usable_region_size,
            ..
        } = self.config;
        let number = addr.checked_sub(region)?.checked_div(block_size)?;
        let left = usable_region_size
            .checked_div(block_size)?
            .checked_sub(number)?;
        let blocks = u16::try_from(left).unwrap_or(u16::MAX).min(self.most);
        let start = number.checked_mul(block_size)?.checked_add(region)?;
        (blocks > 0).then_some((start, blocks))
    }

    /// The answer to the request under way; `None` if there is none.
    pub fn handle_answer(&mut self, response: Option<Response>) {
        let Some((start, blocks)) = self.asked.take() else {
            return;
        };
        let answer = match response {
            Some(Response::State(plugged)) => Some(plugged),
            Some(_) => None,
            None => {
                self.silent = true;
                return;
            }
        };
        if matches!(answer, Some(Plugged::Mixed) | None) && blocks > 1 {
            // A refusal may be for the size of the request.
            self.most = blocks / 2;
            return;
        }
        let size = self.config.block_size.saturating_mul(blocks.into());
        // Whoever does not say so clearly does not want it to be read.
        self.last = (
            start..start.saturating_add(size),
            answer == Some(Plugged::All),
        );
        self.most = blocks.saturating_mul(2);
    }
}
