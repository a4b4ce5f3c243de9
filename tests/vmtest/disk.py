# SPDX-License-Identifier: GPL-2.0
"""A guest with disks: file systems to have page cache of, and swap."""

import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from .guest import Guest
from .kernel import Kernel
from .paths import WORK
from .units import MIB


class Disk:
    """A disk whose file is sparse, and gone when the guest is."""

    def __init__(self, size: int) -> None:
        WORK.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=WORK, prefix="disk-")
        os.truncate(handle, size)
        os.close(handle)
        self.file = Path(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.file.unlink(missing_ok=True)

    def arguments(self) -> tuple[str, ...]:
        """What QEMU is to be told of it."""
        # What the guest has written is not waited for to be on the host's own disk.
        drive = f"file={self.file},format=raw,if=none,cache=unsafe,discard=unmap,id={self.file.name}"
        return ("-drive", drive, "-device", f"virtio-blk-pci,drive={self.file.name}")


def insmod(guest: Guest, name: str, parameters: str = "") -> None:
    """Loads a module of the kernel with what it needs, where it is not built in."""
    modules = [module.name.removesuffix(".xz") for module in Kernel.under_test().needed(name)]
    for module in modules:
        guest.sh(f"insmod /modules/{module} {parameters if module == modules[-1] else ''}")


def load_disks(guest: Guest) -> None:
    """Loads what finds the guest's disks: /dev/vda is the first one."""
    insmod(guest, "virtio_blk")


def mount(guest: Guest, device: str = "/dev/vda", directory: str = "/tmp/disk") -> str:
    """Makes an empty file system on a disk; returns where it is mounted."""
    guest.sh(f"mke2fs -q -b 4096 {device} && mkdir -p {directory} && mount -t ext2 {device} {directory}", 60)
    return directory


def read_file(guest: Guest, path: str, size: int) -> None:
    """Reads a file of that size, which is made first and all hole: reading it takes no time of a
    disk, and it is page cache like that of any other file."""
    guest.sh(f"truncate -s {size} {path} && cat {path} >/dev/null", 600)


def use_swap(guest: Guest, device: str) -> None:
    """Has a guest swap to a disk."""
    guest.sh(f"mkswap {device} && swapon {device}", 60)


def write_files(guest: Guest, directory: str, count: int, size: int) -> None:
    """Writes that many files of that size, of which nothing is dirty afterwards, and reads them."""
    script = (
        f"i=0; while [ $i -lt {count} ]; do head -c {size} /dev/zero >{directory}/f$i; i=$((i+1)); done;"
        f" sync; cat {directory}/f* >/dev/null"
    )
    guest.sh(script, 600)


def dirty(guest: Guest, path: str, size: int) -> None:
    """Writes a file that stays dirty in the page cache."""
    guest.sh("echo 90 >/proc/sys/vm/dirty_ratio; echo 89 >/proc/sys/vm/dirty_background_ratio;"
             "echo 100000 >/proc/sys/vm/dirty_expire_centisecs; echo 0 >/proc/sys/vm/dirty_writeback_centisecs")
    guest.sh(f"dd if=/dev/urandom of={path} bs=1M count={size // MIB} 2>/dev/null", 600)
