// SPDX-License-Identifier: GPL-2.0

//! Whatever a device says and Linux does, drawn from random bytes. `tests/host/fuzz.sh` has these
//! run for longer than the second that each takes by itself.

mod cases;
mod model;
mod sim;

use bolero::check;
use cases::bytes;
use cases::Cases;
use model::Model;
use sim::history::History;
use std::panic::AssertUnwindSafe;
use virtio_mem_core::geometry::BigBlocks;
use virtio_mem_core::geometry::Geometry;
use virtio_mem_core::geometry::LinuxLimits;
use virtio_mem_core::wire::Config;
use virtio_mem_core::wire::Plugged;
use virtio_mem_core::wire::Request;
use virtio_mem_core::wire::Response;
use virtio_mem_core::wire::REQUEST_LEN;
use virtio_mem_core::wire::RESPONSE_LEN;

/// Runs `case` for random bytes, at most so many.
fn target(name: &'static str, most: usize, case: impl Fn(&[u8])) {
    if cfg!(miri) {
        // There are no files for bolero to look for, and little time.
        for seed in 1..4 {
            let byte = |at| (at * seed * 167 + at / 7 % 256) as u8;
            case(&(0..most.min(48 * seed)).map(byte).collect::<Vec<_>>());
        }
        return;
    }
    let cases = Cases::of(name);
    let case = AssertUnwindSafe(case);
    let cases = AssertUnwindSafe(&cases);
    check!().with_generator(bytes(most)).for_each(|bytes| {
        cases.count();
        case(bytes);
    });
}

#[test]
fn any_history_of_the_engine() {
    target("any_history_of_the_engine", 512, |bytes| {
        let history = History::from_bytes(bytes);
        if history.wrong().is_some() {
            let history = history.shrunk();
            panic!("{}\n{history:#?}", history.wrong().unwrap_or_default());
        }
    });
}

#[test]
fn any_request_and_response() {
    target("any_request_and_response", 64, |bytes| {
        let mut all = [0; REQUEST_LEN + RESPONSE_LEN + 4];
        let len = bytes.len().min(all.len());
        all[..len].copy_from_slice(&bytes[..len]);
        let (sent, rest) = all.split_first_chunk::<REQUEST_LEN>().unwrap();
        let (answer, written) = rest.split_first_chunk::<RESPONSE_LEN>().unwrap();
        let written = u32::from_le_bytes(written.try_into().unwrap());
        let written = if bytes.len() % 2 == 0 { 10 } else { written };
        // What is not read of a request must not matter.
        let Some(request) = Request::decode(sent) else {
            assert!(u16::from_le_bytes([sent[0], sent[1]]) > 3);
            return;
        };
        let encoded = request.encode();
        assert_eq!(Request::decode(&encoded), Some(request));
        assert_eq!(encoded[..2], sent[..2]);
        if request != Request::UnplugAll {
            assert_eq!(encoded[8..18], sent[8..18]);
        }
        assert_eq!(encoded[2..8], [0; 6]);
        assert_eq!(encoded[18..], [0; 6]);
        // And of an answer, only what its type makes valid.
        let code = u16::from_le_bytes([answer[0], answer[1]]);
        let state = u16::from_le_bytes([answer[8], answer[9]]);
        let asked = matches!(request, Request::State { .. });
        let expected = match (code, written) {
            (_, 0 | 1) => Response::Garbled,
            (0, _) if !asked => Response::Ack,
            (0, 2..=9) => Response::Garbled,
            (0, _) => match state {
                0 => Response::State(Plugged::All),
                1 => Response::State(Plugged::None),
                2 => Response::State(Plugged::Mixed),
                _ => Response::Garbled,
            },
            (1, _) => Response::Nack,
            (2, _) => Response::Busy,
            (3, _) => Response::Error,
            _ => Response::Garbled,
        };
        assert_eq!(Response::decode(request, answer, written), expected);
    });
}

/// Takes numbers off bytes: powers of two, their multiples, what is one off, and any.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn next(&mut self) -> u64 {
        let kind = self.byte();
        let power = 1_u64 << (self.byte() % 64);
        match kind % 8 {
            0 => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
            1 => power.wrapping_sub(1),
            2 => 0_u64.wrapping_sub(power),
            3 => power.wrapping_add(1),
            4 | 5 => power.wrapping_mul(self.byte().into()),
            _ => power,
        }
    }

    fn config(&mut self) -> Config {
        Config {
            block_size: self.next(),
            addr: self.next(),
            region_size: self.next(),
            usable_region_size: self.next(),
            plugged_size: self.next(),
            requested_size: self.next(),
        }
    }
}

