#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Shrinking a guest that uses its memory, every page of which is checked."""

import time

from vmtest.cpu import kernel_thread_seconds
from vmtest.errors import expect, expect_equal
from vmtest.guest import Guest, driver_under_test, only_ours
from vmtest.ktap import main, test
from vmtest.qemu import MemDevice
from vmtest.units import GIB, MIB

# How soon a shrink that was stuck goes on after memory has been freed. Emulated
# processors are slow; the C driver looks again after 50 s.
SOON = 15.0


@test(limit=150)
def shrinks_by_migration() -> None:
    """A page in use in each 2 MiB, all of which have to move."""
    with Guest() as guest:
        guest.resize(2 * GIB)
        guest.expect_hotplugged(2 * GIB)
        with (
            guest.load(1280, "--sparse", "--watch", seed=1) as sparse,
            guest.load(256, "--sparse", "--mlock", seed=2) as locked,
            guest.load(256, "--watch", seed=3) as dense,
        ):
            for size in (1026, 300, 0):
                guest.resize(size * MIB, timeout=90)
                guest.expect_hotplugged(size * MIB)
                expect_equal(sparse.check(), 640, "pages of the sparse load")
                expect_equal(locked.check(), 128, "pages of the locked load")
                expect_equal(dense.check(), 65536, "pages of the dense load")


@test(limit=150)
def grows_and_shrinks_under_load() -> None:
    with Guest() as guest:
        guest.resize(514 * MIB)
        with guest.load(1024, "--watch") as load:
            for size in (1538, 770, 1026, 130, 642):
                guest.resize(size * MIB)
                guest.expect_hotplugged(size * MIB)
            expect(load.check() > 0, "nothing was checked")


@test(limit=240)
def below_what_is_in_use() -> None:
    """As far as it goes, then the rest soon after the memory is freed."""
    only_ours("it looks again after 50 s")
    with Guest(MemDevice(size=4 * GIB), memory=GIB) as guest:
        guest.resize(2 * GIB)
        guest.expect_hotplugged(2 * GIB)
        with guest.load(1792, "--watch") as load:
            guest.request(128 * MIB)
            partly = guest.wait_waiting("memory-in-use")
            print(f"{partly // MIB} MiB stay plugged while in use")
            expect(128 * MIB < partly < 2 * GIB, f"{partly // MIB} MiB plugged")
            guest.expect_hotplugged(partly)
            load.check()
            # Room for a part: it goes down, but not all the way.
            load.command("keep 1280")
            freed = time.monotonic()
            while (now := guest.plugged()) > partly - 256 * MIB:
                guest.wait_until(lambda: guest.plugged() < now, SOON, "no progress after a free")
            less = time.monotonic() - freed
            # Once more with what is left in use growing into what was taken.
            guest.resize(2 * GIB)
            guest.expect_hotplugged(2 * GIB)
            guest.request(128 * MIB)
            guest.wait_waiting("memory-in-use")
            load.command("keep 256")
            rest = guest.wait_plugged(128 * MIB, timeout=SOON)
            print(f"{less:.1f} s and {rest:.1f} s after memory was freed")
            guest.expect_hotplugged(128 * MIB)
            expect_equal(load.check(), 65536, "pages of the load")


@test(limit=180)
def waiting_costs_next_to_nothing() -> None:
    window = 20.0
    # The C driver tries to move what there is no room for.
    c_driver = driver_under_test() == "c"
    device = MemDevice(size=2 * GIB)
    with Guest(device, memory=768 * MIB, failed_migrations=c_driver) as guest:
        guest.resize(GIB)
        guest.expect_hotplugged(GIB)
        with guest.load(1152):
            guest.request(0)
            if not c_driver:
                guest.wait_waiting("memory-in-use")
            expect(guest.settle(quiet=5, timeout=90) > 0, "nothing is left to wait for")
            before = kernel_thread_seconds(guest)
            time.sleep(window)
            used = kernel_thread_seconds(guest) - before
            expect(guest.plugged() > 0, "nothing is left to wait for")
            print(f"{used:.2f} s of processor time in {window:g} s")
            expect(used <= 0.03 * window, f"{used:.2f} s of processor time in {window:g} s")


if __name__ == "__main__":
    main()
