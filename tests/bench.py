#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Times plug and unplug of idle memory for our module and for the C driver.

Each round boots a fresh guest for each of the two, in turn. The C driver is given
the policy online_movable, the only one with which it gets all memory back; ours the
stock policy. ROUNDS says how many rounds (3).
"""

import os
import sys
import time
from collections import defaultdict
from statistics import median

from vmtest.accel import describe_accelerator
from vmtest.errors import TestFailure
from vmtest.guest import Guest
from vmtest.kernel import Kernel
from vmtest.ktap import end_on_sigterm
from vmtest.qemu import MemDevice
from vmtest.units import GIB

SIZES = (1, 8)

DRIVERS = {"rust": "this module", "c": "C driver"}

# Of the two ways to see the end of a plug the second is what a user waits for.
PLUG_DEVICE = "plug {} GiB, until the device has it"
PLUG_TOTAL = "plug {} GiB, until MemTotal shows it"
UNPLUG = "unplug {} GiB"

POLL = 0.005
PATIENCE = 240.0


def time_plug(guest: Guest, size: int) -> tuple[float, float]:
    """Seconds until the device has all of it, and until MemTotal shows it."""
    # Watched from inside the guest: asking again and again would be work for it.
    call = guest.await_mem_total(guest.base_memory + size, PATIENCE)
    start = time.monotonic()
    guest.request(size)
    plugged = total = 0.0
    while not (plugged and total):
        now = time.monotonic() - start
        if not plugged and guest.plugged() == size:
            plugged = now
        if not total and not call.messages.empty():
            message = call.result(1)
            if "error" in message:
                raise TestFailure(message["error"])
            total = now
        if now > PATIENCE:
            raise TestFailure(f"plugging took longer than {PATIENCE:g} s")
        time.sleep(POLL)
    return plugged, total


def time_unplug(guest: Guest) -> float:
    start = time.monotonic()
    guest.request(0)
    guest.wait_until(lambda: guest.plugged() == 0, PATIENCE, "unplugging", poll=POLL)
    return time.monotonic() - start


def measure(driver: str) -> dict[str, float]:
    """One guest's worth of measurements."""
    results = {}
    with Guest(MemDevice(size=max(SIZES) * GIB), driver=driver, log=f"bench.{driver}") as guest:
        for size in SIZES:
            plugged, total = time_plug(guest, size * GIB)
            results[PLUG_DEVICE.format(size)] = plugged
            results[PLUG_TOTAL.format(size)] = total
            time.sleep(1)
            results[UNPLUG.format(size)] = time_unplug(guest)
            guest.expect_hotplugged(0)
            time.sleep(1)
    return results


def table(times: dict[str, dict[str, list[float]]]) -> str:
    """Medians and their ratios, in Markdown."""
    lines = [
        f"| median | {DRIVERS['rust']} | {DRIVERS['c']} | {DRIVERS['c']} / {DRIVERS['rust']} |",
        "| --- | ---: | ---: | ---: |",
    ]
    for what, by_driver in times.items():
        ours, theirs = median(by_driver["rust"]), median(by_driver["c"])
        lines.append(f"| {what} | {ours:.3f} s | {theirs:.3f} s | {theirs / ours:.2f} |")
    return "\n".join(lines)


def main() -> int:
    end_on_sigterm()
    rounds = int(os.environ.get("ROUNDS", "3"))
    times: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    try:
        for number in range(1, rounds + 1):
            for driver, name in DRIVERS.items():
                print(f"round {number} of {rounds}: {name}", file=sys.stderr, flush=True)
                for what, seconds in measure(driver).items():
                    times[what][driver].append(seconds)
    except TestFailure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    release = Kernel.under_test().release
    print(
        f"Linux {release}, {rounds} rounds, {describe_accelerator()}, 2 CPUs, idle memory;\n"
        "policy: the guest's own for this module, online_movable for the C driver\n"
    )
    print(table(times))
    return 0


if __name__ == "__main__":
    sys.exit(main())
