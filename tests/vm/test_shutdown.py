#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A guest that is switched off, or starts another kernel, whatever the driver is doing."""

from collections.abc import Callable

from vmtest.errors import expect, expect_equal
from vmtest.guest import Guest
from vmtest.ktap import main, test
from vmtest.qemu import MemDevice
from vmtest.testdevice import DeviceGuest
from vmtest.units import GIB, MIB

# In seconds, from the command on.
PROMPTLY = 15.0


def growing(guest: Guest) -> None:
    guest.request(6 * GIB)
    guest.wait_until(lambda: guest.plugged() > 0, 20, "it does not grow", poll=0.005)


def shrinking(guest: Guest) -> None:
    guest.resize(4 * GIB)
    guest.expect_hotplugged(4 * GIB)
    guest.request(0)
    guest.wait_until(lambda: guest.plugged() < 4 * GIB, 20, "it does not shrink", poll=0.005)


def waiting(guest: Guest) -> None:
    guest.resize(512 * MIB)
    guest.expect_hotplugged(512 * MIB)
    guest.load(2048, "--mlock")
    guest.request(0)
    guest.settle()
    expect(guest.plugged() > 0, "the memory in use has gone")


def unanswered(guest: Guest) -> None:
    assert isinstance(guest, DeviceGuest)
    guest.settle_at(130 * MIB)
    guest.fault("never")
    guest.request(258 * MIB)
    guest.wait_state("stalled", "no-answer")


def ends(guest: Guest) -> bool:
    return guest.qemu.process.poll() is not None


def switched_off(situation: Callable[[Guest], None], guest: Guest) -> None:
    with guest:
        situation(guest)
        if isinstance(guest, DeviceGuest):
            # It goes with the guest, and cannot be asked about the driver then.
            guest.loaded = False
        guest.begin(["poweroff", "-f"])
        seconds = guest.wait_until(lambda: ends(guest), PROMPTLY, "it is not switched off")
        print(f"switched off after {seconds:.1f} s")
        expect_equal(guest.qemu.process.returncode, 0, "exit status of QEMU")


@test()
def off_while_it_grows() -> None:
    switched_off(growing, Guest())


@test()
def off_while_it_shrinks() -> None:
    switched_off(shrinking, Guest())


@test()
def off_while_it_waits() -> None:
    switched_off(waiting, Guest())


@test()
def off_while_the_host_owes_an_answer() -> None:
    switched_off(unanswered, DeviceGuest("region_size=512M"))


@test(limit=150)
def reboots_while_it_waits() -> None:
    with Guest(reboot=True) as guest:
        waiting(guest)
        guest.reboot()
        guest.insmod()
        guest.resize(130 * MIB)
        guest.expect_hotplugged(130 * MIB)


@test(limit=150)
def kexec_while_it_shrinks() -> None:
    with Guest(MemDevice(), kexec=True) as guest:
        shrinking(guest)
        guest.request(386 * MIB)
        guest.kexec()
        guest.insmod()
        guest.wait_plugged(386 * MIB)
        guest.expect_hotplugged(386 * MIB)


if __name__ == "__main__":
    main()
