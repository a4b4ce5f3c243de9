#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What the agent makes of a real driver: the status, its changes, and waiting for them."""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

from vmtest.commands import Program
from vmtest.errors import TestFailure, expect, expect_equal
from vmtest.guest import Guest, only_ours
from vmtest.ktap import main, test
from vmtest.qemu import MemDevice
from vmtest.testdevice import DeviceGuest
from vmtest.units import GIB, MIB

AGENT = "virtio-mem-agent"
NOT_OURS = "it shows nothing in sysfs"

# So rarely that whatever is seen sooner was announced by the driver.
RARELY = ("--interval", "1h")

MET, TIMED_OUT, IMPOSSIBLE, NO_DEVICE = 0, 4, 5, 3


def status(guest: Guest) -> list[dict[str, Any]]:
    devices: list[dict[str, Any]] = json.loads(guest.sh(f"{AGENT} status --json"))["devices"]
    return devices


def wait(guest: Guest, *options: str) -> tuple[int | None, str]:
    """Runs `wait`; returns its exit status and what it says."""
    result = guest.run(AGENT, "wait", *options, timeout=60)
    return result.rc, result.stdout + result.stderr


@contextlib.contextmanager
def watching(guest: Guest) -> Iterator[Program]:
    program = guest.start([AGENT, "watch", "--json", *RARELY])
    yield program
    program.signal(2)
    expect_equal(program.wait(30).rc, 0, "exit status of watch")


def watch_until(program: Program, timeout: float = 60, **wanted: object) -> dict[str, Any]:
    """Reads lines until the only device is as wanted."""
    deadline = time.monotonic() + timeout
    device: dict[str, Any] = {}
    while any(device.get(name) != value for name, value in wanted.items()):
        if time.monotonic() > deadline:
            raise TestFailure(f"{wanted} was not seen; last: {device}")
        (device,) = json.loads(program.line(timeout))["devices"]
    return device


@test()
def status_of_two_devices() -> None:
    only_ours(NOT_OURS)
    with Guest(MemDevice(size=2 * GIB), MemDevice("vm1", size=GIB, block_size=256 * MIB)) as guest:
        guest.resize(386 * MIB, "vm0")
        guest.resize(512 * MIB, "vm1")
        guest.expect_hotplugged(898 * MIB)
        expect_equal(wait(guest, "--timeout", "30s")[0], MET, "wait")
        hosts = {data["memaddr"]: data for data in guest.memory_devices()}
        devices = status(guest)
        expect_equal(len(devices), 2, "devices")
        for device in devices:
            host = hosts[device["start_address"]]
            for name, key in (
                ("plugged_size", "size"),
                ("requested_size", "requested-size"),
                ("region_size", "max-size"),
                ("block_size", "block-size"),
                ("node", "node"),
            ):
                expect_equal(device[name], host[key], name)
            expect_equal((device["state"], device["reason"]), ("settled", "none"), "state")
            expect_equal(device["plugged_movable_size"], host["size"], "in ZONE_MOVABLE")
            expect_equal(device["counters"]["plugged_bytes_total"], host["size"], "plugged")
            expect_equal(device["last_error"], "none", "last error")
        expect_equal({device["mode"] for device in devices}, {"sub-block", "big-block"}, "modes")
        table = guest.sh(AGENT)
        expect("386 MiB" in table and "512 MiB" in table, f"sizes are not in the table: {table}")
        expect_equal(table.count("settled"), 2, "states in the table")


@test(limit=180)
def held_up_by_a_process() -> None:
    """Seen in the table, in JSON, and live; with what to do, and when it is tried again."""
    only_ours(NOT_OURS)
    with Guest(memory=GIB) as guest, watching(guest) as watch:
        watch_until(watch, state="settled", plugged_size=0)
        guest.resize(GIB)
        watch_until(watch, state="settled", plugged_size=GIB)
        with guest.load(1280, "--mlock"):
            guest.request(2 * MIB)
            seen = watch_until(watch, state="waiting", reason="memory-in-use")
            expect(seen["requested_size"] == 2 * MIB, f"requested: {seen['requested_size']}")
            guest.wait_waiting("memory-in-use")
            (device,) = status(guest)
            expect(device["attempts"] >= 1, "no attempts")
            expect(device["next_attempt_ms"] is not None, "no next attempt")
            table = guest.sh(AGENT)
            for words in ("waiting", "memory-in-use", "cannot be migrated", "end or restart"):
                expect(words in table, f"'{words}' is not in the table: {table}")
            expect_equal(wait(guest, "--timeout", "1s")[0], TIMED_OUT, "wait")
            expect_equal(guest.run(AGENT, "retry", device["device"]).rc, 0, "retry")
        ended = time.monotonic()
        watch_until(watch, state="settled", plugged_size=2 * MIB, reason="none")
        print(f"settled {time.monotonic() - ended:.1f} s after the process had ended")


