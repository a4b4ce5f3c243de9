// SPDX-License-Identifier: GPL-2.0

//! What is printed and written.

use crate::tree::region_start;
use crate::tree::Tree;
use rustix::fs::mknodat;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::CWD;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::fs::PermissionsExt;

/// A machine with a device that tells everything, and one whose driver tells nothing.
pub(crate) fn tree() -> Tree {
    let mut tree = Tree::new();
    tree.write("sys/module/virtio_mem/version", "0.1.0+g0123456789ab\n");
    tree.memory_device(0, 1);
    tree.memory_block(region_start(0), "online", "Movable", 0);
    for (name, value) in [
        ("requested_size", 314_572_800),
        ("plugged_size", 209_715_200),
        ("region_size", 17_179_869_184),
        ("usable_region_size", 1_073_741_824),
        ("block_size", 2_097_152),
        ("start_address", region_start(0)),
        ("node", 0),
        ("plugged_movable_size", 134_217_728),
        ("plugged_kernel_size", 0),
        ("plugged_offline_size", 67_108_864),
        ("plugged_not_added_size", 8_388_608),
        ("next_attempt_ms", 1500),
        ("attempts", 3),
        ("requests_plug_ack", 100),
        ("requests_unplug_all_busy", 2),
        ("plugged_blocks_total", 100),
        ("plugged_bytes_total", 209_715_200),
        ("unplugged_blocks_total", 1),
        ("unplugged_bytes_total", 2_097_152),
        ("migrations_failed_total", 7),
        ("unplugs_not_sent_total", 3),
    ] {
        tree.attribute(0, name, value);
    }
    tree.attribute(0, "state", "waiting");
    tree.attribute(0, "reason", "memory-in-use");
    tree.memory_device(1, 0);
    tree
}

/// The series, without what explains them.
fn series(tree: &Tree) -> Vec<String> {
    let output = tree.agent(&["metrics"]).output().unwrap();

    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(String::from)
        .collect()
}

#[test]
fn everything_that_is_known() {
    let series = series(&tree());

    for expected in [
        r#"virtio_mem_agent_info{version="0.1.0"} 1"#,
        r#"virtio_mem_device_info{device="virtio0",driver="virtio_mem",node="0",version="0.1.0+g0123456789ab"} 1"#,
        r#"virtio_mem_device_info{device="virtio1",driver="virtio_mem",node="",version=""} 1"#,
        r#"virtio_mem_requested_bytes{device="virtio0"} 314572800"#,
        r#"virtio_mem_plugged_bytes{device="virtio0"} 209715200"#,
        r#"virtio_mem_region_bytes{device="virtio0"} 17179869184"#,
        r#"virtio_mem_region_bytes{device="virtio1"} 17179869184"#,
        r#"virtio_mem_usable_region_bytes{device="virtio0"} 1073741824"#,
        r#"virtio_mem_block_bytes{device="virtio0"} 2097152"#,
        r#"virtio_mem_added_bytes{device="virtio0"} 134217728"#,
        r#"virtio_mem_added_bytes{device="virtio1"} 0"#,
        r#"virtio_mem_added_offline_bytes{device="virtio0"} 0"#,
        r#"virtio_mem_memory_bytes{device="virtio0",standing="movable"} 134217728"#,
        r#"virtio_mem_memory_bytes{device="virtio0",standing="kernel"} 0"#,
        r#"virtio_mem_memory_bytes{device="virtio0",standing="offline"} 67108864"#,
        r#"virtio_mem_memory_bytes{device="virtio0",standing="not_added"} 8388608"#,
        r#"virtio_mem_state{device="virtio0",state="waiting"} 1"#,
        r#"virtio_mem_state{device="virtio0",state="settled"} 0"#,
        r#"virtio_mem_reason{device="virtio0",reason="memory-in-use"} 1"#,
        r#"virtio_mem_reason{device="virtio0",reason="none"} 0"#,
        r#"virtio_mem_next_attempt_seconds{device="virtio0"} 1.5"#,
        r#"virtio_mem_attempts{device="virtio0"} 3"#,
        r#"virtio_mem_requests_total{answer="ack",device="virtio0",kind="plug"} 100"#,
        r#"virtio_mem_requests_total{answer="busy",device="virtio0",kind="unplug_all"} 2"#,
        r#"virtio_mem_plug_bytes_total{device="virtio0"} 209715200"#,
        r#"virtio_mem_plug_blocks_total{device="virtio0"} 100"#,
        r#"virtio_mem_unplug_bytes_total{device="virtio0"} 2097152"#,
        r#"virtio_mem_unplug_blocks_total{device="virtio0"} 1"#,
        r#"virtio_mem_migrations_failed_total{device="virtio0"} 7"#,
        r#"virtio_mem_unplugs_not_sent_total{device="virtio0"} 3"#,
        "virtio_mem_scrape_errors 0",
    ] {
        assert!(
            series.iter().any(|line| line == expected),
            "{expected} is not in {series:#?}"
        );
    }
    for (family, ones) in [("virtio_mem_state{", 1), ("virtio_mem_reason{", 1)] {
        let of_family = series.iter().filter(|line| line.starts_with(family));
        assert_eq!(of_family.filter(|line| line.ends_with(" 1")).count(), ones);
    }
}

