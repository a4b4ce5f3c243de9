#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Suspending the guest to RAM, and refusing to hibernate."""

from vmtest.errors import expect, expect_equal
from vmtest.guest import Guest
from vmtest.ktap import main, test
from vmtest.power import STATE, suspend, wake
from vmtest.units import MIB


def resized_in_its_sleep(size: int) -> None:
    with Guest(sleeps=True) as guest:
        guest.write("/sys/power/mem_sleep", "deep")
        guest.resize(642 * MIB)
        guest.expect_hotplugged(642 * MIB)
        with guest.load(1024, "--watch") as load:
            suspend(guest, "mem")
            guest.request(size)
            expect_equal(guest.plugged(), 642 * MIB, "plugged while it sleeps")
            wake(guest)
            guest.wait_plugged(size, timeout=30)
            guest.expect_hotplugged(size)
            expect_equal(load.check(), 262144, "pages of the load")
        guest.resize(0)
        guest.expect_hotplugged(0)


@test(limit=240)
def grows_after_waking() -> None:
    """What is plugged keeps its content; a request made meanwhile is met after."""
    resized_in_its_sleep(898 * MIB)


@test(limit=240)
def shrinks_after_waking() -> None:
    resized_in_its_sleep(578 * MIB)


@test(limit=240)
def to_ram_while_it_shrinks() -> None:
    """Neither is the machine kept awake, nor does the shrink end there."""
    with Guest(sleeps=True) as guest:
        guest.write("/sys/power/mem_sleep", "deep")
        guest.resize(2050 * MIB)
        guest.expect_hotplugged(2050 * MIB)
        with guest.load(1536, "--sparse", "--watch") as load:
            guest.request(2 * MIB)
            suspend(guest, "mem")
            wake(guest)
            guest.wait_plugged(2 * MIB, timeout=60)
            guest.expect_hotplugged(2 * MIB)
            expect_equal(load.check(), 768, "pages of the load")


@test()
def no_hibernation() -> None:
    with Guest() as guest:
        guest.resize(130 * MIB)
        expect(guest.try_write(STATE, "disk") != 0, "hibernated")
        expect("hibernation is not supported" in guest.dmesg(), "no reason in the log")
        guest.resize(258 * MIB)
        guest.expect_hotplugged(258 * MIB)


if __name__ == "__main__":
    main()
