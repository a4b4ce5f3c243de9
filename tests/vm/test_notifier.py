#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Memory that others refuse to have brought online or taken offline.

The kernel has a module for it, which answers memory notifiers with an error. With
a priority above the driver's it is asked first, and the driver is told that the
event was cancelled without ever having heard of it.
"""

import time

from vmtest.errors import expect, expect_equal
from vmtest.faults import FIRST, LAST, insmod_injection, refusing
from vmtest.guest import Guest, only_ours
from vmtest.iomem import parse_iomem
from vmtest.ktap import main, test
from vmtest.units import MIB

ENOMEM, EBUSY = -12, -16

# The driver's own delay, after which it tries again, and some for the guest. The C
# driver takes its 50 s.
CONVERGENCE = 30.0
C_CONVERGENCE = 75.0


def convergence(guest: Guest) -> float:
    return CONVERGENCE if guest.driver == "rust" else C_CONVERGENCE


def expect_converged(guest: Guest, size: int) -> None:
    """What was asked for while it could not be had is had soon, to the byte."""
    begun = time.monotonic()
    guest.wait_plugged(size, timeout=convergence(guest))
    guest.expect_hotplugged(size, timeout=convergence(guest))
    print(f"{time.monotonic() - begun:.1f} s until {size // MIB} MiB are there")


def expect_nothing_left(guest: Guest) -> None:
    guest.request(0)
    expect_converged(guest, 0)
    guest.wait_blocks(0)
    guest.rmmod()
    text = guest.read("/proc/iomem")
    left = [resource for resource in parse_iomem(text) if "virtio" in resource.name]
    expect_equal([resource for resource in left if "mem" in resource.name], [], "in /proc/iomem")


def refused_online(priority: int) -> None:
    only_ours("what was not brought online at once stays offline")
    with Guest() as guest:
        insmod_injection(guest, priority)
        guest.resize(194 * MIB)
        guest.expect_hotplugged(194 * MIB)
        for error, size, reason in (
            (ENOMEM, 514, "no-memory"),
            (EBUSY, 898, "onlining-refused"),
        ):
            with refusing(guest, "MEM_GOING_ONLINE", error):
                had = guest.hotplugged()
                guest.request(size * MIB)
                guest.wait_waiting(reason)
                # What goes into a block that is online already needs nobody's leave.
                expect(guest.hotplugged() < had + 128 * MIB, "went online all the same")
                expect(guest.plugged() <= size * MIB, "more was plugged than was requested")
                expect(f"waiting: {reason}" in guest.dmesg(), f"{reason} is not in the log")
            expect_converged(guest, size * MIB)
        # Neither does it keep the driver from shrinking.
        with refusing(guest, "MEM_GOING_ONLINE", EBUSY):
            guest.request(1538 * MIB)
            guest.wait_waiting("onlining-refused")
            guest.resize(258 * MIB)
            guest.expect_hotplugged(258 * MIB)
        expect_nothing_left(guest)


@test(limit=150)
def refused_online_first() -> None:
    refused_online(FIRST)


@test(limit=150)
def refused_online_last() -> None:
    refused_online(LAST)


def refused_offline(priority: int) -> None:
    """The driver may still unplug parts of memory blocks, which stay online."""
    with Guest() as guest:
        insmod_injection(guest, priority)
        for error, size in ((ENOMEM, 130), (EBUSY, 2)):
            guest.resize(642 * MIB)
            guest.expect_hotplugged(642 * MIB)
            with guest.load(1024, "--watch") as load:
                with refusing(guest, "MEM_GOING_OFFLINE", error):
                    guest.request(size * MIB)
                    expect(guest.plugged() >= size * MIB, "less is plugged than was requested")
                    guest.expect_hotplugged(guest.settle(quiet=6))
                    expect_equal(len(guest.blocks()), 6, "memory blocks that stay online")
                expect_converged(guest, size * MIB)
                load.check()
        # Overtaken by a request to grow, what was given up is plugged again.
        with refusing(guest, "MEM_GOING_OFFLINE", EBUSY):
            guest.resize(642 * MIB)
            # What is plugged and not in Linux yet goes back without its leave.
            guest.expect_hotplugged(642 * MIB)
            guest.request(0)
            guest.wait_until(lambda: guest.plugged() < 512 * MIB, 20, "nothing is given up")
            guest.resize(770 * MIB)
            guest.expect_hotplugged(770 * MIB)
        expect_nothing_left(guest)


@test(limit=240)
def refused_offline_first() -> None:
    refused_offline(FIRST)


@test(limit=240)
def refused_offline_last() -> None:
    refused_offline(LAST)


if __name__ == "__main__":
    main()
