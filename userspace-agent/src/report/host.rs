// SPDX-License-Identifier: GPL-2.0

//! The host's ear: a virtio-serial port or a vsock connection, neither of which ever blocks.
//!
//! A host that does not read keeps us from writing: the line that was begun and the newest one are
//! kept, no others. What the host writes is read so that it does not pile up, and thrown away.

use crate::error::Error;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use std::fs::File;
use std::io;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;
use vsock::VsockStream;

/// How much of what the host says is read at a time. A host that says more only waits longer.
const DRAIN: u64 = 64 << 10;

/// How long to wait before the host is tried again: at first, and at most.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LAST_DELAY: Duration = Duration::from_secs(60);

/// Where the host listens.
#[derive(Debug)]
pub(crate) enum Place {
    /// A character device: a virtio-serial port.
    Port(PathBuf),
    /// A vsock address.
    Vsock {
        /// The machine.
        cid: u32,
        /// The port there.
        port: u32,
    },
}

/// An open port or connection.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// The host, whether it listens or not.
pub(crate) struct Host {
    place: Place,
    stream: Option<Box<dyn Stream>>,
    /// When to open it, and how long to wait after that has failed.
    due: Instant,
    delay: Duration,
    /// Why it cannot be told anything.
    trouble: Option<String>,
    /// Whether nobody had opened the host's end of the port.
    away: bool,
    /// The newest line, and whether it is still to be told.
    newest: String,
    untold: bool,
    /// What is left of the line that was begun.
    rest: Vec<u8>,
    /// Whether what the host has got does not end with a line's end.
    torn: bool,
}

impl Host {
    /// Nothing is opened yet.
    pub(crate) fn new(place: Place) -> Self {
        Self {
            place,
            stream: None,
            due: Instant::now(),
            delay: FIRST_DELAY,
            trouble: None,
            away: false,
            newest: String::new(),
            untold: false,
            rest: Vec::new(),
            torn: false,
        }
    }

    /// Takes the newest line; what was not told before no longer matters.
    pub(crate) fn tell(&mut self, line: String) {
        self.newest = line;
        self.untold = true;
    }

    /// Reads and writes what can be at once; says what keeps it from that.
    pub(crate) fn exchange(&mut self) -> Option<String> {
        if self.stream.is_none() && Instant::now() >= self.due {
            match self.place.open() {
                Ok(stream) => self.stream = Some(stream),
                Err(error) => self.lost(error),
            }
        }
        if let Some(mut stream) = self.stream.take() {
            match self
                .listen(&mut *stream)
                .and_then(|()| self.write(&mut *stream))
            {
                Ok(()) => self.stream = Some(stream),
                Err(error) => self.lost(error),
            }
        }
        self.trouble.clone()
    }

    /// The connection is of no use: another one is made after a while.
    fn lost(&mut self, source: io::Error) {
        let error = Error::Unusable {
            action: self.place.action(),
            place: self.place.to_string(),
            source,
        };

        self.trouble = Some(error.to_string());
        self.due = Instant::now() + self.delay;
        self.delay = self.delay.saturating_mul(2).min(LAST_DELAY);
        self.begin_anew();
    }

    /// Whoever listens next is told the newest line from its beginning.
    fn begin_anew(&mut self) {
        self.rest.clear();
        self.untold = !self.newest.is_empty();
    }

    /// Throws away what the host has written, and finds out whether there is one.
    fn listen(&mut self, stream: &mut dyn Stream) -> io::Result<()> {
        let there = match io::copy(&mut stream.take(DRAIN), &mut io::sink()) {
            // There may be more, for the next time.
            Ok(DRAIN) => true,
            Ok(_) if self.place.outlives_host() => false,
            Ok(_) => return Err(ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => true,
            Err(error) => return Err(error),
        };

        if there && self.away {
            self.begin_anew();
        }
        self.away = !there;
        Ok(())
    }

    /// Writes as much as is taken.
    fn write(&mut self, stream: &mut dyn Stream) -> io::Result<()> {
        loop {
            if self.rest.is_empty() {
                if !self.untold {
                    return Ok(());
                }
                let before = if self.torn { "\n" } else { "" };
                self.rest = format!("{before}{}\n", self.newest).into();
                self.untold = false;
            }
            match stream.write(&self.rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.rest.drain(..count.min(self.rest.len()));
                    self.torn = !self.rest.is_empty();
                    self.trouble = None;
                    self.delay = FIRST_DELAY;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.torn {
                        // Not begun: by the time it can be, there may be a newer one.
                        self.begin_anew();
                    }
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Place {
    /// Opens it, in a way that nothing done with it blocks.
    fn open(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Port(path) => {
                let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                let port = File::from(rustix::fs::open(path, flags, Mode::empty())?);
                // An ordinary file would take everything and keep it.
                if !port.metadata()?.file_type().is_char_device() {
                    return Err(io::Error::other(
                        "no character device, as a virtio-serial port is",
                    ));
                }
                Ok(Box::new(port))
            }
            // The kernel gives up after two seconds.
            Self::Vsock { cid, port } => {
                let stream = VsockStream::connect_with_cid_port(*cid, *port)?;
                stream.set_nonblocking(true)?;
                Ok(Box::new(stream))
            }
        }
    }

    /// Whether it stays open, and reads as empty, while nobody has the host's end open.
    fn outlives_host(&self) -> bool {
        matches!(self, Self::Port(_))
    }

    /// What is done there.
    fn action(&self) -> &'static str {
        match self {
            Self::Port(_) => "write to",
            Self::Vsock { .. } => "connect to",
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Port(path) => path.display().fmt(f),
            Self::Vsock { cid, port } => write!(f, "vsock {cid}:{port}"),
        }
    }
}
