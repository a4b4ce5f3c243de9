#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Suspending the guest to RAM, and refusing to hibernate."""

import errno

from vmtest.errors import expect, expect_equal
from vmtest.guest import Guest, only_ours
from vmtest.ktap import main, test
from vmtest.power import STATE, suspend, wake
from vmtest.testdevice import DeviceGuest
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


@test(limit=120)
def refused_with_memory_that_would_be_lost() -> None:
    """On a device that does not say that what is plugged survives a sleep (PERSISTENT_SUSPEND)."""
    only_ours("it cannot be seen what it says")
    with DeviceGuest("personality=cloud-hypervisor region_size=512M") as guest:
        guest.settle_at(130 * MIB)
        expect_equal(guest.try_control("freeze"), errno.EPERM, "to sleep with memory plugged")
        expect("suspending with plugged memory" in guest.dmesg(), "no reason in the log")
        guest.settle_at(258 * MIB)
        guest.settle_at(0)
        # Also if nothing is plugged yet, but the device is about to answer that it is.
        guest.fault("kind=plug delay=1500 times=1")
        guest.request(130 * MIB)
        guest.wait_until(lambda: guest.status()["faults"] > 0, 30, "nothing is plugged")
        expect_equal(guest.try_control("freeze"), errno.EPERM, "to sleep while memory is plugged")
        guest.converge(130 * MIB)
        guest.settle_at(0)
        guest.control("freeze")
        guest.request(130 * MIB)
        guest.control("thaw")
        guest.converge(130 * MIB)
        guest.expect_obedient()


@test(limit=120)
def while_the_host_owes_an_answer() -> None:
    """The machine is not kept awake by a host that does not answer."""
    only_ours("it waits for the answer for ever")
    with DeviceGuest("personality=qemu region_size=512M") as guest:
        guest.settle_at(130 * MIB)
        for kind, size in (("plug", 258), ("unplug", 64)):
            guest.fault(f"kind={kind} never times=1")
            guest.request(size * MIB)
            guest.wait_state("stalled", "no-answer")
            guest.control("freeze")
            guest.control("thaw")
            guest.converge(size * MIB)
        guest.expect_obedient()


if __name__ == "__main__":
    main()
