// SPDX-License-Identifier: GPL-2.0

//! What the host is told, and by what the agent is not deterred.

use crate::port::Port;
use crate::port::PATIENCE;
use crate::tree::region_start;
use crate::tree::Tree;
use crate::tree::MEMORY_BLOCK;
use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use vsock::VsockListener;
use vsock::VsockStream;
use vsock::VMADDR_CID_ANY;
use vsock::VMADDR_CID_LOCAL;

/// An agent that reports, killed once it is dropped.
struct Reporter {
    agent: Child,
    tree: Tree,
}

impl Reporter {
    /// Starts it for a machine with one device, of which 1 byte is requested.
    fn new(port: &Path, interval: &str) -> Self {
        Self::with_devices(1, port, interval)
    }

    /// The same with more devices.
    fn with_devices(devices: u64, port: &Path, interval: &str) -> Self {
        Self::of(Self::tree(devices), port, interval)
    }

    /// The same with what is added to the tree.
    fn with_tree(port: &Path, interval: &str, add: impl FnOnce(&mut Tree)) -> Self {
        let mut tree = Self::tree(1);
        add(&mut tree);
        Self::of(tree, port, interval)
    }

    fn tree(devices: u64) -> Tree {
        let mut tree = Tree::new();
        for number in 0..devices {
            tree.memory_device(number, 0);
            tree.attribute(number, "requested_size", 1);
            tree.attribute(number, "start_address", region_start(number));
        }
        tree
    }

    fn of(tree: Tree, port: &Path, interval: &str) -> Self {
        let agent = Command::new(env!("CARGO_BIN_EXE_virtio-mem-agent"))
            .arg("--root")
            .arg(tree.path(""))
            .args(["report", "--interval", interval, "--port"])
            .arg(port)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { agent, tree }
    }

    fn request(&self, size: u64) {
        // In one go: it is never seen without a number in it.
        self.tree.attribute(0, "new", size);
        let dir = self.tree.path("sys/devices/pci0000:00/virtio0/virtio_mem");
        fs::rename(dir.join("new"), dir.join("requested_size")).unwrap();
    }

