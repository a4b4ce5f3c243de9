#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The guest follows the requested size, and MemTotal follows it to the byte."""

import random
import time

from vmtest.guest import Guest
from vmtest.ktap import main, test
from vmtest.qemu import MemDevice
from vmtest.units import GIB, MIB

# Less and more than a memory block of 128 MiB, one, several, and odd ones.
UP = (2, 126, 128, 130, 254, 256, 300, 1026, 1538)
DOWN = (1536, 1412, 640, 300, 258, 256, 254, 130, 128, 126, 4, 2, 0)
BIG_STEPS = (1538, 2, 1024, 0, 130, 2048, 0)


def follow(guest: Guest, *sizes: int) -> None:
    for size in sizes:
        guest.resize(size * MIB)
        guest.expect_hotplugged(size * MIB)
        # Nothing is kept that is not needed.
        guest.wait_blocks(-(-size // 128))


@test(limit=120)
def steps_up_and_down() -> None:
    with Guest() as guest:
        follow(guest, *UP)
        follow(guest, *DOWN)


@test(limit=120)
def big_steps() -> None:
    with Guest() as guest:
        follow(guest, *BIG_STEPS)


@test()
def whole_region() -> None:
    with Guest(MemDevice(size=2 * GIB)) as guest:
        follow(guest, 2048, 2046, 2048, 0)


@test()
def requested_before_boot() -> None:
    with Guest(MemDevice(requested=514 * MIB)) as guest:
        guest.wait_plugged(514 * MIB)
        guest.expect_hotplugged(514 * MIB)
        follow(guest, 0)


@test(limit=180)
def overtaken_a_hundred_times() -> None:
    choice = random.Random(20240)
    with Guest() as guest:
        for _ in range(100):
            guest.request(choice.randrange(1025) * 2 * MIB)
            # From "before the driver has read it" to "when it is nearly done".
            time.sleep(choice.choice((0, 0, 0.005, 0.02, 0.1, 0.3)))
        for size in (770, 0):
            guest.resize(size * MIB, timeout=90)
            guest.expect_hotplugged(size * MIB)


if __name__ == "__main__":
    main()
