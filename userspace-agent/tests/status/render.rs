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

/// The same with all that the driver can say.
fn with_everything() -> Tree {
    let tree = with_attributes();
    tree.write("sys/module/virtio_mem/version", "0.1.0+g0123456789ab\n");
    for (name, value) in [
        ("added_size", 192 << 20),
        ("sub_block_size", 4 << 20),
        ("plugged_movable_size", 192 << 20),
        ("plugged_kernel_size", 0),
        ("plugged_offline_size", 0),
        ("plugged_not_added_size", 8 << 20),
        ("next_attempt_ms", 1500),
        ("attempts", 4),
        ("plugged_blocks_total", 150),
        ("plugged_bytes_total", 300 << 20),
        ("unplugged_blocks_total", 50),
        ("unplugged_bytes_total", 100 << 20),
        ("migrations_failed_total", 7),
        ("unplugs_not_sent_total", 0),
    ] {
        tree.attribute(0, name, value);
    }
    for (name, value) in [
        ("mode", "sub-block"),
        ("features", "acpi-pxm unplugged-inaccessible"),
        ("online_type", "movable"),
        ("last_error", "unplug in-use"),
    ] {
        tree.attribute(0, name, value);
    }
    for kind in ["plug", "unplug", "unplug_all", "state"] {
        for (answer, number) in ["ack", "nack", "busy", "error", "garbled"].iter().zip(1..) {
            tree.attribute(0, &format!("requests_{kind}_{answer}"), number);
        }
    }
    tree
}

/// What is null in the JSON of a driver that does not show it.
const NEWER: [&str; 14] = [
    "next_attempt_ms",
    "attempts",
    "last_error",
    "mode",
    "sub_block_size",
    "big_block_size",
    "features",
    "online_type",
    "plugged_movable_size",
    "plugged_kernel_size",
    "plugged_offline_size",
    "plugged_not_added_size",
    "counters",
    "usable_region_size",
];

/// Takes from the JSON what only newer drivers show, which has to be null.
fn without_newer(mut devices: Value) -> Value {
    for device in devices.as_array_mut().unwrap() {
        for name in NEWER {
            if let Some(value) = device.as_object_mut().unwrap().remove(name) {
                assert_eq!(value, Value::Null, "{name}");
            } else {
                panic!("no {name}");
            }
        }
    }
    devices
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
    assert_eq!(
        tree.json(&[]),
        (json!({"version": 1, "devices": [], "errors": []}), 3)
    );
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
DEVICE   NODE  REGION  REQUESTED  PLUGGED     ADDED   KERNEL  OFFLINE  STATE
virtio1     1  16 GiB    unknown  unknown  1664 MiB  256 MiB  128 MiB  unknown
";
    shows(&c_driver(), &["status"], table);
    shows(&c_driver(), &[], table);

    let wide = "\
DEVICE   NODE  REGION  REQUESTED  PLUGGED     ADDED   MOVABLE   KERNEL  OFFLINE  STATE
virtio1     1  16 GiB    unknown  unknown  1664 MiB  1280 MiB  256 MiB  128 MiB  unknown
";
    shows(&c_driver(), &["status", "--wide"], wide);
}

#[test]
fn json_of_the_c_driver() {
    let (status, code) = c_driver().json(&[]);

    assert_eq!(code, 0);
    assert_eq!(status["version"], 1);
    assert_eq!(
        without_newer(status["devices"].clone()),
        json!([{
            "device": "virtio1",
            "driver": "virtio_mem",
            "driver_version": null,
            "source": "iomem",
            "node": 1,
            "start_address": region_start(1),
            "block_size": null,
            "region_size": REGION,
            "requested_size": null,
            "plugged_size": null,
            "state": null,
            "reason": null,
            "added_size": 13 * MEMORY_BLOCK,
            "online_movable_size": 10 * MEMORY_BLOCK,
            "online_kernel_size": 2 * MEMORY_BLOCK,
            "offline_size": MEMORY_BLOCK,
        }])
    );
}

#[test]
fn table_of_attributes() {
    let advice = "
virtio0: memory that should go is in use and cannot be migrated
         end or restart what uses it, or wait; see `virtio-mem-agent doctor`
";
    shows(
        &with_attributes(),
        &["status"],
        &format!(
            "\
DEVICE   NODE  REGION  REQUESTED  PLUGGED  STATE
virtio0     0  16 GiB    300 MiB  200 MiB  waiting: memory-in-use
{advice}"
        ),
    );
    shows(
        &with_attributes(),
        &["status", "--wide", "--bytes"],
        &format!(
            "\
DEVICE   NODE    BLOCK       REGION      USABLE  REQUESTED    PLUGGED      ADDED    MOVABLE  KERNEL  OFFLINE  STATE
virtio0     0  2097152  17179869184  1073741824  314572800  209715200  268435456  268435456       0        0  waiting: memory-in-use
{advice}"
        ),
    );
}

