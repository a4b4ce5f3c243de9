// SPDX-License-Identifier: GPL-2.0

//! Runs the agent's `doctor` over trees: its output and exit status. What it finds is tested beside
//! the checks.

use assert_cmd::Command;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use tempfile::TempDir;

fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A machine with two devices: one has a driver, of the other one nothing is known but what it is.
fn tree() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for number in [0, 1] {
        write(
            root,
            &format!("sys/bus/virtio/devices/virtio{number}/device"),
            "0x0018\n",
        );
    }
    let attributes = "sys/bus/virtio/devices/virtio0/virtio_mem";
    write(root, &format!("{attributes}/state"), "settled\n");
    write(
        root,
        "sys/module/virtio_mem/parameters/online_type",
        "movable\n",
    );
    symlink(
        "../../drivers/virtio_mem",
        root.join("sys/bus/virtio/devices/virtio0/driver"),
    )
    .unwrap();
    dir
}

fn doctor(root: &Path, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_virtio-mem-agent"))
        .arg("--root")
        .arg(root)
        .arg("doctor")
        .args(args)
        .timeout(std::time::Duration::from_secs(60))
        .output()
        .unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn json() {
    let dir = tree();
    let (code, stdout, stderr) = doctor(dir.path(), &["--json"]);
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();

    assert_eq!((code, stderr.as_str()), (5, ""));
    assert_eq!(report["version"], 1);
    let first = report["findings"][0].as_object().unwrap();
    assert_eq!(first["id"], "no-driver");
    assert_eq!(first["severity"], "error");
    assert_eq!(first["device"], "virtio1");
    assert!(first["message"].is_string() && first["remedy"].is_string());
    assert_eq!(first.len(), 5);
    let last = report["findings"].as_array().unwrap().last().unwrap();
    assert_eq!(last["severity"], "note");
    assert!(last["device"].is_null());
}

#[test]
fn exit_status() {
    let dir = tree();
    // What is missing from this tree makes notes.
    let (code, stdout, _) = doctor(dir.path(), &["--device", "virtio0"]);
    assert_eq!(code, 0, "{stdout}");
    assert!(stdout.starts_with("NOTE ("), "{stdout}");
    assert!(!stdout.contains("virtio1"), "{stdout}");

    let state = "sys/bus/virtio/devices/virtio0/virtio_mem/state";
    write(dir.path(), state, "waiting\n");
    assert_eq!(doctor(dir.path(), &["--device", "virtio0"]).0, 4);
    write(dir.path(), state, "settled\n");
    write(dir.path(), "proc/zoneinfo", "?");
    assert_eq!(doctor(dir.path(), &["--device", "virtio0"]).0, 1);
    assert_eq!(doctor(dir.path(), &["--device"]).0, 2);
    assert_eq!(doctor(dir.path(), &["--list", "--device", "x"]).0, 2);
}

#[test]
fn what_is_wrong_with_another_device_does_not_count() {
    let dir = tree();
    let device = "sys/bus/virtio/devices/virtio1";
    symlink(
        "../../drivers/virtio_mem",
        dir.path().join(device).join("driver"),
    )
    .unwrap();
    write(dir.path(), &format!("{device}/virtio_mem/state"), "?\n");

    assert_eq!(doctor(dir.path(), &[]).0, 1);
    assert_eq!(doctor(dir.path(), &["--device", "virtio1"]).0, 1);
    let (code, stdout, _) = doctor(dir.path(), &["--device", "virtio0"]);
    assert_eq!(code, 0, "{stdout}");
    let (code, stdout, stderr) = doctor(dir.path(), &["--device", "virtio7"]);
    assert_eq!((code, stdout.as_str()), (3, ""));
    assert_eq!(
        stderr,
        "virtio-mem-agent: no virtio-mem device \"virtio7\"\n"
    );
}

#[test]
fn no_device() {
    let dir = tree();
    let (code, stdout, stderr) = doctor(dir.path(), &["--device", "virtio7"]);
    assert_eq!((code, stdout.as_str()), (3, ""));
    assert_eq!(
        stderr,
        "virtio-mem-agent: no virtio-mem device \"virtio7\"\n"
    );

    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("sys")).unwrap();
    let (code, stdout, stderr) = doctor(dir.path(), &["--json"]);
    assert_eq!(code, 3);
    assert_eq!(stderr, "virtio-mem-agent: no virtio-mem device\n");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["findings"], serde_json::json!([]));

    write(dir.path(), "sys/bus/virtio/devices", "");
    let (code, stdout, _) = doctor(dir.path(), &[]);
    assert_eq!(code, 1);
    assert!(
        stdout.contains("sys/bus/virtio/devices: Not a directory"),
        "{stdout}"
    );
}

#[test]
fn list() {
    let (code, stdout, _) = doctor(Path::new("/"), &["--list"]);

    assert_eq!(code, 0);
    assert!(stdout.lines().count() > 20, "{stdout}");
    assert!(
        stdout.starts_with("no-driver              error    no driver"),
        "{stdout}"
    );
}

#[test]
fn list_as_json() {
    let (code, stdout, _) = doctor(Path::new("/"), &["--list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let (_, text, _) = doctor(Path::new("/"), &["--list"]);

    assert_eq!(code, 0);
    assert_eq!(list["version"], 1);
    let kinds = list["kinds"].as_array().unwrap();
    assert_eq!(kinds.len(), text.lines().count());
    for (kind, line) in kinds.iter().zip(text.lines()) {
        assert!(line.starts_with(kind["id"].as_str().unwrap()), "{line}");
        assert!(line.contains(kind["severity"].as_str().unwrap()), "{line}");
        assert!(line.ends_with(kind["about"].as_str().unwrap()), "{line}");
    }
}

#[test]
fn a_saved_tree_is_one_that_root_reads() {
    let dir = tree();
    let saved = tempfile::tempdir().unwrap();
    let place = saved.path().join("tree");
    let (code, stdout, stderr) = doctor(dir.path(), &["--save", place.to_str().unwrap()]);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "", ""));

    let (before, after) = (doctor(dir.path(), &["--json"]), doctor(&place, &["--json"]));
    let path = |dir: &Path| dir.to_str().unwrap().to_owned();
    let there = before.1.replace(&path(dir.path()), &path(&place));
    assert_eq!((before.0, &there), (after.0, &after.1));
    let (code, _, stderr) = doctor(dir.path(), &["--save", place.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(stderr.contains("tree: is not empty"), "{stderr}");
}
