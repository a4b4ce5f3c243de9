# SPDX-License-Identifier: GPL-2.0
"""How long tests have taken in the runs before this one, kept in the cache."""

import fcntl
import json
import os
from pathlib import Path
from statistics import median

# Of how many runs it is known.
RUNS = 10

# A test has become slow that takes so many times what it took before, and so much more, in seconds.
SLOWER = 1.5
BY = 5.0


class History:
    """What each test took, in seconds, and how often it was late, in its last RUNS runs."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or Path(os.environ["VIRTIO_MEM_CACHE"]) / "durations.json"
        self._before = self._read()
        self._now: dict[str, list[float | None]] = {}
        # What took as long as others let it.
        self._patient: set[str] = set()

    def _read(self) -> dict[str, list[float | None]]:
        try:
            return dict(json.loads(self._file.read_text()))
        except (OSError, ValueError):
            return {}

    def took(self, name: str, seconds: float, patient: bool = False) -> None:
        """A test has passed, or something `patient`, whose time says little."""
        if patient:
            self._patient.add(name)
        self._now.setdefault(name, []).append(round(seconds, 1))

    def was_late(self, name: str) -> None:
        """A test has to be tried again."""
        self._now.setdefault(name, []).append(None)

    def expected(self, name: str) -> float | None:
        """What a test takes, if that is known."""
        known = [seconds for seconds in self._before.get(name, []) if seconds is not None]
        return median(known) if known else None

    def save(self) -> None:
        """Keeps what came to be known, beside what other runs have added meanwhile."""
        with self._file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            kept = self._read()
            for name, values in self._now.items():
                kept[name] = [*kept.get(name, []), *values][-RUNS:]
            unfinished = self._file.with_suffix(".new")
            unfinished.write_text(json.dumps(kept, indent=0, sort_keys=True) + "\n")
            unfinished.rename(self._file)

    def slowest(self, count: int) -> list[str]:
        """Lines about the tests that took longest in this run."""
        taken = {
            name: seconds
            for name, values in self._now.items()
            if (seconds := values[-1]) is not None and name not in self._patient
        }
        order = sorted(taken, key=lambda name: -taken[name])[:count]
        return [f"{name:<62}{taken[name]:6.1f} s{self._compared(name)}" for name in order]

    def slower(self) -> list[str]:
        """Lines about those that took longer than before."""
        lines = []
        for name, values in sorted(self._now.items()):
            before, now = self.expected(name), values[-1]
            if name in self._patient or before is None or now is None:
                continue
            if now > max(before * SLOWER, before + BY):
                lines.append(f"{name:<62}{now:6.1f} s{self._compared(name)}")
        return lines

    def late(self) -> list[str]:
        """Lines about those that were late in this run."""
        lines = []
        for name, values in sorted(self._now.items()):
            if None in values:
                before = self._before.get(name, [])
                lines.append(f"{name}, and {before.count(None)} times in {len(before)} before")
        return lines

    def _compared(self, name: str) -> str:
        before = self.expected(name)
        return "" if before is None else f"  ({before:.1f} s before)"
