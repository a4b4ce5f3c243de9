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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .accel import describe_accelerator
from .initramfs import initramfs
from .kernel import Kernel, slowness
from .ktap import ONLY_LATE, SKIP, Test, end_on_sigterm, tests_of, wanted
from .paths import FLAVOUR, LOGS, TOP
from .process import kill_all, lines_of, start
from .results import FAILED, LATE, RESULT, Counts, failure, failures, late, results_in, show, tail

TESTS = TOP / "tests" / "vm"

# Beyond the limits of its tests, for a test file to start and end.
MARGIN = 60.0

CHECK_LIMIT = 1200.0


# Tests in guests

# The tests of a file to be run on a kernel.
Chosen = tuple[str, Path, list[Test]]


def load_tests(file: Path) -> list[Test]:
    """The tests that a file declares."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return tests_of(module)


def display_name(flavour: str, file: Path) -> str:
    """What a file's tests are called on a kernel."""
    return file.stem if flavour == FLAVOUR else f"{flavour}:{file.stem}"


def choose(flavour: str, patterns: list[str]) -> list[Chosen]:
    """The files with those of their tests that match and are to run on a kernel."""
    files = {file: load_tests(file) for file in sorted(TESTS.glob("test_*.py"))}
    listed = [".*"]
    if flavour != FLAVOUR:
        lines = (TESTS.parent / f"{flavour}-tests").read_text().splitlines()
        listed = [line for line in lines if line and not line.startswith("#")]
        for line in listed:
            if not any(wanted(file.stem, t.name, [line]) for file in files for t in files[file]):
                sys.exit(f"tests/{flavour}-tests: {line} is the name of no test")
    chosen = []
    for file, declared in files.items():
        name = display_name(flavour, file)
        tests = [
            test
            for test in declared
            if wanted(file.stem, test.name, listed) and wanted(name, test.name, patterns)
        ]
        if tests:
            chosen.append((flavour, file, tests))
    return chosen


def run_file(flavour: str, file: Path, tests: list[Test], again: list[Chosen] | None) -> Counts:
    """Runs tests of a file on a kernel. Those that are only late go to `again`."""
    counts = Counts()
    waiting = [test.name for test in tests]
    limit = sum(test.limit for test in tests) * slowness(flavour) + MARGIN
    diagnostics: list[str] = []
    begun = time.monotonic()
    shown = display_name(flavour, file)
    patterns = [f"^{file.stem}/{test.name}$" for test in tests]
    for line in lines_of(start([str(file), *patterns], FLAVOUR=flavour), limit):
        match = RESULT.fullmatch(line)
        if not match:
            diagnostics.append(line)
            continue
        name = waiting.pop(0)
        seconds = time.monotonic() - begun
        if match[1] == "not ok" and again is not None and f"# {ONLY_LATE}" in diagnostics:
            again.append((flavour, file, [test for test in tests if test.name == name]))
            show(f"{shown}/{name}", LATE, seconds, "to be tried alone", **failure(diagnostics))
        elif match[1] == "not ok":
            counts.failed += 1
            show(f"{shown}/{name}", FAILED, seconds, **failure(diagnostics))
        elif match[4] is not None:
            counts.skipped += 1
            show(f"{shown}/{name}", "skip", seconds, match[4])
        else:
            counts.passed += 1
            show(f"{shown}/{name}", "ok", seconds)
        assert name == match[3], f"{file}: result of {match[3]} where {name} was due"
        diagnostics = []
        begun = time.monotonic()
    for name in waiting:
        counts.failed += 1
        seconds = time.monotonic() - begun
        show(f"{shown}/{name}", FAILED, seconds, "no result", **failure(diagnostics))
        diagnostics = []
    return counts


# Other checks


