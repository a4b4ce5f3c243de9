# SPDX-License-Identifier: GPL-2.0
"""What is done to the driver and the machine: they go, come back, sleep and move."""

import errno
import json
import time

from ..errors import expect, expect_equal
from ..guest import Guest
from ..power import sleep_a_while
from ..qemu import Refused
from .activity import Activity
from .driver import DRIVER, bound
from .site import Site, patience

# So slow that a migration to nowhere lasts until it is cancelled.
CRAWL = 65536


def bind(guest: Guest, name: str) -> None:
    """Binds the driver to a device. It refuses (EBUSY) when a memory block of the device has been on its
    way offline for 20 s, which in a guest that is short of everything is not the end of that."""
    deadline = time.monotonic() + patience(120)
    while True:
        error = guest.try_write(f"{DRIVER}/bind", name, patience(60))
        if error != errno.EBUSY or time.monotonic() > deadline:
            break
    expect_equal(error, 0, f"error from binding the driver to {name}")


class Unbind(Activity):
    """A device loses its driver, and gets it back."""

    name = "unbind"
    pause = (4.0, 12.0)

    def run(self) -> str:
        with self.site.binding:
            names = bound(self.guest)
            expect(bool(names), "no device has the driver")
            name = self.dice.choice(names)
            self.site.harvest.take(self.guest)
            begun = time.monotonic()
            self.guest.write(f"{DRIVER}/unbind", name, patience(60))
            seconds = time.monotonic() - begun
            time.sleep(self.dice.uniform(0, 2))
            bind(self.guest, name)
        return f"{name} ({seconds:.1f} s)"


class Reload(Activity):
    """The module is unloaded and loaded again, with memory in use."""

    name = "reload"
    pause = (8.0, 25.0)

    def run(self) -> str:
        with self.site.binding:
            self.site.harvest.take(self.guest)
            names = bound(self.guest)
            begun = time.monotonic()
            self.guest.sh("rmmod virtio_mem", timeout=patience(60))
            seconds = time.monotonic() - begun
            time.sleep(self.dice.uniform(0, 2))
            parameters = self.site.geometry.parameters
            path = f"{self.guest.module} {parameters}".strip()
            self.guest.sh(f"insmod {path}", timeout=patience(60))
            for name in set(names) - set(bound(self.guest)):
                bind(self.guest, name)
        return f"unloaded in {seconds:.1f} s"


class Sleep(Activity):
    """The guest is suspended to RAM, and woken up."""

    name = "suspend"
    pause = (25.0, 70.0)
    alone = True

    def run(self) -> str:
        seconds = self.dice.uniform(0, 3)
        self.effective = sleep_a_while(self.guest, seconds, patience(90))
        if self.effective:
            self.site.report.fault("suspends")
        return f"for {seconds:.1f} s"


class Migrate(Activity):
    """The guest moves to another QEMU."""

    name = "migrate"
    pause = (20.0, 60.0)
    alone = True

    def run(self) -> str:
        begun = time.monotonic()
        moved = self.effective = self.guest.migrate(patience(60))
        if moved:
            self.site.report.fault("migrations of the guest")
            expect(self.guest.answers(patience(60)), "no answer after a migration")
        return f"{'done' if moved else 'given up'} after {time.monotonic() - begun:.1f} s"


class Busy(Activity):
    """The host begins to migrate the guest, refuses all requests, and gives it up."""

    name = "busy host"
    pause = (5.0, 20.0)

    def status(self) -> str:
        return str(self.guest.qemu.qmp("query-migrate").get("status"))

    def run(self) -> str:
        seconds = self.dice.uniform(0.5, 5)
        self.guest.qemu.qmp("migrate-set-parameters", **{"max-bandwidth": CRAWL})
        try:
            self.guest.qemu.qmp("migrate", uri="exec:cat >/dev/null")
        except Refused as refused:
            self.effective = False
            return f"refused: {refused}"
        time.sleep(seconds)
        self.guest.qemu.qmp("migrate_cancel")
        self.guest.wait_until(
            lambda: self.status() in ("cancelled", "failed", "completed"), 60, "still migrating"
        )
        return f"for {seconds:.1f} s"


class Agent(Activity):
    """The agent looks at what the driver shows."""

    name = "agent"
    pause = (1.0, 5.0)

    @classmethod
    def applies(cls, site: Site) -> bool:
        return site.guest.run("virtio-mem-agent", "--version").rc == 0

    def run(self) -> str:
        # Devices may go while it looks, which it may complain of.
        result = self.guest.run("virtio-mem-agent", "status", "--json", timeout=patience(60))
        self.effective = result.rc == 0
        expect(result.rc in (0, 1, 3), f"the agent has ended with {result.rc}: {result.stderr}")
        devices = json.loads(result.stdout)["devices"] if result.stdout else []
        states = [str(device["state"]) for device in devices]
        return ", ".join(states) or f"nothing ({result.rc})"
