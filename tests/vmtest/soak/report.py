# SPDX-License-Identifier: GPL-2.0
"""What a soak has done so far: counters, the last operations, the report at its end."""

import threading
import time
from collections import Counter, deque
from pathlib import Path

from ..units import GIB

# As many operations as are kept to be told after a failure.
LAST = 400

# An activity that has tried so often should have done something.
OFTEN = 8

# In so many seconds each should have, however seldom it tries.
LONG = 15 * 60.0


class Report:
    """Written to by all threads."""

    def __init__(self, kernel: str, seed: int) -> None:
        self.kernel = kernel
        self.seed = seed
        self.begun = time.monotonic()
        self.rounds = 0
        self.guests = 0
        self.operations: Counter[str] = Counter()
        # Activities that make sense in one of the guests.
        self.possible: set[str] = set()
        # Those of which nothing came.
        self.in_vain: Counter[str] = Counter()
        # What the guests' drivers have counted, as sysfs names it.
        self.driver: Counter[str] = Counter()
        # What was survived.
        self.faults: Counter[str] = Counter()
        self.pages = 0
        self.renames = 0
        self.settling: list[tuple[float, str]] = []
        self.phase = "booting"
        self._last: deque[str] = deque(maxlen=LAST)
        self._lock = threading.Lock()

    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def operation(self, activity: str, what: str, effective: bool) -> None:
        """An activity has done something, or tried to."""
        with self._lock:
            self.operations[activity] += 1
            if not effective:
                self.in_vain[activity] += 1
        self.note(f"{activity}: {what}")

    def always_in_vain(self) -> list[str]:
        """Activities that have tried often, or had long enough for it, and never done anything."""
        names = sorted(self.possible | set(self.operations))
        least = 0 if self.seconds() >= LONG else OFTEN
        return [
            name
            for name in names
            if self.operations[name] >= least and self.operations[name] == self.in_vain[name]
        ]

    def note(self, text: str) -> None:
        """Something that has happened, to be known after a failure."""
        with self._lock:
            self._last.append(f"{self.seconds():8.2f} {self.phase}: {text}")

    def fault(self, kind: str, count: int = 1) -> None:
        with self._lock:
            self.faults[kind] += count

    def checked(self, pages: int) -> None:
        with self._lock:
            self.pages += pages

    def counted(self, name: str, count: int) -> None:
        with self._lock:
            self.driver[name] += count

    def settled(self, seconds: float, what: str) -> None:
        with self._lock:
            self.settling.append((seconds, what))

    def renamed(self, count: int) -> None:
        """So many network interfaces were given the names of memory blocks, and others."""
        with self._lock:
            self.renames += count

    def answered(self, word: str) -> int:
        """How many requests the device has answered with a word."""
        return sum(
            count
            for name, count in self.driver.items()
            if name.startswith("requests_") and name.endswith(f"_{word}")
        )

    def progress(self) -> str:
        """A line that tells how it goes."""
        return (
            f"{self.seconds():6.0f} s  round {self.rounds:<3} {self.phase:<24}"
            f" {sum(self.operations.values()):>6} operations {self.pages:>10} pages checked"
        )

    def failed(self, lines: int) -> str:
        """When it has failed, and the last operations before that."""
        with self._lock:
            last = list(self._last)[-lines:]
        where = f"after {self.seconds():.0f} s, in round {self.rounds}, {self.phase}"
        return "\n".join((where, *last))

    def write_last(self, file: Path) -> None:
        with self._lock:
            file.write_text("\n".join(self._last) + "\n")

    def text(self) -> str:
        """The report."""
        operations = ", ".join(
            f"{name} {n}" + (f" of which {vain} in vain" if (vain := self.in_vain[name]) else "")
            for name, n in sorted(self.operations.items())
        )
        faults = dict(self.faults)
        for word in ("busy", "nack", "error", "garbled"):
            if self.answered(word):
                faults[f"answers {word}"] = self.answered(word)
        longest, what = max(self.settling, default=(0.0, "never"))
        rows = [
            ("kernel", self.kernel),
            ("seed", str(self.seed)),
            ("duration", f"{self.seconds():.0f} s"),
            ("rounds", f"{self.rounds} in {self.guests} guests"),
            ("operations", f"{sum(self.operations.values())} ({operations})"),
            ("plugged", f"{self.driver['plugged_bytes_total'] / GIB:.1f} GiB"),
            ("unplugged", f"{self.driver['unplugged_bytes_total'] / GIB:.1f} GiB"),
            ("pages checked", f"{self.pages}, 0 changed"),
            ("faults survived", ", ".join(f"{k} {n}" for k, n in sorted(faults.items())) or "none"),
            ("failed migrations of pages", str(self.driver["migrations_failed_total"])),
            ("interfaces renamed", str(self.renames)),
            ("requests not sent", str(self.driver["unplugs_not_sent_total"])),
            ("driver had to wait", f"{self.driver['attempts']} times"),
            ("longest time to settle", f"{longest:.1f} s ({what})"),
            # One ends it all.
            ("splats", "0"),
        ]
        width = max(len(name) for name, _ in rows) + 2
        return "\n".join(f"{name:<{width}}{value}" for name, value in rows)
