#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Drivers that have to let go of their device at a bad moment."""

import time
from collections.abc import Callable

from vmtest.errors import expect, expect_equal
from vmtest.faults import FIRST, NOTIFIER, insmod_injection
from vmtest.guest import Guest, driver_under_test, only_ours
from vmtest.ktap import main, test
from vmtest.units import GIB, MIB

EBUSY = -16

DRIVER = "/sys/bus/virtio/drivers/virtio_mem"

# To let go of the device; emulated processors are slow. The C driver first ends its
# attempt to move what cannot be moved.
PROMPTLY = 15.0 if driver_under_test() == "rust" else 45.0


def part(guest: Guest, unload: bool) -> None:
    """Takes the driver from the device, in reasonable time."""
    begun = time.monotonic()
    if unload:
        guest.rmmod()
    else:
        name = guest.sh(f"basename {DRIVER}/virtio*").strip()
        guest.write(f"{DRIVER}/unbind", name)
    seconds = time.monotonic() - begun
    print(f"{'unloading' if unload else 'unbinding'} took {seconds:.1f} s")
    expect(seconds < PROMPTLY, f"it took {seconds:.1f} s")
    expect_equal(guest.sh(f"ls -d {DRIVER}/virtio* 2>/dev/null; true"), "", "bound devices")
    # The device does not change under nobody's hands, and what is online is memory.
    plugged = guest.settle()
    expect(guest.hotplugged() <= plugged, "there is more memory than is plugged")
    # Half of what there is, which may be next to nothing.
    mib = max(2, min(384, guest.meminfo("MemAvailable") // (4 * MIB) * 2))
    with guest.load(mib, seed=9) as load:
        load.check()


def both_ways(situation: Callable[[Guest, bool], None]) -> None:
    """In a guest of its own for unbinding and for unloading."""
    for unload in (False, True):
        # The C driver tries to move what there is no room for.
        with Guest(memory=GIB, failed_migrations=driver_under_test() == "c") as guest:
            situation(guest, unload)


def growing(guest: Guest, unload: bool) -> None:
    guest.request(4 * GIB)
    guest.wait_until(lambda: guest.plugged() > 256 * MIB, 20, "it does not grow", poll=0.01)
    part(guest, unload)


def pinned(guest: Guest, unload: bool) -> None:
    """A shrink that cannot finish."""
    guest.resize(GIB)
    guest.expect_hotplugged(GIB)
    with guest.load(1280, "--mlock", "--watch") as load:
        guest.request(0)
        guest.wait_stuck("memory-in-use")
        expect(guest.plugged() > 0, "the memory in use has gone")
        part(guest, unload)
        load.check()


def partly_plugged(guest: Guest, unload: bool) -> None:
    guest.resize(1026 * MIB)
    # It may give back parts of several blocks, where sparse pages are locked.
    with guest.load(640, "--watch") as load, guest.load(512, "--sparse", "--mlock", seed=2):
        guest.resize(770 * MIB)
        guest.expect_hotplugged(770 * MIB)
        part(guest, unload)
        guest.expect_hotplugged(770 * MIB)
        load.check()


def busy_host(guest: Guest, unload: bool) -> None:
    guest.resize(514 * MIB)
    guest.expect_hotplugged(514 * MIB)
    with guest.load(1024, "--watch") as load:
        guest.qemu.qmp("migrate-set-parameters", **{"max-bandwidth": 65536})
        guest.qemu.qmp("migrate", uri="exec:cat >/dev/null")
        guest.wait_until(
            lambda: guest.qemu.qmp("query-migrate").get("status") == "active", 20, "no migration"
        )
        guest.request(130 * MIB if unload else 1026 * MIB)
        guest.wait_stuck("host-busy")
        expect_equal(guest.plugged(), 514 * MIB, "plugged while migrating")
        part(guest, unload)
        expect_equal(guest.plugged(), 514 * MIB, "plugged without a driver")
        guest.qemu.qmp("migrate_cancel")
        load.check()


@test(limit=150)
def while_it_grows() -> None:
    both_ways(growing)


@test(limit=240)
def while_memory_is_pinned() -> None:
    both_ways(pinned)


@test(limit=150)
def with_parts_of_blocks_plugged() -> None:
    both_ways(partly_plugged)


@test(limit=150)
def while_the_host_is_busy() -> None:
    both_ways(busy_host)


@test(limit=150)
def with_offline_blocks() -> None:
    """Those are taken away, as nobody else could tell which parts are plugged."""
    for unload in (False, True):
        with Guest(policy="offline", load=False, memory=GIB) as guest:
            guest.insmod("online_type=policy" if guest.driver == "rust" else "")
            guest.resize(450 * MIB)
            blocks = guest.wait_blocks(4)
            guest.write(f"{blocks[0].sysfs}/state", "online_movable")
            guest.expect_hotplugged(128 * MIB)
            part(guest, unload)
            guest.expect_hotplugged(128 * MIB)
            # Whatever is left can be brought online only as far as it is plugged.
            for block in guest.blocks():
                guest.try_write(f"{block.sysfs}/state", "online_movable")
            expect(guest.hotplugged() <= guest.plugged(), "more memory than is plugged")
            with guest.load(768) as load:
                load.check()


@test(limit=120)
def with_blocks_that_hold_nothing() -> None:
    """They go with the driver, although they are online."""
    only_ours("it leaves them")
    with Guest() as guest:
        insmod_injection(guest, FIRST)
        name = guest.sh(f"basename {DRIVER}/virtio*").strip()
        for how in (f"echo {name} >{DRIVER}/unbind", "rmmod virtio_mem"):
            guest.resize(386 * MIB)
            guest.expect_hotplugged(386 * MIB)
            guest.write(f"{NOTIFIER}/MEM_GOING_OFFLINE/error", str(EBUSY))
            # In parts, as the blocks themselves may not go.
            guest.resize(0)
            expect_equal(len(guest.blocks()), 4, "blocks that are left")
            # Before the driver tries again by itself.
            guest.sh(f"echo 0 >{NOTIFIER}/MEM_GOING_OFFLINE/error; {how}")
            expect_equal(guest.blocks(), [], "blocks that are left")
            expect("still has system memory" not in guest.dmesg(), "memory is left")
            if "unbind" in how:
                guest.write(f"{DRIVER}/bind", name)


if __name__ == "__main__":
    main()
