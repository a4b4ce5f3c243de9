# SPDX-License-Identifier: GPL-2.0
"""Runs tests and checks, shows how they go, and counts.

A test is a function in a file tests/vm/test_*.py, which can also be run by
itself. It runs on the kernel that FLAVOUR names (stock); with --also FLAVOUR, those
that tests/FLAVOUR-tests lists run on that kernel as well, as FLAVOUR:FILE/TEST. A check is any command: exit status 0 is a pass, 4 a skip, anything else a
failure; where its output holds the results of single tests, in KTAP or as cargo
prints them, these are counted in its place. The last line counts everything.
"""

import argparse
import contextlib
import importlib.util
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .accel import describe_accelerator
from .initramfs import initramfs
from .kernel import Kernel, slowness
from .ktap import SKIP, Test, end_on_sigterm, tests_of, wanted
from .paths import FLAVOUR, LOGS, TOP

TESTS = TOP / "tests" / "vm"

TAIL = 40

# Beyond the limits of its tests, for a test file to start and end.
MARGIN = 60.0

CHECK_LIMIT = 1200.0

RESULT = re.compile(r"(ok|not ok) (\d+) (?:- )?([^#]*?)(?:\s*# SKIP ?(.*))?")

CARGO = re.compile(r"^test result: \S+ (\d+) passed; (\d+) failed; (\d+) ignored", re.MULTILINE)


