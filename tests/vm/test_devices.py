#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Devices of other block sizes, and one that answers that it is busy."""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator

from vmtest.errors import expect, expect_equal
from vmtest.guest import Guest, only_ours
from vmtest.ktap import main, test
from vmtest.qemu import MemDevice
from vmtest.units import GIB, MIB


def follow(block: int, *sizes: int) -> None:
    """Resizes a device of `block` MiB to `sizes`, in MiB."""
    with Guest(MemDevice(size=4 * GIB, block_size=block * MIB)) as guest:
        for size in sizes:
            guest.resize(size * MIB)
            guest.expect_hotplugged(size * MIB)


@test()
def block_of_1_mib() -> None:
    """Smaller than what Linux can take: it takes two at a time."""
    follow(1, 2, 130, 300, 128, 0)


@test()
def block_of_4_mib() -> None:
    follow(4, 4, 124, 128, 132, 1540, 300, 0)


@test()
def block_of_64_mib() -> None:
    follow(64, 64, 192, 1088, 128, 64, 0)


@test()
def block_of_128_mib() -> None:
    """As large as a memory block of Linux."""
    follow(128, 128, 1152, 384, 0)


@test(limit=180)
def busy_while_migrating() -> None:
    """QEMU refuses every change while it migrates; afterwards all is well."""
    with Guest() as guest:
        guest.resize(258 * MIB)
        guest.expect_hotplugged(258 * MIB)
        guest.qemu.qmp("migrate-set-parameters", **{"max-bandwidth": 65536})
        guest.qemu.qmp("migrate", uri="exec:cat >/dev/null")
        guest.wait_until(
            lambda: guest.qemu.qmp("query-migrate").get("status") == "active", 20, "no migration"
        )
        for size in (514 * MIB, 130 * MIB):
            guest.request(size)
            guest.wait_stuck("host-busy")
            expect_equal(guest.plugged(), 258 * MIB, "plugged while migrating")
        status = guest.qemu.qmp("query-migrate")["status"]
        expect_equal(status, "active", "migration before it is cancelled")
        guest.qemu.qmp("migrate_cancel")
        # The C driver takes its 50 s.
        seconds = guest.wait_plugged(130 * MIB, timeout=75)
        print(f"{seconds:.1f} s after the end of the migration")
        guest.expect_hotplugged(130 * MIB)
        expect(guest.resize(642 * MIB) < 60, "slow afterwards")
        guest.expect_hotplugged(642 * MIB)


@contextlib.contextmanager
def file_system(mib: int) -> Iterator[str]:
    """A directory in memory with room for so much."""
    with tempfile.TemporaryDirectory(prefix="vmem-") as path:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}M", "vmem", path], check=True)
        try:
            yield path
        finally:
            # QEMU, which had the only file there, has ended.
            subprocess.run(["umount", path], check=True)


@test()
def host_with_room_for_a_part() -> None:
    """What there is room for on the host is plugged, and the rest when there is room for that."""
    only_ours("asks for 512 MiB again and again")
    with file_system(200) as path, Guest(MemDevice(size=2 * GIB, allocated_in=path)) as guest:
        guest.request(512 * MIB)
        guest.wait_plugged(200 * MIB, timeout=5)
        guest.expect_hotplugged(200 * MIB)
        guest.wait_waiting("host-busy")
        expect_equal(guest.plugged(), 200 * MIB, "plugged in a full host")
        subprocess.run(["mount", "-o", f"remount,size={512}M", path], check=True)
        guest.wait_plugged(512 * MIB, timeout=5)
        guest.expect_hotplugged(512 * MIB)
        guest.resize(0)


if __name__ == "__main__":
    main()
