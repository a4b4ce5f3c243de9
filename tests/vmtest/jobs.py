# SPDX-License-Identifier: GPL-2.0
"""What is run: a test in a process of its own, a command that checks something, and what
gets a kernel ready for tests."""

import os
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from .history import History
from .kernel import slowness
from .ktap import ONLY_LATE, SKIP, Test
from .paths import FLAVOUR, LOGS
from .process import lines_of, start
from .results import FAILED, LATE, RESULT, Counts, failure, results_in, show, tail

# Beyond its limit, in seconds, for a test's process to start and end.
MARGIN = 60.0

# For a check, or what builds a kernel, in seconds: they get what the tests leave of the processors,
# which may be nothing until these are done.
PATIENT_LIMIT = 5400.0

# What a check takes where that is not known, in seconds.
CHECK_GUESS = 120.0

# Of the limit of a test, what it takes where that is not known.
GUESS = 0.1

# What a test says of its time.
TIME = re.compile(r"# time: [\d.]+, of processors: ([\d.]+)")


@dataclass
class Run:
    """What has come of everything."""

    history: History
    counts: Counts = field(default_factory=Counts)
    # What was only late, to be tried alone.
    again: list["GuestTest"] = field(default_factory=list)
    # What tests have used of the processors, in seconds.
    processors: float = 0.0
    # The kernels whose modules are there.
    built: set[str] = field(default_factory=lambda: {FLAVOUR})
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, counts: Counts, processors: float = 0.0) -> None:
        """Adds results, and the seconds of processors that they took. Jobs end in threads of their own."""
        with self._lock:
            self.counts.add(counts)
            self.processors += processors


@dataclass(frozen=True)
class GuestTest:
    """A test of a file, on a kernel."""

    flavour: str
    file: Path
    test: Test

    @property
    def name(self) -> str:
        """What it is shown as."""
        name = f"{self.file.stem}/{self.test.name}"
        return name if self.flavour == FLAVOUR else f"{self.flavour}:{name}"

    @property
    def key(self) -> str:
        """What its history is kept under."""
        return f"{self.flavour}:{self.file.stem}/{self.test.name}"

    @property
    def limit(self) -> float:
        return self.test.limit * slowness(self.flavour)

    def expected(self, history: History) -> float:
        """How long it takes, in seconds, as far as that is known."""
        return history.expected(self.key) or self.limit * GUESS

    def run(self, run: Run, last: bool) -> None:
        """Runs it; where it is only late, and this is not the last try, it is to be tried again."""
        diagnostics: list[str] = []
        used, processors = "", 0.0
        verdict: re.Match[str] | None = None
        begun = time.monotonic()
        pattern = f"^{self.file.stem}/{self.test.name}$"
        process = start([str(self.file), pattern], FLAVOUR=self.flavour)
        for line in lines_of(process, self.limit + MARGIN):
            match = RESULT.fullmatch(line)
            if match is None:
                diagnostics.append(line)
                if (time_of := TIME.fullmatch(line)) is not None:
                    processors = float(time_of[1])
                    used = f"{processors:.1f} s of processors"
            elif verdict is None and match[3] == self.test.name:
                verdict = match
            else:
                diagnostics.append(f"a result that was not due: {line}")
                verdict = None
                break
        seconds = time.monotonic() - begun
        counts = Counts()
        if verdict is None:
            counts.failed = 1
            show(self.name, FAILED, seconds, "no result", **failure(diagnostics))
        elif verdict[1] == "not ok" and not last and f"# {ONLY_LATE}" in diagnostics:
            run.again.append(self)
            run.history.was_late(self.key)
            show(self.name, LATE, seconds, "to be tried alone", **failure(diagnostics))
        elif verdict[1] == "not ok":
            counts.failed = 1
            show(self.name, FAILED, seconds, **failure(diagnostics))
        elif verdict[4] is not None:
            counts.skipped = 1
            show(self.name, "skip", seconds, verdict[4])
        else:
            counts.passed = 1
            run.history.took(self.key, seconds)
            show(self.name, "ok", seconds, used)
        run.count(counts, processors)


@dataclass(frozen=True)
class Check:
    """A command. Exit status 0 is a pass, 4 a skip, anything else a failure."""

    name: str
    command: str

    def expected(self, history: History) -> float:
        """How long it takes, in seconds, as far as that is known."""
        return history.expected(self.name) or CHECK_GUESS

    def run(self, run: Run) -> None:
        """Runs it, and counts what it says."""
        status, text, seconds, log = _logged(self.name, self.command)
        counts = results_in(text)
        if status == 0 and not counts.failed:
            run.history.took(self.name, seconds, patient=True)
            show(self.name, "ok", seconds, str(counts) if counts else "")
            run.count(counts or Counts(passed=1))
        elif status == SKIP and not counts.failed:
            show(self.name, "skip", seconds, (text.strip().splitlines() or [""])[-1])
            run.count(counts or Counts(skipped=1))
        else:
            show(self.name, FAILED, seconds, f"exit status {status}", details=tail(log))
            counts.failed = max(counts.failed, 1)
            run.count(counts)


def build_for(flavour: str, run: Run) -> None:
    """Builds a kernel and what is tested on it, and says where that is in KERNELS."""
    name = f"build/{flavour}"
    commands = [f"scripts/build.sh {what} {flavour}" for what in ("modules", "test-device")]
    command = " && ".join([*commands, f"scripts/debug-kernel.sh {flavour}"])
    status, text, seconds, log = _logged(name, command)
    if status:
        run.count(Counts(failed=1))
        show(name, FAILED, seconds, f"exit status {status}: none of its tests is run", details=tail(log))
        return
    run.history.took(name, seconds, patient=True)
    show(name, "ok", seconds)
    os.environ["KERNELS"] += f" {flavour}={text.splitlines()[-1]}"
    run.built.add(flavour)


def _logged(name: str, command: str) -> tuple[int, str, float, Path]:
    """Runs a command with what others leave of the processors; returns its exit status, its
    output, the seconds that it took, and where its output is kept."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"check-{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.log"
    begun = time.monotonic()
    process = start(["bash", "-c", command], patient=True)
    with log.open("w") as output:
        for line in lines_of(process, PATIENT_LIMIT):
            output.write(line + "\n")
    text = log.read_text(errors="replace")
    return process.returncode, text, time.monotonic() - begun, log
