# SPDX-License-Identifier: GPL-2.0
"""What the activities of a round share: the guest, and who may do what when."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..guest import Guest
from ..kernel import SLOWNESS
from .driver import Harvest
from .geometry import Geometry
from .report import Report


def patience(seconds: float) -> float:
    """How long to wait for what takes some seconds, on the kernel under test."""
    return seconds * SLOWNESS


class Gate:
    """Most activities go on beside each other; some need to be alone."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = 0
        self._alone = False
        self._waiting = 0

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        with self._condition:
            # Who wants to be alone goes first, or it would never be its turn.
            self._condition.wait_for(lambda: not self._alone and not self._waiting)
            self._inside += 1
        try:
            yield
        finally:
            with self._condition:
                self._inside -= 1
                self._condition.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with self._condition:
            self._waiting += 1
            self._condition.wait_for(lambda: not self._alone and not self._inside)
            self._waiting -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._condition:
                self._alone = False
                self._condition.notify_all()


@dataclass
class Site:
    """A guest that is being soaked."""

    guest: Guest
    geometry: Geometry
    report: Report
    harvest: Harvest
    gate: Gate = field(default_factory=Gate)
    # Set when it is time to stop.
    calm: threading.Event = field(default_factory=threading.Event)
    # How often memory blocks have been taken offline by others than the driver, or were about to be.
    meddled: int = 0
    # Held by who takes the driver from its devices, or the module from the kernel.
    binding: threading.Lock = field(default_factory=threading.Lock)

    def pause(self, seconds: float) -> None:
        """Waits, but not when it is time to stop."""
        self.calm.wait(seconds)
