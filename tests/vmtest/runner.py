# SPDX-License-Identifier: GPL-2.0
"""Runs tests and checks, shows how they go, and counts.

A test is a function in a file tests/vm/test_*.py, which can also be run by
itself. It runs on the kernel that FLAVOUR names (stock); with --also FLAVOUR, those
that tests/FLAVOUR-tests lists run on that kernel as well, as FLAVOUR:FILE/TEST. A check
is any command: exit status 0 is a pass, 4 a skip, anything else a failure; where its
output holds the results of single tests, in KTAP or as cargo prints them, these are
counted in its place. The last line counts everything.

With --jobs, a test in which nothing was wrong but that something took too long, or that
the emulated machine failed, is tried again when nothing runs beside it.
"""

import argparse
import importlib.util
import os
import random
import re
import signal
import sys
import time
from functools import partial
from pathlib import Path

from .accel import describe_accelerator
from .history import History
from .initramfs import initramfs
from .jobs import Check, GuestTest, Run, build_for
from .kernel import Kernel
from .ktap import Test, end_on_sigterm, tests_of, wanted
from .paths import FLAVOUR, LOGS, TOP
from .process import kill_all
from .results import failures, late
from .schedule import Job, run_all
from .steps import steps

TESTS = TOP / "tests" / "vm"

# How many of the slowest tests are named at the end.
SLOWEST = 10


def load_tests(file: Path) -> list[Test]:
    """The tests that a file declares."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return tests_of(module)


def choose(flavour: str, patterns: list[str]) -> list[GuestTest]:
    """The tests that match and are to run on a kernel."""
    files = {file: load_tests(file) for file in sorted(TESTS.glob("test_*.py"))}
    tests = [GuestTest(flavour, file, test) for file in files for test in files[file]]
    listed = [".*"]
    if flavour != FLAVOUR:
        lines = (TESTS.parent / f"{flavour}-tests").read_text().splitlines()
        listed = [line for line in lines if line and not line.startswith("#")]
        for line in listed:
            if not any(wanted(test.file.stem, test.test.name, [line]) for test in tests):
                sys.exit(f"tests/{flavour}-tests: {line} is the name of no test")
    return [
        test
        for test in tests
        if wanted(test.file.stem, test.test.name, listed)
        and (not patterns or any(re.search(pattern, test.name) for pattern in patterns))
    ]


def read_checks(file: Path) -> list[Check]:
    """A table of checks: `name: command` a line, `#` begins a comment line."""
    checks = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, command = line.partition(":")
        if not colon or not command.strip():
            sys.exit(f"{file}:{number}: not `name: command`")
        checks.append(Check(name.strip(), command.strip()))
    return checks


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/run", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "patterns",
        nargs="*",
        metavar="PATTERN",
        help="regular expressions: run the tests, as FILE/TEST, and the checks\n"
        "in whose name one of them is found",
    )
    parser.add_argument(
        "--check",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "COMMAND"),
        help="a check to run first; may be repeated",
    )
    parser.add_argument(
        "--checks",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a file of checks, `name: command` a line; may be repeated",
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="FLAVOUR",
        help="run the tests that tests/FLAVOUR-tests lists on that kernel too",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="how many tests are run at once, and twice as many while most of them\n"
        "only wait; the checks get what these leave of the processors (%(default)s)",
    )
    parser.add_argument("--no-guests", action="store_true", help="run the checks only")
    parser.add_argument("--list", action="store_true", help="list the names and run nothing")
    return parser.parse_args()


def main() -> int:
    end_on_sigterm()
    options = arguments()
    patterns: list[str] = options.patterns
    checks = [Check(name, command) for name, command in options.check]
    for file in options.checks:
        checks += read_checks(file)
    checks = [
        check
        for check in checks
        if not patterns or any(re.search(pattern, check.name) for pattern in patterns)
    ]
    tests: list[GuestTest] = []
    if not options.no_guests:
        for flavour in (FLAVOUR, *options.also):
            tests += choose(flavour, patterns)
    if options.list:
        for check in checks:
            print(f"{check.name}: {check.command}")
        for test in tests:
            print(test.name)
        return 0
    if not checks and not tests:
        print(f"nothing to run matches {' '.join(patterns)}", file=sys.stderr)
        return 2
    if tests:
        seed = os.environ.setdefault("BOOT_SEED", str(random.randrange(10**6)))
        initramfs(Kernel.under_test())
        print(f"# guests run with {describe_accelerator()}; logs are in {LOGS}")
        print(f"# which of them boot, and are not started as saved ones: BOOT_SEED={seed}", flush=True)
    run = Run(History())
    begun = time.monotonic()
    try:
        run_them(run, checks, tests, options.jobs)
    finally:
        kill_all()
    run.history.save()
    tell(run, time.monotonic() - begun, bool(tests))
    return 1 if run.counts.failed else 0


def run_them(run: Run, checks: list[Check], tests: list[GuestTest], jobs: int) -> None:
    """Runs the tests, the checks and what builds kernels with what those leave of the
    processors; what was only late then has the machine to itself once more."""
    work = [
        Job(partial(test.run, run, last=jobs == 1), test.expected(run.history), partial(run.built.__contains__, test.flavour))
        for test in tests
    ]
    work += [Job(partial(check.run, run), check.expected(run.history), patient=True) for check in checks]
    for flavour in sorted({test.flavour for test in tests} - run.built):
        # Others wait for it.
        work.append(Job(partial(build_for, flavour, run), float("inf"), patient=True))
    run_all(work, jobs)
    for test in list(run.again):
        test.run(run, last=True)


def tell(run: Run, seconds: float, guests: bool) -> None:
    """Says what was remarkable, and counts."""

    def section(title: str, lines: list[str]) -> None:
        if lines:
            print("\n    ".join([f"{title}:", *lines]))

    section("Where the time has gone before", steps())
    if guests:
        print(f"Tests and checks: {seconds:.0f} s, with {run.processors:.0f} s of processors in tests")
        section("The slowest", run.history.slowest(SLOWEST))
        section("Slower than before", run.history.slower())
    section("Late with others beside it, and tried again", run.history.late())
    if late:
        print("What was said of these:\n" + "".join(late), end="")
    if failures:
        print("What failed, of which more is said above:\n" + "".join(failures), end="")
    print(run.counts)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
