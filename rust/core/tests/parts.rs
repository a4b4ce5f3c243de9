// SPDX-License-Identifier: GPL-2.0

//! The core's smaller parts: wire format, geometry, sets, map, room for metadata, backoff, vocabulary.

mod cases;
mod model;

use model::Model;
use proptest::prelude::*;
use std::collections::BTreeSet;
use virtio_mem_core::backoff::Backoff;
use virtio_mem_core::block_map::BlockMap;
use virtio_mem_core::block_set;
use virtio_mem_core::block_set::BlockSet;
use virtio_mem_core::engine::Failure;
use virtio_mem_core::engine::Outcome;
use virtio_mem_core::engine::Step;
use virtio_mem_core::geometry::BadSize;
use virtio_mem_core::geometry::BigBlocks;
use virtio_mem_core::geometry::Geometry;
use virtio_mem_core::geometry::LinuxLimits;
use virtio_mem_core::geometry::Unusable;
use virtio_mem_core::kernel_memory::metadata_room;
use virtio_mem_core::kernel_memory::Zone;
use virtio_mem_core::migration_budget;
use virtio_mem_core::migration_budget::AttemptDeadline;
use virtio_mem_core::statistics::Statistics;
use virtio_mem_core::vocabulary::Action;
use virtio_mem_core::vocabulary::Answer;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;
use virtio_mem_core::vocabulary::Trouble;
use virtio_mem_core::wire::Config;
use virtio_mem_core::wire::ConfigError;
use virtio_mem_core::wire::Features;
use virtio_mem_core::wire::Plugged;
use virtio_mem_core::wire::Request;
use virtio_mem_core::wire::Response;

const MIB: u64 = 1 << 20;

#[test]
fn statistics_count_what_steps_came_to() {
    let mut statistics = Statistics::default();
    let plug = Step::Send(Request::Plug {
        addr: 0,
        blocks: 64,
    });
    let unplug = Step::Send(Request::Unplug { addr: 0, blocks: 2 });
    let remove = |online| Step::Remove {
        memory_blocks: 0..1,
        online,
        brief: false,
    };
    assert_eq!(statistics.last_error(), None);
    for (step, outcome, us) in [
        (&plug, Outcome::Answered(Response::Ack), 0),
        (&plug, Outcome::Answered(Response::Ack), 1),
        (&plug, Outcome::Answered(Response::Busy), 1_000),
        (&unplug, Outcome::Answered(Response::Ack), u64::MAX),
        (&unplug, Outcome::Answered(Response::Nack), 3),
        (&unplug, Outcome::Abandoned, 3),
        (&remove(true), Outcome::Done, 4),
        (&remove(false), Outcome::Failed(Failure::NoMemory), 4),
        (&remove(true), Outcome::Failed(Failure::Busy), 7),
        (
            &Step::Take { subs: 0..1 },
            Outcome::Failed(Failure::Interrupted),
            4,
        ),
        (
            &Step::ReadConfig,
            Outcome::Config(Config::default().reading()),
            4,
        ),
    ] {
        statistics.record(step, &outcome, us);
    }
    assert_eq!(statistics.plugged_blocks(), 128);
    assert_eq!(statistics.unplugged_blocks(), 2);
    assert_eq!(statistics.migrations_failed(), 2);
    let last = statistics.last_error();
    assert_eq!(last, Some((Action::Take, Trouble::Interrupted)));
    let mut answers = Vec::new();
    for request in Action::REQUESTS {
        for answer in Answer::ALL {
            match statistics.answers(request, *answer) {
                0 => {}
                count => answers.push((request, *answer, count)),
            }
        }
    }
    assert_eq!(
        answers,
        [
            (Action::Plug, Answer::Ack, 2),
            (Action::Plug, Answer::Busy, 1),
            (Action::Unplug, Answer::Ack, 1),
            (Action::Unplug, Answer::Nack, 1),
            (Action::Unplug, Answer::Garbled, 1),
        ]
    );
    assert_eq!(statistics.answers(Action::Add, Answer::Ack), 0);
    let [plug, unplug, _, _, offline] = statistics.latencies();
    assert_eq!(
        plug.1.counts().collect::<Vec<_>>(),
        [(1, 1), (2, 1), (1 << 10, 1)]
    );
    // The longest there is.
    assert_eq!(
        unplug.1.counts().collect::<Vec<_>>(),
        [(4, 2), (1 << 31, 1)]
    );
    assert_eq!(offline.1.counts().collect::<Vec<_>>(), [(8, 2)]);
    assert_eq!(offline.1.to_string(), "  < 8 us: 2\n");
}

