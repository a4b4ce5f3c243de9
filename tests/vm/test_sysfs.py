#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What the driver shows in sysfs: one look tells what is asked for, what is there, and why."""

import errno
import time

from vmtest.errors import expect, expect_equal
from vmtest.guest import Guest, only_ours
from vmtest.ktap import main, test
from vmtest.qemu import MemDevice
from vmtest.units import GIB, MIB

NOT_OURS = "it shows nothing in sysfs"
DIRECTORY = "/sys/bus/virtio/drivers/virtio_mem/virtio*/virtio_mem"

# Seconds until a shrink is done that a process has held up.
SOON = 15.0


def directory(guest: Guest) -> str:
    return guest.sh(f"echo {DIRECTORY}").strip()


def values(guest: Guest) -> dict[str, str]:
    """All that can be read, of the only device."""
    lines = guest.sh(f"cd {DIRECTORY} && grep -r . . 2>/dev/null || true").splitlines()
    found = (line.removeprefix("./").partition(":") for line in lines)
    return {name: value for name, _, value in found}


def wait_state(guest: Guest, state: str, timeout: float = 60) -> None:
    guest.wait_until(
        lambda: values(guest)["state"] == state,
        timeout,
        lambda: f"state is {values(guest)['state']}, expected {state}",
    )


def expect_values(guest: Guest, **expected: object) -> None:
    found = values(guest)
    for name, value in expected.items():
        expect_equal(found.get(name), None if value is None else str(value), name)


@test()
def in_sub_block_mode() -> None:
    only_ours(NOT_OURS)
    with Guest(MemDevice(size=2 * GIB)) as guest:
        wait_state(guest, "settled")
        device = guest.device()
        expect_values(
            guest,
            reason="none",
            requested_size=0,
            plugged_size=0,
            region_size=2 * GIB,
            start_address=device["memaddr"],
            block_size=2 * MIB,
            mode="sub-block",
            sub_block_size=2 * MIB,
            big_block_size=None,
            node=device["node"],
            features="acpi-pxm unplugged-inaccessible persistent-suspend",
            online_type="movable",
            added_size=0,
            next_attempt_ms=-1,
            attempts=0,
            last_error="none",
            requests_unplug_all_ack=0,
            plugged_blocks_total=0,
            migrations_failed_total=0,
            unplugs_not_sent_total=0,
        )
        guest.resize(258 * MIB)
        guest.expect_hotplugged(258 * MIB)
        wait_state(guest, "settled")
        expect_values(
            guest,
            requested_size=258 * MIB,
            plugged_size=258 * MIB,
            added_size=384 * MIB,
            plugged_movable_size=258 * MIB,
            plugged_kernel_size=0,
            plugged_offline_size=0,
            plugged_not_added_size=0,
            plugged_blocks_total=129,
            plugged_bytes_total=258 * MIB,
            unplugged_blocks_total=0,
        )
        partial = guest.blocks()[-1]
        guest.write(f"{partial.sysfs}/state", "offline")
        expect_values(guest, plugged_movable_size=256 * MIB, plugged_offline_size=2 * MIB)
        guest.resize(0)
        wait_state(guest, "settled")
        expect_values(guest, unplugged_bytes_total=258 * MIB, added_size=0, plugged_size=0)
        got = values(guest)
        expect(int(got["requests_plug_ack"]) >= 1, "no PLUG was acknowledged")
        expect(int(got["requests_unplug_ack"]) >= 1, "no UNPLUG was acknowledged")
        # Nothing can be written but what is for it.
        path = directory(guest)
        modes = guest.sh(f"stat -c %a {path}/state {path}/retry").split()
        expect_equal(modes, ["444", "200"], "permissions")
        guest.rmmod()
        expect_equal(guest.sh(f"ls -d {path} 2>/dev/null || true"), "", "left over")


@test()
def in_big_block_mode() -> None:
    only_ours(NOT_OURS)
    with Guest(MemDevice(size=2 * GIB, block_size=256 * MIB)) as guest:
        guest.resize(512 * MIB)
        wait_state(guest, "settled")
        expect_values(
            guest,
            mode="big-block",
            block_size=256 * MIB,
            big_block_size=256 * MIB,
            sub_block_size=None,
            plugged_movable_size=512 * MIB,
            added_size=512 * MIB,
        )


