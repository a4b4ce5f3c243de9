// SPDX-License-Identifier: GPL-2.0

//! What is drawn on a terminal.

use crate::tree::Tree;
use rustix::pty;
use rustix::pty::OpenptFlags;
use rustix::termios;
use rustix::termios::OptionalActions;
use rustix::termios::Winsize;
use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(30);

/// An agent on a terminal.
struct Terminal {
    ours: File,
    agent: Child,
}

impl Terminal {
    /// Starts the agent with its output, and what it says of errors, on a terminal of this size.
    fn new(tree: &Tree, term: &str, size: (u16, u16), args: &[&str]) -> Self {
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits();
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = pty::openpt(flags | OpenptFlags::from_bits_retain(nonblocking)).unwrap();
        pty::grantpt(&ours).unwrap();
        pty::unlockpt(&ours).unwrap();
        let mut modes = termios::tcgetattr(&ours).unwrap();
        modes.make_raw();
        termios::tcsetattr(&ours, OptionalActions::Now, &modes).unwrap();
        let path = pty::ptsname(&ours, Vec::new()).unwrap();
        let theirs = || {
            let path = OsStr::from_bytes(path.to_bytes());
            let mut options = File::options();
            Stdio::from(options.read(true).write(true).open(path).unwrap())
        };
        let terminal = (theirs(), theirs());
        let ours = File::from(ours);
        resize(&ours, size);
        let agent = Command::new(env!("CARGO_BIN_EXE_virtio-mem-agent"))
            .arg("--root")
            .arg(tree.path(""))
            .args(args)
            .env("TERM", term)
            .env_remove("NO_COLOR")
            .stdout(terminal.0)
            .stderr(terminal.1)
            .spawn()
            .unwrap();
        Self { ours, agent }
    }

    /// Reads until this is at the end of what was read; returns that.
    fn until(&mut self, end: &str) -> String {
        let started = Instant::now();
        let mut text = String::new();
        let mut part = [0; 4096];
        while !text.ends_with(end) {
            match self.ours.read(&mut part) {
                Ok(count) => text.push_str(std::str::from_utf8(&part[..count]).unwrap()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    assert!(started.elapsed() < LONG, "{text:?} has no {end:?}");
                    std::thread::sleep(Duration::from_millis(20));
                }
                // EIO: the agent has ended.
                Err(_) => panic!("{text:?} has no {end:?}"),
            }
        }
        text
    }

    /// Reads until the agent has ended.
    fn all(&mut self) -> String {
        let mut text = String::new();
        let mut part = [0; 4096];
        while let Some(count) = match self.ours.read(&mut part) {
            Ok(count) => Some(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(20));
                Some(0)
            }
            // EIO: the agent has ended.
            Err(_) => None,
        } {
            text.push_str(std::str::from_utf8(&part[..count]).unwrap());
        }
        text
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -s {name} {}", self.agent.id());
        let status = Command::new("sh").args(["-c", &kill]).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

fn resize(terminal: &File, (columns, rows): (u16, u16)) {
    let size = Winsize {
        ws_col: columns,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    termios::tcsetwinsize(terminal, size).unwrap();
}

fn tree() -> Tree {
    let mut tree = Tree::new();
    for number in 0..3 {
        tree.memory_device(number, 0);
        tree.stand(number, 1 << 30, 0, "suspended");
    }
    tree
}

/// The visible lines of what was drawn.
fn lines(screen: &str) -> Vec<String> {
    let mut text = String::new();
    let mut chars = screen.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            chars.by_ref().find(|c| c.is_ascii_alphabetic());
        } else {
            text.push(c);
        }
    }
    text.lines().map(String::from).collect()
}

#[test]
fn watch_fits_the_terminal_and_follows_its_size() {
    let tree = tree();
    let mut terminal = Terminal::new(&tree, "xterm", (30, 3), &["watch", "--interval", "1h"]);
    let drawn = lines(&terminal.until("\u{1b}[J"));
    assert_eq!(drawn.len(), 2, "{drawn:?}");
    assert!(
        drawn.iter().all(|line| line.chars().count() <= 30),
        "{drawn:?}"
    );
    assert!(drawn[0].starts_with("DEVICE "), "{drawn:?}");

    resize(&terminal.ours, (200, 50));
    terminal.signal("WINCH");
    let screen = terminal.until("\u{1b}[J");
    assert!(screen.starts_with("\u{1b}[2J"), "{screen:?}");
    let drawn = lines(&screen);
    assert!(drawn[0].contains("STATE"), "{drawn:?}");
    assert!(
        drawn.last().unwrap().contains("wait: the driver goes on"),
        "{drawn:?}"
    );
}

#[test]
fn a_dumb_terminal_is_not_drawn_upon() {
    let args = ["watch", "--interval", "1h", "--count", "1"];
    let tree = tree();
    let mut terminal = Terminal::new(&tree, "dumb", (30, 3), &args);
    let text = terminal.until("has resumed\n");
    assert!(
        text.starts_with("DEVICE ") && !text.contains('\u{1b}'),
        "{text:?}"
    );
}

#[test]
fn wait_shows_a_line_that_goes_away() {
    let tree = tree();
    let args = ["wait", "--interval", "100ms", "--timeout", "1s"];
    let mut terminal = Terminal::new(&tree, "xterm", (40, 24), &args);
    let line = terminal.until("\u{1b}[K");
    assert!(
        line.starts_with("\rvirtio0: suspended, 0 B plugged"),
        "{line:?}"
    );
    assert!(lines(&line)[0].chars().count() <= 40, "{line:?}");
    let end = terminal.until("requested\n");
    assert!(
        end.starts_with("\r\u{1b}[Kvirtio-mem-agent: timed out: "),
        "{end:?}"
    );
}

#[test]
fn help_is_wrapped_to_the_terminal() {
    let tree = Tree::new();
    for command in [&["--help"][..], &["wait", "--help"], &["status", "-h"]] {
        let widest = |columns| {
            let text = Terminal::new(&tree, "xterm", (columns, 24), command).all();
            let widths = lines(&text).into_iter().map(|line| line.chars().count());
            widths.max().unwrap()
        };
        assert!(widest(60) <= 60, "{command:?}: {}", widest(60));
        // There is more room, and it is used.
        assert!(widest(100) > 60, "{command:?}");
    }
}