@test()
def waiting_for_memory() -> None:
    only_ours(NOT_OURS)
    with Guest() as guest:
        # What has been asked for already is seen at once, too.
        expect_equal(wait(guest)[0], MET, "nothing is requested")
        for size in (256 * MIB, 1026 * MIB):
            guest.request(size)
            waiting = guest.start([AGENT, "wait", "--at-least", f"{size // MIB}M"])
            expect_equal(waiting.wait(30).rc, MET, "wait --at-least")
            expect(guest.plugged() >= size, "it has ended too early")
        # No change is missed between looking and waiting.
        for turn in range(12):
            size = (2 + turn % 3 * 320) * MIB
            guest.request(size)
            guest.wait_plugged(size)
            rc, said = wait(guest, "--settled", "--timeout", "20s")
            expect_equal(rc, MET, said)
        rc, said = wait(guest, "--at-least", "1000G", "--timeout", "20s", "--fail-fast")
        expect_equal(rc, IMPOSSIBLE, said)
        expect(said != "", "it does not say why")
        # With a timeout the host is waited for.
        for size in (256 * MIB, 2 * MIB):
            asked = f"{size // MIB}M"
            waiting = guest.start([AGENT, "wait", "--requested", asked, "--timeout", "30s"])
            time.sleep(1)
            guest.request(size)
            expect_equal(waiting.wait(30).rc, MET, "wait --requested")
            expect_equal(guest.plugged(), size, "plugged when wait --requested has ended")
        guest.resize(0)
        rc, said = wait(guest, "--at-least", "2M", "--device", "virtio99")
        expect_equal(rc, NO_DEVICE, said)


@test()
def a_request_under_way() -> None:
    """It is announced before the host has answered."""
    only_ours(NOT_OURS)
    with DeviceGuest() as guest, watching(guest) as watch:
        watch_until(watch, state="settled")
        for kind, size, state in (("plug", 64, "plugging"), ("unplug", 0, "unplugging")):
            guest.fault(f"kind={kind} hold times=1")
            guest.request(size * MIB)
            watch_until(watch, state=state)
            guest.control("release")
            watch_until(watch, state="settled", plugged_size=size * MIB)
        guest.expect_obedient()


@test()
def a_driver_that_comes_and_goes() -> None:
    only_ours(NOT_OURS)
    with Guest(load=False) as guest, watching(guest) as watch:
        watch_until(watch, driver=None)
        guest.insmod()
        watch_until(watch, driver="virtio_mem", state="settled")
        guest.rmmod()
        watch_until(watch, driver=None, state=None)


@test()
def metrics_of_a_driver() -> None:
    only_ours(NOT_OURS)
    with Guest() as guest:
        guest.resize(258 * MIB)
        guest.expect_hotplugged(258 * MIB)
        expect_equal(wait(guest, "--timeout", "30s")[0], MET, "wait")
        text = guest.sh(f"{AGENT} metrics")
        for line in (
            f'virtio_mem_plugged_bytes{{device="virtio1"}} {258 * MIB}',
            f'virtio_mem_plug_bytes_total{{device="virtio1"}} {258 * MIB}',
            'virtio_mem_state{device="virtio1",state="settled"} 1',
            'virtio_mem_state{device="virtio1",state="waiting"} 0',
            'virtio_mem_reason{device="virtio1",reason="none"} 1',
            "virtio_mem_scrape_errors 0",
        ):
            expect(line in text.splitlines(), f"not among the metrics: {line}\n{text}")


if __name__ == "__main__":
    main()