@test(limit=300)
def a_shrink_that_waits() -> None:
    """Held up by a process, it says so, and when it tries again; and is done soon after."""
    only_ours(NOT_OURS)
    with Guest(memory=GIB) as guest:
        guest.resize(GIB)
        guest.expect_hotplugged(GIB)
        with guest.load(1280, "--mlock"):
            guest.request(2 * MIB)
            guest.wait_waiting("memory-in-use")
            wait_long(guest)
            got = values(guest)
            expect_equal((got["state"], got["reason"]), ("waiting", "memory-in-use"), "state")
            expect(int(got["attempts"]) >= 1, "no attempt is counted")
            expect(got["last_error"] != "none", "no error is told")
            expect(int(got["migrations_failed_total"]) >= 1, "no failed migration is counted")
            retry(guest)
            # Nothing but what the process frees has it try again within the time allowed: not
            # the next attempt, and not the end of the time in which a little is not enough.
            wait_long(guest, 3 * SOON)
            time.sleep(1.5 * SOON)
        started = time.monotonic()
        wait_state(guest, "settled", SOON)
        print(f"settled {time.monotonic() - started:.1f} s after the process had ended")
        expect_values(guest, reason="none", plugged_size=2 * MIB, next_attempt_ms=-1)


def wait_long(guest: Guest, seconds: float = 10) -> None:
    """Waits until the next attempt is farther away than what is looked at takes."""
    guest.wait_until(
        lambda: int(values(guest)["next_attempt_ms"]) > seconds * 1000,
        120,
        "it never waits for long",
    )


def retry(guest: Guest) -> None:
    """Writing to `retry` has it try at once, and nothing else does."""
    path = f"{directory(guest)}/retry"
    wait_long(guest)
    for nonsense in ("0", "2", "now", ""):
        expected = 0 if nonsense == "" else errno.EINVAL
        expect_equal(guest.try_write(path, nonsense), expected, f"writing {nonsense!r}")
    before = int(values(guest)["attempts"])
    # Nothing happens.
    time.sleep(0.5)
    expect_equal(int(values(guest)["attempts"]), before, "attempts without a reason")
    guest.write(path, "1\n")
    guest.wait_until(lambda: int(values(guest)["attempts"]) > before, 5, "nothing was tried")


@test()
def in_a_kernel_zone() -> None:
    only_ours(NOT_OURS)
    with Guest(policy="online_kernel", parameters="online_type=policy") as guest:
        guest.resize(258 * MIB)
        guest.expect_hotplugged(258 * MIB)
        wait_state(guest, "settled")
        expect_values(
            guest,
            online_type="policy",
            added_size=384 * MIB,
            plugged_kernel_size=258 * MIB,
            plugged_movable_size=0,
        )


@test(limit=120)
def that_nobody_brings_online() -> None:
    only_ours(NOT_OURS)
    with Guest(MemDevice(size=4 * GIB), policy="offline", parameters="online_type=policy") as guest:
        guest.request(3 * GIB)
        guest.wait_waiting("offline-limit")
        got = values(guest)
        expect_equal(got["plugged_offline_size"], got["plugged_size"], "plugged, and offline")
        expect_values(
            guest,
            state="waiting",
            reason="offline-limit",
            online_type="policy",
            next_attempt_ms=-1,
            plugged_movable_size=0,
        )


@test(limit=120)
def uevents() -> None:
    """A uevent for each request that is met, and for each new reason why not."""
    only_ours(NOT_OURS)
    with Guest(memory=GIB) as guest:
        wait_state(guest, "settled")
        listener = guest.start(["uevent", "env"])
        # It listens as soon as it has its socket.
        guest.wait_until(lambda: str(listener.pid) in guest.read("/proc/net/netlink").split(), 10, "no socket")

        def next_event() -> dict[str, str]:
            event: dict[str, str] = {}
            while len(event) < 4:
                name, _, value = listener.line(60).strip().partition("=")
                if name.startswith("VIRTIO_MEM_"):
                    event[name.removeprefix("VIRTIO_MEM_")] = value
            return event

        guest.resize(GIB)
        expect_equal(
            next_event(),
            {
                "STATE": "settled",
                "REASON": "none",
                "REQUESTED_SIZE": str(GIB),
                "PLUGGED_SIZE": str(GIB),
            },
            "uevent",
        )
        with guest.load(1280, "--mlock"):
            guest.request(0)
            event = next_event()
            told = (event["STATE"], event["REASON"], event["REQUESTED_SIZE"])
            expect_equal(told, ("waiting", "memory-in-use", "0"), "uevent")
        event = next_event()
        expect_equal((event["STATE"], event["PLUGGED_SIZE"]), ("settled", "0"), "uevent")


if __name__ == "__main__":
    main()