#[test]
fn features_have_names() {
    assert_eq!(Features::empty().to_string(), "");
    assert_eq!(
        Features::all().to_string(),
        "acpi-pxm unplugged-inaccessible persistent-suspend"
    );
    assert_eq!(
        Features::PERSISTENT_SUSPEND.to_string(),
        "persistent-suspend"
    );
}

#[test]
fn requests_are_laid_out_as_the_specification_says() {
    let bytes = Request::Unplug {
        addr: 0x1122_3344_5566_7788,
        blocks: 0x99aa,
    }
    .encode();
    let mut expected = [0; 24];
    expected[0] = 1;
    expected[8..16].copy_from_slice(&[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
    expected[16..18].copy_from_slice(&[0xaa, 0x99]);
    assert_eq!(bytes, expected);
    assert_eq!(Request::UnplugAll.encode()[..2], [2, 0]);
    let state = Request::State { addr: 1, blocks: 2 };
    assert_eq!(state.encode()[..2], [3, 0]);
    let mut unknown = bytes;
    unknown[0] = 4;
    assert_eq!(Request::decode(&unknown), None);
}

#[test]
fn responses_are_read_as_far_as_their_type_makes_them_valid() {
    let plug = Request::Plug { addr: 0, blocks: 1 };
    let state = Request::State { addr: 0, blocks: 1 };
    let response = |kind: u8, state: u8| [kind, 0, 0, 0, 0, 0, 0, 0, state, 0];
    for (kind, meaning) in [
        (0, Response::Ack),
        (1, Response::Nack),
        (2, Response::Busy),
        (3, Response::Error),
        (4, Response::Garbled),
    ] {
        // The state is no part of the answer.
        assert_eq!(Response::decode(plug, &response(kind, 2), 10), meaning);
        assert_eq!(Response::decode(plug, &response(kind, 7), 2), meaning);
    }
    for (word, meaning) in [(0, Plugged::All), (1, Plugged::None), (2, Plugged::Mixed)] {
        let answer = Response::decode(state, &response(0, word), 10);
        assert_eq!(answer, Response::State(meaning));
    }
    assert_eq!(
        Response::decode(state, &response(0, 3), 10),
        Response::Garbled
    );
    assert_eq!(
        Response::decode(state, &response(0, 0), 9),
        Response::Garbled
    );
    assert_eq!(
        Response::decode(state, &response(3, 0), 10),
        Response::Error
    );
    assert_eq!(
        Response::decode(plug, &response(0, 0), 1),
        Response::Garbled
    );
    assert_eq!(
        Response::decode(plug, &response(0, 0), 0),
        Response::Garbled
    );
}

fn config() -> Config {
    Config {
        block_size: 2 * MIB,
        addr: 4096 * MIB,
        region_size: 1024 * MIB,
        usable_region_size: 512 * MIB,
        plugged_size: 2 * MIB,
        requested_size: 4 * MIB,
    }
}

#[test]
fn nonsense_in_the_config_space_is_named() {
    assert_eq!(config().check(), Ok(()));
    type Change = fn(&mut Config);
    let cases: [(Change, ConfigError); 13] = [
        (|c| c.block_size = 0, ConfigError::BlockSize),
        (|c| c.block_size = 3 * MIB, ConfigError::BlockSize),
        (|c| c.addr += MIB, ConfigError::RegionAlignment),
        (|c| c.region_size += MIB, ConfigError::RegionAlignment),
        (|c| c.region_size = 0, ConfigError::RegionAlignment),
        (
            |c| c.addr = u64::MAX - 2 * MIB + 1,
            ConfigError::RegionOverflow,
        ),
        (
            |c| c.region_size = u64::MAX - 2 * MIB + 1,
            ConfigError::RegionOverflow,
        ),
        (
            |c| c.usable_region_size = 1025 * MIB,
            ConfigError::UsableRegion,
        ),
        (|c| c.plugged_size = 1026 * MIB, ConfigError::PluggedSize),
        (|c| c.plugged_size = 1, ConfigError::PluggedSize),
        (
            |c| c.requested_size = 1026 * MIB,
            ConfigError::RequestedSize,
        ),
        (|c| c.requested_size = 3 * MIB, ConfigError::RequestedSize),
        (|c| c.requested_size = 1 << 63, ConfigError::RequestedSize),
    ];
    for (change, error) in cases {
        let mut config = config();
        change(&mut config);
        assert_eq!(config.check(), Err(error), "{config:x?}");
        assert!(!error.field().is_empty() && !error.rule().is_empty());
    }
}

fn limits() -> LinuxLimits {
    LinuxLimits {
        memory_block: 128 * MIB,
        pageblock: 2 * MIB,
        first: 0,
        last: (1 << 46) - 1,
        metadata: 2 * MIB,
    }
}

#[test]
fn only_whole_addressable_memory_blocks_are_managed() {
    let geometry = |change: fn(&mut Config, &mut LinuxLimits)| {
        let (mut config, mut limits) = (config(), limits());
        change(&mut config, &mut limits);
        Geometry::new(&config, &limits, &BigBlocks::default()).map(|(geometry, _)| geometry)
    };
    let plain = geometry(|_, _| {}).unwrap();
    assert_eq!(
        (plain.blocks(), plain.subs_per_block(), plain.subs()),
        (8, 64, 512)
    );
    assert_eq!(plain.memory_block_addr(7), (4096 + 7 * 128) * MIB);
    assert_eq!(plain.sub_addr(65), (4096 + 130) * MIB);
    assert_eq!(plain.memory_block_at((4096 + 1024) * MIB), None);
    assert_eq!(plain.memory_block_at(4096 * MIB - 1), None);
    assert_eq!(plain.memory_block_at((4096 + 128) * MIB - 1), Some(0));
    assert_eq!(plain.sub_at((4096 + 131) * MIB), Some(65));
    assert_eq!(plain.device_blocks(3), 3);
    // Both ends off a memory block's boundary: the blocks that are cut are lost.
    let odd = geometry(|config, _| config.addr += 2 * MIB).unwrap();
    assert_eq!(
        (odd.blocks(), odd.memory_block_addr(0)),
        (7, (4096 + 128) * MIB)
    );
    assert_eq!(odd.usable_subs(126 * MIB), 0);
    assert_eq!(odd.usable_subs((126 + 127) * MIB), 63);
    assert_eq!(odd.usable_subs((126 + 128) * MIB), 64);
    assert_eq!(odd.usable_subs(u64::MAX), 7 * 64);
    // Cut by what Linux can address.
    let low = geometry(|_, limits| limits.first = 4500 * MIB).unwrap();
    assert_eq!(
        (low.blocks(), low.memory_block_addr(0)),
        (4, (4096 + 512) * MIB)
    );
    let high = geometry(|_, limits| limits.last = 4500 * MIB - 1).unwrap();
    assert_eq!(high.blocks(), 3);
    let none = geometry(|_, limits| limits.last = 4200 * MIB);
    assert_eq!(none, Err(Unusable::NoWholeBlock));
    // Device blocks smaller than a pageblock, and as large as a memory block, and larger.
    let small = geometry(|config, _| config.block_size = MIB).unwrap();
    assert_eq!((small.sub_size(), small.device_blocks(3)), (2 * MIB, 6));
    let large = geometry(|config, _| config.block_size = 128 * MIB).unwrap();
    assert_eq!(large.subs_per_block(), 1);
    let odd_linux = geometry(|_, limits| limits.pageblock = 3 * MIB);
    assert_eq!(odd_linux, Err(Unusable::BlockSizes));
    let tiny = geometry(|config, _| config.block_size = 1024);
    assert_eq!(tiny, Err(Unusable::DeviceBlockTooSmall));
    let huge = geometry(|config, limits| {
        config.addr = 0;
        config.region_size = 1 << 62;
        limits.last = u64::MAX;
    });
    assert_eq!(huge, Err(Unusable::TooLarge));
}

#[test]
fn big_blocks_are_as_large_as_they_must_or_may_be() {
    let geometry = |block_size, force, size| {
        let config = Config {
            block_size,
            ..config()
        };
        let (geometry, bad) =
            Geometry::new(&config, &limits(), &BigBlocks { force, size }).unwrap();
        assert_eq!(geometry.is_big(), geometry.subs_per_block() == 1);
        (geometry, bad)
    };
    // In sub-block mode the size is not looked at.
    let (small, bad) = geometry(2 * MIB, false, 3);
    assert_eq!((small.subs_per_block(), bad), (64, None));
    let (large, _) = geometry(512 * MIB, false, 0);
    assert_eq!((large.blocks(), large.block_size()), (2, 512 * MIB));
    assert_eq!(
        (large.memory_blocks(), large.memory_blocks_per_block()),
        (8, 4)
    );
    assert_eq!(large.memory_blocks_of(1), 4..8);
    assert_eq!(large.block_of_memory_block(3), 0);
    assert_eq!(large.memory_block_addr(5), (4096 + 5 * 128) * MIB);
    assert_eq!(large.device_blocks(1), 1);
    assert_eq!(large.usable_subs(1023 * MIB), 1);
    let (forced, _) = geometry(2 * MIB, true, 0);
    assert_eq!((forced.blocks(), forced.sub_size()), (8, 128 * MIB));
    assert_eq!(forced.device_blocks(1), 64);
    let (asked, bad) = geometry(2 * MIB, true, 256 * MIB);
    assert_eq!((asked.blocks(), bad), (4, None));
    for (size, reason) in [
        (3 << 30, BadSize::NoPowerOfTwo),
        (64 * MIB, BadSize::TooSmall),
        (8 << 30, BadSize::TooLarge),
        (1 << 63, BadSize::TooLarge),
    ] {
        let (geometry, bad) = geometry(2 * MIB, true, size);
        assert_eq!((geometry.block_size(), bad), (128 * MIB, Some(reason)));
        assert!(!reason.as_str().is_empty());
    }
    // 2^17 device blocks of 1 MiB in a big block are more than a request can name.
    let config = Config {
        block_size: MIB,
        region_size: 1 << 40,
        addr: 0,
        ..config()
    };
    let big = BigBlocks {
        force: true,
        size: 1 << 37,
    };
    let (_, bad) = Geometry::new(&config, &limits(), &big).unwrap();
    assert_eq!(bad, Some(BadSize::TooLarge));
}

#[test]
fn the_map_of_a_tebibyte_is_small() {
    let config = Config {
        region_size: 1 << 40,
        ..config()
    };
    let (geometry, _) = Geometry::new(&config, &limits(), &BigBlocks::default()).unwrap();
    assert_eq!(geometry.subs(), 524_288);
    let bytes = BlockMap::<Vec<u64>>::words_needed(&geometry) * 8;
    assert!(bytes <= 95 << 10, "{bytes} bytes");
}

#[test]
fn delays_double_up_to_their_limit() {
    let mut backoff = Backoff::new(100, 4_000);
    let delays: Vec<_> = (0..8).map(|_| backoff.fail()).collect();
    assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 4000, 4000]);
    backoff.reset();
    assert_eq!(backoff.fail(), 100);
}