    /// Ends it, if it still runs, and returns what it has said.
    fn end(&mut self) -> String {
        assert_eq!(
            self.agent.try_wait().unwrap(),
            None,
            "it has ended by itself"
        );
        self.agent.kill().unwrap();
        self.agent.wait().unwrap();
        let mut said = String::new();
        let mut stderr = self.agent.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        said
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

#[test]
fn at_once_and_when_it_changes() {
    let mut port = Port::new();
    let mut reporter = Reporter::new(&port.path, "1h");

    let line = port.line(PATIENCE).unwrap();
    let told: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(told, reporter.tree.json(&[]).0);
    assert_eq!(
        port.line(Duration::from_millis(2500)),
        None,
        "nothing has changed"
    );
    reporter.request(2);
    port.expect_requested(2);
    assert_eq!(reporter.end(), "");
}

#[test]
fn a_bad_file_is_no_device_that_is_gone() {
    let mut port = Port::new();
    let reporter = Reporter::new(&port.path, "1h");

    port.expect_requested(1);
    reporter.tree.attribute(0, "attempts", "many");
    let line = port.line(PATIENCE).unwrap();
    let told: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(told["devices"][0]["requested_size"], 1);
    assert_eq!(told["errors"][0]["device"], "virtio0");
}

#[test]
fn again_after_the_interval() {
    let mut port = Port::new();
    // A number alone is one of seconds.
    let _reporter = Reporter::new(&port.path, "1");

    let line = port.line(PATIENCE);
    for _ in 0..3 {
        assert_eq!(port.line(PATIENCE), line);
    }
}

#[test]
fn nothing_the_host_says_matters() {
    let mut port = Port::new();
    let mut reporter = Reporter::new(&port.path, "1h");

    port.expect_requested(1);
    for size in 2..6 {
        for garbage in [
            b"\0\xff\x04\x03{\"requested_size\": 9}\n".as_slice(),
            &[b'x'; 4000],
        ] {
            port.say(garbage);
        }
        reporter.request(size);
        port.expect_requested(size);
    }
    assert_eq!(reporter.end(), "");
}

#[test]
fn a_host_that_does_not_read_gets_the_newest() {
    let mut port = Port::new();
    // Some 40 KiB a line: the terminal is full with the second one.
    let mut reporter = Reporter::with_devices(100, &port.path, "1s");

    thread::sleep(Duration::from_secs(5));
    reporter.request(2);
    thread::sleep(Duration::from_secs(2));
    reporter.request(3);
    thread::sleep(Duration::from_secs(2));
    // What was in between was never written.
    let mut sizes = Vec::new();
    while sizes.last() != Some(&3) {
        let line = port.line(PATIENCE).unwrap();
        let status: serde_json::Value = serde_json::from_str(&line).unwrap();
        sizes.push(status["devices"][0]["requested_size"].as_u64().unwrap());
    }
    assert!(!sizes.contains(&2), "{sizes:?}");
    assert_eq!(reporter.end(), "");
}

#[test]
fn a_port_that_comes_goes_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("port");
    let mut reporter = Reporter::new(&path, "1s");

    thread::sleep(Duration::from_millis(500));
    for size in 2..4 {
        let mut port = Port::new();
        symlink(&port.path, &path).unwrap();
        reporter.request(size);
        port.expect_requested(size);
        fs::remove_file(&path).unwrap();
        drop(port);
        // It is found out at the next line.
        thread::sleep(Duration::from_millis(2500));
    }
    let said = reporter.end();
    let missing = "port: No such file or directory";
    assert!(said.contains(missing), "{said}");
    assert!(said.lines().count() <= 6, "it repeats itself: {said}");
}

#[test]
fn what_is_no_port_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "precious").unwrap();
    let mut reporter = Reporter::new(&path, "1s");

    thread::sleep(Duration::from_millis(1500));
    let said = reporter.end();
    assert!(
        said.contains("cannot write to ") && said.contains("no character device"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

/// How much time of processors a process has had. None where the kernel does not count that finely.
fn processor_time(agent: &Child) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{}/schedstat", agent.id())).ok()?;
    let nanoseconds = text.split(' ').next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

#[test]
fn an_idle_report_does_not_walk_memory_blocks() {
    let port = Port::new();
    let reporter = Reporter::with_tree(&port.path, "1h", |tree| {
        for block in 0..6000 {
            let address = region_start(0) + block * MEMORY_BLOCK;
            tree.memory_block(address, "online", "Movable", 0);
        }
        tree.attribute(0, "region_size", 6000 * MEMORY_BLOCK);
        tree.attribute(0, "state", "settled");
        tree.attribute(0, "plugged_size", 6000 * MEMORY_BLOCK);
    });
    // The first look, in which it does walk them.
    thread::sleep(Duration::from_secs(4));
    let Some(before) = processor_time(&reporter.agent) else {
        println!("not tested: this kernel has no schedstat");
        return;
    };
    thread::sleep(Duration::from_secs(10));
    let time = processor_time(&reporter.agent).unwrap() - before;
    println!("{time:?} in 10 s");
    assert!(time <= Duration::from_millis(5), "{time:?} in 10 s");
}

/// The room between both ends is much less than a line: as soon as there is some, it is used.
#[test]
fn a_long_line_does_not_take_a_look_for_each_part() {
    let mut port = Port::new();
    let _reporter = Reporter::with_devices(100, &port.path, "1h");

    let started = Instant::now();
    port.expect_requested(1);
    let took = started.elapsed();
    println!("{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn systemd_is_told_that_it_lives() {
    let port = Port::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let tree = Tree::new();
    let mut agent = Command::new(env!("CARGO_BIN_EXE_virtio-mem-agent"))
        .arg("--root")
        .arg(tree.path(""))
        .args(["report", "--interval", "1h", "--port"])
        .arg(&port.path)
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "2000000")
        .spawn()
        .unwrap();

    let mut message = [0; 64];
    for expected in ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"] {
        let started = Instant::now();
        let length = systemd.recv(&mut message).unwrap();
        let message = std::str::from_utf8(&message[..length]).unwrap();
        assert_eq!(message.trim_end(), expected);
        assert!(started.elapsed() < PATIENCE / 2);
    }
    agent.kill().unwrap();
    agent.wait().unwrap();
}

/// Starts an agent that reports to a vsock port of this machine itself.
fn vsock_reporter(port: u32) -> Child {
    Command::new(env!("CARGO_BIN_EXE_virtio-mem-agent"))
        .args(["report", "--vsock", &format!("{VMADDR_CID_LOCAL}:{port}")])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn nobody_at_the_vsock() {
    let mut agent = vsock_reporter(4_000_000_000);

    thread::sleep(Duration::from_secs(4));
    assert_eq!(agent.try_wait().unwrap(), None, "it has ended by itself");
    agent.kill().unwrap();
    let said = agent.wait_with_output().unwrap().stderr;
    let said = String::from_utf8(said).unwrap();
    assert!(
        said.contains("cannot connect to vsock 1:4000000000: "),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn vsock() {
    let there =
        VsockListener::bind_with_cid_port(VMADDR_CID_ANY, 3_999_999_999).and_then(|listener| {
            VsockStream::connect_with_cid_port(VMADDR_CID_LOCAL, 3_999_999_999)?;
            listener.accept()?;
            Ok(listener)
        });
    let listener = match there {
        Ok(listener) => listener,
        Err(error) => {
            println!("not tested, this kernel has no vsock loopback: {error}");
            return;
        }
    };
    let mut agent = vsock_reporter(3_999_999_999);

    // A host that goes away and comes back is told anew.
    for _ in 0..2 {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        let status: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(status["version"], 1);
    }
    agent.kill().unwrap();
    agent.wait().unwrap();
}
