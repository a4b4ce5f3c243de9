# SPDX-License-Identifier: GPL-2.0
"""Guests that were booted once, and stand still where their first process answers.

A machine that several tests have is booted by the second of them with its memory in a
file, stopped, and its state is saved beside that. From then on it is started from there,
in a second or two, each time with a private copy of the memory.
"""

import dataclasses
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import BootFailure
from .paths import FLAVOUR, WORK
from .qemu import Machine, Qemu
from .units import GIB

# A guest in so many is booted all the same: which ones, the run's seed decides.
BOOT_ONE_IN = 5

# How long one may take to be saved, or to be started, on a busy machine.
PATIENCE = 60.0

# For how long one is kept that is not asked for, in seconds. Each takes as much of the disk as
# the kernel has touched of its memory: a quarter of a GiB to half of one.
KEPT = 1_800.0

# None is saved when the disk has less room than that.
ROOM = 8 * GIB

# What they have in common: RAM that is in a file is not in the saved state.
IGNORE_SHARED = [{"capability": "x-ignore-shared", "state": True}]

# Without it, all guests are booted.
SEED = os.environ.get("BOOT_SEED")


class Saved:
    """A guest on a machine that may have been booted and saved before."""

    def __init__(self, machine: Machine, accel: list[str], kernel: Path, initrd: Path) -> None:
        self.machine = machine
        self._rest = (accel, kernel, initrd)
        # The names of kernel and archive change with what is in them.
        parts = [repr(machine), repr(accel), str(kernel), str(initrd), Path(__file__).read_text()]
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
        self.directory = WORK / f"{FLAVOUR}-saved-{key}"

    @property
    def _ram(self) -> Path:
        return self.directory / "ram"

    @property
    def _state(self) -> Path:
        return self.directory / "state"

    @property
    def _log(self) -> Path:
        return self.directory / "console.log"

    def is_due(self, guest: str) -> bool:
        """Whether `guest` is to be started from here: not if it is the first with such a
        machine, or one of those that are booted all the same."""
        if SEED is None or shutil.disk_usage(WORK).free < ROOM:
            return False
        if int(hashlib.sha256(f"{SEED} {guest}".encode()).hexdigest(), 16) % BOOT_ONE_IN == 0:
            return False
        try:
            self.directory.mkdir(parents=True)
        except FileExistsError:
            os.utime(self.directory)
            return True
        _remove_unused()
        return False

    def there(self) -> bool:
        """Whether it has been saved."""
        return self._state.exists()

    @contextmanager
    def booting(self, console: Path) -> Iterator[Qemu | None]:
        """Around what waits for the guest that is to be saved to have booted; it is saved
        then, and must not run on. There is none while another test does the same."""
        with (self.directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            if self.there():
                yield None
                return
            qemu = self._qemu(console, written=True)
            try:
                yield qemu
                self._save(qemu, console)
            finally:
                qemu.stop()

    def _save(self, qemu: Qemu, console: Path) -> None:
        # A running one that is emulated ends with a failed assertion of QEMU's.
        qemu.qmp("stop")
        qemu.qmp("migrate-set-capabilities", capabilities=IGNORE_SHARED)
        unfinished = self._state.with_suffix(".new")
        qemu.qmp("migrate", uri=f"file:{unfinished}")
        _await_migration(qemu, "saved")
        shutil.copy(console, self._log)
        unfinished.rename(self._state)

    def start(self, console: Path) -> Qemu:
        """Starts it; its console log goes on where that of the boot ends."""
        console.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self._log, console)
        # QEMU's own log does not go on.
        console.with_suffix(".qemu").unlink(missing_ok=True)
        qemu = self._qemu(console, written=False)
        try:
            qemu.qmp("migrate-set-capabilities", capabilities=IGNORE_SHARED)
            qemu.qmp("migrate-incoming", uri=f"file:{self._state}")
            _await_migration(qemu, "started")
            qemu.qmp("cont")
        except BaseException:
            qemu.stop()
            raise
        return qemu

    def _qemu(self, console: Path, written: bool) -> Qemu:
        machine = dataclasses.replace(self.machine, ram=self._ram, ram_written=written)
        return Qemu(machine, *self._rest, console, incoming=not written)


def _await_migration(qemu: Qemu, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while (status := qemu.qmp("query-migrate").get("status")) != "completed":
        if status == "failed" or time.monotonic() > deadline or qemu.process.poll() is not None:
            raise BootFailure(f"the guest could not be {what}: {qemu.qmp('query-migrate')}")
        time.sleep(0.02)


def _remove_unused() -> None:
    for old in WORK.glob(f"{FLAVOUR}-saved-*"):
        # Another run may be at it, too.
        with suppress(FileNotFoundError):
            if time.time() - old.stat().st_mtime > KEPT:
                shutil.rmtree(old)
