#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Allocations that fail, alone, by chance and together with refused notifications.

Whatever fails, nothing is lost by it: the request is met soon after the faults
have ended, and the frame looks for memory that was leaked.
"""

import contextlib
import os
import random
import time
from collections.abc import Callable

from vmtest.errors import TestFailure, expect, expect_equal
from vmtest.faults import (
    ALLOCATORS,
    FIRST,
    NOTIFIER,
    fail_nth,
    failing,
    has_failed,
    insmod_injection,
    let_single_ones_fail,
    need_faults,
)
from vmtest.guest import Guest, only_ours
from vmtest.ktap import main, test
from vmtest.qemu import MemDevice
from vmtest.units import GIB, MIB

DRIVER = "/sys/bus/virtio/drivers/virtio_mem"

# More allocations than any one operation makes.
ENOUGH = 400

# One in so many of them fails, in turn, from the first on that FAULT_FIRST names:
# FAULT_STEP=1 tries each, which takes long.
STEP = int(os.environ.get("FAULT_STEP") or 12)
LIMIT = 240 * max(1, 12 // STEP)
FIRST_TO_FAIL = int(os.environ.get("FAULT_FIRST") or 1)

# The kernel does not look whether it got the page for the table in which it maps
# memory of another GiB (alloc_low_pages(), arch/x86/mm/init.c). So there is one only,
# of which a block is plugged as long as allocations fail.
DEVICE = MemDevice(size=GIB)
FEWEST, MOST = 130, 1022

# The driver's longest pause between two attempts, and time for the guest.
CONVERGENCE = 30.0

ENOMEM, EBUSY = -12, -16


def faulty(*, load: bool = True) -> Guest:
    need_faults()
    only_ours("the C driver gives up for good when its first allocations fail")
    return Guest(DEVICE, memory=GIB, load=load, failed_allocations=True)


def converge(guest: Guest, size: int) -> None:
    """All is as if nothing had failed."""
    guest.resize(size, timeout=CONVERGENCE)
    guest.expect_hotplugged(size, timeout=CONVERGENCE)


def one_after_the_other(guest: Guest, pid: str, operation: Callable[[], object]) -> int:
    """Repeats an operation of the thread `pid`, in which first its first allocation
    fails, then its second, until it needs no more; returns how many it needs."""
    for number in range(FIRST_TO_FAIL, ENOUGH, STEP):
        fail_nth(guest, pid, number)
        operation()
        if not has_failed(guest, pid):
            fail_nth(guest, pid, 0)
            return number - 1
    raise TestFailure(f"needs more than {ENOUGH} allocations")


@test(limit=LIMIT)
def each_allocation_of_a_resize() -> None:
    with faulty() as guest:
        converge(guest, 130 * MIB)
        let_single_ones_fail(guest)
        pid = guest.sh("grep -lx virtio_mem /proc/[0-9]*/comm").split("/")[2]
        # A memory block more or less, and a sub-block.
        for what, size in (("grow", 258 * MIB), ("shrink", 2 * MIB)):

            def resize(size: int = size) -> None:
                converge(guest, size)
                converge(guest, 260 * MIB - size)

            count = one_after_the_other(guest, pid, resize)
            print(f"{what} and back: {count} allocations, one in {STEP} of them failed")
            expect(count > 0, "nothing was allocated")
        converge(guest, 0)


def bind_failing(guest: Guest, number: int) -> tuple[bool, bool]:
    """Binds the driver; the `number`th allocation fails. Returns whether it did, and
    whether the driver is bound."""
    words = guest.sh(
        f"echo {number} >/proc/thread-self/fail-nth; echo $DEVICE >{DRIVER}/bind; "
        "read left </proc/thread-self/fail-nth; echo 0 >/proc/thread-self/fail-nth; "
        f"test -e {DRIVER}/$DEVICE && echo $left bound || echo $left".replace("$DEVICE", "virtio1")
        + " 2>/dev/null"
    ).split()
    return words[0] == "0", "bound" in words


@test(limit=LIMIT)
def each_allocation_of_a_probe() -> None:
    with faulty() as guest:
        name = guest.sh(f"basename {DRIVER}/virtio*").strip()
        expect_equal(name, "virtio1", "the device")
        converge(guest, 130 * MIB)
        let_single_ones_fail(guest)
        refused = 0
        for number in range(FIRST_TO_FAIL, ENOUGH, STEP):
            guest.write(f"{DRIVER}/unbind", name)
            failed, bound = bind_failing(guest, number)
            if not bound:
                refused += 1
                guest.write(f"{DRIVER}/bind", name)
            # Bound anew it takes over what the one before has left, whatever has failed.
            converge(guest, (130 + 2 * (number % 2)) * MIB)
            if not failed:
                break
        else:
            raise TestFailure(f"needs more than {ENOUGH} allocations")
        print(f"{number - 1} allocations, {refused} of which the driver cannot do without")
        expect(refused > 0, "nothing was refused")
        converge(guest, 0)
        guest.wait_blocks(0)


def command_failing(guest: Guest, number: int, command: str) -> bool:
    """Runs a shell command whose `number`th allocation on the driver's behalf fails, which
    the command need not survive; returns whether there were so many."""
    left = guest.sh(
        f"echo {number} >/proc/thread-self/fail-nth; {command}; "
        "read left </proc/thread-self/fail-nth; echo 0 >/proc/thread-self/fail-nth; "
        "echo $left 2>/dev/null",
        timeout=60,
    )
    return left.split()[0] == "0"


@test(limit=LIMIT)
def each_allocation_of_others() -> None:
    """Of those that an administrator's own thread makes."""
    with faulty() as guest:
        name = guest.sh(f"basename {DRIVER}/virtio*").strip()
        converge(guest, 258 * MIB)
        let_single_ones_fail(guest)
        total = 0
        for what, command, undo in (
            ("unbinding", f"echo {name} >{DRIVER}/unbind", f"echo {name} >{DRIVER}/bind"),
            ("going offline", "echo offline >$state", ""),
            ("going online", "echo online_movable >$state", ""),
        ):
            count = 0
            for number in range(FIRST_TO_FAIL, ENOUGH, STEP):
                # Not the same one each time: what is offline or empty may be given up.
                block = next(block for block in guest.blocks() if block.state == "online")
                state = f"state={block.sysfs}/state"
                if what == "going online":
                    guest.sh(f"{state}; echo offline >$state || true")
                command_line = f"{state}; {command} 2>/dev/null || true"
                failed = command_failing(guest, number, command_line)
                guest.sh(f"{state}; {undo or 'true'}; echo online_movable >$state || true")
                # A block that was empty may have been given up, or brought online before.
                converge(guest, (258 + 2 * (number % 2)) * MIB)
                if not failed:
                    break
                count += 1
            else:
                raise TestFailure(f"{what}: needs more than {ENOUGH} allocations")
            print(f"{what}: {count} allocations failed")
            total += count
        # One alone may do without: offlining did in some runs.
        expect(total > 0 or FIRST_TO_FAIL > 1, "no allocation failed")
        converge(guest, 0)
        guest.wait_blocks(0)


