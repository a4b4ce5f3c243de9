#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A config space of which one field is a lie, at a time.

Whatever it says, the driver either refuses the device and says why, or works with
what it can believe; it breaks no rule, keeps what is in use, and meets the request
once the device is honest.
"""

import time

from vmtest.errors import expect
from vmtest.guest import only_ours
from vmtest.ktap import main, test
from vmtest.testdevice import DRIVER, DeviceGuest
from vmtest.units import MIB
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