def run_check(name: str, command: str) -> Counts:
    """Runs a command and counts what it says."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"check-{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.log"
    begun = time.monotonic()
    process = start(["bash", "-c", command])
    with log.open("w") as output:
        for line in lines_of(process, CHECK_LIMIT):
            output.write(line + "\n")
    text = log.read_text(errors="replace")
    seconds = time.monotonic() - begun
    counts = results_in(text)
    if process.returncode == 0 and not counts.failed:
        show(name, "ok", seconds, str(counts) if counts else "")
        return counts or Counts(passed=1)
    if process.returncode == SKIP and not counts.failed:
        show(name, "skip", seconds, (text.strip().splitlines() or [""])[-1])
        return counts or Counts(skipped=1)
    show(name, FAILED, seconds, f"exit status {process.returncode}", details=tail(log))
    counts.failed = max(counts.failed, 1)
    return counts


def read_checks(file: Path) -> list[tuple[str, str]]:
    """A table of checks: `name: command` a line, `#` begins a comment line."""
    checks = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, command = line.partition(":")
        if not colon or not command.strip():
            sys.exit(f"{file}:{number}: not `name: command`")
        checks.append((name.strip(), command.strip()))
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
        help="how many test files are run at once, the checks being one (%(default)s):\n"
        "more take less time in all, but emulated guests get slow",
    )
    parser.add_argument("--no-guests", action="store_true", help="run the checks only")
    parser.add_argument("--list", action="store_true", help="list the names and run nothing")
    return parser.parse_args()


def main() -> int:
    end_on_sigterm()
    options = arguments()
    patterns: list[str] = options.patterns
    checks: list[tuple[str, str]] = [(name, command) for name, command in options.check]
    for file in options.checks:
        checks += read_checks(file)
    checks = [
        check
        for check in checks
        if not patterns or any(re.search(pattern, check[0]) for pattern in patterns)
    ]
    files: list[Chosen] = []
    if not options.no_guests:
        for flavour in (FLAVOUR, *options.also):
            files += choose(flavour, patterns)
    if options.list:
        for name, command in checks:
            print(f"{name}: {command}")
        for flavour, file, tests in files:
            name = display_name(flavour, file)
            print("\n".join(f"{name}/{test.name}" for test in tests))
        return 0
    if not checks and not files:
        print(f"nothing to run matches {' '.join(patterns)}", file=sys.stderr)
        return 2

    def run_checks() -> Counts:
        counts = Counts()
        for name, command in checks:
            counts.add(run_check(name, command))
        return counts

    if files:
        seed = os.environ.setdefault("BOOT_SEED", str(random.randrange(10**6)))
        initramfs(Kernel.under_test())
        print(f"# guests run with {describe_accelerator()}; logs are in {LOGS}")
        print(f"# which of them boot, and are not started as saved ones: BOOT_SEED={seed}", flush=True)
    counts = Counts()
    for result in run_all(options.jobs, run_checks, files):
        counts.add(result)
    if late:
        print("What was late with others beside it, and was tried again:\n" + "".join(late), end="")
    if failures:
        print("What failed, of which more is said above:\n" + "".join(failures), end="")
    print(counts)
    return 1 if counts.failed else 0


def run_all(jobs: int, first: Callable[[], Counts], files: list[Chosen]) -> list[Counts]:
    """Runs the checks, and the tests of all files beside them, some at a time. What was
    only late then has the machine to itself once more."""
    again: list[Chosen] | None = [] if jobs > 1 else None
    if jobs > 1:
        # What may take longest begins first, so that nothing runs alone at the end.
        files = sorted(files, key=lambda file: -sum(test.limit for test in file[2]))
    pool = ThreadPoolExecutor(max(1, jobs))
    try:
        running = [pool.submit(first), *(pool.submit(run_file, *file, again) for file in files)]
        results = [result.result() for result in running]
        return results + [run_file(*file, None) for file in again or []]
    finally:
        # When it is to end early, what runs must not go on.
        pool.shutdown(wait=False, cancel_futures=True)
        kill_all()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
