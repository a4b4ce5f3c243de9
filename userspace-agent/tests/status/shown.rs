// SPDX-License-Identifier: GPL-2.0

//! What is shown of machines in good order.

use crate::tree::region_start;
use crate::tree::Tree;
use crate::tree::MEMORY_BLOCK;
use crate::tree::REGION;
use serde_json::json;
use serde_json::Value;

/// A machine whose C driver has 13 memory blocks (1664 MiB) added on node 1: 10 movable, 2 kernel,
/// 1 offline.
fn c_driver() -> Tree {
    let mut tree = Tree::new();
    tree.device(0, "0x0001", Some("virtio_net"));
    tree.memory_device(1, 13);
    for block in 0..13 {
        let (state, zones) = match block {
            0..10 => ("online", "Movable"),
            10..12 => ("online", "Normal"),
            _ => ("offline", "Normal Movable"),
        };
        tree.memory_block(region_start(1) + block * MEMORY_BLOCK, state, zones, 1);
    }
    tree
}

/// A machine whose driver has attributes.
fn with_attributes() -> Tree {
    let mut tree = Tree::new();
    tree.memory_device(0, 2);
    for (name, value) in [
        ("requested_size", 314_572_800),
        ("plugged_size", 209_715_200),
        ("region_size", REGION),
        ("usable_region_size", 1 << 30),
        ("block_size", 2 << 20),
        ("start_address", region_start(0)),
        ("node", 0),
    ] {
        tree.attribute(0, name, value);
    }
    tree.attribute(0, "state", "waiting");
    tree.attribute(0, "reason", "memory-in-use");
    for block in 0..2 {
        tree.memory_block(
            region_start(0) + block * MEMORY_BLOCK,
            "online",
            "Movable",
            0,
        );
    }
    tree
}

/// Checks that the table is exactly this.
fn shows(tree: &Tree, args: &[&str], table: &str) {
    tree.agent(args)
        .assert()
        .code(0)
        .stderr("")
        .stdout(table.to_owned());
}

#[test]
fn no_device() {
    let tree = Tree::new();
    tree.device(0, "0x0001", Some("virtio_net"));

    let assert = tree.agent(&["status"]).assert().code(3).stdout("");
    assert.stderr("virtio-mem-agent: no virtio-mem device\n");
    assert_eq!(tree.json(&[]), (json!({"version": 1, "devices": []}), 3));
}

#[test]
fn no_virtio_at_all() {
    let tree = Tree::new();
    std::fs::remove_dir_all(tree.path("sys/bus")).unwrap();

    tree.agent(&[]).assert().code(3).stdout("");
}

#[test]
fn table_of_the_c_driver() {
    let table = "\
DEVICE   NODE  REGION  REQUESTED  PLUGGED     ADDED   MOVABLE   KERNEL  OFFLINE  STATE
virtio1     1  16 GiB    unknown  unknown  1664 MiB  1280 MiB  256 MiB  128 MiB  unknown
";
    shows(&c_driver(), &["status"], table);
    shows(&c_driver(), &[], table);
}

#[test]
fn json_of_the_c_driver() {
    let (status, code) = c_driver().json(&[]);

    assert_eq!(code, 0);
    assert_eq!(
        status,
        json!({
            "version": 1,
            "devices": [{
                "device": "virtio1",
                "driver": "virtio_mem",
                "source": "iomem",
                "node": 1,
                "start_address": region_start(1),
                "block_size": null,
                "region_size": REGION,
                "usable_region_size": null,
                "requested_size": null,
                "plugged_size": null,
                "state": null,
                "reason": null,
                "added_size": 13 * MEMORY_BLOCK,
                "online_movable_size": 10 * MEMORY_BLOCK,
                "online_kernel_size": 2 * MEMORY_BLOCK,
                "offline_size": MEMORY_BLOCK,
            }],
        })
    );
}

#[test]
fn table_of_attributes() {
    shows(
        &with_attributes(),
        &["status"],
        "\
DEVICE   NODE  BLOCK  REGION  USABLE  REQUESTED  PLUGGED    ADDED  MOVABLE  KERNEL  OFFLINE  STATE
virtio0     0  2 MiB  16 GiB   1 GiB    300 MiB  200 MiB  256 MiB  256 MiB     0 B      0 B  waiting: memory-in-use
",
    );
    shows(
        &with_attributes(),
        &["status", "--bytes"],
        "\
DEVICE   NODE    BLOCK       REGION      USABLE  REQUESTED    PLUGGED      ADDED    MOVABLE  KERNEL  OFFLINE  STATE
virtio0     0  2097152  17179869184  1073741824  314572800  209715200  268435456  268435456       0        0  waiting: memory-in-use
",
    );
}

#[test]
fn json_of_attributes() {
    let (status, code) = with_attributes().json(&["--bytes"]);

    assert_eq!(code, 0);
    assert_eq!(
        status["devices"],
        json!([{
            "device": "virtio0",
            "driver": "virtio_mem",
            "source": "sysfs",
            "node": 0,
            "start_address": region_start(0),
            "block_size": 2 << 20,
            "region_size": REGION,
            "usable_region_size": 1 << 30,
            "requested_size": 314_572_800,
            "plugged_size": 209_715_200,
            "state": "waiting",
            "reason": "memory-in-use",
            "added_size": 2 * MEMORY_BLOCK,
            "online_movable_size": 2 * MEMORY_BLOCK,
            "online_kernel_size": 0,
            "offline_size": 0,
        }])
    );
}

#[test]
fn attributes_need_no_privileges() {
    let tree = with_attributes();
    let before = tree.json(&[]);
    tree.hide_addresses();

    assert_eq!(tree.json(&[]), before);
}

