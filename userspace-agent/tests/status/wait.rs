// SPDX-License-Identifier: GPL-2.0

//! Waiting for devices that do what is wanted, or do not. Plain files announce nothing, so it is
//! the interval at which the agent looks again that is tested; what the kernel announces is tested
//! in a guest.

use crate::tree::Tree;
use std::time::Duration;
use std::time::Instant;

const GIB: u64 = 1 << 30;

/// Two devices with attributes: the first one settled, the second one plugging.
fn tree() -> Tree {
    let mut tree = Tree::new();
    tree.memory_device(0, 0);
    tree.memory_device(1, 0);
    tree.stand(0, GIB, GIB, "settled");
    tree.stand(1, 3 * GIB, 2 * GIB, "plugging");
    tree
}

/// Checks the exit code of `wait`, and that it says this on standard error.
fn waits(tree: &Tree, args: &[&str], code: i32, message: &str) {
    let output = tree
        .agent(&["wait", "--interval", "100ms"])
        .args(args)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();

    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(output.stdout.is_empty());
    assert_eq!(message.is_empty(), stderr.is_empty(), "{args:?}: {stderr}");
    assert!(stderr.contains(message), "{args:?}: {stderr}");
}

#[test]
fn met_at_once() {
    let tree = tree();

    waits(&tree, &["--device", "virtio0"], 0, "");
    waits(
        &tree,
        &["--settled", "--device", "virtio0", "--timeout", "0s"],
        0,
        "",
    );
    waits(&tree, &["--at-least", "3G"], 0, "");
    waits(&tree, &["--at-least", "2GiB", "--device", "virtio1"], 0, "");
    waits(
        &tree,
        &["--at-least", "1G", "--settled", "--device", "virtio0"],
        0,
        "",
    );
}

#[test]
fn timed_out() {
    let tree = tree();
    let start = Instant::now();

    waits(
        &tree,
        &["--timeout", "300ms"],
        4,
        "timed out: virtio0: settled, 1 GiB plugged",
    );
    assert!(start.elapsed() >= Duration::from_millis(300));
    waits(
        &tree,
        &["--timeout", "0s"],
        4,
        "virtio1: plugging, 2 GiB plugged of 3 GiB requested",
    );
    waits(
        &tree,
        &["--at-least", "4G", "--timeout", "0s"],
        4,
        "timed out",
    );
}

#[test]
fn met_once_it_changes() {
    let tree = tree();

    std::thread::scope(|scope| {
        let settled = scope.spawn(|| waits(&tree, &["--timeout", "30s"], 0, ""));
        let enough = scope.spawn(|| waits(&tree, &["--at-least", "4G"], 0, ""));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!settled.is_finished());
        assert!(!enough.is_finished());

        tree.stand(1, 3 * GIB, 3 * GIB, "settled");
        settled.join().unwrap();
        enough.join().unwrap();
    });
}

#[test]
fn a_device_without_a_driver_is_waited_for() {
    let tree = tree();
    tree.stand(1, 0, 0, "settled");
    tree.device(2, "0x0018", None);

    waits(
        &tree,
        &["--timeout", "0s"],
        4,
        "virtio2: no driver bound, unknown plugged",
    );
    waits(
        &tree,
        &["--at-least", "100G", "--timeout", "0s"],
        4,
        "timed out",
    );
}

#[test]
fn hopeless() {
    let tree = tree();
    tree.attribute(1, "state", "waiting");
    tree.attribute(1, "reason", "not-addressable");

    waits(
        &tree,
        &[],
        5,
        "virtio1: not more than 2 GiB can be plugged, 3 GiB is requested",
    );
    waits(&tree, &["--at-least", "4G"], 5, "4 GiB cannot be reached");
    waits(
        &tree,
        &["--at-least", "33G"],
        5,
        "3 GiB is plugged, at most 3 GiB will be",
    );
    waits(
        &tree,
        &["--at-least", "2G", "--device", "virtio0"],
        5,
        "at most 1 GiB will be",
    );
}

