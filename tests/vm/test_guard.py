#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A driver whose map is wrong keeps the memory that Linux uses, and finds out.

The module is one with hooks for tests: what is written to `retry` makes its map wrong, and the
parameter `test_hide` has it not find a memory block.
"""

from vmtest.errors import TestSkip, expect, expect_equal
from vmtest.guest import Guest, only_ours
from vmtest.kernel import Kernel
from vmtest.ktap import main, test
from vmtest.memory import SYSFS
from vmtest.paths import HOOKS
from vmtest.units import MIB

ATTRIBUTES = "/sys/bus/virtio/devices/*/virtio_mem"
HIDE = "/sys/module/virtio_mem/parameters/test_hide"
PROBE = f"{SYSFS}/probe"

# What the driver logs of what is made wrong here.
NOT_SENT = "not sent: Linux may use"
NO_BLOCK = "no memory block found"


class WrongGuest(Guest):
    """A guest whose driver is made wrong. Without `hooks` it has to be Linux that differs."""

    def __init__(self, parameters: str = "", hooks: bool = True, **options: object) -> None:
        only_ours("it looks at nothing before it unplugs")
        if hooks and not HOOKS.exists():
            raise TestSkip(f"{HOOKS.name} has not been built")
        super().__init__(load=False, memory=512 * MIB, policy="online_movable", **options)
        self.insmod(parameters, driver="hooks" if hooks else "rust")

    def splats(self) -> list[str]:
        return [
            line for line in super().splats() if NOT_SENT not in line and NO_BLOCK not in line
        ]

    def shown(self, attribute: str) -> str:
        return self.sh(f"cat {ATTRIBUTES}/{attribute}").strip()

    def falsify(self, what: str) -> None:
        self.sh(f"echo {what} >$(echo {ATTRIBUTES}/retry)")

    def not_sent(self) -> int:
        return int(self.shown("unplugs_not_sent_total"))

    def wait_not_sent(self, count: int) -> None:
        self.wait_until(
            lambda: self.not_sent() >= count,
            30,
            lambda: f"{self.not_sent()} requests were kept back, expected {count}",
        )

    def wait_shown(self, attribute: str, value: str) -> None:
        self.wait_until(
            lambda: self.shown(attribute) == value,
            30,
            lambda: f"{attribute} is {self.shown(attribute)}, expected {value}",
        )


def states(guest: Guest) -> list[tuple[int, str]]:
    return [(block.number, block.state) for block in guest.blocks()]


def starts(guest: Guest) -> list[int]:
    return [block.start for block in guest.blocks()]


def keeps_memory_in_use(parameters: str) -> None:
    """In a guest that cannot shrink as far as it is to, as its memory is in use, memory blocks are
    forgotten, and all is to be unplugged. Nothing may come of that."""
    with WrongGuest(parameters) as guest:
        guest.resize(512 * MIB)
        guest.expect_hotplugged(512 * MIB)
        with guest.load(768, "--mlock", "--watch") as load:
            guest.request(128 * MIB)
            size = guest.wait_waiting("memory-in-use")
            before = states(guest)
            for count, wrong in enumerate((*map(str, starts(guest)[:2]), "unplug-all"), 1):
                guest.falsify(wrong)
                guest.wait_not_sent(count)
                guest.wait_shown("reason", "memory-in-use")
                expect(guest.plugged() <= size, "it has plugged more")
                load.check()
            after = states(guest)
            expect(set(after) <= set(before), f"memory blocks: {after}, before that {before}")
            expect_equal(guest.hotplugged(), guest.plugged(), "what Linux has of what is plugged")
            said = [line for line in guest.dmesg().splitlines() if NOT_SENT in line]
            expect(0 < len(said) <= 3, f"the log has it {len(said)} times")
            findings = guest.run("virtio-mem-agent", "doctor")
            expect_equal(findings.rc, 5, "exit status of the agent's doctor")
            expect("unplugs-not-sent" in findings.stdout, findings.stdout)
        guest.wait_plugged(128 * MIB)
        guest.expect_hotplugged(128 * MIB)
        guest.resize(0)
        guest.wait_blocks(0)


@test(limit=180)
def wrong_map_keeps_blocks_in_use() -> None:
    keeps_memory_in_use("")


@test(limit=180)
def wrong_map_keeps_big_blocks_in_use() -> None:
    keeps_memory_in_use("force_bbm=1")


@test(limit=120)
def add_of_a_forgotten_block_is_looked_into() -> None:
    """Nothing is unplugged when Linux says that it has what was to be added."""
    with WrongGuest() as guest:
        guest.resize(514 * MIB)
        guest.expect_hotplugged(514 * MIB)
        before = states(guest)
        with guest.load(704, "--watch") as load:
            for start in starts(guest):
                guest.falsify(str(start))
                guest.wait_shown("last_error", "add mismatch")
                guest.wait_shown("state", "settled")
                load.check()
        expect_equal(states(guest), before, "memory blocks")
        expect_equal(guest.plugged(), 514 * MIB, "plugged in the end")
        expect_equal(guest.hotplugged(), 514 * MIB, "hotplugged in the end")
        expect_equal(guest.not_sent(), 0, "requests that were kept back")
        guest.resize(0)
        guest.wait_blocks(0)


@test(limit=150)
def memory_without_a_block_is_not_taken_over() -> None:
    with WrongGuest() as guest:
        guest.resize(514 * MIB)
        guest.expect_hotplugged(514 * MIB)
        before, blocks = states(guest), guest.blocks()
        with guest.load(704, "--watch") as load:
            guest.rmmod()
            guest.insmod(f"test_hide={blocks[2].number}", driver="hooks")
            expect_equal(guest.sh(f"ls -d {ATTRIBUTES} 2>/dev/null; true"), "", "bound devices")
            where = f"{NO_BLOCK} at {blocks[2].start:#x}, where Linux has memory"
            expect(where in guest.dmesg(), f"the log does not say '{where}'")
            expect_equal(guest.plugged(), 514 * MIB, "plugged without a driver")
            load.check()
            guest.rmmod()
            guest.insmod()
            guest.wait_shown("state", "settled")
            expect_equal(states(guest), before, "memory blocks")
            expect_equal(guest.plugged(), 514 * MIB, "plugged in the end")
        guest.resize(0)
        guest.wait_blocks(0)


@test(limit=150)
def nothing_goes_while_a_block_is_not_found() -> None:
    """As long as Linux has memory for which no block is found, the driver does nothing but look."""
    with WrongGuest() as guest:
        guest.resize(770 * MIB)
        guest.expect_hotplugged(770 * MIB)
        block = guest.blocks()[1]
        with guest.load(704, "--watch") as load:
            guest.write(HIDE, str(block.number))
            guest.falsify("unplug-all")
            guest.wait_not_sent(1)
            guest.wait_shown("reason", "map-mismatch")
            guest.request(130 * MIB)
            guest.wait_shown("last_error", "resync mismatch")
            guest.wait_shown("requested_size", str(130 * MIB))
            expect_equal(guest.plugged(), 770 * MIB, "plugged while a block is not found")
            load.check()
            guest.write(HIDE, "0")
            load.command("keep 64")
            guest.wait_plugged(130 * MIB)
            guest.expect_hotplugged(130 * MIB)
        guest.resize(0)
        guest.wait_blocks(0)


@test(limit=120)
def block_added_by_somebody_else_is_kept() -> None:
    if not Kernel.under_test().has("CONFIG_ARCH_MEMORY_PROBE"):
        raise TestSkip("nobody else can add memory (CONFIG_ARCH_MEMORY_PROBE)")
    with WrongGuest(hooks=False) as guest:
        guest.resize(256 * MIB)
        guest.expect_hotplugged(256 * MIB)
        last = guest.blocks()[-1]
        # The next that the driver takes. It may not go online: nothing of it is plugged.
        guest.write(PROBE, f"{last.start + last.size:#x}")
        expect_equal([block.state for block in guest.wait_blocks(3)][-1], "offline", "its state")
        state = f"{SYSFS}/memory{last.number + 1}/state"
        expect(guest.try_write(state, "online") != 0, "it goes online")
        expect("memory block onlining denied" in guest.dmesg(), "the log does not say so")
        guest.resize(384 * MIB)
        guest.wait_shown("last_error", "add mismatch")
        guest.wait_shown("state", "settled")
        expect_equal(guest.not_sent(), 0, "requests that were kept back")
        guest.write(state, "online_movable")
        guest.expect_hotplugged(384 * MIB)
        guest.resize(0)
        guest.expect_hotplugged(0)
        guest.wait_blocks(0)


if __name__ == "__main__":
    main()
