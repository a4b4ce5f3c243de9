// SPDX-License-Identifier: GPL-2.0

//! Sleeping until something happens to a device.
//!
//! A driver with attributes announces changes of some of them: to whoever polls the files, and to
//! inotify, of which one file descriptor serves any number of devices. Devices that come and go, drivers
//! that are bound and unbound, and memory blocks that come, go and change are announced by uevents; that
//! is all there is beside the C driver. To miss nothing, [`Events::look`] gets ready to be told before it
//! looks, and [`Events::wait`] ends at once for what has happened since.
//!
//! Neither is relied upon alone. Not all that is shown is announced, files in a recorded tree seldom
//! are, and a container may not be told of uevents: callers look again after an interval.

use crate::attributes::Attributes;
use crate::cache::Cache;
use crate::collect;
use crate::collect::Collected;
use crate::error::Error;
use crate::error::Result;
use crate::exit;
use crate::files::Root;
use crate::uevents::Uevents;
use rustix::event::poll;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::io::Errno;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use signal_hook::consts::SIGWINCH;
use signal_hook::low_level::pipe;
use std::io;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::process;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// For how long changes are left to accumulate after each look: that many looks a second are
/// enough for anyone, and memory that is being plugged changes far more often.
const PAUSE: Duration = Duration::from_millis(50);
/// The same as a multiple of what looking took, for machines with thousands of memory blocks: a
/// tenth of a CPU is the most that looking may cost.
const PAUSE_PER_LOOK: u32 = 9;
/// However long a look took, which may have been for want of a CPU: not to be told for longer than
/// this is to be told too late.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a signal leaves the program to end by itself. It does not where what it writes to is full.
const GRACE: Duration = Duration::from_millis(500);

/// Why a wait has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Woken {
    /// It is worth looking: something has happened, or the time is over.
    Look,
    /// Something has happened to the caller's own file.
    Own,
    /// The program is to end: by a signal, or because nothing reads its output any longer.
    End,
}

/// The pause after a look that took so long.
fn pause(look: Duration) -> Duration {
    look.saturating_mul(PAUSE_PER_LOOK)
        .clamp(PAUSE, LONGEST_PAUSE)
}

/// The sources of events, and what is remembered from one look to the next.
#[derive(Debug)]
pub(crate) struct Events {
    /// `None` where the kernel does not let us watch.
    attributes: Option<Attributes>,
    /// `None` where the kernel does not let us listen.
    uevents: Option<Uevents>,
    /// Readable once the program is to end.
    end: Option<UnixStream>,
    /// Readable once the terminal has another size.
    resized: Option<UnixStream>,
    cache: Cache,
    /// Until when changes are left to accumulate.
    paused: Instant,
    /// Until when the caller's own file is left alone.
    muted: Instant,
}

impl Events {
    /// Listens to the kernel. SIGINT and SIGTERM end the program as ever.
    pub(crate) fn new() -> Self {
        Self {
            attributes: Attributes::new().ok(),
            uevents: Uevents::new().ok(),
            end: None,
            resized: None,
            cache: Cache::default(),
            paused: Instant::now(),
            muted: Instant::now(),
        }
    }

    /// Listens to the kernel, to SIGINT, SIGTERM and SIGWINCH, and for the end of whatever reads the
    /// output.
    pub(crate) fn until_ended() -> Result<Self> {
        let register = || {
            let (end, signalled) = UnixStream::pair()?;
            let (last, signalled_last) = UnixStream::pair()?;
            for signal in [SIGINT, SIGTERM] {
                pipe::register(signal, signalled.try_clone()?)?;
                pipe::register(signal, signalled_last.try_clone()?)?;
            }
            let (resized, signalled) = UnixStream::pair()?;
            resized.set_nonblocking(true)?;
            pipe::register(SIGWINCH, signalled)?;
            thread::Builder::new().spawn(move || end_by(last))?;
            Ok((end, resized))
        };
        let (end, resized) = register().map_err(|error: io::Error| Error::Poll(error))?;

        Ok(Self {
            end: Some(end),
            resized: Some(resized),
            ..Self::new()
        })
    }

    /// Looks at all devices, or the one called `only`, after getting ready to be told of all that
    /// changes meanwhile and afterwards.
    pub(crate) fn look(&mut self, root: &Root, only: Option<&str>) -> Collected {
        let start = Instant::now();

        if let Some(attributes) = &mut self.attributes {
            attributes.drain();
            attributes.watch(root, only);
        }
        self.concerned();
        if self.uevents.is_none() {
            self.cache.forget();
        }
        let collected = collect::collect_again(root, only, &mut self.cache);
        self.paused = Instant::now() + pause(start.elapsed());
        collected
    }

