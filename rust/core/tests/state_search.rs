// SPDX-License-Identifier: GPL-2.0

//! What a crash kernel finds out of a device's memory, and with how many requests.

use virtio_mem_core::state_search::Next;
use virtio_mem_core::state_search::StateSearch;
use virtio_mem_core::wire::Config;
use virtio_mem_core::wire::Plugged;
use virtio_mem_core::wire::Request;
use virtio_mem_core::wire::Response;

const START: u64 = 0x1_0000_0000;
const SIZE: u64 = 2 << 20;
const PAGE: u64 = 4096;

/// A device with these blocks; the last two are not usable.
struct Device {
    plugged: Vec<bool>,
    /// It refuses requests about more blocks.
    most: u16,
    requests: u32,
}

impl Device {
    fn new(plugged: Vec<bool>) -> Self {
        Self {
            plugged,
            most: u16::MAX,
            requests: 0,
        }
    }

    fn usable(&self) -> usize {
        self.plugged.len() - 2
    }

    fn config(&self) -> Config {
        Config {
            block_size: SIZE,
            addr: START,
            region_size: self.plugged.len() as u64 * SIZE,
            usable_region_size: self.usable() as u64 * SIZE,
            plugged_size: SIZE,
            requested_size: 0,
        }
    }

    fn answer(&mut self, request: Request) -> Response {
        self.requests += 1;
        let Request::State { addr, blocks } = request else {
            panic!("{request:?}");
        };
        assert_eq!((addr - START) % SIZE, 0);
        let first = ((addr - START) / SIZE) as usize;
        assert!(blocks > 0 && first + usize::from(blocks) <= self.usable());
        if blocks > self.most {
            return Response::Error;
        }
        let range = &self.plugged[first..first + usize::from(blocks)];
        Response::State(match range.iter().filter(|plugged| **plugged).count() {
            0 => Plugged::None,
            count if count == range.len() => Plugged::All,
            _ => Plugged::Mixed,
        })
    }

    fn is_plugged(&mut self, search: &mut StateSearch, addr: u64) -> bool {
        loop {
            match search.next(addr) {
                Next::Known(plugged) => return plugged,
                Next::Ask(request) => search.handle_answer(Some(self.answer(request))),
            }
        }
    }

    /// Reads a dump from one end to the other; returns how many requests that took.
    fn read(&mut self) -> u32 {
        let mut search = StateSearch::new(self.config());
        for block in 0..self.plugged.len() {
            let expected = block < self.usable() && self.plugged[block];
            for offset in [0, PAGE, SIZE - 1] {
                let addr = START + block as u64 * SIZE + offset;
                assert_eq!(self.is_plugged(&mut search, addr), expected, "{block}");
            }
        }
        core::mem::take(&mut self.requests)
    }
}

#[test]
fn finds_what_is_plugged_block_by_block_where_it_must() {
    for pattern in 0..1_u32 << 10 {
        let plugged = (0..12).map(|bit| (pattern >> bit) & 1 != 0).collect();
        let mut device = Device::new(plugged);
        assert!(device.read() <= 24, "{pattern:b}");
        device.most = 3;
        device.read();
    }
}

#[test]
fn asks_once_for_what_is_alike() {
    let mut plugged = vec![true; 50_000];
    assert_eq!(Device::new(plugged.clone()).read(), 1);
    plugged[25_000..].fill(false);
    assert!(Device::new(plugged.clone()).read() < 60);
    plugged.resize(150_000, false);
    assert!(Device::new(plugged).read() < 60);
}

#[test]
fn asks_in_any_order() {
    let plugged: Vec<_> = (0..40).map(|block| block % 7 < 3).collect();
    let mut device = Device::new(plugged.clone());
    let mut search = StateSearch::new(device.config());
    for turn in 0..200 {
        let block = turn * 11 % 38;
        let addr = START + block as u64 * SIZE;
        assert_eq!(device.is_plugged(&mut search, addr), plugged[block]);
    }
}

#[test]
fn reads_what_is_not_the_devices_and_nothing_that_it_does_not_call_plugged() {
    let device = Device::new(vec![true; 4]);
    let mut search = StateSearch::new(device.config());
    assert_eq!(search.next(START - 1), Next::Known(true));
    assert_eq!(search.next(START + 4 * SIZE), Next::Known(true));
    // Not usable.
    assert_eq!(search.next(START + 2 * SIZE), Next::Known(false));
    for response in [
        Response::Ack,
        Response::Nack,
        Response::Busy,
        Response::Error,
        Response::Garbled,
        Response::State(Plugged::Mixed),
    ] {
        let mut search = StateSearch::new(device.config());
        for blocks in [2, 1] {
            let request = Request::State {
                addr: START,
                blocks,
            };
            assert_eq!(search.next(START), Next::Ask(request));
            search.handle_answer(Some(response));
        }
        assert_eq!(search.next(START), Next::Known(false));
        assert!(matches!(search.next(START + SIZE), Next::Ask(_)));
    }
    let mut empty = device.config();
    empty.plugged_size = 0;
    assert_eq!(StateSearch::new(empty).next(START), Next::Known(false));
}

#[test]
fn asks_no_more_without_an_answer() {
    let device = Device::new(vec![true; 4]);
    let mut search = StateSearch::new(device.config());
    assert!(matches!(search.next(START), Next::Ask(_)));
    search.handle_answer(None);
    for addr in [START, START + SIZE] {
        assert_eq!(search.next(addr), Next::Known(false));
    }
}
