# SPDX-License-Identifier: GPL-2.0
"""Runs jobs side by side: those that take longest first, as many as keep the machine busy."""

import os
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from .units import GIB

# How often it is looked whether more can be started, in seconds.
LOOK = 0.5

# Over how long the load is measured: what was started last has to show in it.
WINDOW = 3.0

# How many times more jobs are run than was asked for, as long as most of them only wait.
CROWD = 2

# So much of a processor has to be unused for that, and so much memory, in bytes.
UNUSED = 0.4
ROOM = 8 * GIB


@dataclass(frozen=True)
class Job:
    """Something to be run."""

    run: Callable[[], None]
    # How long it may take, in seconds, as far as that is known.
    expected: float
    # What has to be true before it can be started.
    ready: Callable[[], bool] = lambda: True
    # Whether it gets the processor time that others leave (`nice`), of which it takes all.
    patient: bool = False


class Load:
    """How much of the processors is unused, or used by what is patient."""

    def __init__(self) -> None:
        self._samples = [(time.monotonic(), self._unused())]

    @staticmethod
    def _unused() -> float:
        # cpu user nice system idle iowait ...: in clock ticks (proc(5)).
        ticks = Path("/proc/stat").read_text().split(maxsplit=6)
        return sum(int(ticks[field]) for field in (2, 4, 5)) / os.sysconf("SC_CLK_TCK")

    def unused(self) -> float | None:
        """That of the last WINDOW seconds, in processors; None where that cannot be said yet."""
        now = time.monotonic()
        self._samples.append((now, self._unused()))
        while now - self._samples[1][0] >= WINDOW:
            self._samples.pop(0)
        then, before = self._samples[0]
        return (self._samples[-1][1] - before) / (now - then) if now - then >= WINDOW else None

    def allows_more(self) -> bool:
        """Whether the machine has time and memory for more."""
        unused = self.unused()
        if unused is None or unused < UNUSED:
            return False
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(available.split()[1]) << 10 > ROOM

    def forget(self) -> None:
        """Begins anew: something was started."""
        del self._samples[:-1]


def run_all(jobs: list[Job], at_once: int, load: Load | None = None) -> None:
    """Runs jobs in an order and number of its choice: at least `at_once` at a time, and up to
    CROWD times as many where that is more than one and the machine has nothing to do. One
    that is patient is run beside them, and more while none of the others can be started."""
    waiting = sorted(jobs, key=lambda job: -job.expected)
    running: dict[Future[None], Job] = {}
    load = load or Load()
    pool = ThreadPoolExecutor(CROWD * at_once + at_once)

    def may_start(job: Job) -> bool:
        patient = sum(other.patient for other in running.values())
        others = len(running) - patient
        if at_once == 1:
            return not running
        if job.patient:
            left = any(not other.patient and other.ready() for other in waiting)
            return patient < (1 if left else at_once)
        return others < at_once or (others < CROWD * at_once and load.allows_more())

    try:
        while waiting or running:
            while (
                job := next((job for job in waiting if job.ready() and may_start(job)), None)
            ) is not None:
                waiting.remove(job)
                running[pool.submit(job.run)] = job
                load.forget()
            if not running:
                # What the rest waits for will not come.
                return
            done, _ = wait(running, LOOK, FIRST_COMPLETED)
            for future in done:
                del running[future]
                future.result()
    finally:
        # When it is to end early, what runs must not go on.
        pool.shutdown(wait=False, cancel_futures=True)
