# SPDX-License-Identifier: GPL-2.0
"""Tests in the manner of the kernel's selftests: KTAP output, exit codes 0, 1, 4.

A test file declares its tests with @test and ends with main(). What a test
prints becomes a diagnostic line.
"""

import contextlib
import io
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import TextIO

from .accel import accelerator
from .errors import TestFailure, TestSkip, TestTimeout, TooLate
from .guest import Guest
from .initramfs import initramfs
from .kernel import SLOWNESS, Kernel
from .paths import FLAVOUR, LOGS, STOCK

PASS, FAIL, SKIP = 0, 1, 4

DEFAULT_LIMIT = 90.0

# Said of a test in which nothing was wrong but that something took too long, or that the
# emulated machine failed.
ONLY_LATE = "only late"


@dataclass(frozen=True)
class Test:
    """A test and the hard limit, in seconds, of the time it may take."""

    name: str
    function: Callable[[], None]
    limit: float


def test(limit: float = DEFAULT_LIMIT) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Declares a function to be a test."""

    def declare(function: Callable[[], None]) -> Callable[[], None]:
        tests = function.__globals__.setdefault("TESTS", [])
        tests.append(Test(function.__name__, function, limit))
        return function

    return declare


def tests_of(module: ModuleType) -> list[Test]:
    """The tests that a module has declared."""
    return getattr(module, "TESTS", [])


def wanted(file: str, name: str, patterns: list[str]) -> bool:
    """Whether a test's or its file's name matches one of the patterns."""
    return not patterns or any(re.search(pattern, f"{file}/{name}") for pattern in patterns)


class Diagnostics(io.TextIOBase):
    """Turns what a test prints into KTAP diagnostic lines."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._output.write(f"# {line}\n")
        self._output.flush()
        return len(text)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TestTimeout in the block when its time is up."""

    def expire(_signal: int, _frame: FrameType | None) -> None:
        raise TestTimeout(f"the limit of {seconds:g} s has passed")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def processor_seconds() -> float:
    """What this process and those that it has waited for, QEMU above all, have used so far."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def run_one(file: str, number: int, entry: Test) -> int:
    """Runs a test and prints its result line; returns PASS, FAIL or SKIP."""
    prefix = "" if FLAVOUR == STOCK else f"{FLAVOUR}."
    Guest.log_name = f"{prefix}{file}.{entry.name}"
    output = sys.stdout
    directive = ""
    start, used = time.monotonic(), processor_seconds()
    with contextlib.redirect_stdout(Diagnostics(output)):
        try:
            with time_limit(entry.limit * SLOWNESS):
                entry.function()
            status = PASS
        except TestSkip as skip:
            status, directive = SKIP, f" # SKIP {skip}"
        except (TestFailure, TestTimeout) as failure:
            status = FAIL
            print(f"{type(failure).__name__}: {failure}")
            notes = getattr(failure, "__notes__", [])
            for note in notes:
                print(note)
            for frame in traceback.extract_tb(failure.__traceback__):
                if Path(frame.filename).stem == file:
                    print(f"  {file}.py:{frame.lineno}: {frame.line}")
            if isinstance(failure, (TooLate, TestTimeout)) and not notes:
                print(ONLY_LATE)
        except Exception:
            status = FAIL
            print(traceback.format_exc(), end="")
        logs = sorted(LOGS.glob(f"{Guest.log_name}.*"))
        if status == FAIL:
            for log in logs:
                print(f"log: {log}")
        else:
            for log in logs:
                log.unlink()
        print(f"time: {time.monotonic() - start:.1f}, of processors: {processor_seconds() - used:.1f}")
    verdict = "not ok" if status == FAIL else "ok"
    output.write(f"{verdict} {number} {entry.name}{directive}\n")
    output.flush()
    return status


def end_on_sigterm() -> None:
    """Makes SIGTERM end the program as Ctrl-C does: no QEMU is left behind."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)


def main() -> None:
    """Runs the tests of the calling file that match the patterns given."""
    end_on_sigterm()
    module = sys.modules["__main__"]
    assert module.__file__ is not None
    file = Path(module.__file__).stem
    chosen = [entry for entry in tests_of(module) if wanted(file, entry.name, sys.argv[1:])]
    print(f"KTAP version 1\n1..{len(chosen)}", flush=True)
    if chosen:
        # Not on the first test's time.
        initramfs(Kernel.under_test())
        accelerator()
    results = [run_one(file, number, entry) for number, entry in enumerate(chosen, 1)]
    if FAIL in results:
        sys.exit(FAIL)
    sys.exit(PASS if PASS in results or not results else SKIP)
