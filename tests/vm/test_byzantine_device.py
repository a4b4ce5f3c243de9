#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A device that makes one mistake at a time.

The driver stays alive, says what keeps it, breaks no rule, and meets the request once
the device is honest again.
"""

import errno

from vmtest.errors import expect, expect_equal
from vmtest.guest import only_ours
from vmtest.ktap import main, test
from vmtest.testdevice import DeviceGuest
from vmtest.units import MIB

REGION = 512 * MIB

STATES = "it has no state to tell"

# What the device says to each request of a kind, and what the driver makes of it.
ANSWERS = (
    ("code=nack", "host-refused"),
    ("code=busy", "host-busy"),
    ("code=error", "host-error"),
    ("code=77", "host-error"),
    ("code=0xffff", "host-error"),
    ("len=0", "host-error"),
    ("len=1", "host-error"),
)

# The same, for mistakes that do no harm.
HARMLESS = ("len=9", "len=10", "len=4096", "len=0xffffffff", "state=1", "delay=700")


@test(limit=120)
def the_device_notices() -> None:
    """What the tests below rely on: memory in use, and a write to unplugged memory, show."""
    only_ours(STATES)
    with DeviceGuest(f"region_size={REGION}") as guest:
        guest.settle_at(130 * MIB)
        for what in ("setup region_size=256M", "system-reset"):
            expect_equal(guest.try_control(what), errno.EBUSY, f"{what}, of a device that is there")
        guest.rmmod()
        guest.control("destroy")
        expect_equal(guest.try_control("system-reset"), errno.EBUSY, "with memory in use")
        guest.control("create")
        guest.insmod()
        guest.settle_at(0)
        guest.expect_obedient()
        last = guest.hidden.start + REGION - 8
        guest.control(f"scribble {last}", "check")
        expect_equal(guest.status()["violations"], 1, "violations")
        expect(f"{last:#x}" in guest.violations()[0], f"it says {guest.violations()}")
        # What else was written there is noticed too, by who plugs it.
        guest.control(f"scribble {guest.hidden.start + 4096}")
        guest.settle_at(64 * MIB)
        expect_equal(guest.status()["violations"], 2, "violations")
        guest.forgive()


def ask_in_vain(guest: DeviceGuest, size: int, words: str) -> None:
    """Asks for `size`, and waits until the log says what is in the way. (Where the device
    has acted, it is not for long.)"""
    before = guest.dmesg().count(words)
    guest.request(size)
    guest.wait_until(
        lambda: guest.dmesg().count(words) > before, 60, f"the driver does not say '{words}'"
    )


@test(limit=120)
def balloon_in_memory_that_is_lost() -> None:
    """The device loses memory that another balloon has taken from the guest. Its pages look like
    those that an earlier driver has left (on kernels without BALLOON_MIGRATION), and are not ours."""
    only_ours(STATES)
    with DeviceGuest(f"region_size={REGION}") as guest:
        guest.settle_at(128 * MIB)
        [block] = guest.wait_blocks(1)
        guest.control(f"inflate {block.start} {block.size}")
        guest.fault("kind=state state=1")
        guest.control("lie plugged_size 0", "notify")
        words = "it could not be withdrawn, and is tried for again"
        guest.wait_until(lambda: words in guest.dmesg(), 60, f"the driver does not say '{words}'")
        guest.request(66 * MIB)
        guest.honest()
        # Which fails when the pages are not what they were.
        guest.control("deflate")
        guest.converge(66 * MIB)


@test(limit=240)
def wrong_answers() -> None:
    """Refusals, garbage and answers of wrong lengths, to all requests of a kind."""
    only_ours(STATES)
    with DeviceGuest(f"region_size={REGION}") as guest:
        guest.settle_at(64 * MIB)
        for answer, reason in ANSWERS:
            guest.fault(f"kind=plug {answer}")
            ask_in_vain(guest, 256 * MIB, f"waiting: {reason}")
            guest.honest()
            guest.converge(256 * MIB)
            guest.fault(f"kind=unplug {answer}")
            ask_in_vain(guest, 64 * MIB, f"waiting: {reason}")
            guest.honest()
            guest.converge(64 * MIB)
        for answer in HARMLESS:
            guest.fault(answer)
            guest.settle_at(256 * MIB)
            guest.settle_at(64 * MIB)
            guest.honest()


@test(limit=240)
def done_all_the_same() -> None:
    """The device does what it says that it does not."""
    only_ours(STATES)
    with DeviceGuest(f"region_size={REGION}") as guest:
        for answer in ("code=nack", "code=busy", "code=error", "code=77", "len=0"):
            struck = guest.status()["faults"]
            for kind in ("plug", "unplug"):
                guest.fault(f"kind={kind} {answer} act times=2")
            for size in (256, 66, 130, 0):
                guest.settle_at(size * MIB)
            expect_equal(guest.status()["faults"], struck + 4, f"{answer}: faults")
            guest.honest()
            guest.expect_obedient()
        # And when it does not say what it has either.
        for answer in ("code=error", "code=3000", "state=7", "len=9", "len=2"):
            guest.settle_at(128 * MIB)
            struck = guest.status()["faults"]
            guest.fault("kind=plug code=error act times=1")
            guest.fault(f"kind=state {answer} times=3")
            guest.settle_at(256 * MIB)
            expect_equal(guest.status()["faults"], struck + 4, f"{answer}: faults")
            guest.settle_at(0)
            guest.honest()
            guest.expect_obedient()


@test(limit=240)
def late_answers() -> None:
    """Answers that come late, or when the driver has gone, or never."""
    only_ours(STATES)
    with DeviceGuest(f"region_size={REGION}") as guest:
        for kind, size in (("plug", 256), ("unplug", 64)):
            guest.fault(f"kind={kind} hold times=1")
            guest.request(size * MIB)
            guest.wait_state("stalled", "no-answer")
            expect("no-answer" in guest.dmesg(), "the log does not say so")
            guest.control("release")
            guest.converge(size * MIB)
            guest.honest()
        for words in ("never times=1", "hold times=1", "twice times=1", "stray times=1"):
            for kind, size in (("plug", 384), ("unplug", 64)):
                struck = guest.status()["faults"]
                guest.fault(f"kind={kind} {words}")
                guest.request(size * MIB)
                guest.wait_until(lambda: guest.status()["faults"] > struck, 30, "no fault")
                name = guest.unbind()
                guest.honest()
                guest.bind(name)
                guest.converge(size * MIB)
        guest.expect_obedient()


@test(limit=240)
def answers_to_the_request_before() -> None:
    """An answer that comes again when the next request is made: it is not the answer to that."""
    only_ours(STATES)
    with DeviceGuest(f"region_size={REGION}") as guest:
        for first, second in ((64, 96), (256, 288)):
            struck = guest.status()["faults"]
            guest.fault("kind=plug again times=1")
            guest.settle_at(first * MIB)
            # Late, so that the driver has only the answer of before meanwhile.
            guest.fault("kind=plug code=nack delay=500 times=1")
            guest.request(second * MIB)
            guest.wait_until(lambda: guest.status()["faults"] == struck + 2, 30, "no fault")
            # Until the ring notices that there are too many answers, or it has none left for now.
            guest.wait_until(lambda: guest.state()[0] in ("settled", "stalled"), 120, "neither")
            guest.expect_obedient()
            guest.honest()
            # There may still be one answer more than there were requests.
            guest.bind(guest.unbind())
            guest.converge(second * MIB)
            guest.settle_at(0)
            guest.expect_obedient()


@test(limit=240)
def wrong_answers_to_unplug_all() -> None:
    """What was plugged before the driver came, and is in nobody's use, goes first."""
    only_ours(STATES)
    with DeviceGuest(f"region_size={REGION}") as guest:
        for answer in ("code=nack", "code=busy", "code=error", "code=77", "len=0", "never"):
            name = guest.name
            # Plugged, but not added, with the driver gone.
            guest.fault("kind=plug code=error act")
            guest.fault("kind=state never")
            guest.request(256 * MIB)
            guest.wait_until(lambda: guest.status()["plugged"], 60, "nothing is plugged")
            guest.unbind()
            guest.honest()
            expect_equal(guest.blocks(), [], "memory blocks")
            struck = guest.status()["faults"]
            guest.fault(f"kind=unplug-all {answer}")
            guest.bind(name)
            guest.wait_until(lambda: guest.status()["faults"] > struck, 60, "no UNPLUG_ALL")
            if answer.startswith("code"):
                expect(guest.status()["plugged"] > 0, "unplugged all the same")
            state, reason = guest.state()
            expect(state in ("unplugging", "waiting", "stalled"), f"it says {state}, {reason}")
            if answer == "never":
                guest.wait_state("stalled", "no-answer")
                guest.unbind()
                guest.honest()
                guest.bind(name)
            guest.honest()
            guest.converge(256 * MIB)
            guest.settle_at(0)
            guest.wait_blocks(0)
        guest.expect_obedient()


@test(limit=240)
def gone_in_the_middle() -> None:
    """The device goes while it is asked, or is torn out; memory in use stays in use."""
    only_ours(STATES)
    with DeviceGuest(f"region_size={REGION}") as guest:
        guest.settle_at(256 * MIB)
        with guest.load(640, "--watch") as load:
            for how in ("", "surprise"):
                for kind, size in (("plug", 448), ("unplug", 192)):
                    guest.fault(f"kind={kind} hold")
                    guest.request(size * MIB)
                    if kind == "unplug":
                        load.command("keep 128")
                    guest.wait_until(lambda: guest.status()["pending"], 60, "no request")
                    guest.control(f"destroy {how}")
                    expect_equal(guest.name, "", "bound devices")
                    load.check()
                    guest.honest()
                    guest.control("create")
                    guest.converge(size * MIB)
                    load.check()
                guest.expect_obedient()
        guest.rmmod()
        guest.unload()
        again = f"insmod /modules/virtio_mem_test.ko addr={guest.hidden.start} size={REGION}"
        guest.sh(f"{again} 2>/dev/null || true")
        # What is in use cannot be offered.
        expect("virtio_mem_test" not in guest.sh("lsmod"), "the module takes memory in use")


if __name__ == "__main__":
    main()