#[test]
fn table_of_a_device_with_everything() {
    shows(
        &with_everything(),
        &["status"],
        "\
DEVICE   NODE  REGION  REQUESTED  PLUGGED  NOT-ADDED  STATE                   NEXT TRY
virtio0     0  16 GiB    300 MiB  200 MiB      8 MiB  waiting: memory-in-use  1 s

virtio0: memory that should go is in use and cannot be migrated (4 attempts, last failure: unplug in-use)
         end or restart what uses it, or wait; see `virtio-mem-agent doctor`
",
    );
}

#[test]
fn what_is_plugged_is_shown_wherever_it_is() {
    let tree = with_everything();
    tree.attribute(0, "plugged_movable_size", 176 << 20);
    // Of a memory block of which no more is plugged.
    tree.attribute(0, "plugged_kernel_size", 16 << 20);
    shows(
        &tree,
        &["status"],
        "\
DEVICE   NODE  REGION  REQUESTED  PLUGGED  KERNEL  NOT-ADDED  STATE                   NEXT TRY
virtio0     0  16 GiB    300 MiB  200 MiB  16 MiB      8 MiB  waiting: memory-in-use  1 s

virtio0: memory that should go is in use and cannot be migrated (4 attempts, last failure: unplug in-use)
         end or restart what uses it, or wait; see `virtio-mem-agent doctor`
",
    );
}

#[test]
fn table_of_a_settled_device() {
    let tree = with_attributes();
    tree.stand(0, 256 << 20, 256 << 20, "settled");

    shows(
        &tree,
        &["status"],
        "\
DEVICE   NODE  REGION  REQUESTED  PLUGGED  STATE
virtio0     0  16 GiB    256 MiB  256 MiB  settled
",
    );
}

#[test]
fn words_of_a_newer_driver() {
    let tree = with_attributes();
    tree.attribute(0, "state", "resting");
    tree.attribute(0, "reason", "bad-weather");
    let (status, code) = tree.json(&[]);

    assert_eq!(code, 0);
    assert_eq!(status["devices"][0]["state"], "resting");
    assert_eq!(status["devices"][0]["reason"], "bad-weather");
    shows(
        &tree,
        &["status"],
        "\
DEVICE   NODE  REGION  REQUESTED  PLUGGED  STATE
virtio0     0  16 GiB    300 MiB  200 MiB  resting: bad-weather

virtio0: the driver is hindered by \"bad-weather\", which this agent does not know
         see the documentation of the driver, or take a newer agent
",
    );
}

/// What is said of [`with_attributes`] and of [`with_everything`], and besides it of the latter or
/// the former.
fn basics_and(more: Value) -> Value {
    let mut said = json!({
        "device": "virtio0",
        "driver": "virtio_mem",
        "driver_version": null,
        "source": "sysfs",
        "node": 0,
        "start_address": region_start(0),
        "block_size": 2 << 20,
        "region_size": REGION,
        "requested_size": 314_572_800,
        "plugged_size": 209_715_200,
        "state": "waiting",
        "reason": "memory-in-use",
        "online_movable_size": 2 * MEMORY_BLOCK,
        "online_kernel_size": 0,
        "offline_size": 0,
    });
    let Value::Object(more) = more else {
        panic!("{more} is no object");
    };
    said.as_object_mut().unwrap().extend(more);
    said
}

#[test]
fn json_of_attributes() {
    let tree = with_attributes();
    tree.remove_attribute(0, "usable_region_size");
    let (status, code) = tree.json(&["--bytes"]);

    assert_eq!(code, 0);
    assert_eq!(
        without_newer(status["devices"].clone()),
        json!([basics_and(json!({"added_size": 2 * MEMORY_BLOCK}))])
    );
}

#[test]
fn json_of_a_device_with_everything() {
    let (status, code) = with_everything().json(&[]);
    let answers = json!({"ack": 1, "nack": 2, "busy": 3, "error": 4, "garbled": 5});

    assert_eq!(code, 0);
    assert_eq!(
        status["devices"],
        json!([basics_and(json!({
            "driver_version": "0.1.0+g0123456789ab",
            "usable_region_size": 1 << 30,
            "next_attempt_ms": 1500,
            "attempts": 4,
            "last_error": "unplug in-use",
            "mode": "sub-block",
            "sub_block_size": 4 << 20,
            "big_block_size": null,
            "features": ["acpi-pxm", "unplugged-inaccessible"],
            "online_type": "movable",
            "added_size": 192 << 20,
            "plugged_movable_size": 192 << 20,
            "plugged_kernel_size": 0,
            "plugged_offline_size": 0,
            "plugged_not_added_size": 8 << 20,
            "counters": {
                "requests": {
                    "plug": answers,
                    "unplug": answers,
                    "unplug_all": answers,
                    "state": answers,
                },
                "plugged_blocks_total": 150,
                "plugged_bytes_total": 300 << 20,
                "unplugged_blocks_total": 50,
                "unplugged_bytes_total": 100 << 20,
                "migrations_failed_total": 7,
                "unplugs_not_sent_total": 0,
            },
        }))])
    );
}

