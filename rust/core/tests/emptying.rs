// SPDX-License-Identifier: GPL-2.0

//! How memory in use is emptied: which way is taken for what.

use proptest::prelude::*;
use virtio_mem_core::emptying;
use virtio_mem_core::emptying::Content;
use virtio_mem_core::emptying::Emptying;
use virtio_mem_core::emptying::Room;
use virtio_mem_core::emptying::Way;
use virtio_mem_core::emptying::Ways;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 128 * MIB;

/// A guest with much room, one node and no swap.
const ROOMY: Room = Room {
    free: 4096 * MIB,
    available: 5120 * MIB,
    swap: 0,
    excess: 1024 * MIB,
    nodes: false,
};

/// A guest that is full of page cache.
const CACHED: Room = Room {
    free: 64 * MIB,
    ..ROOMY
};

fn clean(mib: u64) -> Content {
    Content {
        clean: mib * MIB,
        ..Content::default()
    }
}

fn anonymous(mib: u64) -> Content {
    Content {
        other: mib * MIB,
        ..Content::default()
    }
}

fn pooled(mib: u64) -> Content {
    Content {
        pooled: mib * MIB,
        ..Content::default()
    }
}

fn way(content: &Content, room: &Room) -> Option<Way> {
    Emptying::default().way(content, BLOCK, room, 0, Ways::Auto)
}

#[test]
fn what_is_free_goes_offline() {
    for nodes in [false, true] {
        let room = Room { nodes, ..CACHED };
        assert_eq!(way(&Content::default(), &room), Some(Way::Offline));
    }
}

#[test]
fn page_cache_stays_where_there_is_room() {
    assert_eq!(way(&clean(128), &ROOMY), Some(Way::Offline));
}

#[test]
fn page_cache_is_dropped_where_there_is_none() {
    assert_eq!(way(&clean(128), &CACHED), Some(Way::Contiguous));
    // Nothing has to be available for it.
    let room = Room {
        available: 16 * MIB,
        ..CACHED
    };
    assert_eq!(way(&clean(128), &room), Some(Way::Contiguous));
}

#[test]
fn little_page_cache_among_other_things_is_migrated() {
    let mixed = Content {
        clean: 32 * MIB,
        other: 64 * MIB,
        ..Content::default()
    };
    assert_eq!(way(&mixed, &CACHED), Some(Way::Offline));
}

#[test]
fn dropping_goes_on_until_the_request_is_met() {
    let mut emptying = Emptying::default();
    let mut way =
        |room: &Room, requested| emptying.way(&clean(128), BLOCK, room, requested, Ways::Auto);
    assert_eq!(way(&CACHED, 512 * MIB), Some(Way::Contiguous));
    // What was dropped has made room.
    assert_eq!(way(&ROOMY, 512 * MIB), Some(Way::Contiguous));
    // Another request.
    assert_eq!(way(&ROOMY, 256 * MIB), Some(Way::Offline));
}

#[test]
fn pools_and_nodes_are_kept() {
    assert_eq!(way(&pooled(128), &ROOMY), Some(Way::Contiguous));
    let nodes = Room {
        nodes: true,
        ..ROOMY
    };
    assert_eq!(way(&anonymous(128), &nodes), Some(Way::Contiguous));
    assert_eq!(way(&anonymous(128), &ROOMY), Some(Way::Offline));
}

#[test]
fn swap_is_room() {
    let short = Room {
        available: 32 * MIB,
        ..ROOMY
    };
    assert_eq!(way(&anonymous(128), &short), None);
    let swap = Room {
        swap: emptying::swappable(2048 * MIB),
        ..short
    };
    assert_eq!(way(&anonymous(128), &swap), Some(Way::Contiguous));
    // But not in full.
    let little = Room {
        swap: emptying::swappable(140 * MIB),
        ..short
    };
    assert_eq!(way(&anonymous(128), &little), None);
}

#[test]
fn the_ways_can_be_chosen() {
    let mut emptying = Emptying::default();
    let mut way =
        |content: &Content, room: &Room, ways| emptying.way(content, BLOCK, room, 0, ways);
    assert_eq!(way(&pooled(64), &CACHED, Ways::Offline), Some(Way::Offline));
    assert_eq!(way(&clean(64), &CACHED, Ways::Offline), Some(Way::Offline));
    let contiguous = way(&anonymous(64), &ROOMY, Ways::Contiguous);
    assert_eq!(contiguous, Some(Way::Contiguous));
    // Offlining warns where there is no room: swap is not counted on.
    let swap = Room {
        available: 16 * MIB,
        swap: 1024 * MIB,
        ..ROOMY
    };
    assert_eq!(way(&anonymous(64), &swap, Ways::Offline), None);
}

#[test]
fn a_block_goes_offline_only_when_that_costs_nothing() {
    let nodes = Room {
        nodes: true,
        ..ROOMY
    };
    // The pool would lose a page.
    assert!(!emptying::may_go_offline(&pooled(2), BLOCK, &ROOMY));
    // It would go to another node, which a page or two may.
    assert!(!emptying::may_go_offline(&anonymous(8), BLOCK, &nodes));
    assert!(emptying::may_go_offline(&anonymous(1), BLOCK, &nodes));
    assert!(emptying::may_go_offline(&anonymous(64), BLOCK, &ROOMY));
}

proptest! {
    /// Whatever there is: a way is only taken where there is room for what has to be moved, and more
    /// room never takes one away.
    #[test]
    fn more_room_is_never_worse(
        clean in 0_u64..=128, pooled in 0_u64..=128, other in 0_u64..=128,
        available in 0_u64..=512, more in 0_u64..=512, swap in 0_u64..=512,
        free in 0_u64..=512, excess in 0_u64..=512, nodes in any::<bool>(),
    ) {
        let content = Content {
            clean: clean * MIB,
            pooled: pooled * MIB,
            other: other * MIB,
            unplugged: 0,
        };
        let room = Room {
            free: free * MIB,
            available: available * MIB,
            swap: swap * MIB,
            excess: excess * MIB,
            nodes,
        };
        let roomier = Room { available: room.available + more * MIB, ..room };
        let first = way(&content, &room);
        if first.is_some() {
            prop_assert!(way(&content, &roomier).is_some());
        }
        if let Some(way) = first {
            let moved = match way {
                Way::Offline => content.used(),
                Way::Contiguous => content.used() - content.clean,
            };
            let outside = room.available.saturating_sub(BLOCK.saturating_sub(content.used()));
            prop_assert!(moved == 0 || moved <= outside + room.swap);
        }
        prop_assert!(emptying::limit_ms(&content) >= 1_000);
    }
}
