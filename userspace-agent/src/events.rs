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

use crate::bus;
use crate::collect;
use crate::collect::Cache;
use crate::collect::Collected;
use crate::error::Error;
use crate::error::Result;
use crate::exit;
use crate::files::Root;
use crate::sysfs;
use rustix::event::poll;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::fs::inotify;
use rustix::io::Errno;
use rustix::net;
use rustix::net::netlink;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use signal_hook::consts::SIGWINCH;
use signal_hook::low_level::pipe;
use std::collections::BTreeMap;
use std::io;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// The attributes whose changes the driver announces.
const ANNOUNCED: [&str; 4] = ["state", "reason", "requested_size", "plugged_size"];
/// The multicast group of what the kernel itself says; 2 would be what udev makes of it.
const KERNEL_GROUP: u32 = 1;
/// The kernel's uevents are at most 2 KiB and a header; what is cut off is of no interest.
const UEVENT_SIZE: usize = 4096;
/// What a uevent about a device says.
const OF_DEVICES: &[u8] = b"SUBSYSTEM=virtio";
/// What a uevent about a memory block says.
const OF_MEMORY: &[u8] = b"SUBSYSTEM=memory";
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

/// The attributes that are watched, with one file descriptor for all.
#[derive(Debug)]
struct Attributes {
    inotify: OwnedFd,
    watches: BTreeMap<PathBuf, i32>,
}

impl Attributes {
    fn new() -> rustix::io::Result<Self> {
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        Ok(Self {
            inotify: inotify::init(flags)?,
            watches: BTreeMap::new(),
        })
    }

    /// Watches all devices, or the one called `only`, as they are now. What cannot be watched is only
    /// looked at, which tells why. A driver that is bound anew has new files, of the old names.
    fn watch(&mut self, root: &Root, only: Option<&str>) {
        let names = bus::selected(root, only).unwrap_or_default();
        let mut old = std::mem::take(&mut self.watches);

        for name in names {
            let group = bus::dir(root, &name).join(sysfs::GROUP);
            for path in ANNOUNCED.map(|attribute| group.join(attribute)) {
                let flags = inotify::WatchFlags::MODIFY;
                let Ok(watch) = inotify::add_watch(&self.inotify, &path, flags) else {
                    continue;
                };
                if old.get(&path) == Some(&watch) {
                    old.remove(&path);
                }
                self.watches.insert(path, watch);
            }
        }
        for watch in old.into_values() {
            // The kernel may have removed it with its file.
            let _ = inotify::remove_watch(&self.inotify, watch);
        }
    }

    /// Takes what has been announced so far.
    fn drain(&self) {
        let mut events = [0; 4096];
        while matches!(rustix::io::read(&self.inotify, &mut events), Ok(1..)) {}
    }
}

