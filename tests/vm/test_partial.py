#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Memory blocks of which a part is plugged, offlined and onlined by hand.

The rest of such a block must never become memory: MemTotal tells.
"""

import re
import time

from vmtest.errors import TestSkip, expect_equal
from vmtest.guest import Guest, only_ours
from vmtest.kernel import Kernel
from vmtest.ktap import main, test
from vmtest.memory import MemoryBlock
from vmtest.units import MIB

PAGE = 4096


def by_hand(guest: Guest, block: MemoryBlock, state: str) -> None:
    guest.write(f"{block.sysfs}/state", state)


def movable_pages(guest: Guest, kind: str) -> int:
    """Bytes of a kind (present, managed) in ZONE_MOVABLE of all nodes."""
    total = 0
    for zone in re.split(r"^Node ", guest.read("/proc/zoneinfo"), flags=re.MULTILINE):
        match = re.search(rf"\b{kind}\s+(\d+)", zone)
        if match and re.match(r"\d+, zone\s+Movable", zone):
            total += int(match[1]) * PAGE
    return total


@test()
def offline_and_online() -> None:
    with Guest() as guest:
        guest.resize(194 * MIB)
        guest.expect_hotplugged(194 * MIB)
        full, partial = guest.blocks()
        for _ in range(3):
            by_hand(guest, partial, "offline")
            guest.expect_hotplugged(128 * MIB)
            by_hand(guest, full, "offline")
            guest.expect_hotplugged(0)
            by_hand(guest, partial, "online_movable")
            guest.expect_hotplugged(66 * MIB)
            by_hand(guest, full, "online_movable")
            guest.expect_hotplugged(194 * MIB)
        expect_equal(movable_pages(guest, "managed"), 194 * MIB, "managed in ZONE_MOVABLE")
        expect_equal(movable_pages(guest, "present"), 256 * MIB, "present in ZONE_MOVABLE")
        # All of what is free is used once: it is memory, all of it.
        with guest.load(1536) as load:
            load.check()
        guest.resize(0)
        guest.expect_hotplugged(0)


def accounted(guest: Guest) -> int:
    """What the driver has allocated to take sub-blocks, in bytes, as the kernel accounts for it."""
    lines = guest.read("/proc/allocinfo").splitlines()
    ours = [line.split() for line in lines if "func:vmem_alloc_contig_range" in line]
    expect_equal(len(ours), 1, "places where the driver takes sub-blocks")
    return int(ours[0][0])


@test()
def what_is_taken_is_accounted_for() -> None:
    if not Kernel.under_test().has("CONFIG_MEM_ALLOC_PROFILING"):
        raise TestSkip("this kernel does not profile allocations")
    only_ours("it accounts for its own")
    with Guest(cmdline="sysctl.vm.mem_profiling=1") as guest:
        guest.resize(256 * MIB)
        guest.expect_hotplugged(256 * MIB)
        expect_equal(accounted(guest), 0, "accounted for before anything is taken")
        guest.resize(194 * MIB)
        guest.expect_hotplugged(194 * MIB)
        expect_equal(accounted(guest), 62 * MIB, "accounted for while it is taken")
        guest.resize(256 * MIB)
        guest.expect_hotplugged(256 * MIB)
        expect_equal(accounted(guest), 0, "accounted for after it was given back")


@test()
def stays_as_the_administrator_wants_it() -> None:
    with Guest() as guest:
        guest.resize(194 * MIB)
        guest.expect_hotplugged(194 * MIB)
        full, _ = guest.blocks()
        by_hand(guest, full, "offline")
        # Nothing happens.
        time.sleep(3)
        expect_equal(guest.blocks()[0].state, "offline", f"state of memory{full.number}")
        expect_equal(guest.plugged(), 194 * MIB, "plugged")
        guest.expect_hotplugged(66 * MIB)


@test()
def grows_around_offline_blocks() -> None:
    with Guest() as guest:
        guest.resize(194 * MIB)
        guest.expect_hotplugged(194 * MIB)
        offline = guest.blocks()
        for block in offline:
            by_hand(guest, block, "offline")
        guest.resize(450 * MIB)
        guest.wait_blocks(4)
        for block in offline:
            by_hand(guest, block, "online_movable")
        guest.expect_hotplugged(450 * MIB)
        guest.resize(0)
        guest.expect_hotplugged(0)


@test()
def shrinks_offline_blocks() -> None:
    with Guest() as guest:
        guest.resize(450 * MIB)
        guest.expect_hotplugged(450 * MIB)
        for block in guest.blocks():
            by_hand(guest, block, "offline")
        guest.resize(66 * MIB)
        # Which of the four it keeps a part of is its own affair.
        for block in guest.blocks():
            guest.try_write(f"{block.sysfs}/state", "online_movable")
        guest.expect_hotplugged(66 * MIB)
        for block in guest.blocks():
            by_hand(guest, block, "offline")
        guest.resize(0)
        guest.expect_hotplugged(0)
        guest.wait_blocks(0)


if __name__ == "__main__":
    main()
