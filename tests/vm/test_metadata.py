#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A small guest that is offered more memory than it can afford.

Linux describes each GiB with 16 MiB of memory that it needs before the new memory
can be used, and which it cannot take from memory that has to stay removable.
"""

from vmtest.errors import expect, TestSkip
from vmtest.guest import Guest, only_ours
from vmtest.kernel import Kernel
from vmtest.ktap import main, test
from vmtest.qemu import MemDevice
from vmtest.units import GIB, MIB


@test(limit=300)
def small_guest_is_offered_much() -> None:
    only_ours("it runs out of memory")
    offer = 32 * GIB
    with Guest(MemDevice(size=offer), memory=256 * MIB) as guest:
        guest.request(offer)
        taken = guest.settle(quiet=12, timeout=120)
        print(f"{taken // MIB} MiB were taken, {guest.meminfo('MemFree') // MIB} MiB are free")
        expect(GIB <= taken < offer, f"{taken // MIB} MiB were taken")
        expect("waiting: no-memory" in guest.dmesg(), "the reason is not in the log")
        # It lives: programs are started, and what was added is memory.
        guest.sh("for i in 1 2 3 4 5 6 7 8; do ls -l /proc/self/ >/dev/null; done")
        with guest.load(768) as load:
            load.check()
        guest.expect_clean_log()
        for size in (256 * MIB, 770 * MIB, 0):
            guest.resize(size, timeout=90)
            guest.expect_hotplugged(size)
        guest.wait_blocks(0)


@test(limit=180)
def guest_without_memory_gets_some() -> None:
    """Who has used up everything is who needs it most."""
    if Kernel.under_test().has("CONFIG_KASAN"):
        raise TestSkip("KASAN takes an eighth of what is added from who has nothing left")
    with Guest(memory=GIB) as guest:
        full = guest.meminfo("MemAvailable") // (2 * MIB) * 2 - 56
        with guest.load(full, "--watch") as load:
            guest.request(2 * GIB)
            # Not necessarily all of it: metadata is kernel memory, which is still scarce.
            guest.wait_until(lambda: guest.hotplugged() >= 512 * MIB, 60, "it gets nothing")
            load.check()
        guest.wait_plugged(2 * GIB)
        guest.expect_hotplugged(2 * GIB)
        guest.resize(0, timeout=90)
        guest.expect_hotplugged(0)


if __name__ == "__main__":
    main()
