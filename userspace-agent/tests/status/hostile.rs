// SPDX-License-Identifier: GPL-2.0

//! Files that are not what they should be, cannot be read, or go away.

use crate::tree::region_start;
use crate::tree::Tree;
use crate::tree::MEMORY_BLOCK;
use rustix::fs::mknodat;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::CWD;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

/// A machine with one device that has everything.
fn tree() -> Tree {
    let mut tree = Tree::new();
    tree.memory_device(0, 1);
    tree.memory_block(region_start(0), "online", "Movable", 0);
    tree
}

/// Checks that reading fails, with a message that has all of this in it, and shows `devices`
/// devices.
fn fails(tree: &Tree, devices: usize, parts: &[&str]) {
    let output = tree.agent(&["status", "--json"]).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();

    assert_eq!(output.status.code(), Some(1), "{message}");
    assert_eq!(status["devices"].as_array().unwrap().len(), devices);
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(
        message.chars().all(|c| c == '\n' || !c.is_control()),
        "{message:?}"
    );
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn attributes() {
    let good = "good";
    for (name, bad, expected) in [
        ("requested_size", "-1", "a decimal number of bytes"),
        (
            "requested_size",
            "18446744073709551616",
            "a decimal number of bytes",
        ),
        ("plugged_size", "", "a decimal number of bytes"),
        ("region_size", "0x1000", "a decimal number of bytes"),
        ("block_size", "2 MiB", "a decimal number of bytes"),
        ("start_address", "\u{1b}[2J", "a decimal address"),
        ("node", "-2", "the number of a node, or -1"),
        ("state", "\u{1b}]0;owned\u{7}", "a word"),
        ("reason", "two words", "a word"),
        ("next_attempt_ms", "-2", "milliseconds, or -1"),
        ("attempts", "many", "a decimal number"),
        ("last_error", "plug \u{1b}[2J", "words"),
        ("features", "a  b", "words"),
        ("requests_plug_ack", "-1", "a decimal number"),
    ] {
        let mut tree = tree();
        tree.attribute(0, name, bad);
        tree.memory_device(1, 0);
        tree.attribute(1, "state", good);

        fails(&tree, 2, &["virtio0/virtio_mem/", name, expected]);
    }
}

#[test]
fn what_else_is_known_stays() {
    let tree = tree();
    tree.stand(0, 2 << 30, 1 << 30, "plugging");
    tree.attribute(0, "reason", "?");
    let (status, code) = tree.json(&[]);
    let device = &status["devices"][0];

    assert_eq!(code, 1);
    assert_eq!(device["reason"], serde_json::Value::Null);
    assert_eq!(device["plugged_size"], 1 << 30);
    assert_eq!(device["state"], "plugging");
    assert_eq!(status["errors"].as_array().unwrap().len(), 1);
    assert_eq!(status["errors"][0]["device"], "virtio0");
    let message = status["errors"][0]["message"].as_str().unwrap();
    assert!(
        message.contains("virtio0/virtio_mem/reason: expected a word"),
        "{message}"
    );

    // The region is known, whatever the memory blocks are.
    tree.attribute(0, "reason", "none");
    tree.attribute(0, "start_address", region_start(0));
    tree.write("sys/devices/system/memory/block_size_bytes", "0\n");
    let (status, code) = tree.json(&[]);
    assert_eq!(code, 1);
    assert_eq!(status["devices"][0]["plugged_size"], 1 << 30);
    assert_eq!(
        status["devices"][0]["offline_size"],
        serde_json::Value::Null
    );
    assert_eq!(status["errors"][0]["device"], serde_json::Value::Null);
}

#[test]
fn huge_and_senseless_but_well_formed_attributes() {
    let tree = tree();
    for name in [
        "requested_size",
        "plugged_size",
        "region_size",
        "block_size",
        "start_address",
    ] {
        tree.attribute(0, name, u64::MAX);
    }
    tree.attribute(0, "node", u32::MAX);
    let (status, code) = tree.json(&[]);

    assert_eq!(code, 0);
    assert_eq!(status["devices"][0]["plugged_size"], u64::MAX);
    assert_eq!(status["devices"][0]["node"], u32::MAX);
    tree.agent(&[]).assert().code(0);
}

#[test]
fn binary_and_endless_files() {
    let tree = tree();
    tree.write("proc/iomem", [0xff, 0xfe, 0, b'\n', 0x80]);
    fails(&tree, 1, &["proc/iomem: expected lines of the form"]);

    fs::remove_file(tree.path("proc/iomem")).unwrap();
    symlink("/dev/zero", tree.path("proc/iomem")).unwrap();
    fails(&tree, 1, &["proc/iomem", "found a device"]);
    fs::remove_file(tree.path("proc/iomem")).unwrap();
    let sparse = fs::File::create(tree.path("proc/iomem")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    fails(&tree, 1, &["proc/iomem", "found more than"]);
}

#[test]
fn iomem_and_memory_blocks() {
    let block = format!("memory{}", region_start(0) / MEMORY_BLOCK);
    for (path, bad, expected) in [
        (
            "proc/iomem".to_owned(),
            "0-1 : ok\n5-4 : virtio0\n",
            "found \"5-4 : virtio0\"",
        ),
        (
            "sys/devices/system/memory/block_size_bytes".to_owned(),
            "0\n",
            "other than 0",
        ),
        (
            format!("sys/devices/system/memory/{block}/state"),
            "gone\n",
            "online, offline",
        ),
        (
            format!("sys/devices/system/memory/{block}/valid_zones"),
            "\n",
            "names of zones",
        ),
        (
            "sys/bus/virtio/devices/virtio1/device".to_owned(),
            "memory\n",
            "a virtio device id",
        ),
    ] {
        let tree = tree();
        tree.device(1, "0x0001", None);
        tree.write(&path, bad);

        fails(&tree, 1, &[&format!("{path}: expected "), expected]);
    }
}

#[test]
fn entries_that_are_no_devices() {
    let tree = tree();
    for name in [
        "virtio",
        "virtio00",
        "virtio+1",
        "virtio99999999999999999999",
        "x\ny",
    ] {
        tree.write(&format!("sys/bus/virtio/devices/{name}/device"), "garbage");
    }
    tree.write("sys/devices/system/memory/memory007/state", "garbage");
    tree.write(
        "sys/devices/system/memory/memory18446744073709551615/state",
        "garbage",
    );
    let (status, code) = tree.json(&[]);

    assert_eq!(code, 0);
    assert_eq!(status["devices"].as_array().unwrap().len(), 1);
}

#[test]
fn a_directory_where_a_file_should_be() {
    let tree = tree();
    fs::create_dir_all(tree.path("sys/bus/virtio/devices/virtio0/virtio_mem/state")).unwrap();

    fails(
        &tree,
        1,
        &["virtio_mem/state: expected a word", "found a directory"],
    );
}

/// A pipe that nothing is written to would be read for ever.
#[test]
fn a_pipe_where_a_file_should_be() {
    for path in [
        "sys/bus/virtio/devices/virtio0/virtio_mem/state",
        "sys/devices/system/memory/block_size_bytes",
        "proc/iomem",
    ] {
        let tree = tree();
        if path.ends_with("block_size_bytes") {
            tree.attribute(0, "region_size", MEMORY_BLOCK);
            tree.attribute(0, "start_address", region_start(0));
        }
        let pipe = tree.path(path);
        fs::create_dir_all(pipe.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&pipe);
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        for command in [&["status"][..], &["metrics"], &["watch", "--count", "1"]] {
            let output = tree.agent(command).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(
                said.contains(&format!("{path}: expected ")) && said.contains("found a pipe"),
                "{command:?}: {said}"
            );
        }
        tree.agent(&["doctor"]).output().unwrap();
    }
}

#[test]
fn a_driver_with_a_hostile_name() {
    let tree = Tree::new();
    tree.device(0, "0x0018", Some("\u{1b}]0;owned\u{7}\u{9b}2J"));
    for command in [
        &["status"][..],
        &["status", "--json"],
        &["metrics"],
        &["doctor"],
    ] {
        let output = tree.agent(command).output().unwrap();
        for text in [output.stdout, output.stderr] {
            let text = String::from_utf8(text).unwrap();
            assert!(
                text.chars().all(|c| c == '\n' || !c.is_control()),
                "{command:?}: {text:?}"
            );
        }
    }
}

#[test]
fn a_root_that_is_none() {
    let tree = Tree::new();
    fs::create_dir(tree.path("empty")).unwrap();
    let empty = tree.path("empty");
    for (root, message) in [
        ("/nonexistent", "cannot read /nonexistent: No such file"),
        (
            empty.to_str().unwrap(),
            "expected a directory with sys or proc in it",
        ),
    ] {
        for command in ["status", "watch", "wait", "metrics", "report", "doctor"] {
            let mut agent = assert_cmd::Command::new(env!("CARGO_BIN_EXE_virtio-mem-agent"));
            let output = agent.args([command, "--root", root]).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{command}: {said}");
            assert!(said.contains(message), "{command}: {said}");
        }
    }
}

#[test]
fn bus_that_is_no_directory() {
    let tree = Tree::new();
    fs::remove_dir(tree.path("sys/bus/virtio/devices")).unwrap();
    tree.write("sys/bus/virtio/devices", "");

    fails(
        &tree,
        0,
        &["cannot read ", "sys/bus/virtio/devices: Not a directory"],
    );
}

#[test]
fn permission_denied() {
    let tree = tree();
    tree.attribute(0, "state", "settled");
    let deny = |path: &str| {
        fs::set_permissions(tree.path(path), fs::Permissions::from_mode(0o000)).unwrap();
    };

    deny("sys/bus/virtio/devices/virtio0/virtio_mem/state");
    deny("proc/iomem");
    if fs::File::open(tree.path("proc/iomem")).is_ok() {
        eprintln!("skipped: nothing is denied to this user");
        return;
    }
    fails(
        &tree,
        1,
        &["cannot read ", "virtio_mem/state: Permission denied"],
    );

    fs::remove_dir_all(tree.path("sys/bus/virtio/devices/virtio0/virtio_mem")).unwrap();
    let (status, code) = tree.json(&[]);
    assert_eq!(code, 0);
    assert_eq!(status["devices"][0]["source"], "hidden");
}

#[test]
fn no_proc() {
    let tree = tree();
    fs::remove_dir_all(tree.path("proc")).unwrap();

    fails(&tree, 1, &["cannot read ", "proc/iomem: No such file"]);
}

#[test]
fn region_not_in_iomem() {
    let tree = tree();
    tree.write("proc/iomem", "00001000-7fffffff : System RAM\n");

    let assert = tree.agent(&["status"]).assert().code(0);
    assert.stderr(
        "virtio-mem-agent: virtio0: its region is not in /proc/iomem, its sizes are unknown\n",
    );
}

#[test]
fn device_that_is_gone() {
    let mut tree = tree();
    tree.memory_device(1, 0);
    fs::remove_dir_all(tree.path("sys/devices/pci0000:00/virtio0")).unwrap();

    let assert = tree.agent(&["status"]).assert().code(0);
    assert.stderr("virtio-mem-agent: virtio0: vanished while it was read\n");
    let (status, _) = tree.json(&[]);
    assert_eq!(status["devices"].as_array().unwrap().len(), 1);
}

/// Whatever the moment at which a device comes or goes, it is shown or it is not, and nothing
/// fails.
#[test]
fn devices_that_come_and_go() {
    let mut tree = tree();
    tree.memory_device(1, 0);
    let done = AtomicBool::new(false);
    let link = tree.path("sys/bus/virtio/devices/virtio1");
    let target = fs::read_link(&link).unwrap();

    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                fs::remove_file(&link).unwrap();
                std::thread::yield_now();
                symlink(&target, &link).unwrap();
                std::thread::yield_now();
            }
        });
        let codes: Vec<_> = (0..50).map(|_| tree.json(&[])).collect();
        done.store(true, Ordering::Relaxed);

        for (status, code) in codes {
            assert_eq!(code, 0);
            assert_eq!(status["devices"][0]["device"], "virtio0");
            assert!(status["devices"].as_array().unwrap().len() <= 2);
        }
    });
}

#[test]
fn output_that_cannot_be_written() {
    let tree = tree();
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["watch", "--json"],
        &["watch"],
        &["metrics"],
        &["doctor", "--json"],
        &["doctor", "--list"],
    ] {
        let agent = |stdout: Stdio| {
            std::process::Command::new(env!("CARGO_BIN_EXE_virtio-mem-agent"))
                .arg("--root")
                .arg(tree.path(""))
                .args(args)
                .stdout(stdout)
                .output()
                .unwrap()
        };
        let full = fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let output = agent(full.into());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(
            said.contains("cannot write standard output: "),
            "{args:?}: {said}"
        );

        let mut reader = std::process::Command::new("true")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let writer = reader.stdin.take().unwrap();
        reader.wait().unwrap();
        let output = agent(writer.into());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !said.contains("cannot write standard output: "),
            "{args:?}: {said}"
        );
        // Whatever doctor has found.
        if args != ["doctor", "--json"] {
            assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
        }
    }
}
