// SPDX-License-Identifier: GPL-2.0

//! Sleeping until something happens to a device.
//!
//! A driver with attributes announces changes of some of them to whoever polls the files. Devices
//! that come and go, drivers that are bound and unbound, and memory blocks that come and go are
//! announced by uevents; that is all there is beside the C driver. To miss nothing, [`look`] gets
//! ready to be told before it looks, and [`Events::wait`] takes what it has got ready: whatever
//! has happened since ends the wait at once.
//!
//! Neither is relied upon alone. Not all that is shown is announced, files in a recorded tree never
//! are, and a container may not be told of uevents: callers look again after an interval.

use crate::bus;
use crate::collect;
use crate::collect::Collected;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::Root;
use crate::sysfs;
use rustix::event::poll;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::net;
use rustix::net::netlink;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use signal_hook::low_level::pipe;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use std::time::Instant;

/// The attributes whose changes the driver announces.
const ANNOUNCED: [&str; 4] = ["state", "reason", "requested_size", "plugged_size"];
/// The multicast group of what the kernel itself says; 2 would be what udev makes of it.
const KERNEL_GROUP: u32 = 1;
/// The kernel's uevents are at most 2 KiB and a header; what is cut off is of no interest.
const UEVENT_SIZE: usize = 4096;
/// What a uevent has to say to be of interest.
const SUBSYSTEMS: [&[u8]; 2] = [b"SUBSYSTEM=virtio", b"SUBSYSTEM=memory"];
/// For how long changes are left to accumulate after each look: that many looks a second are
/// enough for anyone, and memory that is being plugged changes far more often.
const PAUSE: Duration = Duration::from_millis(50);
/// The same as a multiple of what looking took, for machines with thousands of memory blocks: a
/// tenth of a CPU is the most that looking may cost.
const PAUSE_PER_LOOK: u32 = 9;
/// However long a look took, which may have been for want of a CPU: not to be told for longer than
/// this is to be told too late.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Why a wait has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Woken {
    /// It is worth looking: something has happened, or the time is over.
    Look,
    /// The program is to end: by a signal, or because nobody reads its output any longer.
    End,
}

/// Files that have been read, so that polling them tells what has changed since.
#[derive(Debug)]
pub(crate) struct Armed {
    files: Vec<File>,
    /// For how long changes are left to accumulate.
    pause: Duration,
}

/// Looks at all devices, or the one called `only`, and gets ready to be told of all that changes
/// meanwhile and afterwards.
pub(crate) fn look(root: &Root, only: Option<&str>) -> (Collected, Armed) {
    let start = Instant::now();
    let files = arm(root, only);
    let collected = collect::collect(root, only);
    let pause = pause(start.elapsed());

    (collected, Armed { files, pause })
}

/// The pause after a look that took so long.
fn pause(look: Duration) -> Duration {
    look.saturating_mul(PAUSE_PER_LOOK)
        .clamp(PAUSE, LONGEST_PAUSE)
}

/// Opens what tells of changes from now on. What cannot be read here cannot be waited for; looking
/// will tell why.
fn arm(root: &Root, only: Option<&str>) -> Vec<File> {
    let names = bus::names(root).unwrap_or_default();
    let paths = names
        .iter()
        .filter(|name| only.is_none_or(|only| only == *name))
        .flat_map(|name| {
            let group = bus::dir(root, name).join(sysfs::GROUP);
            ANNOUNCED.map(|attribute| group.join(attribute))
        });

    // Only a file that has been read since it was opened tells of changes.
    let read = |mut file: File| file.read(&mut [0; 64]).map(|_| file);
    paths
        .filter_map(|path| files::open(&path, "an attribute").ok())
        .filter_map(|file| read(file).ok())
        .collect()
}

/// The sources of events that last as long as the program.
#[derive(Debug)]
pub(crate) struct Events {
    /// `None` where the kernel does not let us listen.
    uevents: Option<OwnedFd>,
    /// Readable once the program is to end.
    end: Option<UnixStream>,
}

impl Events {
    /// Listens to uevents. SIGINT and SIGTERM end the program as ever.
    pub(crate) fn new() -> Self {
        Self {
            uevents: uevents().ok(),
            end: None,
        }
    }

