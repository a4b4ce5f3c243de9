// SPDX-License-Identifier: GPL-2.0

//! What is served over HTTP, also to clients that mean no good.

use crate::render::tree;
use crate::tree::Tree;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::process;
use std::process::Child;
use std::process::Command;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// How long a test waits for what is to happen at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the first server listens.
const PORT: u16 = 9100;

/// How many servers there were.
static SERVERS: AtomicU8 = AtomicU8::new(0);

/// An agent that serves metrics, killed once it is dropped.
struct Server {
    agent: Child,
    address: SocketAddr,
    tree: Tree,
}

impl Server {
    fn new() -> Self {
        let tree = tree();
        // An address of its own, as no other process has it. To ask for a port that is free, and
        // to release it for the agent, is no way: a process that is being started by another test
        // has it for a moment longer.
        let last = SERVERS.fetch_add(1, Ordering::Relaxed);
        let [_, high, middle, low] = process::id().to_be_bytes();
        let address = SocketAddr::from(([127, high | 0x80, middle, low], PORT + u16::from(last)));
        let agent = Command::new(env!("CARGO_BIN_EXE_virtio-mem-agent"))
            .arg("--root")
            .arg(tree.path(""))
            .args(["metrics", "--listen", &address.to_string()])
            .spawn()
            .unwrap();
        let server = Self {
            agent,
            address,
            tree,
        };
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(started.elapsed() < PATIENCE, "nobody listens");
            thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends a request and returns the answer: its status line, and all of it.
    fn ask(&self, request: &str) -> (String, String) {
        let mut stream = self.connect();
        let mut answer = String::new();
        stream.write_all(request.as_bytes()).unwrap();
        stream.read_to_string(&mut answer).unwrap();
        (answer.lines().next().unwrap_or_default().into(), answer)
    }

    fn expect_metrics(&self) {
        let (status, answer) = self.ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let printed = self.tree.agent(&["metrics"]).output().unwrap().stdout;

        assert_eq!(status, "HTTP/1.1 200 OK");
        assert!(head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert_eq!(body.as_bytes(), printed);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

#[test]
fn metrics_and_nothing_else() {
    let server = Server::new();

    server.expect_metrics();
    server.tree.attribute(0, "attempts", 4);
    server.expect_metrics();
    for (request, status) in [
        ("GET /metrics?a=b HTTP/1.1\r\n\r\n", "200 OK"),
        ("GET /metrics HTTP/1.0\r\n\r\n", "200 OK"),
        ("GET / HTTP/1.1\r\n\r\n", "404 Not Found"),
        (
            "GET /metrics/../etc/passwd HTTP/1.1\r\n\r\n",
            "404 Not Found",
        ),
        ("POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
        ("nonsense\r\n\r\n", "400 Bad Request"),
        ("\u{7f}\0\r\n\r\n", "400 Bad Request"),
    ] {
        assert_eq!(
            server.ask(request).0,
            format!("HTTP/1.1 {status}"),
            "{request:?}"
        );
    }
    let (_, answer) = server.ask("HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"));
    server.expect_metrics();
}

#[test]
fn a_request_without_end() {
    let server = Server::new();
    let long = "x".repeat(8 << 10);

    let (status, _) = server.ask(&long);
    assert_eq!(status, "HTTP/1.1 431 Request Header Fields Too Large");
    server.expect_metrics();
}

#[test]
fn slow_clients_lose_their_place() {
    let server = Server::new();
    let mut slow: Vec<_> = (0..5).map(|_| server.connect()).collect();

    // Others are served meanwhile.
    for stream in &mut slow {
        stream.write_all(b"GET /met").unwrap();
    }
    server.expect_metrics();

    // With too many of them nobody is, until their time is up, whatever they send.
    slow.extend((0..20).map(|_| server.connect()));
    let started = Instant::now();
    while slow.iter_mut().any(|stream| stream.write_all(b"x").is_ok()) {
        assert!(
            started.elapsed() < PATIENCE,
            "slow clients are never turned away"
        );
        thread::sleep(Duration::from_millis(200));
    }
    server.expect_metrics();
}

#[test]
fn an_address_that_is_taken() {
    let server = Server::new();
    let address = server.address.to_string();
    let output = tree()
        .agent(&["metrics", "--listen", &address])
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();

    assert_eq!(output.status.code(), Some(1));
    assert!(
        message.contains(&format!("cannot listen at {address}: ")),
        "{message}"
    );
    let mut agent = tree().agent(&["metrics", "--listen", "nonsense"]);
    agent.assert().code(2);
    let mut agent = tree().agent(&["metrics", "--listen", &address, "--output", "x"]);
    agent.assert().code(2);
}