#[test]
fn what_is_unknown_is_absent() {
    let tree = Tree::new();
    tree.device(0, "0x0018", None);

    assert_eq!(
        series(&tree),
        [
            r#"virtio_mem_agent_info{version="0.1.0"} 1"#,
            r#"virtio_mem_device_info{device="virtio0",driver="",node="",version=""} 1"#,
            "virtio_mem_scrape_errors 0",
        ]
    );
    assert_eq!(series(&Tree::new()).len(), 2);
}

#[test]
fn no_attempt_is_due() {
    let tree = tree();
    tree.attribute(0, "next_attempt_ms", -1);

    assert!(!series(&tree).concat().contains("next_attempt"));
}

#[test]
fn a_word_of_a_newer_driver() {
    let tree = tree();
    tree.attribute(0, "state", "dreaming");
    let series = series(&tree).concat();

    assert!(series.contains(r#"virtio_mem_state{device="virtio0",state="dreaming"} 1"#));
    assert!(series.contains(r#"virtio_mem_state{device="virtio0",state="waiting"} 0"#));
}

#[test]
fn a_device_that_cannot_be_read() {
    for (file, bad) in [
        ("requested_size", "-1"),
        ("attempts", "many"),
        ("next_attempt_ms", "-2"),
        ("requests_state_nack", "18446744073709551616"),
    ] {
        let tree = tree();
        tree.attribute(0, file, bad);
        let output = tree.agent(&["metrics"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let message = String::from_utf8(output.stderr).unwrap();

        assert_eq!(output.status.code(), Some(1));
        assert!(text.contains("virtio_mem_scrape_errors 1\n"), "{text}");
        assert!(text.contains(r#"virtio_mem_region_bytes{device="virtio1"}"#));
        assert!(
            message.contains(file) && message.contains("expected"),
            "{message}"
        );
    }
}

#[test]
fn a_file_is_replaced() {
    let tree = tree();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("virtio_mem.prom");
    fs::write(&file, "old").unwrap();
    let args = ["metrics", "--output", file.to_str().unwrap()];

    tree.agent(&args).assert().code(0).stdout("").stderr("");
    let printed = tree.agent(&["metrics"]).output().unwrap().stdout;
    assert_eq!(fs::read(&file).unwrap(), printed);
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o7777,
        0o644
    );
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "something is left over"
    );
}

#[test]
fn what_is_no_file_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name| dir.path().join(name);
    fs::write(path("file"), "precious").unwrap();
    fs::create_dir(path("dir")).unwrap();
    symlink("file", path("link")).unwrap();
    symlink("nowhere", path("dangling")).unwrap();
    mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();

    for name in ["dir", "link", "dangling", "pipe"] {
        let kind = || fs::symlink_metadata(path(name)).unwrap().file_type();
        let (before, file) = (kind(), path(name));
        let output = tree()
            .agent(&["metrics", "--output", file.to_str().unwrap()])
            .output()
            .unwrap();
        let message = String::from_utf8(output.stderr).unwrap();

        assert_eq!(output.status.code(), Some(1), "{name}");
        let expected = "is not a regular file";
        assert!(
            message.contains(&format!("{name}: {expected}")),
            "{message}"
        );
        assert_eq!(kind(), before, "{name}");
    }
    assert_eq!(fs::read(path("file")).unwrap(), b"precious");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
}

#[test]
fn a_file_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    // A directory cannot be replaced by a file.
    for file in [dir.path().join("no/where.prom"), dir.path().into()] {
        let args = ["metrics", "--output", file.to_str().unwrap()];
        let output = tree().agent(&args).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();

        assert_eq!(output.status.code(), Some(1));
        assert!(
            message.contains(&format!("cannot replace {}: ", file.display())),
            "{message}"
        );
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
