// SPDX-License-Identifier: GPL-2.0

//! What is served over HTTP, also to clients that mean no good.

use crate::render::tree;
use crate::tree::Tree;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
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

/// For how long a page is served again, and a little.
const FRESH: Duration = Duration::from_millis(1100);

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
        Self::of(tree, &address.to_string(), address).expect("it has ended")
    }

    /// Listens at what is written so; nothing if it has ended at once.
    fn at(listen: &str, address: SocketAddr) -> Option<Self> {
        Self::of(tree(), listen, address)
    }

    fn of(tree: Tree, listen: &str, address: SocketAddr) -> Option<Self> {
        let agent = Command::new(env!("CARGO_BIN_EXE_virtio-mem-agent"))
            .arg("--root")
            .arg(tree.path(""))
            .args(["metrics", "--listen", listen])
            .spawn()
            .unwrap();
        let mut server = Self {
            agent,
            address,
            tree,
        };
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            if server.agent.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(started.elapsed() < PATIENCE, "nobody listens");
            thread::sleep(Duration::from_millis(20));
        }
        Some(server)
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
    thread::sleep(FRESH);
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

/// As with any client, what it has sent last was not read when it was answered.
#[test]
fn the_answer_arrives_before_the_connection_ends() {
    let server = Server::new();
    let body = "x".repeat(200_000);

    for (request, status) in [
        (
            format!("POST /metrics HTTP/1.1\r\nContent-Length: 200000\r\n\r\n{body}"),
            "405 Method Not Allowed",
        ),
        (body, "431 Request Header Fields Too Large"),
    ] {
        let mut stream = server.connect();
        let mut answer = String::new();
        stream.write_all(request.as_bytes()).unwrap();
        // It would be lost here, with the connection that was reset.
        thread::sleep(Duration::from_millis(300));
        stream.write_all(b"more").unwrap();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{answer}"
        );
    }
    server.expect_metrics();
}

#[test]
fn a_page_is_made_once_a_second() {
    let server = Server::new();
    let page = || server.ask("GET /metrics HTTP/1.1\r\n\r\n").1;

    thread::sleep(FRESH);
    let before = page();
    server.tree.attribute(0, "attempts", 4);
    assert_eq!(page(), before);
    thread::sleep(FRESH);
    assert_ne!(page(), before);
}

#[test]
fn idle_clients_keep_nobody_from_scraping() {
    // Less than what a client may take to ask.
    const OWN_TIME: Duration = Duration::from_secs(4);
    let server = Server::new();
    let began = Instant::now();
    let mut idle: Vec<_> = (0..40).map(|_| server.connect()).collect();

    for stream in &mut idle {
        stream.write_all(b"GET /met").unwrap();
    }
    server.expect_metrics();
    // With too many of them the oldest are told so, and others are served.
    idle.extend((0..60).map(|_| server.connect()));
    server.expect_metrics();
    let mut answer = String::new();
    idle[0].read_to_string(&mut answer).unwrap();
    // On a busy machine its own time is over before, and then nothing is told.
    if began.elapsed() < OWN_TIME {
        assert!(
            answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
            "{answer}"
        );
        assert!(answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
    }

    // Those that stay have their time, whatever they send.
    let started = Instant::now();
    while idle.iter_mut().any(|stream| stream.write_all(b"x").is_ok()) {
        assert!(
            started.elapsed() < PATIENCE,
            "slow clients are never turned away"
        );
        thread::sleep(Duration::from_millis(200));
    }
    server.expect_metrics();
}

#[test]
fn all_addresses_and_the_machine_s_own() {
    for host in ["", "localhost"] {
        // A port that is free a moment before; another process may have it then.
        let served = (0..5).any(|_| {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let server = Server::at(&format!("{host}:{port}"), ([127, 0, 0, 1], port).into());
            server.is_some_and(|server| {
                server.expect_metrics();
                true
            })
        });
        assert!(served, "{host:?}");
    }
    let mut agent = tree().agent(&["metrics", "--listen", "example.org:9824"]);
    agent.assert().code(2);
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
