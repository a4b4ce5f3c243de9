#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Unloading and loading the module, unbinding and binding the device."""

import contextlib
import time

from vmtest.errors import expect, expect_equal
from vmtest.guest import Guest, only_ours
from vmtest.iomem import parse_iomem
from vmtest.ktap import main, test
from vmtest.paths import FLAVOUR, STOCK
from vmtest.units import GIB, MIB

DRIVER = "/sys/bus/virtio/drivers/virtio_mem"
STILL_ADDED = "device still has system memory added"
TAKING_OVER = "taking over"


def expect_no_trace(guest: Guest) -> None:
    """Nothing is left of a driver that has gone."""
    device = guest.device()
    start, end = device["memaddr"], device["memaddr"] + device["max-size"]
    left = [
        resource
        for resource in parse_iomem(guest.read("/proc/iomem"))
        if start <= resource.start < end or "virtio_mem" in resource.name
    ]
    expect_equal(left, [], "left in /proc/iomem")
    expect_equal(guest.blocks(), [], "memory blocks left")
    guest.expect_hotplugged(0)


def shrink_to_nothing(guest: Guest) -> None:
    """Also waits for Linux to forget the blocks, which may come last."""
    guest.resize(0)
    guest.wait_blocks(0)


def device_name(guest: Guest) -> str:
    """The name of the device that is bound to the driver."""
    return guest.sh(f"basename {DRIVER}/virtio*").strip()


@test(limit=120)
def ten_times() -> None:
    with Guest(load=False) as guest:
        for _ in range(10 if FLAVOUR == STOCK else 4):
            guest.insmod()
            guest.resize(130 * MIB)
            guest.expect_hotplugged(130 * MIB)
            shrink_to_nothing(guest)
            guest.rmmod()
            expect_no_trace(guest)
        expect(STILL_ADDED not in guest.dmesg(), f"'{STILL_ADDED}' with nothing added")


@test()
def unbind_and_bind() -> None:
    with Guest() as guest:
        name = device_name(guest)
        for size in (258, 2, 386):
            guest.resize(size * MIB)
            guest.expect_hotplugged(size * MIB)
            shrink_to_nothing(guest)
            guest.write(f"{DRIVER}/unbind", name)
            expect_no_trace(guest)
            guest.write(f"{DRIVER}/bind", name)


@test()
def in_use() -> None:
    """What is in use stays memory; the driver says what it leaves behind."""
    with Guest() as guest:
        guest.resize(514 * MIB)
        guest.expect_hotplugged(514 * MIB)
        with guest.load(384, "--watch") as load:
            guest.rmmod()
            expect(STILL_ADDED in guest.dmesg(), f"dmesg does not say '{STILL_ADDED}'")
            guest.expect_hotplugged(514 * MIB)
            load.check()
        # It is memory like any other: given back and used again.
        with guest.load(1536 if FLAVOUR == STOCK else 640) as load:
            load.check()
        guest.expect_hotplugged(514 * MIB)
        expect_equal(guest.plugged(), 514 * MIB, "plugged")


@test()
def while_it_works() -> None:
    """Unloading waits for nothing for long, and breaks nothing."""
    with Guest() as guest:
        for size in (4 * GIB, 0, 3 * GIB):
            guest.request(size)
            # In the middle of it, wherever that is.
            time.sleep(0.15)
            guest.rmmod()
            if guest.hotplugged():
                # The device cannot be had a second time before this memory goes.
                expect(STILL_ADDED in guest.dmesg(), f"dmesg does not say '{STILL_ADDED}'")
                break
            guest.insmod()
        with guest.load(1024) as load:
            load.check()


@test()
def plugged_in_an_earlier_life() -> None:
    """Memory that is plugged but not known to Linux is unplugged at first."""
    with Guest(load=False, policy="offline") as guest:
        for requested in (0, 300 * MIB):
            # The C driver removes such a block when it goes, but does not unplug
            # it: what a crash kernel or a firmware would leave behind.
            guest.insmod(driver="c")
            guest.resize(66 * MIB)
            guest.rmmod()
            expect_no_trace(guest)
            expect_equal(guest.plugged(), 66 * MIB, "plugged with no driver")
            guest.request(requested)
            guest.insmod()
            guest.wait_plugged(requested)
            # The C driver leaves the blocks to the policy, which is offline.
            guest.expect_hotplugged(0 if guest.driver == "c" else requested)
            shrink_to_nothing(guest)
            guest.rmmod()
            expect_no_trace(guest)


@test(limit=240)
def while_blocks_go_offline() -> None:
    """The driver is bound between two blocks that somebody takes offline with patience.

    Both hold pages that cannot be moved for now.
    """
    only_ours("it does not take memory over")
    with Guest(memory=GIB) as guest:
        name = device_name(guest)
        guest.resize(256 * MIB)
        guest.expect_hotplugged(256 * MIB)
        first, second = (block.sysfs for block in guest.blocks())
        guest.write(f"{second}/state", "offline")
        with contextlib.ExitStack() as pinned:
            # Most of the first block, and then more than is left of it.
            pinned.enter_context(guest.load(96, "--pin"))
            guest.write(f"{second}/state", "online_movable")
            with guest.load(96, "--pin"):
                guest.write(f"{DRIVER}/unbind", name)
                script = f"echo offline >{first}/state && echo offline >{second}/state"
                offline = guest.start(["sh", "-c", script])
                stuck = "page dumped because: migration failure"
                guest.wait_until(lambda: stuck in guest.dmesg(), 60, "the first one went offline")
                # Waits until no block moves.
                bind = guest.start(["sh", "-c", f"echo {name} >{DRIVER}/bind"])
                # Nothing happens.
                time.sleep(1)
                expect(TAKING_OVER not in guest.dmesg(), "it was bound while a block moved")
                pinned.close()
                expect_equal(bind.wait(30).rc, 0, "exit status of who binds the driver")
                expect(f"{TAKING_OVER} 2 memory blocks" in guest.dmesg(), "nothing is taken over")
                # Longer than whoever moves a block waits for the driver.
                time.sleep(6)
            expect_equal(offline.wait(30).rc, 0, "exit status of who takes the blocks offline")
        expect_equal(guest.settle(), 256 * MIB, "plugged")
        guest.expect_hotplugged(0)
        guest.resize(386 * MIB)
        # What somebody has taken offline stays that.
        guest.expect_hotplugged(130 * MIB)
        shrink_to_nothing(guest)


if __name__ == "__main__":
    main()
