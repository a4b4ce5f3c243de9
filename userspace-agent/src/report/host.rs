// SPDX-License-Identifier: GPL-2.0

//! The host's ear: a virtio-serial port or a vsock connection, neither of which ever blocks.
//!
//! A host that does not read keeps us from writing: the line that was begun and the newest one are
//! kept, no others. What the host writes is read so that it does not pile up, and thrown away.

use crate::error::Error;
use rustix::event::epoll;
use rustix::event::epoll::Event;
use rustix::event::epoll::EventData;
use rustix::event::epoll::EventFlags;
use rustix::event::Timespec;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use std::fs::File;
use std::io;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
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

/// How long after the last write a wake-up may be due to the host's having taken it.
const TAKEN: Duration = Duration::from_secs(1);

/// An open port or connection.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A stream, and what tells of each change of its state.
struct Open {
    stream: Box<dyn Stream>,
    /// Edge-triggered: a port whose host is away is ready for ever, and is to wake us once.
    edges: OwnedFd,
}

impl Open {
    /// Wants to be told of each change of the stream.
    fn new(stream: impl Stream + AsFd + 'static) -> io::Result<Self> {
        let edges = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        epoll::add(&edges, &stream, EventData::new_u64(0), flags)?;
        Ok(Self {
            stream: Box::new(stream),
            edges,
        })
    }

    /// Whether the stream has changed since this was asked last.
    fn has_changed(&self) -> bool {
        let mut events = [Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        }];
        epoll::wait(&self.edges, &mut events, Some(&Timespec::default())) == Ok(1)
    }
}

/// What a look at the port has shown of the host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Seen {
    /// The host's end is not open.
    Away,
    /// It is, and has written something.
    Talking,
    /// It is.
    There,
}

/// The host, whether it listens or not.
pub(crate) struct Host {
    place: Place,
    open: Option<Open>,
    /// When to open it, and how long to wait after that has failed.
    due: Instant,
    delay: Duration,
    /// Why it cannot be told anything.
    trouble: Option<String>,
    /// Whether the host's end of the port was not open.
    away: bool,
    /// When something was written last.
    written: Option<Instant>,
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
            open: None,
            due: Instant::now(),
            delay: FIRST_DELAY,
            trouble: None,
            away: false,
            written: None,
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

    /// What becomes readable when it is time for another exchange.
    pub(crate) fn edges(&self) -> Option<BorrowedFd<'_>> {
        self.open.as_ref().map(|open| open.edges.as_fd())
    }

    /// How long it is until it is tried to open it again; `None` if it is open.
    pub(crate) fn left(&self) -> Option<Duration> {
        let left = self.due.saturating_duration_since(Instant::now());
        self.open.is_none().then_some(left)
    }

    /// Reads and writes what can be at once; says what keeps it from that.
    pub(crate) fn exchange(&mut self) -> Option<String> {
        if self.open.is_none() && Instant::now() >= self.due {
            match self.place.open() {
                Ok(open) => self.open = Some(open),
                Err(error) => self.lost(error),
            }
        }
        if let Some(mut open) = self.open.take() {
            // Before it is read: what happens from now on is a change of its own.
            let changed = open.has_changed();
            match self
                .listen(&mut *open.stream, changed)
                .and_then(|()| self.write(&mut *open.stream))
            {
                Ok(()) => self.open = Some(open),
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
    fn listen(&mut self, stream: &mut dyn Stream, changed: bool) -> io::Result<()> {
        let mut taken = stream.take(DRAIN);
        let result = io::copy(&mut taken, &mut io::sink());
        let talks = taken.limit() < DRAIN;
        let seen = match result {
            // There may be more, for the next time.
            Ok(DRAIN) => Seen::Talking,
            Ok(_) if self.place.outlives_host() => Seen::Away,
            Ok(_) => return Err(ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            Err(_) if talks => Seen::Talking,
            Err(_) => Seen::There,
        };

        if self.is_another_host(seen, changed) {
            self.begin_anew();
        }
        self.away = seen == Seen::Away;
        Ok(())
    }

    /// Whether it is another host than before, or the same once more. One that left and came back
    /// before it was looked at has left no other trace than a change without a cause; right after a line
    /// was written, the change may be due to that.
    fn is_another_host(&self, seen: Seen, changed: bool) -> bool {
        let caused = self.untold
            || !self.rest.is_empty()
            || self.written.is_none_or(|when| when.elapsed() < TAKEN);
        match seen {
            Seen::Away => false,
            _ if self.away => true,
            Seen::There => changed && !caused && self.place.outlives_host(),
            Seen::Talking => false,
        }
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
                    self.written = Some(Instant::now());
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
    fn open(&self) -> io::Result<Open> {
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
                Open::new(port)
            }
            // The kernel gives up after two seconds.
            Self::Vsock { cid, port } => {
                let stream = VsockStream::connect_with_cid_port(*cid, *port)?;
                stream.set_nonblocking(true)?;
                Open::new(stream)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that has been told the newest line a while ago.
    fn told(place: Place) -> Host {
        Host {
            newest: "line".into(),
            written: Instant::now().checked_sub(TAKEN),
            ..Host::new(place)
        }
    }

    fn port() -> Host {
        told(Place::Port("port".into()))
    }

    #[test]
    fn a_host_that_was_seen_to_be_away_is_told_anew() {
        let mut host = port();
        assert!(!host.is_another_host(Seen::Away, true));
        host.away = true;
        assert!(host.is_another_host(Seen::There, true));
        assert!(host.is_another_host(Seen::There, false));
    }

    // It left, and another one came, before the port was looked at.
    #[test]
    fn a_change_without_a_cause_is_another_host() {
        assert!(!port().is_another_host(Seen::There, false));
        assert!(!port().is_another_host(Seen::Talking, true));
        let mut host = port();
        assert!(host.is_another_host(Seen::There, true));
        // Once it is told, that has a cause again.
        host.written = Some(Instant::now());
        assert!(!host.is_another_host(Seen::There, true));
    }

    #[test]
    fn room_for_what_was_written_is_a_cause() {
        let mut host = port();
        host.written = Some(Instant::now());
        assert!(!host.is_another_host(Seen::There, true));
        let mut host = port();
        host.rest = b"li".to_vec();
        assert!(!host.is_another_host(Seen::There, true));
        // A connection ends with its host.
        let host = told(Place::Vsock { cid: 2, port: 1 });
        assert!(!host.is_another_host(Seen::There, true));
    }
}
