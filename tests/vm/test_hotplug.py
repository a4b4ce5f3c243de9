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
OTHER_SLOT = ("-device", "pcie-root-port,id=rp1,bus=pcie.0,chassis=2,slot=2")


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


SLOWLY = "/sys/module/virtio_mem/parameters/test_slow_offline"


def with_empty_blocks(guest: Guest, device: MemDevice, count: int) -> None:
    """Leaves blocks of the device empty: nothing in them is plugged, but they may not go. From
    then on they may, each of them in half a second."""
    guest.resize(count * 128 * MIB, device.name)
    guest.expect_hotplugged(count * 128 * MIB)
    with refusing(guest, "MEM_GOING_OFFLINE", EBUSY):
        guest.resize(0, device.name)
        expect_equal(len(guest.blocks(device.name)), count, "blocks that are left")
        guest.write(SLOWLY, "500")


def pci_device(guest: Guest, attributes: str) -> str:
    """The PCI device whose driver has these attributes in sysfs."""
    return guest.sh(f"readlink -f {attributes}/../..").strip()


def attributes_of(guest: Guest, device: MemDevice) -> str:
    """Where the driver's attributes of a device are, as long as that is there."""
    script = f"grep -lx {device.address} $(ls {DRIVER}/virtio*/virtio_mem/start_address)"
    return guest.sh(f"dirname $(readlink -f $({script}))").strip()


@test(limit=150)
def ejected_as_soon_as_it_is_empty() -> None:
    """The driver is about to remove memory blocks, for which it needs the lock that the ejection has."""
    only_ours("it waits for that lock for ever")
    device = MemDevice(size=4 * GIB, address=5 * GIB, bus="rp0")
    with Guest(device, load=False, extra=SLOT) as guest:
        insmod_injection(guest, FIRST)
        guest.insmod(driver="hooks")
        with_empty_blocks(guest, device, 8)
        attributes = attributes_of(guest, device)
        guest.write(f"{attributes}/retry", "1")
        guest.wait_until(lambda: len(guest.blocks(device.name)) < 8, 20, "no block goes", poll=0.02)
        eject(guest, device, 15)
        guest.write(SLOWLY, "0")
        # The blocks that are left in Linux are the driver's again.
        insert(guest, device, bound=1)
        guest.resize(514 * MIB)
        guest.expect_hotplugged(514 * MIB)
        guest.resize(0)
        guest.wait_blocks(0)
        guest.rmmod()


@test(limit=150)
def removed_beside_an_ejection() -> None:
    """Who removes a device has the lock of the PCI bus, for which the ejection of another device
    waits that has the lock for memory. The driver may wait for neither."""
    only_ours("it waits for that lock for ever")
    device = MemDevice(size=4 * GIB, address=5 * GIB, bus="rp0")
    other = MemDevice("vm1", size=4 * GIB, address=16 * GIB, bus="rp1")
    with Guest(device, other, load=False, extra=(*SLOT, *OTHER_SLOT)) as guest:
        insmod_injection(guest, FIRST)
        guest.insmod(driver="hooks")
        with_empty_blocks(guest, device, 8)
        attributes = attributes_of(guest, device)
        pci = pci_device(guest, attributes)
        guest.write(f"{attributes}/retry", "1")
        guest.wait_until(lambda: len(guest.blocks(device.name)) < 8, 20, "no block goes", poll=0.02)
        # The driver has the lock for memory for most of the time; now the ejection waits for it,
        guest.qemu.qmp("device_del", id=other.name)
        guest.wait_until(lambda: ejecting(guest), 20, "the ejection does not begin", poll=0.02)
        # and gets it from the driver when the PCI bus is locked already.
        guest.sh(f"echo 1 >{pci}/remove", timeout=30)
        guest.wait_until(lambda: len(guest.memory_devices()) == 1, 15, "the other one does not go")
        guest.write(SLOWLY, "0")
        guest.sh("echo 1 >/sys/bus/pci/rescan")
        guest.wait_until(
            lambda: guest.run("sh", "-c", f"ls -d {DRIVER}/virtio*").rc == 0, 40, "it is not found again"
        )
        guest.resize(514 * MIB)
        guest.expect_hotplugged(514 * MIB)
        guest.resize(0)
        guest.wait_blocks(0)
        guest.rmmod()


