#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Suspending the guest to RAM, and refusing to hibernate."""

from vmtest.errors import TestSkip, expect, expect_equal
from vmtest.guest import Guest
from vmtest.ktap import main, test
from vmtest.units import MIB

STATE = "/sys/power/state"


def suspend(guest: Guest, word: str) -> None:
    """Suspends the guest, until QEMU says that it sleeps.

    To be called once for a guest: this QEMU ends the next sleep at once.
    """
    guest.start(["sh", "-c", f"echo {word} > {STATE}"])
    guest.wait_until(
        lambda: guest.qemu.qmp("query-status")["status"] == "suspended", 30, "not suspended"
    )


def wake(guest: Guest) -> None:
    guest.qemu.qmp("system_wakeup")
    guest.wait_until(
        lambda: guest.qemu.qmp("query-status")["status"] == "running", 30, "not awake"
    )


def expect_answers(guest: Guest) -> None:
    """After waking. Linux 7.3.4 asks virtio-serial ports for their state before it can
    take the answers (virtcons_restore()), and writes nothing to them from then on. What
    the host sees of the memory has been checked by then."""
    if not guest.answers(15):
        raise TestSkip("this kernel's virtio-serial ports do not come back from sleep")


def resized_in_its_sleep(size: int) -> None:
    with Guest() as guest:
        guest.write("/sys/power/mem_sleep", "deep")
        guest.resize(642 * MIB)
        guest.expect_hotplugged(642 * MIB)
        with guest.load(1024, "--watch") as load:
            suspend(guest, "mem")
            guest.request(size)
            expect_equal(guest.plugged(), 642 * MIB, "plugged while it sleeps")
            wake(guest)
            guest.wait_plugged(size, timeout=30)
            expect_answers(guest)
            guest.expect_hotplugged(size)
            expect_equal(load.check(), 262144, "pages of the load")
        guest.resize(0)
        guest.expect_hotplugged(0)


@test(limit=120)
def grows_after_waking() -> None:
    """What is plugged keeps its content; a request made meanwhile is met after."""
    resized_in_its_sleep(898 * MIB)


@test(limit=120)
def shrinks_after_waking() -> None:
    resized_in_its_sleep(578 * MIB)


@test(limit=180)
def to_ram_while_it_shrinks() -> None:
    """Neither is the machine kept awake, nor does the shrink end there."""
    with Guest() as guest:
        guest.write("/sys/power/mem_sleep", "deep")
        guest.resize(2050 * MIB)
        guest.expect_hotplugged(2050 * MIB)
        with guest.load(1536, "--sparse", "--watch") as load:
            guest.request(2 * MIB)
            suspend(guest, "mem")
            wake(guest)
            guest.wait_plugged(2 * MIB, timeout=60)
            expect_answers(guest)
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