#[test]
fn emptying_needs_room_elsewhere() {
    // All free memory is in the range itself.
    assert!(migration_budget::room_for(0, 128 * MIB, 0));
    assert!(!migration_budget::room_for(64 * MIB, 128 * MIB, 64 * MIB));
    assert!(!migration_budget::room_for(64 * MIB, 128 * MIB, 128 * MIB));
    assert!(!migration_budget::room_for(64 * MIB, 128 * MIB, 167 * MIB));
    assert!(migration_budget::room_for(64 * MIB, 128 * MIB, 168 * MIB));
    assert!(!migration_budget::room_for(
        u64::MAX,
        u64::MAX,
        u64::MAX - 1
    ));
}

#[test]
fn attempts_get_more_time_where_that_is_all_they_need() {
    let mut deadline = AttemptDeadline::default();
    assert_eq!(deadline.deadline_ms(0, 1), 200);
    assert_eq!(deadline.deadline_ms(128 * MIB, 1), 3400);
    for limit in [400, 800, 1600, 3200, 6400, 6400] {
        assert!(deadline.cut_off(limit / 2, limit / 2, 0));
        assert_eq!(deadline.deadline_ms(0, 1), limit);
    }
    // Something that is in use may be what cannot be moved.
    assert!(!AttemptDeadline::default().cut_off(200, 200, 4096));
    assert!(deadline.deadline_ms(u64::MAX, 1) > deadline.deadline_ms(128 * MIB, 1));
    // As long as it is needed it stays.
    deadline.done(1600, 6400);
    assert_eq!(deadline.deadline_ms(0, 1), 6400);
    for limit in [3200, 1600, 800, 400, 200, 200] {
        deadline.done(1, deadline.deadline_ms(0, 1));
        assert_eq!(deadline.deadline_ms(0, 1), limit);
    }
    // It was gone over only once, which says nothing of the time that others need.
    assert!(deadline.cut_off(7600, 3400, 4096));
    assert_eq!(deadline.deadline_ms(0, 1), 200);
}

