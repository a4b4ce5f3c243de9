// SPDX-License-Identifier: GPL-2.0

//! Delays and deadlines, as the table and what a pass has cost give them.

use super::Delay;
use super::Pace;
use super::Retry;
use super::SpentPass;
use super::Wait;
use super::Waiting;
use crate::engine::Environment;
use crate::vocabulary::Reason;

const NOW_MS: u64 = 1_000_000;

fn env(now_ms: u64, free: u64) -> Environment {
    Environment {
        now_ms,
        free,
        metadata_room: 0,
        unplug_online: true,
    }
}

fn delay_ms(retry: &Retry) -> Option<u64> {
    Some(retry.waiting()?.until_ms()? - NOW_MS)
}

/// The first two delays after failures and the longest, then the one where nothing was tried.
type Row = ([Option<u64>; 3], Option<u64>);

const HOST: [Option<u64>; 3] = [Some(100), Some(200), Some(4_000)];
const LINUX: [Option<u64>; 3] = [Some(250), Some(500), Some(10_000)];
const MEMORY: [Option<u64>; 3] = [Some(1_000), Some(2_000), Some(60_000)];

fn row(reason: Reason) -> Row {
    match reason {
        Reason::HostBusy | Reason::HostRefused | Reason::HostError => (HOST, HOST[0]),
        Reason::MemoryInUse => (MEMORY, MEMORY[0]),
        Reason::NoMemory => (LINUX, Some(1_000)),
        Reason::OfflineLimit | Reason::NotAddressable => (LINUX, None),
        Reason::OnliningRefused | Reason::MapMismatch => (LINUX, LINUX[0]),
        Reason::None | Reason::NoAnswer => ([None; 3], None),
    }
}

#[test]
fn each_reason_waits_as_long_as_its_row_says() {
    let env = env(NOW_MS, 0);
    for reason in Reason::ALL.iter().copied() {
        let (failures, change) = row(reason);
        let mut retry = Retry::new();
        let delays: [_; 10] = core::array::from_fn(|_| {
            retry.wait_after_failure(reason, &env);
            assert_eq!(retry.waiting().map(Waiting::reason), Some(reason));
            delay_ms(&retry)
        });
        assert_eq!([delays[0], delays[1], delays[9]], failures, "{reason}");
        assert_eq!(retry.attempts(), 10);
        let mut retry = Retry::new();
        retry.wait_for_change(reason, &env);
        assert_eq!(delay_ms(&retry), change, "{reason}");
        let deadline = change.map(|ms| NOW_MS + ms);
        assert_eq!(retry.next_deadline(NOW_MS, true), deadline, "{reason}");
    }
}

#[test]
fn waits_for_host_are_those_of_its_pace() {
    for reason in Reason::ALL.iter().copied() {
        let mut retry = Retry::new();
        retry.wait_after_failure(reason, &env(NOW_MS, 0));
        let host = super::delays(reason).0 == Delay::Growing(Pace::Host);
        assert_eq!(retry.waits_for_host(), host);
        assert_eq!(row(reason).0 == HOST, host, "{reason}");
    }
}

#[test]
fn progress_shortens_delays_but_those_of_linux() {
    let env = env(NOW_MS, 0);
    let mut retry = Retry::new();
    let after = |retry: &mut Retry, reason| {
        retry.wait_after_failure(reason, &env);
        delay_ms(retry)
    };
    for reason in [Reason::HostBusy, Reason::MemoryInUse, Reason::NoMemory] {
        after(&mut retry, reason);
    }
    retry.progress();
    assert_eq!(after(&mut retry, Reason::HostError), HOST[0]);
    assert_eq!(after(&mut retry, Reason::MemoryInUse), MEMORY[0]);
    assert_eq!(after(&mut retry, Reason::NoMemory), LINUX[1]);
    retry.linux_takes();
    assert_eq!(after(&mut retry, Reason::MapMismatch), LINUX[0]);
}

#[test]
fn rest_after_a_pass_grows_with_what_it_has_cost() {
    let mut retry = Retry::new();
    let pass = SpentPass {
        fruitless_ms: 700,
        free: 50,
        plenty: 20,
        some: 8,
    };
    let rests: [_; 8] = core::array::from_fn(|_| {
        retry.wait_for_memory(&pass, &env(NOW_MS, 50));
        delay_ms(&retry).unwrap()
    });
    // Four times as long each time, but no less than the back-off says, nor more than 2,000 times
    // what the pass took.
    let expected = [
        1_000, 2_800, 11_200, 44_800, 179_200, 716_800, 1_400_000, 1_400_000,
    ];
    assert_eq!(rests, expected);
    let long = SpentPass {
        fruitless_ms: 10_000,
        ..pass
    };
    retry.wait_for_memory(&long, &env(NOW_MS, 50));
    assert_eq!(delay_ms(&retry), Some(3_600_000));
}

#[test]
fn freed_memory_ends_the_wait_for_memory() {
    let pass = SpentPass {
        fruitless_ms: 700,
        free: 50,
        plenty: 20,
        some: 8,
    };
    let mut retry = Retry::new();
    retry.wait_for_memory(&pass, &env(NOW_MS, 50));
    // The first time a little is enough.
    assert_eq!(retry.enough_free(NOW_MS), Some(58));
    assert_eq!(retry.poll(&env(NOW_MS, 57)), Some(Wait::GoesOn));
    assert_eq!(retry.poll(&env(NOW_MS, 58)), Some(Wait::Over));
    assert_eq!(retry.poll(&env(NOW_MS, 58)), None);
    // After that only when it has rested.
    retry.wait_for_memory(&pass, &env(NOW_MS, 50));
    let rested_ms = NOW_MS + 2_800;
    assert_eq!(retry.next_deadline(NOW_MS, true), Some(rested_ms));
    assert_eq!(retry.enough_free(NOW_MS), Some(70));
    assert_eq!(retry.enough_free(rested_ms), Some(58));
    assert_eq!(retry.poll(&env(NOW_MS, 69)), Some(Wait::GoesOn));
    assert_eq!(retry.poll(&env(NOW_MS, 70)), Some(Wait::MuchFreed));
}

#[test]
fn next_deadline_is_the_earliest_of_those_that_count() {
    let now = env(NOW_MS, 0);
    let mut retry = Retry::new();
    assert_eq!(retry.next_deadline(NOW_MS, true), None);
    retry.wait_after_failure(Reason::NoMemory, &now);
    retry.pause_audit(&now);
    assert_eq!(retry.next_deadline(NOW_MS, true), Some(NOW_MS + 100));
    retry.pause_audit(&now);
    retry.pause_audit(&now);
    assert_eq!(retry.next_deadline(NOW_MS, true), Some(NOW_MS + 250));
    // Before the audit has told what is plugged, nothing is tried.
    assert_eq!(retry.next_deadline(NOW_MS, false), Some(NOW_MS + 400));
    // And before that, Linux is looked at.
    retry.resync(&now);
    assert!(retry.resync_due(NOW_MS));
    retry.resync_failed(&now);
    assert!(retry.resync_required() && !retry.resync_due(NOW_MS));
    let again_ms = retry.waiting().and_then(Waiting::until_ms);
    assert_eq!(retry.next_deadline(NOW_MS, true), again_ms);
}