    /// Sleeps a moment in which events accumulate, then until there is one or `timeout` is over.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Result<Woken> {
        self.wait_beside(None, timeout)
    }

    /// Sleeps like [`Self::wait`], also until the caller's own file is readable.
    pub(crate) fn wait_beside(
        &mut self,
        own: Option<BorrowedFd<'_>>,
        timeout: Duration,
    ) -> Result<Woken> {
        let start = Instant::now();

        loop {
            let now = Instant::now();
            let left = timeout.saturating_sub(now - start);
            let paused = self.paused.saturating_duration_since(now);
            let muted = self.muted.saturating_duration_since(now);
            let mut until = left;
            if !paused.is_zero() {
                until = until.min(paused);
            }
            if own.is_some() && !muted.is_zero() {
                until = until.min(muted);
            }
            let own = own.filter(|_| muted.is_zero());
            match self.poll(own, paused.is_zero(), until)? {
                Polled::End => return Ok(Woken::End),
                Polled::Own => {
                    self.muted = Instant::now() + PAUSE;
                    return Ok(Woken::Own);
                }
                Polled::Changed => return Ok(Woken::Look),
                Polled::Uevents if self.concerned() => return Ok(Woken::Look),
                Polled::Nothing if start.elapsed() >= timeout => return Ok(Woken::Look),
                Polled::Uevents | Polled::Nothing => {}
            }
        }
    }

    /// Polls what ends the program, the caller's own file, and, if changes are of interest, those.
    fn poll(
        &self,
        own: Option<BorrowedFd<'_>>,
        changes: bool,
        timeout: Duration,
    ) -> Result<Polled> {
        let stdout = io::stdout();
        let mut fds = Vec::new();
        let mut add = |fd, polled| fds.push((PollFd::from_borrowed_fd(fd, PollFlags::IN), polled));

        if let Some(end) = &self.end {
            add(end.as_fd(), Polled::End);
        }
        if let Some(own) = own {
            add(own, Polled::Own);
        }
        if changes {
            if let Some(resized) = &self.resized {
                add(resized.as_fd(), Polled::Changed);
            }
            if let Some(attributes) = &self.attributes {
                add(attributes.fd(), Polled::Changed);
            }
            if let Some(uevents) = &self.uevents {
                add(uevents.fd(), Polled::Uevents);
            }
        }
        if self.end.is_some() {
            // Errors and hang-ups are told without being asked for.
            let stdout = PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::empty());
            fds.insert(0, (stdout, Polled::End));
        }

        let (mut fds, polled): (Vec<_>, Vec<_>) = fds.into_iter().unzip();
        // A time that does not fit is more than anyone lives.
        let timeout = Timespec::try_from(timeout).ok();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Polled::Nothing),
            Err(error) => return Err(Error::Poll(error.into())),
        }
        let happened = fds.iter().position(|fd| !fd.revents().is_empty());
        let polled = happened.and_then(|index| polled.get(index).copied());
        if let (Some(Polled::Changed), Some(mut resized)) = (polled, self.resized.as_ref()) {
            let _ = resized.read(&mut [0; 64]);
        }
        Ok(polled.unwrap_or(Polled::Nothing))
    }

    /// Takes all uevents that have come; whether one of them may concern a device.
    fn concerned(&mut self) -> bool {
        let about = self.uevents.as_ref().map(Uevents::take).unwrap_or_default();
        if about.memory {
            self.cache.forget();
        }
        about.any()
    }
}

/// Ends the program a moment after a signal has come, should it be kept from doing so.
fn end_by(mut signalled: UnixStream) {
    if signalled.read_exact(&mut [0]).is_ok() {
        thread::sleep(GRACE);
        process::exit(exit::DONE.into());
    }
}

/// What a poll has found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Polled {
    Nothing,
    Changed,
    Uevents,
    Own,
    End,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_neither_short_nor_long() {
        for (look, expected) in [(0, 50), (5, 50), (20, 180), (500, 4500), (1000, 5000)] {
            assert_eq!(
                pause(Duration::from_millis(look)),
                Duration::from_millis(expected)
            );
        }
        assert_eq!(pause(Duration::MAX), LONGEST_PAUSE);
    }

    /// A tree with a device that has two attributes.
    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("sys/bus/virtio/devices/virtio0/virtio_mem");
        std::fs::create_dir_all(&group).unwrap();
        std::fs::write(group.join("state"), "settled\n").unwrap();
        std::fs::write(group.join("reason"), "").unwrap();
        dir
    }

    /// What only attributes tell.
    fn deaf() -> Events {
        Events {
            uevents: None,
            ..Events::new()
        }
    }

    #[test]
    fn nothing_happens_until_the_time_is_over() {
        let dir = tree();
        let mut events = deaf();
        events.look(&Root::new(dir.path().into()), None);

        let (start, timeout) = (Instant::now(), Duration::from_millis(120));
        assert_eq!(events.wait(timeout).unwrap(), Woken::Look);
        assert!(start.elapsed() >= timeout);
    }

    #[test]
    fn a_change_between_look_and_wait_is_not_missed() {
        let dir = tree();
        let mut events = deaf();
        for _ in 0..3 {
            events.look(&Root::new(dir.path().into()), None);
            let state = dir
                .path()
                .join("sys/bus/virtio/devices/virtio0/virtio_mem/state");
            std::fs::write(state, "plugging\n").unwrap();
            let start = Instant::now();
            assert_eq!(events.wait(Duration::from_secs(60)).unwrap(), Woken::Look);
            assert!(start.elapsed() < Duration::from_secs(30));
        }
    }
}