#[test]
fn each_of_several_memory_blocks_has_its_time() {
    let deadline = AttemptDeadline::default();
    assert_eq!(deadline.deadline_ms(0, 8), 1600);
    assert_eq!(deadline.deadline_ms(2 * MIB, 8), 1650);
    assert!(deadline.deadline_ms(u64::MAX, u32::MAX) > deadline.deadline_ms(u64::MAX, 8));
}

#[test]
fn words_are_read_as_they_are_written() {
    for state in State::ALL {
        assert_eq!(State::parse(state.as_str()), Some(*state));
    }
    for reason in Reason::ALL {
        assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        assert_eq!(reason.to_string(), reason.as_str());
    }
    assert_eq!(State::parse("Settled"), None);
}

proptest! {
    #![proptest_config(cases::config(if cfg!(miri) { 5 } else { 1_000 }))]

    #[test]
    fn a_block_set_is_a_set(limit in 1..20_000_u32,
                            changes in prop::collection::vec((0..20_100_u32, any::<bool>()), 0..80),
                            looks in prop::collection::vec(0..20_100_u32, 20)) {
        let mut words = vec![0; block_set::words_needed(limit)];
        let mut model = BTreeSet::new();
        for (n, member) in changes {
            BlockSet::new_mut(&mut words, limit).set(n, member);
            if member && n < limit {
                model.insert(n);
            } else {
                model.remove(&n);
            }
        }
        let set = BlockSet::new(&words, limit);
        prop_assert_eq!(set.first(), model.first().copied());
        prop_assert_eq!(set.last(), model.last().copied());
        for n in looks {
            prop_assert_eq!(set.contains(n), model.contains(&n));
            prop_assert_eq!(set.at_or_above(n), model.range(n..).next().copied());
            prop_assert_eq!(set.below(n), model.range(..n).next_back().copied());
        }
    }

    #[test]
    fn the_map_files_every_block_where_it_belongs(
        changes in prop::collection::vec((0..512_u32, 1..200_u32, any::<bool>()), 0..20),
        states in prop::collection::vec((0..8_u32, 0..4_u8, any::<bool>(), 0..16_u8), 0..30),
        big in prop_oneof![Just(0), Just(128), Just(256), Just(1024)],
    ) {
        let mut model = Model::new(big);
        for (start, len, on) in changes {
            model.set_plugged(start, len, on);
        }
        for (number, state, moving, flags) in states {
            model.set_memory_block_state(number, state, moving);
            model.set_flags(number, flags, moving);
        }
        prop_assert_eq!(model.check(), Ok(()));
    }
}

