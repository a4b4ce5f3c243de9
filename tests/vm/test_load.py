#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Shrinking a guest that uses its memory, every page of which is checked."""

import time

from vmtest.cpu import driver_thread, kernel_thread_seconds, kernel_threads, runs
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


@test()
def settled_costs_nothing() -> None:
    """With what was asked for, the thread does not even look from time to time."""
    only_ours("it has no thread of its own")
    with Guest() as guest:
        thread = driver_thread(guest)
        for size in (1 * GIB, 130 * MIB, 0):
            guest.resize(size)
            guest.expect_hotplugged(size)
            # What comes after a resize has come, and nothing comes in the next 5 s.
            time.sleep(2)
            before = runs(guest, thread)
            time.sleep(5)
            expect_equal(runs(guest, thread) - before, 0, f"runs with {size // MIB} MiB plugged")


@test()
def rests_where_its_interrupt_comes() -> None:
    """The thread does, but keeps to the processors that userspace has chosen for it."""
    only_ours("it works in a queue of the processor that has the interrupt")
    with Guest() as guest:
        thread = driver_thread(guest)
        device = guest.sh("basename /sys/bus/virtio/drivers/virtio_mem/virtio*").strip()
        (line,) = guest.sh(f"grep -w {device}-config /proc/interrupts").splitlines()
        affinity = f"/proc/irq/{line.split(':')[0].strip()}/smp_affinity_list"

        def expect_rest(interrupts: int, processor: int) -> None:
            guest.write(affinity, str(interrupts))
            # The first interrupt may still come to the processor that had it before.
            for size in (64 * MIB, 2 * MIB):
                guest.resize(size)
                guest.expect_hotplugged(size)

            def there() -> bool:
                fields = dict(kernel_threads(guest))[thread]
                return (fields[0], int(fields[36])) == ("I", processor)

            what = f"interrupts on {interrupts}: the thread does not rest on {processor}"
            guest.wait_until(there, 10, what)

        for processor in (1, 0, 1):
            expect_rest(processor, processor)
        allowed = guest.sh(f"grep Cpus_allowed_list /proc/{thread}/status").split()[1]
        expect_equal(allowed, "0-1", "processors of the thread")
        guest.sh(f"taskset -p 1 {thread}")
        expect_rest(1, 0)
        guest.sh(f"taskset -p 3 {thread}")
        expect_rest(1, 1)


if __name__ == "__main__":
    main()
