#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A user of the guest who gives network interfaces the names of memory blocks.

Any user may, in namespaces of their own. Nothing of what the driver does depends on names.
"""

import contextlib
import random
import threading
from types import TracebackType
from typing import Self

from vmtest.errors import expect, expect_equal
from vmtest.guest import Guest, only_ours
from vmtest.ktap import main, test
from vmtest.names import Names
from vmtest.units import GIB, MIB


class Steady:
    """Watches from the host that a guest never has less than it was given; leaving the
    context fails if it ever had."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._size = self._least = guest.plugged()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        # A QEMU that has ended is noticed by the test.
        with contextlib.suppress(Exception):
            while not self._end.wait(0.01):
                self._least = min(self._least, self._guest.plugged())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()
        if kind is None:
            expect_equal(self._least, self._size, "the least that was plugged")


@test(limit=150)
def grows_beside_names_taken_before() -> None:
    only_ours("it leaves onlining to the policy")
    with Guest(load=False, policy="offline") as guest, Names(guest):
        guest.insmod()
        for size in (GIB, 514 * MIB, 770 * MIB):
            guest.resize(size)
            guest.expect_hotplugged(size)
            guest.wait_blocks(-(-size // (128 * MIB)))
        guest.resize(0)
        guest.expect_hotplugged(0)


@test(limit=120)
def grows_beside_renames() -> None:
    with Guest() as guest:
        with Names(guest, "--every", "1"):
            for size in (GIB, 2 * GIB, 3 * GIB):
                guest.resize(size)
                guest.expect_hotplugged(size)
                guest.wait_blocks(size // (128 * MIB))
        guest.resize(0)
        guest.wait_blocks(0)


def shown(guest: Guest, attribute: str) -> str:
    """What our driver says of its only device."""
    return guest.sh(f"cat /sys/bus/virtio/devices/*/virtio_mem/{attribute}").strip()


def memory_in_use_is_kept(times: int, *options: str) -> None:
    """Loads the driver anew over memory in use, beside a user who has taken the names."""
    only_ours("it is refused the device")
    with Guest(load=False, memory=512 * MIB, policy="online_movable") as guest:
        # Devices are looked for from the oldest to the newest: the names come first.
        with Names(guest, *options):
            guest.insmod()
            guest.resize(512 * MIB)
            guest.expect_hotplugged(512 * MIB)
            with guest.load(768, "--watch") as load:
                before = [(block.number, block.state) for block in guest.blocks()]
                expect_equal(len(before), 4, "memory blocks")
                for _ in range(times):
                    with Steady(guest):
                        guest.rmmod()
                        guest.insmod()
                        guest.wait_until(
                            lambda: shown(guest, "state") == "settled", 30, "it does not settle"
                        )
                        pages = load.check()
                    after = [(block.number, block.state) for block in guest.blocks()]
                    expect_equal(after, before, "memory blocks after it was loaded anew")
                    expect_equal(int(shown(guest, "plugged_size")), 512 * MIB, "plugged size in sysfs")
                    expect_equal(guest.hotplugged(), 512 * MIB, "hotplugged memory")
                print(f"{pages} pages were checked each time, and none had changed")
            expect("taking over 4 memory blocks" in guest.dmesg(), "nothing was taken over")
        guest.resize(0)
        guest.expect_hotplugged(0)
        guest.wait_blocks(0)


@test(limit=150)
def takeover_keeps_memory_beside_names() -> None:
    memory_in_use_is_kept(2)


@test(limit=150)
def takeover_keeps_memory_beside_renames() -> None:
    memory_in_use_is_kept(1, "--every", "1")


@test(limit=240)
def resizes_beside_renames() -> None:
    choice = random.Random(18)
    with Guest() as guest, Names(guest, "--every", "1") as names:
        with guest.load(384, "--watch") as load:
            for _ in range(8):
                size = choice.randrange(1, 1024) * 2 * MIB
                guest.resize(size)
                guest.expect_hotplugged(size)
            load.check()
        count = names.renamed()
        print(f"interfaces were renamed {count} times")
        expect(count > 100, f"interfaces were renamed only {count} times")
        guest.resize(0)
        guest.expect_hotplugged(0)
        guest.wait_blocks(0)


if __name__ == "__main__":
    main()