const PAGE: u64 = 4096;

/// A zone of so many MiB, of which so many are free, with watermarks as in a guest of 4 GiB.
fn zone(managed_mib: u64, free_mib: u64, reserve_mib: u64) -> Zone {
    let pages = |mib: u64| mib * MIB / PAGE;
    Zone {
        managed: pages(managed_mib),
        free: pages(free_mib),
        min: pages(16),
        high: pages(32),
        reserve: pages(reserve_mib),
        ..Zone::default()
    }
}

#[test]
fn memory_below_4_gib_counts_where_there_is_no_other() {
    // arm64, where it is ZONE_DMA, and s390x; nothing above, so nothing is kept for lower zones.
    let all_in_dma = zone(4096, 1024, 0);
    let room = metadata_room([all_in_dma].into_iter(), 1024 * MIB, PAGE);
    assert_eq!(room, (1024 - 32 - 32) * MIB);
}

#[test]
fn what_is_kept_for_lower_zones_is_not_spent() {
    // x86: ZONE_DMA is all reserve, ZONE_DMA32 in part.
    let zones = [zone(16, 15, 30), zone(3072, 1000, 64), zone(12_288, 500, 0)];
    let room = metadata_room(zones.into_iter(), 4096 * MIB, PAGE);
    assert_eq!(room, (1000 - 32 - 64 + 500 - 32 - 32) * MIB);
}