def ejecting(guest: Guest) -> bool:
    """Whether the kernel has begun to eject something, and waits for a lock."""
    stacks = guest.sh("cat /proc/[0-9]*/stack 2>/dev/null; true")
    return "acpi_device_hotplug" in stacks


def eject(guest: Guest, device: MemDevice, limit: float) -> None:
    guest.qemu.qmp("device_del", id=device.name)
    seconds = guest.wait_until(
        lambda: device.name not in [d["id"] for d in guest.memory_devices()],
        limit,
        "the device does not go",
        poll=0.02,
    )
    print(f"{device.name} is gone after {seconds:.1f} s")


def insert(guest: Guest, device: MemDevice, bound: int) -> None:
    """Adds the device again, and waits until so many have their driver."""
    guest.qemu.qmp("device_add", **device.options)
    script = f"ls -d {DRIVER}/virtio* | wc -l"
    guest.wait_until(lambda: int(guest.sh(script)) == bound, 40, "the driver does not find it")


def eject_beside_a_step(guest: Guest, device: MemDevice, other: MemDevice, size: int) -> None:
    """Ejects a device whose driver is about to remove blocks, while another one grows to `size`."""
    first = guest.sh(
        f"for d in {DRIVER}/virtio*; do echo $(readlink -f $d/..) $d; done | sort | head -n 1"
    ).split()[1]
    attributes = guest.sh(f"readlink -f {first}/virtio_mem").strip()
    # It tries all the time.
    guest.begin(["sh", "-c", f"cd {attributes} && while echo 1 >retry; do :; done 2>/dev/null"])
    guest.qemu.qmp("device_del", id=device.name)
    guest.wait_until(
        lambda: guest.run("ls", attributes).rc != 0, 20, "the driver is not told to go", poll=0.02
    )
    # From here on the ejection has the lock. The other device's driver wants it, too, and waits.
    guest.request(size, other.name)
    guest.wait_until(lambda: len(guest.memory_devices()) == 1, 15, "the device does not go")
    guest.wait_plugged(size, other.name)
    guest.expect_hotplugged(size)
    insert(guest, device, bound=2)


def rest(guest: Guest) -> None:
    """Waits until the driver tries no more for a while to take blocks offline."""
    counts = [-1, guest.dmesg().count("Injecting")]

    def still() -> bool:
        counts[:] = [counts[1], guest.dmesg().count("Injecting")]
        return counts[0] == counts[1]

    guest.wait_until(still, 60, "it goes on trying", poll=2)


@test(limit=240)
def ejected_with_blocks_left() -> None:
    """Who ejects a device has the lock that adding and removing memory takes, and waits for the driver."""
    only_ours("it waits for that lock for ever")
    device = MemDevice(size=10 * GIB, address=5 * GIB, bus="rp0")
    other = MemDevice("vm1", size=4 * GIB, address=16 * GIB, bus="rp1")
    with Guest(device, other, extra=(*SLOT, *OTHER_SLOT)) as guest:
        insmod_injection(guest, FIRST)
        guest.resize(8 * GIB)
        guest.expect_hotplugged(8 * GIB)
        with refusing(guest, "MEM_GOING_OFFLINE", EBUSY):
            # In parts, as the blocks themselves may not go.
            guest.resize(0)
            expect_equal(len(guest.blocks(device.name)), 64, "blocks that are left")
            for size in range(130, 140, 2):
                eject_beside_a_step(guest, device, other, size * MIB)
                if "is finished later" in guest.dmesg():
                    break
            else:
                raise TestFailure("no step was in flight in any of five ejections")
            # With nothing under way: not a second for each block.
            rest(guest)
            expect_equal(len(guest.blocks(device.name)), 64, "blocks that are left")
            eject(guest, device, 2.5)
        insert(guest, device, bound=2)
        guest.resize(514 * MIB)
        guest.expect_hotplugged(514 * MIB + guest.plugged(other.name))
        for name in (device.name, other.name):
            guest.resize(0, name)
        guest.wait_blocks(0)
        # No thread is left in the module.
        guest.rmmod()


if __name__ == "__main__":
    main()
