# SPDX-License-Identifier: GPL-2.0
"""What our driver shows in sysfs, and what it has counted since it was loaded first."""

import threading

from ..guest import Guest
from .report import Report

DRIVER = "/sys/bus/virtio/drivers/virtio_mem"
ATTRIBUTES = f"{DRIVER}/virtio*/virtio_mem"

# What only ever grows while the driver is bound, but for `attempts`, which begins anew
# with every request.
COUNTERS = (
    "requests_",
    "plugged_bytes_total",
    "unplugged_bytes_total",
    "migrations_failed_total",
    "unplugs_not_sent_total",
)

Shown = dict[str, str]


def shown(guest: Guest) -> dict[str, Shown]:
    """All values of all devices that have the driver, by the devices' names on the host."""
    # `retry` cannot be read, and devices may go meanwhile.
    text = guest.sh(f"grep . {ATTRIBUTES}/* 2>/dev/null; true", timeout=120)
    found: dict[str, Shown] = {}
    for line in text.splitlines():
        path, _, value = line.partition(":")
        name, _, file = path.removeprefix(f"{DRIVER}/").partition("/virtio_mem/")
        if file:
            found.setdefault(name, {"device": name})[file] = value
    hosts = {str(data["memaddr"]): str(data["id"]) for data in guest.memory_devices()}
    return {
        hosts[values["start_address"]]: values
        for values in found.values()
        if values.get("start_address") in hosts
    }


def bound(guest: Guest) -> list[str]:
    """The names of the devices that have the driver."""
    listing = guest.sh(f"ls -d {DRIVER}/virtio* 2>/dev/null; true")
    return [path.rpartition("/")[2] for path in listing.split()]


class Harvest:
    """Adds up counters that begin anew when the driver is bound anew."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._before: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def take(self, guest: Guest) -> None:
        """To be called often, and before the driver goes."""
        with self._lock:
            for name, values in shown(guest).items():
                for file, value in values.items():
                    if file.startswith(COUNTERS) or file == "attempts":
                        self._add(name, file, int(value))

    def _add(self, name: str, file: str, value: int) -> None:
        before = self._before.get((name, file), 0)
        self._before[name, file] = value
        self._report.counted(file, value - before if value >= before else value)