#[test]
fn cma_is_no_room_and_half_of_the_page_cache_is() {
    let zone = Zone {
        free_cma: 300 * MIB / PAGE,
        file: 200 * MIB / PAGE,
        ..zone(2048, 500, 0)
    };
    let room = metadata_room([zone].into_iter(), 1024 * MIB, PAGE);
    assert_eq!(room, (500 - 300 + 100 - 32 - 32) * MIB);
}

#[test]
fn a_needy_guest_may_go_below_the_high_watermarks() {
    let zones = || [zone(1024, 56, 0)].into_iter();
    assert_eq!(metadata_room(zones(), 60 * MIB, PAGE), 20 * MIB);
    assert_eq!(metadata_room(zones(), 200 * MIB, PAGE), 8 * MIB);
    let none = core::iter::empty();
    assert_eq!(metadata_room(none, 60 * MIB, PAGE), 0);
}

#[test]
fn few_pages_are_looked_at_at_once() {
    for shift in 21..40 {
        let block = 1_u64 << shift;
        let looks = block / migration_budget::look_bytes(block);
        let at_once = u64::from(migration_budget::blocks_at_once(block)) * looks;
        assert!(at_once <= 4_096, "{at_once} for blocks of {block}");
        // No fewer than is needed, either.
        assert!(at_once * 2 > 4_096, "{at_once} for blocks of {block}");
    }
    // 512 of 32,768 pages, and 4,096 of 524,288.
    assert_eq!(migration_budget::look_bytes(128 * MIB), 256 << 10);
    assert_eq!(migration_budget::look_bytes(2048 * MIB), 512 << 10);
    assert_eq!(migration_budget::blocks_at_once(2048 * MIB), 1);
}