/// The sources of events, and what is remembered from one look to the next.
#[derive(Debug)]
pub(crate) struct Events {
    /// `None` where the kernel does not let us watch.
    attributes: Option<Attributes>,
    /// `None` where the kernel does not let us listen.
    uevents: Option<OwnedFd>,
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
            uevents: uevents().ok(),
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
                add(attributes.inotify.as_fd(), Polled::Changed);
            }
            if let Some(uevents) = &self.uevents {
                add(uevents.as_fd(), Polled::Uevents);
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
        let Some(socket) = &self.uevents else {
            return false;
        };
        let mut message = [0; UEVENT_SIZE];
        let mut concerned = false;

        loop {
            match net::recv(socket, &mut message[..], net::RecvFlags::DONTWAIT) {
                Ok((_, length)) => {
                    let message = message.get(..length).unwrap_or(&message);
                    if is_about(message, OF_MEMORY) {
                        self.cache.forget();
                        concerned = true;
                    }
                    concerned |= is_about(message, OF_DEVICES);
                }
                Err(Errno::AGAIN) => return concerned,
                Err(Errno::INTR) => {}
                // Some were lost (ENOBUFS), which may have been of interest.
                Err(_) => {
                    self.cache.forget();
                    return true;
                }
            }
        }
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

/// A socket on which the kernel's uevents arrive.
fn uevents() -> rustix::io::Result<OwnedFd> {
    let socket = net::socket_with(
        net::AddressFamily::NETLINK,
        net::SocketType::DGRAM,
        net::SocketFlags::CLOEXEC,
        Some(netlink::KOBJECT_UEVENT),
    )?;

    net::bind(&socket, &netlink::SocketAddrNetlink::new(0, KERNEL_GROUP))?;
    Ok(socket)
}

/// Whether a uevent has this field. Who sent it does not matter: a forged one makes us look once more.
fn is_about(message: &[u8], field: &[u8]) -> bool {
    message.split(|byte| *byte == 0).any(|part| part == field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::target;
    use crate::fuzz::text_of;

    fn concerns(message: &[u8]) -> bool {
        is_about(message, OF_DEVICES) || is_about(message, OF_MEMORY)
    }

    #[test]
    fn uevents_of_interest() {
        assert!(concerns(
            b"bind@/devices/pci0000:00/virtio1\0ACTION=bind\0SUBSYSTEM=virtio\0SEQNUM=1\0"
        ));
        assert!(concerns(b"add@/x\0SUBSYSTEM=memory\0"));
        assert!(!concerns(b"add@/x\0SUBSYSTEM=memory_tiering\0"));
        assert!(!concerns(b"add@/SUBSYSTEM=virtio\0SUBSYSTEM=net\0"));
        assert!(!concerns(b""));
    }

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

    #[test]
    fn watches_are_those_of_the_files_that_are_there() {
        let dir = tree();
        let root = Root::new(dir.path().into());
        let mut attributes = Attributes::new().unwrap();
        attributes.watch(&root, Some("virtio1"));
        assert_eq!(attributes.watches.len(), 0);
        attributes.watch(&root, None);
        let before = attributes.watches.clone();
        assert_eq!(before.len(), 2);
        attributes.watch(&root, None);
        assert_eq!(attributes.watches, before);

        // A new file of the old name, as of a driver that is bound anew.
        let group = dir.path().join("sys/bus/virtio/devices/virtio0/virtio_mem");
        std::fs::write(group.join("new"), "").unwrap();
        std::fs::rename(group.join("new"), group.join("state")).unwrap();
        attributes.watch(&root, None);
        assert_eq!(attributes.watches.len(), 2);
        assert_ne!(attributes.watches, before);
    }

    // What is open is one file, however many devices there are.
    #[test]
    fn any_number_of_devices_takes_one_file() {
        let dir = tree();
        let devices = dir.path().join("sys/bus/virtio/devices");
        for number in 1..400 {
            let group = devices.join(format!("virtio{number}/virtio_mem"));
            std::fs::create_dir_all(&group).unwrap();
            for attribute in ANNOUNCED {
                std::fs::write(group.join(attribute), "0\n").unwrap();
            }
        }
        let mut attributes = Attributes::new().unwrap();
        attributes.watch(&Root::new(dir.path().into()), None);
        assert_eq!(attributes.watches.len(), 399 * ANNOUNCED.len() + 2);
    }

    #[test]
    fn any_uevent() {
        target("any_uevent", 256, |bytes| {
            let text = text_of(
                bytes,
                &[
                    "\0",
                    "SUBSYSTEM=",
                    "virtio",
                    "memory",
                    "SUBSYSTEM=memory",
                    "\0SUBSYSTEM=virtio\0",
                ],
            );
            let fields: Vec<_> = text.split('\0').collect();
            let expected =
                fields.contains(&"SUBSYSTEM=virtio") || fields.contains(&"SUBSYSTEM=memory");
            assert_eq!(concerns(text.as_bytes()), expected);
            concerns(bytes);
        });
    }
}
