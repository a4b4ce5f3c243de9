#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A config space of which one field is a lie, at a time.

Whatever it says, the driver either refuses the device and says why, or works with
what it can believe; it breaks no rule, keeps what is in use, and meets the request
once the device is honest.
"""

import time
from errno import EINVAL

from vmtest.errors import expect, expect_equal
from vmtest.guest import only_ours
from vmtest.ktap import main, test
from vmtest.qemu import DEVICE_MEMORY
from vmtest.testdevice import DRIVER, DeviceGuest
from vmtest.units import KIB, MIB
from vmtest.walk import FIELDS, FIXED_FIELDS, HOSTILE

REGION = 384 * MIB

NO_CHECKS = "it believes what it is told"

# How long a lie lasts: time for the driver to act upon it.
SPELL = 0.3


def after_the_lie(guest: DeviceGuest, size: int) -> None:
    guest.honest()
    guest.converge(size)


@test(limit=300)
def when_the_driver_is_bound() -> None:
    only_ours(NO_CHECKS)
    with DeviceGuest(f"region_size={REGION}") as guest:
        guest.settle_at(66 * MIB)
        name = guest.name
        refused = 0
        for field in (*FIXED_FIELDS, *FIELDS):
            for value in HOSTILE:
                guest.unbind()
                guest.control(f"lie {field} {value}")
                before = len(guest.dmesg())
                if guest.try_write(f"{DRIVER}/bind", name):
                    refused += 1
                    said = guest.dmesg()[before:]
                    expect("virtio_mem virtio" in said, f"{field} {value}: refused without a word")
                    guest.honest()
                    guest.bind(name)
                else:
                    # Nothing that the device minds happens.
                    time.sleep(SPELL)
                    guest.honest()
                    if field in FIXED_FIELDS:
                        # What it believed is how it has cut up the region.
                        guest.unbind()
                        guest.bind(name)
                guest.converge(66 * MIB)
        print(f"{refused} devices were refused")
        # Among them no block size, no address and no region that cannot be.
        expect(refused >= 10, f"only {refused} devices were refused")
        guest.expect_obedient()
        guest.settle_at(0)


@test(limit=300)
def while_it_runs() -> None:
    only_ours(NO_CHECKS)
    with DeviceGuest(f"region_size={REGION}") as guest:
        guest.settle_at(130 * MIB)
        sizes = (66, 258)
        with guest.load(512, "--watch") as load:
            for number, field in enumerate((*FIXED_FIELDS, *FIELDS)):
                for value in HOSTILE:
                    guest.control(f"lie {field} {value}", "notify")
                    time.sleep(SPELL)
                    after_the_lie(guest, guest.requested())
                size = sizes[number % 2] * MIB
                # And in the middle of a change.
                guest.control(f"request {size}", f"lie {field} {HOSTILE[number]}", "notify")
                time.sleep(SPELL)
                after_the_lie(guest, size)
                load.check()
        guest.expect_obedient()
        guest.settle_at(0)


# Before, and while it is asked: block sizes that are no power of two but a multiple of a page,
# and regions that could be.
WRONG = (
    ("block_size", 3 * MIB),
    ("block_size", 6 * MIB),
    ("block_size", 96 * KIB),
    ("addr", DEVICE_MEMORY + MIB),
    ("region_size", REGION + MIB),
)


@test(limit=120)
def nearly_right() -> None:
    only_ours(NO_CHECKS)
    with DeviceGuest(f"region_size={REGION}") as guest:
        guest.settle_at(66 * MIB)
        for field, value in WRONG:
            name = guest.unbind()
            guest.control(f"lie {field} {value}")
            expect_equal(guest.try_write(f"{DRIVER}/bind", name), EINVAL, f"{field} {value:#x}")
            guest.honest()
            guest.bind(name)
            guest.converge(66 * MIB)
            # One that was right when it was looked at is not looked at again.
            guest.control(f"lie {field} {value}", "notify")
            guest.settle_at(130 * MIB)
            guest.honest()
            guest.settle_at(66 * MIB)
        # A region that has shrunk, or moved, is none of those.
        for field, value in (("region_size", 128 * MIB), ("addr", DEVICE_MEMORY + 128 * MIB)):
            guest.control(f"lie {field} {value}", "notify")
            guest.settle_at(258 * MIB)
            guest.honest()
            guest.settle_at(66 * MIB)
        guest.expect_obedient()


@test(limit=120)
def that_changes_from_look_to_look() -> None:
    only_ours(NO_CHECKS)
    with DeviceGuest(f"region_size={REGION}") as guest:
        guest.settle_at(130 * MIB)
        with guest.load(128, "--watch") as load:
            for field, values in (
                ("requested_size", (66 * MIB, 258 * MIB)),
                ("requested_size", (130 * MIB, 1 << 63)),
                ("plugged_size", (0, REGION)),
                ("usable_region_size", (0, REGION)),
            ):
                guest.control(f"flap {field} {values[0]} {values[1]}")
                for _ in range(20):
                    guest.control("notify")
                load.check()
                after_the_lie(guest, 130 * MIB)
        guest.expect_obedient()


@test(limit=120)
def changes_without_interrupts() -> None:
    """What it has not been told it cannot know; it reads all when it is told of anything."""
    only_ours(NO_CHECKS)
    with DeviceGuest(f"region_size={REGION}") as guest:
        guest.settle_at(130 * MIB)
        guest.control(f"request {258 * MIB} quiet")
        # Nothing happens.
        time.sleep(1)
        expect_equal(guest.status()["plugged"], 130 * MIB, "plugged")
        guest.control("notify")
        guest.converge(258 * MIB)
        guest.control(f"request {66 * MIB} quiet")
        guest.bind(guest.unbind())
        guest.converge(66 * MIB)


@test(limit=120)
def interrupts_without_changes() -> None:
    only_ours(NO_CHECKS)
    with DeviceGuest(f"region_size={REGION}") as guest:
        guest.settle_at(130 * MIB)
        before, said = guest.status()["requests"], guest.dmesg()
        for _ in range(50):
            guest.control("notify")
        guest.settle_at(130 * MIB)
        expect_equal(guest.status()["requests"], before, "requests")
        expect_equal(guest.dmesg(), said, "the log")
        # Nor do they keep it from what it is at.
        guest.fault("kind=plug delay=400 times=2")
        guest.request(258 * MIB)
        for _ in range(20):
            guest.control("notify")
        guest.converge(258 * MIB)


@test(limit=120)
def a_usable_region_that_does_not_follow() -> None:
    only_ours(NO_CHECKS)
    with DeviceGuest(f"region_size={REGION}") as guest:
        guest.settle_at(64 * MIB)
        guest.control(f"request {256 * MIB} quiet", f"usable {130 * MIB}", "notify")
        guest.wait_state("waiting", "not-addressable")
        # To its end, though that lies in the midst of a memory block.
        guest.wait_plugged(130 * MIB)
        guest.control(f"usable {256 * MIB}", "notify")
        guest.converge(256 * MIB)
        # It shrinks at UNPLUG_ALL only. What is plugged beyond stays in use.
        with guest.load(512, "--watch") as load:
            guest.control(f"usable {128 * MIB}", "notify")
            # Nothing happens.
            time.sleep(1)
            load.check()
        guest.control(f"usable {REGION}", "notify")
        guest.settle_at(0)
        guest.expect_obedient()


@test(limit=120)
def that_never_rests() -> None:
    """A device whose config space is another one whenever it is looked at keeps nobody waiting."""
    only_ours(NO_CHECKS)
    with DeviceGuest(f"region_size={REGION}") as guest:
        guest.settle_at(130 * MIB)
        guest.control("generations 0xffffffff", "notify")
        guest.settle_at(258 * MIB)
        guest.bind(guest.unbind())
        guest.settle_at(66 * MIB)
        guest.rmmod()
        guest.insmod()
        guest.honest()
        guest.settle_at(0)
        guest.expect_obedient()


if __name__ == "__main__":
    main()