@dataclass
class Counts:
    """What the last line says."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, other: "Counts") -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def __bool__(self) -> bool:
        return bool(self.passed or self.failed or self.skipped)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def begin(name: str) -> None:
    """Shows what is being run."""
    print(f"{name:<52}", end="", flush=True)


def end(verdict: str, seconds: float, remark: str = "") -> None:
    """Completes the line with how it went."""
    print(f"{verdict:<5}{seconds:7.1f} s{remark and f'  ({remark})'}", flush=True)


def show_tail(log: Path) -> None:
    """Shows the end of a log, and where it is."""
    lines = log.read_text(errors="replace").splitlines()
    print(f"    the last lines of {log}:")
    for line in lines[-TAIL:]:
        print(f"    | {line}")
    sys.stdout.flush()


def lines_of(process: subprocess.Popen[str], limit: float) -> Iterator[str]:
    """The output of a process as it comes; kills its group when time is up."""
    lines: queue.Queue[str | None] = queue.Queue()
    stream = process.stdout
    assert stream is not None

    def read() -> None:
        for line in stream:
            lines.put(line.rstrip("\n"))
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    deadline = time.monotonic() + limit
    try:
        while True:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            if line is None:
                return
            yield line
    except queue.Empty:
        yield f"# killed: the limit of {limit:g} s has passed"
    finally:
        kill(process)


def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=TOP,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    """Ends a process with all it has started."""
    try:
        if process.poll() is None:
            # It is given the time to end what it has started in other groups.
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(5)
    except subprocess.TimeoutExpired:
        pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# Tests in guests


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


def choose(flavour: str, patterns: list[str]) -> list[tuple[str, Path, list[Test]]]:
    """The files with those of their tests that match and are to run on a kernel."""
    listed = [".*"]
    if flavour != FLAVOUR:
        lines = (TESTS.parent / f"{flavour}-tests").read_text().splitlines()
        listed = [line for line in lines if line and not line.startswith("#")]
    chosen = []
    for file in sorted(TESTS.glob("test_*.py")):
        name = display_name(flavour, file)
        tests = [
            test
            for test in load_tests(file)
            if wanted(file.stem, test.name, listed) and wanted(name, test.name, patterns)
        ]
        if tests:
            chosen.append((flavour, file, tests))
    return chosen


def run_file(flavour: str, file: Path, tests: list[Test]) -> Counts:
    """Runs tests of a file on a kernel."""
    counts = Counts()
    waiting = [test.name for test in tests]
    limit = sum(test.limit for test in tests) * slowness(flavour) + MARGIN
    diagnostics: list[str] = []
    begun = time.monotonic()
    shown = display_name(flavour, file)
    begin(f"{shown}/{waiting[0]}")
    patterns = [f"^{file.stem}/{test.name}$" for test in tests]
    for line in lines_of(start([str(file), *patterns], FLAVOUR=flavour), limit):
        match = RESULT.fullmatch(line)
        if not match:
            diagnostics.append(line)
            continue
        name = waiting.pop(0)
        seconds = time.monotonic() - begun
        if match[1] == "not ok":
            counts.failed += 1
            end("FAIL", seconds)
            show_failure(diagnostics)
        elif match[4] is not None:
            counts.skipped += 1
            end("skip", seconds, match[4])
        else:
            counts.passed += 1
            end("ok", seconds)
        assert name == match[3], f"{file}: result of {match[3]} where {name} was due"
        diagnostics = []
        begun = time.monotonic()
        if not waiting:
            # All that follows can only be a failure of the file to end well.
            continue
        begin(f"{shown}/{waiting[0]}")
    for number, name in enumerate(waiting):
        if number > 0:
            begin(f"{shown}/{name}")
        counts.failed += 1
        end("FAIL", time.monotonic() - begun, "no result")
        show_failure(diagnostics)
        diagnostics = []
    return counts


def show_failure(diagnostics: list[str]) -> None:
    """Shows what a failed test has said, and the end of its console log."""
    logs = []
    for line in diagnostics:
        text = line.removeprefix("# ")
        if text.startswith("log: "):
            logs.append(Path(text.removeprefix("log: ")))
        elif line.startswith("#") and not text.startswith("time: "):
            print(f"    {text}")
        elif not re.match(r"KTAP version|1\.\.\d|# time: ", line):
            # Not of the test's making: Python itself has failed.
            print(f"    {line}")
    for log in logs:
        if log.name.endswith(".console.log") and log.exists():
            show_tail(log)
        else:
            print(f"    see also {log}")


# Other checks


def run_check(name: str, command: str) -> Counts:
    """Runs a command and counts what it says."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"check-{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.log"
    begun = time.monotonic()
    begin(name)
    process = start(["bash", "-c", command])
    with log.open("w") as output:
        for line in lines_of(process, CHECK_LIMIT):
            output.write(line + "\n")
    text = log.read_text(errors="replace")
    seconds = time.monotonic() - begun
    counts = results_in(text)
    if process.returncode == 0 and not counts.failed:
        end("ok", seconds, str(counts) if counts else "")
        return counts or Counts(passed=1)
    if process.returncode == SKIP and not counts.failed:
        end("skip", seconds, (text.strip().splitlines() or [""])[-1])
        return counts or Counts(skipped=1)
    end("FAIL", seconds, f"exit status {process.returncode}")
    show_tail(log)
    counts.failed = max(counts.failed, 1)
    return counts


def results_in(text: str) -> Counts:
    """The results of single tests in the output of a check."""
    counts = Counts()
    for passed, failed, ignored in CARGO.findall(text):
        counts.add(Counts(int(passed), int(failed), int(ignored)))
    if re.search(r"^K?TAP version", text, re.MULTILINE):
        for line in text.splitlines():
            match = RESULT.fullmatch(line)
            if match:
                bad, skipped = match[1] == "not ok", match[4] is not None
                counts.add(Counts(not bad and not skipped, bad, skipped and not bad))
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
    files: list[tuple[str, Path, list[Test]]] = []
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

    counts = Counts()
    for name, command in checks:
        counts.add(run_check(name, command))
    if files:
        initramfs(Kernel.under_test())
        print(f"# guests run with {describe_accelerator()}; logs are in {LOGS}", flush=True)
    for flavour, file, tests in files:
        counts.add(run_file(flavour, file, tests))
    print(counts)
    return 1 if counts.failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
