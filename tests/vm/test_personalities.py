#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The manners of four hypervisors, played by a device of our own.

Each part gets a device that is new, in a guest that is not.
"""

from vmtest.errors import TestFailure, expect, expect_equal
from vmtest.guest import only_ours
from vmtest.ktap import main, test
from vmtest.paths import FLAVOUR, STOCK
from vmtest.qemu import DEVICE_MEMORY
from vmtest.testdevice import DeviceGuest
from vmtest.units import GIB, MIB

REGION = 768 * MIB

# For what depends on how fast the guest is.
TRIES = 4


def renew(guest: DeviceGuest, setup: str) -> None:
    """Another device in place of the one that is there, of which nothing may be in use."""
    if guest.status()["created"]:
        guest.settle_at(0)
        guest.wait_blocks(0)
        guest.control("destroy")
    guest.control(f"setup {setup}", "create")
    guest.wait_until(lambda: guest.name, 10, "the device is not bound")


def grows_and_shrinks(guest: DeviceGuest) -> None:
    # The kernels that look for mistakes take minutes for what test_resize does on them, too.
    for size in (132, 516, 4, 768) if FLAVOUR == STOCK else (132, 4):
        guest.settle_at(size * MIB)
    guest.settle_at(0)
    guest.settle_at(256 * MIB)


def keeps_content(guest: DeviceGuest) -> None:
    """Memory in use is migrated, whatever comes between."""
    guest.settle_at(512 * MIB)
    with guest.load(640, "--sparse") as sparse, guest.load(64, seed=2) as dense:
        guest.request(64 * MIB)
        guest.bind(guest.unbind())
        guest.converge(64 * MIB)
        expect_equal(dense.check(), 64 * 256, "pages of the dense load")
        guest.settle_at(640 * MIB)
        guest.rmmod()
        guest.insmod()
        guest.request(132 * MIB)
        guest.rmmod()
        expect_equal(sparse.check(), 320, "pages of the sparse load")
        guest.insmod()
        guest.converge(132 * MIB)
    guest.expect_obedient()


def exhausts(guest: DeviceGuest) -> None:
    """The whole region, and back to nothing."""
    guest.settle_at(REGION if FLAVOUR == STOCK else REGION // 4)
    guest.settle_at(0)
    guest.wait_blocks(0)


def goes_at_bad_moments(guest: DeviceGuest) -> None:
    """Unbound while it grows and while it shrinks; the next driver goes on."""
    for size in (640, 128, 512):
        guest.request(size * MIB)
        name = guest.unbind()
        guest.bind(name)
        guest.converge(size * MIB)


def is_moved_by_hand(guest: DeviceGuest) -> None:
    """An administrator takes memory offline, and brings it online."""
    guest.settle_at(512 * MIB)
    for block in guest.blocks()[:2]:
        guest.write(f"{block.sysfs}/state", "offline")
    # What is offline goes first.
    guest.request(384 * MIB)
    guest.wait_plugged(384 * MIB)
    expect_equal(guest.hotplugged(), 256 * MIB, "in use")
    for block in guest.blocks():
        if block.state == "offline":
            guest.write(f"{block.sysfs}/state", "online_movable")
    guest.settle_at(640 * MIB)
    guest.settle_at(0)


def is_in_big_blocks(guest: DeviceGuest) -> None:
    guest.settle_at(0)
    guest.wait_blocks(0)
    guest.rmmod()
    guest.insmod("force_bbm=1 bbm_block_size=268435456")
    for size in (512, 256, 512):
        guest.settle_at(size * MIB)
    guest.request(300 * MIB)
    guest.wait_plugged(256 * MIB)
    guest.settle_at(0)
    guest.wait_blocks(0)
    guest.rmmod()
    guest.insmod()


def follows_the_policy(guest: DeviceGuest) -> None:
    """The kernel decides what goes online, and where."""
    guest.settle_at(0)
    guest.wait_blocks(0)
    guest.rmmod()
    guest.insmod("online_type=policy")
    guest.write("/sys/devices/system/memory/auto_online_blocks", "offline")
    guest.request(256 * MIB)
    guest.wait_plugged(256 * MIB)
    for block in guest.wait_blocks(2):
        guest.write(f"{block.sysfs}/state", "online_movable")
    guest.converge(256 * MIB)
    guest.settle_at(0)
    guest.wait_blocks(0)
    guest.rmmod()
    guest.insmod()


def is_lived_with(guest: DeviceGuest) -> None:
    """What people do with a device, whose ever it is."""
    goes_at_bad_moments(guest)
    is_moved_by_hand(guest)
    is_in_big_blocks(guest)
    follows_the_policy(guest)


@test(limit=240)
def features() -> None:
    """Each combination: a node is believed only with ACPI_PXM."""
    only_ours("it has no state to tell")
    with DeviceGuest("personality=qemu", create=False, load=False) as guest:
        guest.insmod()
        for bits in range(8):
            guest.control(f"setup region_size=384M features={bits} node=77", "create")
            guest.wait_until(lambda: guest.name, 10, "the device is not bound")
            expect_equal(int(guest.attribute("node")), -1, "a node that there is not")
            guest.settle_at(132 * MIB)
            expect_equal([block.node for block in guest.blocks()], [0, 0], "nodes")
            guest.settle_at(0)
            guest.wait_blocks(0)
            guest.control("destroy")


@test(limit=400)
def qemu() -> None:
    only_ours("it has no state to tell")
    with DeviceGuest(f"personality=qemu region_size={REGION}") as guest:
        grows_and_shrinks(guest)
        keeps_content(guest)
        for size in (256, 64):
            guest.control("migrating on")
            guest.request(size * MIB)
            guest.wait_state("waiting", "host-busy")
            guest.control("migrating off")
            guest.converge(size * MIB)
        is_lived_with(guest)
        exhausts(guest)


@test(limit=400)
def cloud_hypervisor() -> None:
    """Its plugged size drifts away from what is plugged."""
    only_ours("it has no state to tell")
    with DeviceGuest(f"personality=cloud-hypervisor region_size={REGION}") as guest:
        grows_and_shrinks(guest)
        for kind, size in (("plug", 384), ("unplug", 128), ("plug", 256)):
            guest.fault(f"kind={kind} code=error act times=1")
            guest.settle_at(size * MIB)
            guest.honest()
        status = guest.status()
        expect(status["faults"] == 3, f"{status['faults']} faults")
        expect(status["plugged_size"] != status["plugged"], "its count is right")
        keeps_content(guest)
        is_lived_with(guest)
        exhausts(guest)


def leave_plugged(guest: DeviceGuest) -> str:
    """Memory is plugged, and Linux has none of it: the driver goes while it unplugs.
    Returns the name of the device."""
    for _ in range(TRIES):
        guest.settle_at(256 * MIB)
        guest.fault("kind=unplug code=error never")
        guest.request(0)
        guest.wait_state("stalled", "no-answer")
        name = guest.unbind()
        guest.honest()
        if not guest.blocks():
            return name
        # The processors had other things to do, and a part was removed in time.
        guest.bind(name)
    raise TestFailure(f"each of {TRIES} times the driver had only removed a part")


@test(limit=400)
def firecracker() -> None:
    """It has no usable region after UNPLUG_ALL, until it is resized."""
    only_ours("it has no state to tell")
    with DeviceGuest(f"personality=firecracker region_size={REGION}") as guest:
        grows_and_shrinks(guest)
        keeps_content(guest)
        name = leave_plugged(guest)
        guest.request(512 * MIB)
        guest.bind(name)
        guest.wait_until(lambda: guest.status()["requests.unplug-all"], 30, "no UNPLUG_ALL")
        guest.wait_until(lambda: guest.state()[0] in ("waiting", "settled"), 30, "not at rest")
        guest.settle_at(384 * MIB)
        is_lived_with(guest)
        exhausts(guest)


@test(limit=400)
def dragonball() -> None:
    """It refuses requests that cross a multiple of 2 GiB; its blocks have 4 MiB."""
    only_ours("it has no state to tell")
    addr = DEVICE_MEMORY + 2 * GIB - 384 * MIB
    setup = f"personality=dragonball addr={addr} region_size={REGION}"
    with DeviceGuest(setup, hidden=3 * GIB) as guest:
        grows_and_shrinks(guest)
        keeps_content(guest)
        is_lived_with(guest)
        exhausts(guest)
        # Neither end of the region is where a memory block begins.
        renew(guest, f"addr={addr + 20 * MIB} region_size={REGION}")
        guest.settle_at(256 * MIB)
        guest.settle_at(0)
        guest.wait_blocks(0)


if __name__ == "__main__":
    main()
