#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Another kernel in the same machine: after a reset, a reboot, and by kexec."""

from collections.abc import Callable

from vmtest.errors import expect, expect_equal
from vmtest.guest import Guest
from vmtest.ktap import main, test
from vmtest.qemu import MemDevice
from vmtest.units import GIB, MIB, mib


def load_driver(guest: Guest, size: int) -> None:
    guest.insmod()
    guest.wait_plugged(size)
    guest.expect_hotplugged(size)


def expect_all_works(guest: Guest) -> None:
    """The driver of the new kernel goes on from there."""
    for other in (0, 258 * MIB):
        guest.resize(other)
        guest.expect_hotplugged(other)
    with guest.load(128) as load:
        load.check()


def boots_again(how: Callable[[Guest], None]) -> None:
    """Whether the host takes all back in between is its own affair."""
    with Guest(reboot=True) as guest:
        guest.resize(642 * MIB)
        guest.expect_hotplugged(642 * MIB)
        how(guest)
        expect_equal(guest.requested(), 642 * MIB, "requested")
        load_driver(guest, 642 * MIB)
        expect_all_works(guest)


@test(limit=150)
def reset() -> None:
    """The driver is not told."""
    boots_again(Guest.reset)


@test(limit=150)
def reboot() -> None:
    boots_again(Guest.reboot)


@test(limit=150)
def reset_while_it_grows() -> None:
    with Guest(reboot=True) as guest:
        guest.request(6 * GIB)
        guest.wait_until(lambda: guest.plugged() > 0, 30, "nothing plugged", poll=0.005)
        guest.reset()
        guest.request(322 * MIB)
        load_driver(guest, 322 * MIB)
        expect_all_works(guest)


def expect_fresh_memory(requested: int) -> None:
    """What the old kernel had is unplugged first: nobody knows what is in it."""
    device = MemDevice(shared=True)
    with Guest(device, kexec=True) as guest:
        guest.resize(642 * MIB)
        guest.expect_hotplugged(642 * MIB)
        guest.load(512)
        old = guest.qemu.touched(device)
        expect(old >= 512 * MIB, f"the load is in {mib(old)} of the device")
        guest.kexec()
        expect_equal(guest.plugged(), 642 * MIB, "plugged before the driver is loaded")
        guest.request(requested)
        load_driver(guest, requested)
        new = guest.qemu.touched(device)
        expect(new < 128 * MIB, f"the device still has {mib(new)} of old content")
        expect_all_works(guest)


@test(limit=150)
def kexec_same_size() -> None:
    expect_fresh_memory(642 * MIB)


@test(limit=150)
def kexec_to_nothing() -> None:
    expect_fresh_memory(0)


if __name__ == "__main__":
    main()