#[test]
fn nothing_to_count_down_and_no_features() {
    let tree = with_everything();
    tree.attribute(0, "next_attempt_ms", -1);
    tree.attribute(0, "features", "");
    let (status, code) = tree.json(&[]);

    assert_eq!(code, 0);
    assert_eq!(status["devices"][0]["next_attempt_ms"], Value::Null);
    assert_eq!(status["devices"][0]["features"], json!([]));
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
        tree.remove_attribute(0, name);
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
DEVICE      NODE   REGION  REQUESTED  PLUGGED  STATE
virtio1  unknown  unknown    unknown  unknown  unknown
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
DEVICE      NODE   REGION  REQUESTED  PLUGGED  STATE
virtio0  unknown  unknown    unknown  unknown  no driver bound
virtio1  unknown  unknown    unknown  unknown  bound to other

virtio0: no driver is bound to it, and nothing does what the host requests
         load the driver: `modprobe virtio_mem`, or bind it in /sys/bus/virtio/drivers

virtio1: another driver is bound to it, and virtio_mem cannot do what the host requests
         unbind that driver and bind virtio_mem in /sys/bus/virtio/drivers
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
fn columns_for_programs() {
    let tree = with_everything();

    shows(
        &tree,
        &["status", "-b", "-o", "device,PLUGGED,reason"],
        "\
DEVICE     PLUGGED  REASON
virtio0  209715200  memory-in-use
",
    );
    let bare = ["--noheadings", "-b", "-o", "device,plugged"];
    shows(&tree, &bare, "virtio0  209715200\n");
    shows(
        &tree,
        &["--noheadings"],
        "virtio0  0  16 GiB  300 MiB  200 MiB  8 MiB  waiting: memory-in-use  1 s\n",
    );
    for args in [
        &["-o", "nonsense"][..],
        &["-J", "-o", "device"],
        &["-J", "--noheadings"],
        &["-J", "wait"],
        &["--device", "virtio0", "status"],
    ] {
        tree.agent(args).assert().code(2);
    }
}

#[test]
fn options_of_status_without_the_word() {
    let tree = with_attributes();
    for (with, without) in [
        (&["status", "--json"][..], &["-J"][..]),
        (&["status", "--wide", "--bytes"], &["-w", "-b"]),
        (&["status", "virtio0"], &["--device", "virtio0"]),
    ] {
        let output = |args| tree.agent(args).output().unwrap();
        let (with, without) = (output(with), output(without));
        assert_eq!(with.status.code(), Some(0));
        assert_eq!(with, without);
    }
}

#[test]
fn a_device_by_its_address() {
    let mut tree = Tree::new();
    tree.memory_device(1, 0);
    tree.memory_device(2, 0);
    let real = "sys/devices/pci0000:00/0000:00:04.0/virtio2";
    let parent = tree.path("sys/devices/pci0000:00/0000:00:04.0");
    std::fs::create_dir(parent).unwrap();
    std::fs::rename(tree.path("sys/devices/pci0000:00/virtio2"), tree.path(real)).unwrap();
    let link = tree.path("sys/bus/virtio/devices/virtio2");
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(format!("../../../../{real}"), &link).unwrap();
    let driver = tree.path(real).join("driver");
    std::fs::remove_file(&driver).unwrap();
    std::os::unix::fs::symlink("../../../../bus/virtio/drivers/virtio_mem", &driver).unwrap();

    for name in ["virtio2", "0000:00:04.0", "00:04.0"] {
        let (status, code) = tree.json(&[name]);
        assert_eq!(code, 0, "{name}");
        assert_eq!(status["devices"].as_array().unwrap().len(), 1, "{name}");
        assert_eq!(status["devices"][0]["device"], "virtio2", "{name}");
    }
    assert_eq!(tree.json(&["00:05.0"]).1, 3);
    assert_eq!(tree.json(&["pci0000:00"]).1, 3);
    let findings = tree.agent(&["doctor", "00:04.0"]).output().unwrap();
    assert_ne!(findings.status.code(), Some(3));
}

#[test]
fn retry_is_written() {
    let mut tree = Tree::new();
    for number in 0..3 {
        tree.memory_device(number, 0);
        tree.attribute(number, "retry", "");
    }
    let written = |number| {
        let file = format!("sys/bus/virtio/devices/virtio{number}/virtio_mem/retry");
        std::fs::read_to_string(tree.path(&file)).unwrap()
    };
    tree.agent(&["retry", "virtio1"])
        .assert()
        .code(0)
        .stderr("");
    assert_eq!([written(0), written(1), written(2)], ["\n", "1\n", "\n"]);
    tree.agent(&["retry"]).assert().code(0).stderr("");
    assert_eq!([written(0), written(1), written(2)], ["1\n", "1\n", "1\n"]);
    tree.agent(&["retry", "virtio7"]).assert().code(3);

    // The C driver has no such file. It keeps no other device from it.
    tree.remove_attribute(0, "retry");
    tree.attribute(2, "retry", "");
    let output = tree.agent(&["retry"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("virtio0/virtio_mem/retry: No such file"),
        "{said}"
    );
    assert_eq!(written(2), "1\n");
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
