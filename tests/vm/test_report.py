#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The agent tells the host over a virtio-serial port what the guest's devices do."""

import contextlib
import json
import random
import time
from collections.abc import Iterator
from typing import Any

from vmtest.commands import Program
from vmtest.errors import TestFailure, expect, expect_equal
from vmtest.guest import Guest, only_ours
from vmtest.ktap import main, test
from vmtest.units import GIB, MIB

PORT = "org.virtio_mem.agent.0"

# What udev would do.
LINK_PORTS = (
    "mkdir -p /dev/virtio-ports; for port in /sys/class/virtio-ports/*; do "
    "ln -s /dev/${port##*/} /dev/virtio-ports/$(cat $port/name); done"
)

# So long that every line but the first tells of a change.
NEVER = "1h"


class Listener:
    """The host's end of the port."""

    def __init__(self, guest: Guest) -> None:
        self._socket = guest.qemu.port(PORT)
        self._rest = b""

    def line(self, timeout: float) -> dict[str, Any] | None:
        """The next line, if there is one in time."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._rest:
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                return None
            expect(data, "QEMU has closed the port")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        status: dict[str, Any] = json.loads(line)
        return status

    def expect_added(self, size: int) -> None:
        """Reads until a line says that so much memory was added."""
        self.expect(30, added_size=size)

    def expect(self, timeout: float = 60, **wanted: object) -> dict[str, Any]:
        """Reads until a line says that the only device is as wanted."""
        deadline = time.monotonic() + timeout
        device: dict[str, Any] = {}
        while any(device.get(name) != value for name, value in wanted.items()):
            status = self.line(deadline - time.monotonic())
            if status is None:
                raise TestFailure(f"not told {wanted}; last: {device}")
            (device,) = status["devices"]
        return device

    def say(self, data: bytes) -> None:
        """Writes; what does not fit is left out."""
        self._socket.settimeout(2)
        with contextlib.suppress(TimeoutError):
            self._socket.sendall(data)

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def reporting(interval: str, **options: Any) -> Iterator[tuple[Guest, Program]]:
    """A guest whose agent reports."""
    with Guest(ports=(PORT,), **options) as guest:
        guest.sh(LINK_PORTS)
        agent = guest.start(["virtio-mem-agent", "report", "--interval", interval])
        yield guest, agent
        guest.sh(f"test -d /proc/{agent.pid}")
        agent.signal(15)
        expect_equal(agent.wait(30).stderr, "", "what the agent complains of")


@test()
def each_change_is_told() -> None:
    with reporting(NEVER) as (guest, _):
        host = Listener(guest)
        first = host.line(30)
        expect(first is not None, "the host is told nothing")
        expect_equal(first, json.loads(guest.sh("virtio-mem-agent status --json")), "first line")
        for size in (256, 1024, 128, 0):
            guest.resize(size * MIB)
            host.expect_added(size * MIB)
        # While the last of it settles there may be more, but not for long.
        last = host.line(5)
        while last is not None:
            following = host.line(5)
            expect(following != last, "a line without a change")
            last = following


@test(limit=180)
def why_a_shrink_is_held_up() -> None:
    """The host is told the reason, and that it is over."""
    only_ours("it shows nothing in sysfs")
    with reporting(NEVER, memory=GIB) as (guest, _):
        host = Listener(guest)
        guest.resize(GIB)
        host.expect(state="settled", plugged_size=GIB)
        with guest.load(1280, "--mlock"):
            guest.request(2 * MIB)
            told = host.expect(state="waiting", reason="memory-in-use")
            expect(told["next_attempt_ms"] is not None, "no next attempt is told")
        host.expect(state="settled", reason="none", plugged_size=2 * MIB)


@test()
def again_at_an_interval() -> None:
    with reporting("2s") as (guest, _):
        host = Listener(guest)
        for _ in range(3):
            host.expect_added(0)


@test()
def a_host_that_goes_and_comes_back() -> None:
    with reporting(NEVER) as (guest, _):
        for size in (128, 384, 256):
            # Told only after it has changed, as nobody is there before.
            guest.resize(size * MIB)
            guest.expect_hotplugged(size * MIB)
            # The agent has time to see that, and to have no reader.
            time.sleep(3)
            host = Listener(guest)
            host.expect_added(size * MIB)
            host.close()


@test()
def a_host_that_is_followed_by_another_at_once() -> None:
    """Each is told at once, whether the agent has seen the one before leave or not."""
    with reporting(NEVER) as (guest, _):
        guest.resize(128 * MIB)
        guest.expect_hotplugged(128 * MIB)
        host = Listener(guest)
        host.expect_added(128 * MIB)
        longest = 0.0
        for _ in range(10):
            # What was written a moment ago may be what the agent is woken for.
            time.sleep(1.5)
            host.close()
            host = Listener(guest)
            begun = time.monotonic()
            host.expect(4, added_size=128 * MIB)
            longest = max(longest, time.monotonic() - begun)
        print(f"the longest took {longest:.2f} s")
        expect(longest < 2, f"a host was told after {longest:.2f} s")


@test()
def garbage_changes_nothing() -> None:
    choice = random.Random(20261)
    with reporting(NEVER) as (guest, _):
        host = Listener(guest)
        host.expect_added(0)
        for size in (256, 128):
            host.say(b'{"version": 1, "devices": []}\n')
            for _ in range(8):
                host.say(choice.randbytes(32768))
            guest.resize(size * MIB)
            host.expect_added(size * MIB)
        expect_equal(guest.requested(), 128 * MIB, "requested")


if __name__ == "__main__":
    main()
