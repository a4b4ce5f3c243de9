// SPDX-License-Identifier: GPL-2.0

//! Watching devices that change.

use crate::tree::Tree;
use serde_json::Value;
use std::io::BufRead;
use std::io::BufReader;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(30);

fn tree() -> Tree {
    let mut tree = Tree::new();
    tree.memory_device(0, 0);
    tree.stand(0, 1 << 30, 0, "plugging");
    tree
}

/// A running agent whose lines arrive as they are printed.
struct Watch {
    child: Child,
    lines: Receiver<String>,
}

impl Watch {
    fn start(tree: &Tree, args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_virtio-mem-agent"))
            .arg("--root")
            .arg(tree.path(""))
            .args(["watch", "--interval", "100ms"])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines() {
                if sender.send(line.unwrap()).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(LONG).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }

    /// Waits for a line of JSON in which the first device has this state.
    fn until_state(&self, state: &str) -> Value {
        loop {
            let mut status = self.json();
            if status["devices"][0]["state"] == state {
                return status["devices"][0].take();
            }
        }
    }

    fn is_silent(&self) -> bool {
        self.lines.recv_timeout(Duration::from_millis(500)).is_err()
    }

    fn signal(&self, name: &str) {
        // The shell's own: there is not always another one.
        let kill = format!("kill -s {name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &kill]).status();
        assert!(status.unwrap().success());
    }

    fn end(mut self) -> ExitStatus {
        for _ in 0..LONG.as_millis() / 10 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("still running");
    }
}

/// No agent is left behind, whatever a test has found.
impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_line_per_change() {
    let tree = tree();
    let watch = Watch::start(&tree, &["--json"]);
    assert_eq!(watch.json()["devices"][0]["state"], "plugging");
    assert!(watch.is_silent());

    tree.attribute(0, "plugged_size", 1 << 30);
    assert_eq!(watch.json()["devices"][0]["plugged_size"], 1 << 30);
    tree.attribute(0, "state", "settled");
    assert_eq!(watch.until_state("settled")["plugged_size"], 1 << 30);
    assert!(watch.is_silent());
}

#[test]
fn the_same_form_as_status() {
    let tree = tree();

    assert_eq!(Watch::start(&tree, &["--json"]).json(), tree.json(&[]).0);
}

#[test]
fn a_countdown_is_no_change() {
    let tree = tree();
    let watch = Watch::start(&tree, &["--json"]);
    watch.json();
    tree.attribute(0, "next_attempt_ms", 500);
    assert!(watch.is_silent());
}

#[test]
fn devices_that_come_and_go() {
    let mut tree = Tree::new();
    let watch = Watch::start(&tree, &["--json"]);
    assert_eq!(watch.json()["devices"], serde_json::json!([]));

    tree.memory_device(3, 0);
    tree.stand(3, 0, 0, "settled");
    assert_eq!(watch.until_state("settled")["device"], "virtio3");
    std::fs::remove_file(tree.path("sys/bus/virtio/devices/virtio3")).unwrap();
    assert_eq!(watch.json()["devices"], serde_json::json!([]));
}

#[test]
fn a_table_per_change() {
    let tree = tree();
    let watch = Watch::start(&tree, &[]);
    let device = |state| {
        assert!(watch.line().starts_with("DEVICE"));
        assert_eq!(
            watch.line(),
            format!("virtio0  unknown  16 GiB      1 GiB      0 B  {state}")
        );
    };

    device("plugging");
    tree.attribute(0, "state", "suspended");
    assert_eq!(watch.line(), "");
    device("suspended");
    assert_eq!(watch.line(), "");
    assert_eq!(
        watch.line(),
        "virtio0: the machine is being suspended, or resumes"
    );
}

// What has changed is in no column.
#[test]
fn a_table_is_not_repeated() {
    let tree = tree();
    let watch = Watch::start(&tree, &[]);
    assert!(watch.line().starts_with("DEVICE"));
    watch.line();
    tree.attribute(0, "requests_plug_ack", 7);
    assert!(watch.is_silent());
    tree.attribute(0, "plugged_size", 1 << 30);
    assert_eq!(watch.line(), "");
}

#[test]
fn the_device_that_is_missing_is_named() {
    let tree = tree();
    let watch = Watch::start(&tree, &["--device", "virtio9"]);
    assert_eq!(watch.line(), "no virtio-mem device \"virtio9\"");
}

#[test]
fn bad_content_does_not_end_it() {
    let tree = tree();
    let watch = Watch::start(&tree, &["--json"]);
    watch.json();
    tree.attribute(0, "state", "\u{1b}[2J");
    // It is not taken for a device that is gone.
    let status = watch.json();
    assert_eq!(status["devices"][0]["state"], Value::Null);
    assert_eq!(status["devices"][0]["requested_size"], 1 << 30);
    assert_eq!(status["errors"][0]["device"], "virtio0");
    tree.attribute(0, "state", "settled");
    watch.until_state("settled");
}

#[test]
fn what_is_wrong_is_said_once() {
    let mut tree = tree();
    tree.memory_device(1, 0);
    tree.stand(1, 0, 0, "settled");
    tree.attribute(0, "state", "?");
    let mut child = Command::new(env!("CARGO_BIN_EXE_virtio-mem-agent"))
        .arg("--root")
        .arg(tree.path(""))
        .args(["watch", "--json", "--interval", "100ms", "--count", "2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    tree.attribute(1, "state", "?");

    let said = child.wait_with_output().unwrap().stderr;
    let said = String::from_utf8(said).unwrap();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].contains("virtio0/virtio_mem/state"), "{said}");
    assert!(lines[1].contains("virtio1/virtio_mem/state"), "{said}");
}

#[test]
fn signals_end_it_well() {
    let tree = tree();
    for signal in ["INT", "TERM"] {
        let watch = Watch::start(&tree, &["--json"]);
        watch.json();
        watch.signal(signal);
        assert_eq!(watch.end().code(), Some(0), "{signal}");
    }
}

/// A line of JSON for that many devices is more than a pipe takes.
const MANY: u64 = 300;

fn many() -> Tree {
    let mut tree = Tree::new();
    for number in 0..MANY {
        tree.memory_device(number, 0);
        tree.stand(number, 1 << 30, 0, "plugging");
    }
    tree
}

#[test]
fn signals_end_it_while_its_output_is_full() {
    let tree = many();
    for signal in ["INT", "TERM"] {
        let child = Command::new(env!("CARGO_BIN_EXE_virtio-mem-agent"))
            .arg("--root")
            .arg(tree.path(""))
            .args(["watch", "--json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (_, lines) = mpsc::channel();
        let watch = Watch { child, lines };
        // It writes until the pipe is full.
        std::thread::sleep(Duration::from_secs(3));
        watch.signal(signal);
        assert_eq!(watch.end().code(), Some(0), "{signal}");
    }
}

#[test]
fn many_devices_take_few_files() {
    let tree = many();
    let agent = env!("CARGO_BIN_EXE_virtio-mem-agent");
    let root = tree.path("");
    let command = format!(
        "ulimit -n 64; exec {agent} --root {} watch --json --count 1",
        root.display()
    );
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        u64::try_from(status["devices"].as_array().unwrap().len()),
        Ok(MANY)
    );
    assert_eq!(status["errors"], serde_json::json!([]));
}

#[test]
fn it_ends_with_its_reader() {
    let tree = tree();
    let mut child = Command::new(env!("CARGO_BIN_EXE_virtio-mem-agent"))
        .arg("--root")
        .arg(tree.path(""))
        .args(["watch", "--interval", "1h"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    drop(stdout);

    let (_, lines) = mpsc::channel();
    assert_eq!(Watch { child, lines }.end().code(), Some(0));
}

#[test]
fn it_counts() {
    let tree = tree();
    let watch = Watch::start(&tree, &["--json", "--count", "2"]);
    watch.json();
    tree.attribute(0, "state", "settled");
    watch.json();
    assert_eq!(watch.end().code(), Some(0));
}

#[test]
fn usage() {
    let tree = tree();

    tree.agent(&["watch", "--help"]).assert().code(0);
    tree.agent(&["watch", "--count", "0"]).assert().code(2);
    tree.agent(&["watch", "--interval", "0s"]).assert().code(2);
}