#[test]
fn with_a_timeout_the_host_is_waited_for() {
    let tree = tree();

    std::thread::scope(|scope| {
        let enough = scope.spawn(|| waits(&tree, &["--at-least", "8G", "--timeout", "30s"], 0, ""));
        let there = scope.spawn(|| waits(&tree, &["virtio7", "--timeout", "30s"], 0, ""));
        std::thread::sleep(Duration::from_millis(500));
        assert!(!enough.is_finished());
        assert!(!there.is_finished());

        tree.stand(1, 7 * GIB, 7 * GIB, "settled");
        tree.device(7, "0x0018", Some("virtio_mem"));
        tree.stand(7, 0, 0, "settled");
        enough.join().unwrap();
        there.join().unwrap();
    });
    waits(
        &tree,
        &["--at-least", "33G", "--timeout", "300ms"],
        4,
        "timed out: 33 GiB cannot be reached",
    );
    waits(
        &tree,
        &["--device", "virtio8", "--timeout", "300ms"],
        4,
        "timed out: no virtio-mem device \"virtio8\"",
    );
}

#[test]
fn with_a_timeout_it_can_fail_fast() {
    let tree = tree();
    let start = Instant::now();

    waits(
        &tree,
        &["--at-least", "33G", "--timeout", "60s", "--fail-fast"],
        5,
        "33 GiB cannot be reached",
    );
    waits(
        &tree,
        &["virtio7", "--timeout", "60s", "--fail-fast"],
        3,
        "no virtio-mem device",
    );
    assert!(start.elapsed() < Duration::from_secs(30));
}

// Settled, but for what was requested before.
#[test]
fn a_request_that_has_not_arrived() {
    let tree = tree();
    tree.stand(1, 0, 0, "settled");

    waits(&tree, &["--requested", "1G"], 0, "");
    waits(
        &tree,
        &["--requested", "2G", "--timeout", "300ms"],
        4,
        "timed out: 1 GiB is requested, not 2 GiB",
    );
    waits(
        &tree,
        &["--requested", "2G", "--fail-fast"],
        5,
        "1 GiB is requested, not 2 GiB",
    );
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| waits(&tree, &["--requested", "2G"], 0, ""));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished());
        tree.stand(1, GIB, 0, "plugging");
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished());
        tree.stand(1, GIB, GIB, "settled");
        waiting.join().unwrap();
    });
}

#[test]
fn the_c_driver() {
    let mut tree = Tree::new();
    tree.memory_device(0, 8);
    for block in 0..8 {
        let address = crate::tree::region_start(0) + block * crate::tree::MEMORY_BLOCK;
        tree.memory_block(address, "online", "Movable", 0);
    }

    waits(
        &tree,
        &[],
        1,
        "virtio0: its driver does not say whether it is settled",
    );
    waits(&tree, &["--at-least", "1G"], 0, "");
    waits(
        &tree,
        &["--at-least", "2G", "--timeout", "0s"],
        4,
        "timed out",
    );
    waits(&tree, &["--at-least", "17G"], 5, "at most 16 GiB will be");
    tree.hide_addresses();
    waits(&tree, &["--at-least", "1G"], 1, "run as root");
}

#[test]
fn a_driver_that_is_only_being_bound() {
    let mut tree = Tree::new();
    tree.memory_device(0, 0);

    std::thread::scope(|scope| {
        let settled = scope.spawn(|| waits(&tree, &[], 0, ""));
        std::thread::sleep(Duration::from_millis(300));
        tree.stand(0, 0, 0, "settled");
        settled.join().unwrap();
    });
}

#[test]
fn no_device_and_bad_content() {
    let tree = tree();

    waits(&Tree::new(), &[], 3, "no virtio-mem device");
    waits(
        &tree,
        &["--device", "virtio7"],
        3,
        "no virtio-mem device \"virtio7\"",
    );
    tree.attribute(1, "state", "\u{1b}[2J");
    waits(&tree, &[], 1, "virtio_mem/state: expected a word");
    waits(&tree, &["--device", "virtio0"], 0, "");
}

#[test]
fn usage() {
    let tree = tree();

    for args in [
        ["--at-least", "1GB"],
        ["--at-least", "1.5G"],
        ["--timeout", "30 parsecs"],
        ["--interval", "1ms"],
    ] {
        waits(&tree, &args, 2, "error: ");
    }
    tree.agent(&["wait", "--help"]).assert().code(0);
}
