#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Devices that come and go while the guest runs."""

from collections.abc import Iterator
from contextlib import contextmanager

from vmtest.errors import TestFailure, expect_equal
from vmtest.faults import FIRST, insmod_injection, refusing
from vmtest.guest import Guest, only_ours
from vmtest.iomem import parse_iomem
from vmtest.ktap import main, test
from vmtest.qemu import MemDevice, Refused
from vmtest.units import GIB, MIB

EBUSY = -16

DRIVER = "/sys/bus/virtio/drivers/virtio_mem"

# A slot from which a device can be taken while the guest runs.
SLOT = ("-device", "pcie-root-port,id=rp0,bus=pcie.0,chassis=1,slot=1")


def traces(guest: Guest, device: MemDevice) -> list[str]:
    """What is in the device's region, or names its driver, in /proc/iomem."""
    found = []
    for resource in parse_iomem(guest.read("/proc/iomem")):
        inside = device.address <= resource.start < device.address + device.size
        if inside or "virtio_mem" in resource.name:
            found.append(resource.name)
    return found


@contextmanager
def in_a_slot(size: int = 4 * GIB) -> Iterator[tuple[Guest, MemDevice]]:
    device = MemDevice(size=size, address=5 * GIB, bus="rp0")
    with Guest(device, extra=SLOT) as guest:
        yield guest, device


@test(limit=150)
def device_goes_and_comes() -> None:
    with in_a_slot() as (guest, device):
        for size in (130 * MIB, 642 * MIB, 2 * MIB):
            guest.resize(size)
            guest.expect_hotplugged(size)
            guest.resize(0)
            guest.wait_blocks(0)
            # It goes as soon as the guest has agreed.
            guest.qemu.qmp("device_del", id=device.name)
            guest.wait_until(lambda: not guest.memory_devices(), 40, "the device does not go")
            expect_equal(traces(guest, device), [], "left in /proc/iomem")
            guest.expect_hotplugged(0)
            guest.qemu.qmp("device_add", **device.options)
            guest.wait_until(
                lambda: guest.run("sh", "-c", f"ls -d {DRIVER}/virtio*").rc == 0,
                40,
                "the driver does not find the device",
            )
        guest.resize(386 * MIB)
        guest.expect_hotplugged(386 * MIB)
        guest.rmmod()


@test()
def device_with_memory_stays() -> None:
    """QEMU lets go of no device that has memory plugged."""
    with in_a_slot() as (guest, device):
        guest.resize(130 * MIB)
        guest.expect_hotplugged(130 * MIB)
        try:
            guest.qemu.qmp("device_del", id=device.name)
        except Refused as error:
            print(f"QEMU says: {error}")
        else:
            raise TestFailure("QEMU does not refuse to take a device with memory")
        guest.resize(386 * MIB)
        guest.expect_hotplugged(386 * MIB)
        guest.resize(0)
        guest.expect_hotplugged(0)


@test(limit=150)
def ejected_with_blocks_left() -> None:
    """Who ejects a device may have the lock that removing memory takes."""
    only_ours("it waits for that lock for ever")
    with in_a_slot() as (guest, device):
        insmod_injection(guest, FIRST)
        guest.resize(386 * MIB)
        guest.expect_hotplugged(386 * MIB)
        with refusing(guest, "MEM_GOING_OFFLINE", EBUSY):
            # In parts, as the blocks themselves may not go.
            guest.resize(0)
            expect_equal(len(guest.blocks()), 4, "blocks that are left")
            guest.qemu.qmp("device_del", id=device.name)
            guest.wait_until(lambda: not guest.memory_devices(), 40, "the device does not go")
            expect_equal(guest.hotplugged(), 0, "memory in use")
        # Nobody holds the lock any more.
        guest.sh("cd /sys/devices/system/memory/memory40 && ! echo online >state")
        guest.qemu.qmp("device_add", **device.options)
        guest.wait_until(
            lambda: guest.run("sh", "-c", f"ls -d {DRIVER}/virtio*").rc == 0, 40, "no driver"
        )
        guest.resize(514 * MIB)
        guest.expect_hotplugged(514 * MIB)
        guest.resize(0)
        guest.wait_blocks(0)


if __name__ == "__main__":
    main()
