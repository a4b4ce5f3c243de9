// SPDX-License-Identifier: GPL-2.0

//! What the kernel says of devices and memory blocks that come, go and change.

use rustix::io::Errno;
use rustix::net;
use rustix::net::netlink;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

/// The multicast group of what the kernel itself says; 2 would be what udev makes of it.
const KERNEL_GROUP: u32 = 1;
/// The kernel's uevents are at most 2 KiB and a header; what is cut off is of no interest.
const UEVENT_SIZE: usize = 4096;
/// What a uevent about a device says.
const OF_DEVICES: &[u8] = b"SUBSYSTEM=virtio";
/// What a uevent about a memory block says.
const OF_MEMORY: &[u8] = b"SUBSYSTEM=memory";
/// What the uevents that have come are about.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct About {
    /// Virtio devices or their drivers.
    pub(crate) devices: bool,
    /// Memory blocks.
    pub(crate) memory: bool,
}

impl About {
    /// Whether it may concern a memory device.
    pub(crate) fn any(self) -> bool {
        self.devices || self.memory
    }
}

/// A socket on which they arrive.
#[derive(Debug)]
pub(crate) struct Uevents(OwnedFd);

impl Uevents {
    /// Listens from now on.
    pub(crate) fn new() -> rustix::io::Result<Self> {
        open().map(Self)
    }

    /// Readable when one has come.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Takes all that have come.
    pub(crate) fn take(&self) -> About {
        let mut message = [0; UEVENT_SIZE];
        let mut about = About::default();

        loop {
            match net::recv(&self.0, &mut message[..], net::RecvFlags::DONTWAIT) {
                Ok((_, length)) => {
                    let message = message.get(..length).unwrap_or(&message);
                    about.memory |= is_about(message, OF_MEMORY);
                    about.devices |= is_about(message, OF_DEVICES);
                }
                Err(Errno::AGAIN) => return about,
                Err(Errno::INTR) => {}
                // Some were lost (ENOBUFS), which may have been of interest.
                Err(_) => {
                    return About {
                        devices: true,
                        memory: true,
                    };
                }
            }
        }
    }
}

/// A socket on which the kernel's uevents arrive.
fn open() -> rustix::io::Result<OwnedFd> {
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
