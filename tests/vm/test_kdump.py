#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A crash, and what the crash kernel's /proc/vmcore then has of the device."""

import json

from vmtest.errors import expect, expect_equal
from vmtest.guest import Guest
from vmtest.iomem import parse_iomem
from vmtest.ktap import main, test
from vmtest.qemu import MemDevice
from vmtest.units import GIB, MIB, mib

DEVICE = MemDevice(shared=True)

# A memory block, and one device block of another.
BLOCKS = 2
BLOCK = 128 * MIB
PLUGGED = BLOCK + 2 * MIB

SEED = 7


def crash(guest: Guest, loaded_at_boot: bool = False) -> list[str]:
    """Has a guest crash with its memory in use; no driver is loaded after that. The crash kernel is
    loaded last, or as real guests do, first, and again whenever memory comes or goes.

    Returns pages of the load in the device's region, as INDEX@ADDRESS.
    """
    if loaded_at_boot:
        guest.load_crash_kernel()
        guest.request(GIB)
        # As udev has it loaded, for each of many memory blocks.
        for _ in range(5):
            guest.load_crash_kernel()
        guest.wait_plugged(GIB)
        guest.expect_hotplugged(GIB)
        # It knows of more than is plugged from here on.
        guest.load_crash_kernel()
    guest.resize(PLUGGED)
    guest.expect_hotplugged(PLUGGED)
    blocks = guest.wait_blocks(BLOCKS)
    expect_equal([block.size for block in blocks], [BLOCK] * BLOCKS, "sizes of memory blocks")
    # More than is plugged: the zone it is in is used before all others.
    load = guest.load(256, seed=SEED)
    places: list[str] = []
    for block in blocks:
        found = load.command(f"where {block.start:x}-{block.start + BLOCK:x}")["places"]
        expect(len(found) > 10, f"{len(found)} pages of the load in block {block.number}")
        places += [f"{index}@{address:x}" for index, address in found]
    if not loaded_at_boot:
        guest.load_crash_kernel()
    guest.crash()
    expect_equal(guest.plugged(), PLUGGED, "plugged after the crash")
    touched = guest.qemu.touched(DEVICE)
    expect(touched <= PLUGGED, f"{mib(touched)} touched before the dump is read")
    return places


def read_dump(guest: Guest, places: list[str], how: str = "read", stale: int = 0) -> int:
    """Checks the load's pages in the dump, and reads all of the device's region, of which it may have
    so many memory blocks that are no more: Linux 7.3.4 tells a crash kernel that is loaded of a block that
    goes while that is still in the resource tree (MEM_OFFLINE), and learns better with the next one.

    Returns how much memory the host has for the device then. Reading what is not
    plugged makes it find some; reading what is plugged does so once.
    """
    start = guest.device()["memaddr"]
    memory = f"{start:x}-{start + DEVICE.size:x}"
    result = guest.run("vmem-guest", "vmcore", how, memory, str(SEED), *places, timeout=90)
    expect(result.rc in (0, 1), f"cannot read the dump: {result.stderr.strip()}")
    content = json.loads(result.stdout)
    expect_equal(content["checked"], len(places), "pages checked")
    expect_equal(content["wrong"], [], "pages that are not as they were")
    size = content["bytes"]
    sizes = [BLOCKS * BLOCK, (BLOCKS + stale) * BLOCK]
    expect(size in sizes, f"bytes in the dump: got {size}, expected one of {sizes}")
    expect(content["zeroes"] >= size - PLUGGED, f"only {mib(content['zeroes'])} empty")
    return guest.qemu.touched(DEVICE)


def expect_no_hotplug(guest: Guest) -> None:
    """The crash kernel takes nothing, and gives nothing away."""
    names = [resource.name for resource in parse_iomem(guest.read("/proc/iomem"))]
    expect("System RAM (virtio_mem)" not in names, "memory is hotplugged in the crash kernel")
    expect_equal(guest.plugged(), PLUGGED, "plugged")
    guest.expect_hotplugged(0)


@test(limit=240)
def dump() -> None:
    with Guest(DEVICE, crash=True) as guest:
        places = crash(guest)
        guest.insmod()
        expect("memory hot(un)plug disabled in kdump kernel" in guest.dmesg(), "it does not say so")
        for how in ("read", "map"):
            expect_equal(read_dump(guest, places, how), PLUGGED, "bytes touched")
        # Not even if it is asked to.
        for size in (0, 258 * MIB):
            guest.request(size)
            expect_equal(guest.settle(), PLUGGED, "plugged")
        expect_no_hotplug(guest)


@test(limit=240)
def driver_comes_and_goes() -> None:
    """Before the dump is opened."""
    with Guest(DEVICE, crash=True) as guest:
        places = crash(guest, loaded_at_boot=True)
        for _ in range(3):
            guest.insmod()
            guest.rmmod()
        expect_no_hotplug(guest)
        guest.insmod()
        expect_equal(read_dump(guest, places, stale=1), PLUGGED, "bytes touched")


@test(limit=240)
def without_the_driver() -> None:
    """What the other tests look for is there to be found."""
    with Guest(DEVICE, crash=True) as guest:
        places = crash(guest)
        expect_equal(read_dump(guest, places), BLOCKS * BLOCK, "bytes touched")


if __name__ == "__main__":
    main()
