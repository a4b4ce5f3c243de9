#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Shows a stock Debian guest growing and shrinking, step by step."""

import sys
import time
from collections import Counter

from vmtest.accel import describe_accelerator
from vmtest.errors import TestFailure
from vmtest.guest import Guest
from vmtest.ktap import end_on_sigterm, time_limit
from vmtest.paths import AGENT
from vmtest.units import MIB, mib

STEPS = (1024, 300, 1538)

LIMIT = 120.0

COLUMNS = "{:>10}  {:>10}  {:>13}  {:>10}  {:<22}  {:>7}"


def zones(guest: Guest) -> str:
    """The zones of the hotplugged blocks, e.g. `Movable (3 blocks)`."""
    found = Counter(
        block.zones if block.state == "online" else block.state for block in guest.blocks()
    )
    return ", ".join(f"{zone} ({count} blocks)" for zone, count in sorted(found.items())) or "-"


def agent(guest: Guest, *arguments: str) -> None:
    """Shows a command of the agent in the guest, and what it says."""
    print(f"\nguest# {' '.join(('virtio-mem-agent', *arguments))}")
    result = guest.run("virtio-mem-agent", *arguments, timeout=60)
    print(result.stdout + result.stderr, end="")
    print(f"(exit status {result.rc})", flush=True)


def show_agent(guest: Guest) -> None:
    """Has the agent tell of what is plugged, and wait until it is gone."""
    agent(guest, "status")
    agent(guest, "doctor")
    guest.request(0)
    print("\nThe host requests 0 MiB.")
    agent(guest, "wait", "--settled", "--timeout", "60s")
    guest.expect_hotplugged(0)
    agent(guest, "status")


def show() -> None:
    begun = time.monotonic()
    print(f"Booting a guest with {describe_accelerator()}", flush=True)
    with Guest(log="demo") as guest:
        seconds = time.monotonic() - begun
        release = guest.sh("uname -r").strip()
        module = "the C driver" if guest.driver == "c" else "out/stock/virtio_mem.ko"
        print(f"Up after {seconds:.1f} s: Linux {release}, unmodified, with {module} loaded\n")
        print(COLUMNS.format("requested", "plugged", "MemTotal", "hotplugged", "zone", "time"))
        for size in (0, *(step * MIB for step in STEPS)):
            asked = time.monotonic()
            guest.resize(size)
            # The device has it; now until the guest does.
            guest.expect_hotplugged(size)
            seconds = time.monotonic() - asked
            print(
                COLUMNS.format(
                    mib(guest.requested()),
                    mib(guest.plugged()),
                    f"{guest.mem_total() // 1024} kB",
                    mib(guest.hotplugged()),
                    zones(guest),
                    f"{seconds:.2f} s",
                ),
                flush=True,
            )
        if AGENT.exists():
            show_agent(guest)
    print(f"\nDone in {time.monotonic() - begun:.0f} s")


def main() -> int:
    end_on_sigterm()
    try:
        with time_limit(LIMIT):
            show()
    except TestFailure as failure:
        print(f"error: {failure}", file=sys.stderr)
        print("The guest's console is in out/logs/demo.console.log", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
