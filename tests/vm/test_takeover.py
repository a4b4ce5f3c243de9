#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A driver that is loaded while the device's memory is in use goes on from there."""

import random
import time

from vmtest.errors import expect, expect_equal
from vmtest.guest import Guest, only_ours
from vmtest.iomem import parse_iomem
from vmtest.ktap import main, test
from vmtest.qemu import MemDevice
from vmtest.units import GIB, MIB

NOT_RESERVED = "could not reserve device region"


def regions(guest: Guest) -> list[str]:
    """What /proc/iomem calls what begins in the region, but for added memory."""
    device = guest.device()
    return [
        resource.name
        for resource in parse_iomem(guest.read("/proc/iomem"))
        if device["memaddr"] <= resource.start < device["memaddr"] + device["max-size"]
        and not resource.name.startswith("System RAM")
    ]


def insmod(guest: Guest) -> None:
    """Loads our driver, which must find what is there."""
    before = guest.dmesg()
    had = before.count("taking over")
    plugged = guest.plugged()
    guest.insmod(driver="rust")
    guest.wait_until(
        lambda: guest.dmesg().count("taking over") == had + 1, 20, "nothing was taken over"
    )
    # The C driver may have said so before.
    refused = guest.dmesg().count(NOT_RESERVED) - before.count(NOT_RESERVED)
    expect_equal(refused, 0, f"the log says '{NOT_RESERVED}'")
    expect_equal(len(regions(guest)), 1, "regions in /proc/iomem")
    expect(plugged > 0, "nothing was plugged that could be taken over")


def expect_nothing_left(guest: Guest) -> None:
    """All goes, and nothing tells afterwards that there was a driver."""
    guest.resize(0)
    guest.expect_hotplugged(0)
    guest.wait_blocks(0)
    guest.rmmod()
    expect_equal(regions(guest), [], "left in /proc/iomem")
    expect("System RAM (virtio_mem)" not in guest.read("/proc/iomem"), "memory is left")


def taken_over_from(driver: str) -> None:
    only_ours("it is refused the device")
    policy = "online_movable" if driver == "c" else None
    with Guest(load=False, memory=GIB, policy=policy) as guest:
        guest.insmod(driver=driver)
        guest.resize(514 * MIB)
        guest.expect_hotplugged(514 * MIB)
        with guest.load(1024, "--watch") as load:
            guest.rmmod()
            insmod(guest)
            # Nothing is given up.
            time.sleep(3)
            expect_equal(guest.plugged(), 514 * MIB, "plugged after it was taken over")
            guest.expect_hotplugged(514 * MIB)
            load.check()
            for size in (642, 1026, 386, 576):
                guest.resize(size * MIB)
                guest.expect_hotplugged(size * MIB)
            guest.request(0)
            less = guest.wait_waiting("memory-in-use")
            expect(0 < less < 514 * MIB, f"{less // MIB} MiB are plugged under a load")
            guest.expect_hotplugged(less)
            load.check()
        expect_nothing_left(guest)


@test(limit=180)
def from_itself() -> None:
    taken_over_from("rust")


@test(limit=180)
def from_the_c_driver() -> None:
    taken_over_from("c")


@test()
def after_the_c_driver_was_refused() -> None:
    """It cannot take memory over, and leaves the device with its queue enabled."""
    only_ours("it is refused the device")
    with Guest() as guest:
        guest.resize(258 * MIB)
        guest.expect_hotplugged(258 * MIB)
        guest.rmmod()
        guest.insmod(driver="c")
        expect("failed with error -16" in guest.dmesg(), "the C driver was not refused")
        guest.rmmod()
        insmod(guest)
        guest.resize(386 * MIB)
        guest.expect_hotplugged(386 * MIB)
        expect_nothing_left(guest)


@test(limit=150)
def with_nothing_in_use() -> None:
    """What has no user may go, or stay: the request decides."""
    only_ours("it is refused the device")
    with Guest() as guest:
        for size, wanted in ((514, 130), (194, 642), (642, 642), (2, 0)):
            guest.resize(size * MIB)
            guest.expect_hotplugged(size * MIB)
            guest.rmmod()
            guest.request(wanted * MIB)
            insmod(guest)
            guest.wait_plugged(wanted * MIB)
            guest.expect_hotplugged(wanted * MIB)
        expect_nothing_left(guest)


@test(limit=180)
def while_a_shrink_cannot_finish() -> None:
    only_ours("it is refused the device")
    with Guest(memory=GIB) as guest:
        guest.resize(GIB)
        guest.expect_hotplugged(GIB)
        with guest.load(1280, "--mlock", "--watch") as load:
            guest.request(2 * MIB)
            guest.wait_waiting("memory-in-use")
            guest.rmmod()
            left = guest.settle()
            expect(left > 2 * MIB, "the memory in use has gone")
            # What had just been removed from Linux may still be plugged.
            in_linux = guest.hotplugged()
            expect(2 * MIB < in_linux <= left, f"{in_linux // MIB} MiB are in Linux")
            insmod(guest)
            less = guest.wait_waiting("memory-in-use")
            expect(2 * MIB < less <= left, f"{less // MIB} MiB of {left // MIB} MiB are plugged")
            load.check()
        guest.wait_plugged(2 * MIB, timeout=30)
        guest.expect_hotplugged(2 * MIB)
        expect_nothing_left(guest)


@test(limit=600)
def ten_times_under_a_load() -> None:
    """A process that checks 2 GiB all the time sees no difference."""
    only_ours("it is refused the device")
    choice = random.Random(4711)
    with Guest(MemDevice(size=6 * GIB), memory=3 * GIB) as guest:
        guest.resize(4 * GIB)
        guest.expect_hotplugged(4 * GIB)
        with guest.load(2048, "--watch") as load:
            for number in range(10):
                if number % 2:
                    # It goes in the middle of its work.
                    guest.request(choice.randrange(1024, 2560) * 2 * MIB)
                    time.sleep(choice.choice((0, 0.05, 0.2)))
                guest.rmmod()
                # What it has just removed or not yet added may be plugged still.
                plugged = guest.settle()
                expect(guest.hotplugged() <= plugged, "more memory than is plugged")
                insmod(guest)
                for size in (choice.randrange(1536, 2560), choice.randrange(512, 1280)):
                    guest.resize(size * 2 * MIB)
                    guest.expect_hotplugged(size * 2 * MIB)
            load.check()
            rounds = load.command("check")["rounds"]
            print(f"{rounds} times all of the load was checked")
        expect_nothing_left(guest)


if __name__ == "__main__":
    main()