def chance(guest: Guest, percent: int, allocators: tuple[str, ...], seed: int) -> int:
    """Resizes, unbinding and binding while allocations fail; returns how many did."""
    choose = random.Random(seed)
    name = guest.sh(f"basename {DRIVER}/virtio*").strip()
    with failing(guest, percent, *allocators) as failed:
        for _ in range(4):
            guest.request(choose.randrange(FEWEST, MOST, 2) * MIB)
            time.sleep(choose.random())
        guest.try_write(f"{DRIVER}/unbind", name)
        guest.try_write(f"{DRIVER}/bind", name)
        guest.request(choose.randrange(FEWEST, MOST, 2) * MIB)
        time.sleep(choose.random())
    # The attempt to bind may have failed.
    guest.try_write(f"{DRIVER}/bind", name)
    print(", ".join(f"{count} of {allocator} failed" for allocator, count in failed.items()))
    return failed.total()


@test(limit=240)
def allocations_by_chance() -> None:
    with faulty() as guest, guest.load(256, "--watch") as load:
        for seed, (percent, *allocators) in enumerate(
            [
                (3, ALLOCATORS[0]),
                (3, ALLOCATORS[1]),
                (30, *ALLOCATORS),
                (100, ALLOCATORS[0]),
                (100, ALLOCATORS[1]),
                (100, *ALLOCATORS),
            ]
        ):
            print(f"{percent} % of {' and '.join(allocators)}, seed {seed}")
            converge(guest, FEWEST * MIB)
            count = chance(guest, percent, tuple(allocators), seed)
            expect(count > 0 or percent < 30, "no allocation has failed")
            converge(guest, (640 + 2 * seed) * MIB)
            load.check()
        converge(guest, 0)
        guest.wait_blocks(0)


@test(limit=240)
def everything_at_once() -> None:
    """Notifiers refuse as well."""
    with faulty() as guest, guest.load(256, "--watch") as load:
        insmod_injection(guest, FIRST)
        for seed, error in enumerate((ENOMEM, EBUSY)):
            converge(guest, FEWEST * MIB)
            with contextlib.ExitStack() as end:
                for action in ("MEM_GOING_ONLINE", "MEM_GOING_OFFLINE"):
                    file = f"{NOTIFIER}/{action}/error"
                    guest.write(file, str(error))
                    end.callback(guest.write, file, "0")
                expect(chance(guest, 20, ALLOCATORS, seed) > 0, "no allocation has failed")
            converge(guest, (640 + 2 * seed) * MIB)
            load.check()
        converge(guest, 0)
        guest.wait_blocks(0)


if __name__ == "__main__":
    main()