#[test]
fn any_config_space_and_geometry() {
    target("any_config_space_and_geometry", 128, |bytes| {
        let mut numbers = Numbers(bytes);
        let config = numbers.config();
        let checked = config.check();
        if let Err(error) = checked {
            assert!(!error.field().is_empty() && !error.rule().is_empty());
            return;
        }
        let end = u128::from(config.addr) + u128::from(config.region_size);
        assert!(end <= u128::from(u64::MAX) && config.region_size > 0);
        for size in [
            config.usable_region_size,
            config.plugged_size,
            config.requested_size,
        ] {
            assert!(size <= config.region_size);
        }
        let linux = LinuxLimits {
            memory_block: numbers.next(),
            pageblock: numbers.next(),
            first: numbers.next(),
            last: numbers.next(),
            metadata: numbers.next(),
        };
        let big = BigBlocks {
            force: numbers.byte() % 2 == 0,
            size: numbers.next(),
        };
        let Ok((geometry, _)) = Geometry::new(&config, &linux, &big) else {
            return;
        };
        consistent(&config, &linux, &geometry);
        let probe = numbers.next();
        probed(&geometry, probe);
    });
}

/// What is managed lies in the region, where Linux can address it, and comes in whole blocks.
fn consistent(config: &Config, linux: &LinuxLimits, geometry: &Geometry) {
    let (blocks, subs) = (geometry.blocks(), geometry.subs());
    assert!(blocks > 0 && subs >= blocks && geometry.memory_blocks() >= blocks);
    assert_eq!(subs, blocks * geometry.subs_per_block());
    let size = u128::from(geometry.block_size()) * u128::from(blocks);
    let (start, end) = (
        geometry.sub_addr(0),
        u128::from(geometry.sub_addr(0)) + size,
    );
    assert!(start >= config.addr && start >= linux.first);
    assert!(end <= u128::from(config.addr) + u128::from(config.region_size));
    assert!(end <= u128::from(linux.last) + 1);
    for unit in [
        geometry.memory_block_size(),
        geometry.sub_size(),
        config.block_size,
    ] {
        assert_eq!(start % unit, 0);
        assert_eq!(geometry.block_size() % unit, 0);
    }
    assert_eq!(geometry.is_big(), geometry.subs_per_block() == 1);
    assert_eq!(geometry.device_block_size(), config.block_size);
    let most = geometry.max_subs_per_request();
    assert!(most >= geometry.subs_per_block());
    // As many as there are: more may be larger than any address.
    let most = most.min(subs);
    let named = u64::from(geometry.device_blocks(most)) * config.block_size;
    assert_eq!(named, geometry.size_of(most));
    // The first, the last and the one in the middle.
    for block in [0, blocks / 2, blocks - 1] {
        let subs = geometry.subs_of(block);
        let numbers = geometry.memory_blocks_of(block);
        for sub in [subs.start, subs.end - 1] {
            assert_eq!(geometry.block_of(sub), block);
            assert_eq!(geometry.sub_at(geometry.sub_addr(sub)), Some(sub));
            let last = geometry.sub_addr(sub) + (geometry.sub_size() - 1);
            assert_eq!(geometry.sub_at(last), Some(sub));
        }
        for number in [numbers.start, numbers.end - 1] {
            assert_eq!(geometry.block_of_memory_block(number), block);
            let addr = geometry.memory_block_addr(number);
            assert_eq!(geometry.memory_block_at(addr), Some(number));
        }
    }
    assert_eq!(geometry.usable_subs(0), 0);
    assert_eq!(geometry.usable_subs(config.region_size), subs);
}

/// Any address and any size.
fn probed(geometry: &Geometry, probe: u64) {
    if let Some(sub) = geometry.sub_at(probe) {
        let addr = geometry.sub_addr(sub);
        assert!(sub < geometry.subs() && addr <= probe && probe - addr < geometry.sub_size());
    }
    if let Some(number) = geometry.memory_block_at(probe) {
        let addr = geometry.memory_block_addr(number);
        assert!(number < geometry.memory_blocks() && addr <= probe);
        assert!(probe - addr < geometry.memory_block_size());
    }
    assert_eq!(
        geometry.sub_at(probe).is_some(),
        geometry.memory_block_at(probe).is_some()
    );
    assert!(geometry.usable_subs(probe) <= geometry.subs());
    assert!(geometry.size_of(geometry.subs_in(probe)) <= probe);
    assert!(u128::from(geometry.memory_blocks_in(probe)) <= u128::from(probe));
    assert!(u128::from(geometry.memory_blocks_for(probe)) <= u128::from(probe));
}

#[test]
fn any_use_of_the_block_map() {
    target("any_use_of_the_block_map", 256, |bytes| {
        let mut bytes = Numbers(bytes);
        let mut model = Model::new([0, 128, 256, 1024][usize::from(bytes.byte() % 4)]);
        while !bytes.0.is_empty() {
            let (what, a, b, on) = (bytes.byte(), bytes.byte(), bytes.byte(), bytes.byte());
            let a = u32::from(a) << (what / 4 % 2);
            match what % 4 {
                0 | 1 => model.set_plugged(a, 1 + u32::from(b), on % 2 == 0),
                2 => model.set_memory_block_state(a % 8, b % 4, on % 2 == 0),
                _ => model.set_flags(a % 8, b % 16, on % 2 == 0),
            }
        }
        model.check().unwrap();
    });
}
