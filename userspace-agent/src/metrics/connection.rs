// SPDX-License-Identifier: GPL-2.0

//! One client of the server: a request is read, answered, and the client left to hang up first.

use crate::metrics::http;
use crate::metrics::http::Answer;
use std::io;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use std::time::Instant;

/// How long a client has to ask, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it has then to hang up. To close a connection on which something was not read resets it, and
/// the client may lose the answer.
const LINGER: Duration = Duration::from_secs(2);
/// How much it may send meanwhile.
const LINGER_BYTES: usize = 1 << 20;

/// How far a client has come.
enum Phase {
    /// What it has asked so far.
    Asking(Vec<u8>),
    /// What is left to be sent to it.
    Taking(Vec<u8>),
    /// How much more it may send before it hangs up.
    Leaving(usize),
}

/// A client.
pub(crate) struct Connection {
    stream: TcpStream,
    phase: Phase,
    deadline: Instant,
}

impl Connection {
    /// Takes a client; nothing done with it blocks.
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            phase: Phase::Asking(Vec::new()),
            deadline: Instant::now() + PATIENCE,
        })
    }

    /// When it has to be done.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether it has not asked yet.
    pub(crate) fn is_asking(&self) -> bool {
        matches!(self.phase, Phase::Asking(_))
    }

    /// Whether it is to be written to.
    pub(crate) fn is_taking(&self) -> bool {
        matches!(self.phase, Phase::Taking(_))
    }

    /// What tells when it can be gone on with.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Answers whatever it has asked.
    pub(crate) fn answer(&mut self, answer: &Answer) {
        self.phase = Phase::Taking(answer.text().into_bytes());
    }

    /// Reads and writes what can be at once; whether there will be more.
    pub(crate) fn go_on(&mut self, page: &mut dyn FnMut() -> Option<String>) -> bool {
        match self.try_to_go_on(page) {
            Ok(()) => false,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    /// Goes on until it would block (an error), or the client has left.
    fn try_to_go_on(&mut self, page: &mut dyn FnMut() -> Option<String>) -> io::Result<()> {
        let mut part = [0; 1024];

        loop {
            match &mut self.phase {
                Phase::Asking(head) => {
                    let count = self.stream.read(&mut part)?;
                    if count == 0 {
                        return Ok(());
                    }
                    head.extend_from_slice(part.get(..count).unwrap_or_default());
                    if http::is_whole(head) {
                        let answer = http::answer(head, page);
                        self.answer(&answer);
                    } else if head.len() >= http::REQUEST {
                        self.answer(&Answer::too_long());
                    }
                }
                Phase::Taking(text) if text.is_empty() => {
                    self.stream.shutdown(Shutdown::Write)?;
                    self.phase = Phase::Leaving(LINGER_BYTES);
                    self.deadline = Instant::now() + LINGER;
                }
                Phase::Taking(text) => {
                    let count = self.stream.write(text)?;
                    text.drain(..count.min(text.len()));
                }
                Phase::Leaving(left) => {
                    let count = self.stream.read(&mut part)?;
                    if count == 0 || count > *left {
                        return Ok(());
                    }
                    *left -= count;
                }
            }
        }
    }
}