    /// Listens to uevents, to SIGINT and SIGTERM, and for the end of whoever reads the output.
    pub(crate) fn until_ended() -> Result<Self> {
        let register = || {
            let (end, signalled) = UnixStream::pair()?;
            pipe::register(SIGINT, signalled.try_clone()?)?;
            pipe::register(SIGTERM, signalled)?;
            Ok(end)
        };
        let end = register().map_err(|error: io::Error| Error::Poll(error))?;

        Ok(Self {
            end: Some(end),
            ..Self::new()
        })
    }

    /// Sleeps a moment in which events accumulate, then until there is one or `timeout` is over.
    pub(crate) fn wait(&self, armed: &Armed, timeout: Duration) -> Result<Woken> {
        let start = Instant::now();
        let left = || timeout.saturating_sub(start.elapsed());

        if self.poll(&[], None, armed.pause.min(timeout))? == Polled::End {
            return Ok(Woken::End);
        }
        loop {
            match self.poll(&armed.files, self.uevents.as_ref(), left())? {
                Polled::End => return Ok(Woken::End),
                Polled::Uevents if !self.concerned() => {}
                Polled::Uevents | Polled::Attributes | Polled::Nothing => return Ok(Woken::Look),
            }
        }
    }

    /// Polls these files, these uevents and what ends the program.
    fn poll(&self, files: &[File], uevents: Option<&OwnedFd>, timeout: Duration) -> Result<Polled> {
        let stdout = io::stdout();
        let mut fds: Vec<_> = files
            .iter()
            .map(|file| PollFd::new(file, PollFlags::PRI | PollFlags::ERR))
            .collect();
        let uevents_at = fds.len();
        fds.extend(uevents.map(|socket| PollFd::new(socket, PollFlags::IN)));
        let end_at = fds.len();
        if let Some(end) = &self.end {
            fds.push(PollFd::new(end, PollFlags::IN));
            // Errors and hang-ups are told without being asked for.
            fds.push(PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::empty()));
        }

        // A time that does not fit is more than anyone lives.
        let timeout = Timespec::try_from(timeout).ok();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Polled::Nothing),
            Err(error) => return Err(Error::Poll(error.into())),
        }
        let happened: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let any = |range: &[bool]| range.contains(&true);

        Ok(if any(&happened[end_at..]) {
            Polled::End
        } else if any(&happened[..uevents_at]) {
            Polled::Attributes
        } else if any(&happened[uevents_at..end_at]) {
            Polled::Uevents
        } else {
            Polled::Nothing
        })
    }

    /// Takes all uevents that have come; whether one of them may concern a device.
    fn concerned(&self) -> bool {
        let Some(socket) = &self.uevents else {
            return false;
        };
        let mut message = [0; UEVENT_SIZE];
        let mut concerned = false;

        loop {
            match net::recv(socket, &mut message[..], net::RecvFlags::DONTWAIT) {
                Ok((_, length)) => {
                    concerned |= concerns(&message[..length.min(UEVENT_SIZE)]);
                }
                Err(Errno::AGAIN) => return concerned,
                Err(Errno::INTR) => {}
                // Some were lost (ENOBUFS), which may have been of interest.
                Err(_) => return true,
            }
        }
    }
}

/// What a poll has found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Polled {
    Nothing,
    Attributes,
    Uevents,
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

/// Whether a uevent may concern a memory device or its memory. Who sent it does not matter: a
/// forged one makes us look once more.
fn concerns(message: &[u8]) -> bool {
    message
        .split(|byte| *byte == 0)
        .any(|field| SUBSYSTEMS.contains(&field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::target;
    use crate::fuzz::text_of;

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

    #[test]
    fn plain_files_announce_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("sys/bus/virtio/devices/virtio0/virtio_mem");
        std::fs::create_dir_all(&group).unwrap();
        std::fs::write(group.join("state"), "settled\n").unwrap();
        std::fs::write(group.join("reason"), "").unwrap();
        let root = Root::new(dir.path().into());

        assert_eq!(arm(&root, Some("virtio1")).len(), 0);
        let (_, armed) = look(&root, None);
        assert_eq!(armed.files.len(), 2);

        let events = Events {
            uevents: None,
            end: None,
        };
        let (start, timeout) = (Instant::now(), Duration::from_millis(120));
        assert_eq!(events.wait(&armed, timeout).unwrap(), Woken::Look);
        assert!(start.elapsed() >= timeout);
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
