#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Regions that are no whole number of Linux' memory blocks, or out of its reach.

Only memory blocks that lie in the region as a whole can be used; the driver must
touch nothing of the others, which may be somebody else's.
"""

from vmtest.accel import emulated
from vmtest.errors import TestSkip, expect, expect_equal
from vmtest.guest import Guest
from vmtest.iomem import parse_iomem
from vmtest.ktap import main, test
from vmtest.qemu import MemDevice
from vmtest.units import GIB, MIB

BLOCK = 128 * MIB

# Where Linux' direct map can end, with page tables of four levels.
REACH = 1 << 46

# Emulated processors address less than that, unless told to.
FAR_CPU = ("-cpu", "max,la57=off,phys-bits=48")

UNALIGNED = "The alignment of the physical {} address can make some memory unusable"
OUT_OF_REACH = "Some device memory is not addressable/pluggable"
WAITING = "waiting: not-addressable"


def added(guest: Guest, device: MemDevice) -> list[range]:
    """What Linux has added of a device's memory."""
    return [
        range(resource.start, resource.end + 1)
        for resource in parse_iomem(guest.read("/proc/iomem"))
        if resource.name == "System RAM (virtio_mem)"
        and device.address <= resource.start < device.address + device.size
    ]


def check_follows(guest: Guest, device: MemDevice, fits: range) -> None:
    """It takes what is in `fits` and no more, and goes up and down in it."""
    for offered in (len(fits), device.size):
        guest.request(offered, device.name)
        guest.wait_plugged(len(fits), device.name)
        guest.expect_hotplugged(len(fits))
        for part in added(guest, device):
            inside = fits.start <= part.start and part.stop <= fits.stop
            expect(inside, f"{part} was added, only {fits} is usable")
        said = WAITING in guest.dmesg()
        expect(said == (offered > len(fits)) or guest.driver == "c", f"'{WAITING}': {said}")
        for size in (len(fits) - 2 * MIB, 130 * MIB, 2 * MIB, len(fits), 0):
            guest.resize(size, device.name)
            guest.expect_hotplugged(size)
        guest.wait_blocks(0)


def unaligned(offset: int, size: int) -> None:
    """A region `offset` bytes above a multiple of memory blocks."""
    device = MemDevice(size=size, address=5 * GIB + offset)
    end = device.address + device.size
    with Guest(device) as guest:
        expect_equal(guest.device()["memaddr"], device.address, "address of the region")
        log = guest.dmesg()
        for what, address in (("start", device.address), ("end", end)):
            said = UNALIGNED.format(what) in log
            expect_equal(said, address % BLOCK != 0, f"warning about the {what}")
        first = -(-device.address // BLOCK)
        check_follows(guest, device, range(first * BLOCK, end // BLOCK * BLOCK))


@test()
def start_is_unaligned() -> None:
    unaligned(2 * MIB, 1022 * MIB)


@test()
def end_is_unaligned() -> None:
    unaligned(0, 1026 * MIB)


@test()
def both_are_unaligned() -> None:
    unaligned(66 * MIB, 1024 * MIB)


@test()
def smaller_than_a_memory_block() -> None:
    """Nothing of it can be used."""
    with Guest(MemDevice(size=130 * MIB, address=5 * GIB + 64 * MIB)) as guest:
        guest.request(130 * MIB)
        expect_equal(guest.settle(), 0, "plugged")
        guest.expect_hotplugged(0)
        guest.request(0)


@test()
def neighbours_in_a_memory_block() -> None:
    """One ends and the other starts in a memory block, which is nobody's then."""
    border = 6 * GIB + 66 * MIB
    devices = [
        MemDevice("vm0", size=border - 5 * GIB, address=5 * GIB),
        MemDevice("vm1", size=7 * GIB - border, address=border),
    ]
    fits = {"vm0": 1024 * MIB, "vm1": 896 * MIB}
    with Guest(*devices) as guest:
        for device in devices:
            guest.request(device.size, device.name)
        for name, size in fits.items():
            guest.wait_plugged(size, name)
        guest.expect_hotplugged(sum(fits.values()))
        shared = border // BLOCK
        for device in devices:
            expect(len(added(guest, device)) > 0, f"{device.name}: nothing in /proc/iomem")
        numbers = [block.number for block in guest.blocks()]
        expect(shared not in numbers, f"memory{shared} is there, which they share")
        # One goes, the other keeps all that it has.
        guest.resize(0, "vm0")
        guest.expect_hotplugged(fits["vm1"])
        expect_equal(guest.settle("vm1"), fits["vm1"], "plugged by vm1")
        guest.resize(0, "vm1")
        guest.expect_hotplugged(0)


def far_away(address: int, size: int = GIB) -> MemDevice:
    if not emulated():
        raise TestSkip("real processors may not have such addresses")
    return MemDevice(size=size, address=address)


@test()
def partly_out_of_reach() -> None:
    device = far_away(REACH - 514 * MIB)
    with Guest(device, extra=FAR_CPU) as guest:
        expect(OUT_OF_REACH in guest.dmesg(), f"no warning '{OUT_OF_REACH}'")
        check_follows(guest, device, range(REACH - 512 * MIB, REACH))


@test()
def wholly_out_of_reach() -> None:
    """The driver refuses the device, or takes nothing of it."""
    with Guest(far_away(REACH), extra=FAR_CPU) as guest:
        expect(OUT_OF_REACH in guest.dmesg(), f"no warning '{OUT_OF_REACH}'")
        expect("cannot be used" in guest.dmesg() or guest.driver == "c", "not refused")
        guest.request(512 * MIB)
        expect_equal(guest.settle(), 0, "plugged")
        guest.expect_hotplugged(0)
        guest.request(0)
        guest.rmmod()


@test(limit=180)
def memory_blocks_of_a_large_guest() -> None:
    """They are larger than what a device lets be used beyond what it asks for (256 MiB)."""
    # Where it ends there is no room for memory below 1 TiB, so that Linux sees a large guest.
    cpu = FAR_CPU if emulated() else ()
    with Guest(MemDevice(size=1024 * GIB), memory=5 * GIB, extra=cpu) as guest:
        block = int(guest.read("/sys/devices/system/memory/block_size_bytes"), 16)
        if block <= 256 * MIB:
            raise TestSkip(f"memory blocks have {block // MIB} MiB")
        for size in (2 * MIB, block + 130 * MIB, 3 * block - 2 * MIB, block // 2, 2 * block, 0):
            guest.resize(size)
            guest.expect_hotplugged(size)
        guest.wait_blocks(0)


if __name__ == "__main__":
    main()