#[test]
fn attributes_that_are_missing_are_unknown() {
    let tree = with_attributes();
    for name in ["plugged_size", "reason", "start_address"] {
        let path = format!("sys/bus/virtio/devices/virtio0/virtio_mem/{name}");
        std::fs::remove_file(tree.path(&path)).unwrap();
    }
    let (status, code) = tree.json(&[]);
    let device = &status["devices"][0];

    assert_eq!(code, 0);
    assert_eq!(device["source"], "sysfs");
    assert_eq!(device["requested_size"], 314_572_800);
    for name in [
        "plugged_size",
        "reason",
        "start_address",
        "added_size",
        "offline_size",
    ] {
        assert_eq!(device[name], Value::Null, "{name}");
    }
}

#[test]
fn ordinary_user() {
    let tree = c_driver();
    tree.hide_addresses();

    let assert = tree.agent(&["status"]).assert().code(0).stdout(
        "\
DEVICE      NODE   REGION  REQUESTED  PLUGGED    ADDED  STATE
virtio1  unknown  unknown    unknown  unknown  unknown  unknown
",
    );
    assert.stderr(
        "virtio-mem-agent: virtio1: /proc/iomem shows addresses to root only; \
         run as root to see its sizes\n",
    );
    let (status, code) = tree.json(&[]);
    assert_eq!(code, 0);
    assert_eq!(status["devices"][0]["source"], "hidden");
    assert_eq!(status["devices"][0]["region_size"], Value::Null);
}

#[test]
fn nothing_added() {
    let mut tree = Tree::new();
    tree.memory_device(0, 0);
    let (status, code) = tree.json(&[]);
    let device = &status["devices"][0];

    assert_eq!(code, 0);
    assert_eq!(device["node"], Value::Null);
    for name in [
        "added_size",
        "online_movable_size",
        "online_kernel_size",
        "offline_size",
    ] {
        assert_eq!(device[name], 0, "{name}");
    }
}

#[test]
fn kernel_without_zones_or_memory_blocks() {
    let tree = c_driver();
    let block = region_start(1) / MEMORY_BLOCK;
    let dir = format!("sys/devices/system/memory/memory{block}");
    std::fs::remove_file(tree.path(&dir).join("valid_zones")).unwrap();
    let (status, _) = tree.json(&[]);
    assert_eq!(status["devices"][0]["online_movable_size"], Value::Null);
    assert_eq!(status["devices"][0]["online_kernel_size"], Value::Null);
    assert_eq!(status["devices"][0]["offline_size"], MEMORY_BLOCK);

    std::fs::remove_dir_all(tree.path("sys/devices/system")).unwrap();
    let (status, code) = tree.json(&[]);
    assert_eq!(code, 0);
    assert_eq!(status["devices"][0]["added_size"], 13 * MEMORY_BLOCK);
    assert_eq!(status["devices"][0]["offline_size"], Value::Null);
}

#[test]
fn other_drivers_and_none() {
    let tree = Tree::new();
    tree.device(0, "0x0018", None);
    tree.device(1, "0x0018", Some("other"));
    tree.device(2, "0x0005", Some("virtio_balloon"));

    shows(
        &tree,
        &["status"],
        "\
DEVICE      NODE   REGION  REQUESTED  PLUGGED    ADDED  STATE
virtio0  unknown  unknown    unknown  unknown  unknown  no driver bound
virtio1  unknown  unknown    unknown  unknown  unknown  bound to other
",
    );
    let (status, _) = tree.json(&[]);
    assert_eq!(status["devices"][0]["driver"], Value::Null);
    assert_eq!(status["devices"][0]["source"], "none");
    assert_eq!(status["devices"][1]["driver"], "other");
}

#[test]
fn eight_devices() {
    let mut tree = Tree::new();
    for number in 4..12 {
        tree.memory_device(number, number);
        for block in 0..number {
            let node = u32::try_from(number).unwrap() % 2;
            let address = region_start(number) + block * MEMORY_BLOCK;
            tree.memory_block(address, "online", "Movable", node);
        }
    }
    let (status, code) = tree.json(&[]);
    let devices = status["devices"].as_array().unwrap();

    assert_eq!(code, 0);
    assert_eq!(devices.len(), 8);
    for (device, number) in devices.iter().zip(4_u64..) {
        assert_eq!(device["device"], format!("virtio{number}"));
        assert_eq!(device["node"], number % 2);
        assert_eq!(device["added_size"], number * MEMORY_BLOCK);
        assert_eq!(device["online_movable_size"], number * MEMORY_BLOCK);
    }

    let (status, code) = tree.json(&["--device", "virtio10"]);
    assert_eq!((status["devices"].as_array().unwrap().len(), code), (1, 0));
    assert_eq!(status["devices"][0]["device"], "virtio10");
}

#[test]
fn device_that_is_not_there() {
    let tree = c_driver();

    for name in ["virtio0", "virtio7", "../x"] {
        let assert = tree.agent(&["status", "--device", name]).assert();
        assert.code(3).stderr(format!(
            "virtio-mem-agent: no virtio-mem device \"{name}\"\n"
        ));
    }
}

#[test]
fn usage() {
    let tree = Tree::new();

    tree.agent(&["--help"]).assert().code(0);
    tree.agent(&["status", "--help"]).assert().code(0);
    tree.agent(&["--version"]).assert().code(0);
    tree.agent(&["nonsense"]).assert().code(2);
    tree.agent(&["status", "--nonsense"]).assert().code(2);
}

#[test]
fn root_may_follow_the_command() {
    let tree = c_driver();
    let mut agent = assert_cmd::Command::new(env!("CARGO_BIN_EXE_virtio-mem-agent"));

    agent
        .arg("status")
        .arg("--root")
        .arg(tree.path(""))
        .assert()
        .code(0);
}
