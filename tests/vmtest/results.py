# SPDX-License-Identifier: GPL-2.0
"""Results of tests and checks: counted, read from others' output, and shown."""

import re
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

TAIL = 40

FAILED = "FAIL"
LATE = "late"

RESULT = re.compile(r"(ok|not ok) (\d+) (?:- )?([^#]*?)(?:\s*# SKIP ?(.*))?")

CARGO = re.compile(r"^test result: \S+ (\d+) passed; (\d+) failed; (\d+) ignored", re.MULTILINE)

# One at a time shows something.
_showing = threading.Lock()

# What show() has said of failures, and of what was late, to be said again where it is
# looked for first.
failures: list[str] = []
late: list[str] = []


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


def show(
    name: str, verdict: str, seconds: float, remark: str = "", reason: str = "", details: str = ""
) -> None:
    """Shows how something went, with what there is to say about it."""
    line = f"{name:<52}{verdict:<5}{seconds:7.1f} s{remark and f'  ({remark})'}\n"
    with _showing:
        if verdict in (FAILED, LATE):
            (failures if verdict == FAILED else late).append(line + in_short(reason))
        sys.stdout.write(line + reason + details)
        sys.stdout.flush()


def in_short(reason: str) -> str:
    """The lines of a reason that tell most, also where it is Python's own traceback."""
    lines = reason.splitlines(keepends=True)
    return "".join(lines if len(lines) <= 4 else lines[:2] + lines[-2:])


def tail(log: Path) -> str:
    """The end of a log, and where it is."""
    lines = log.read_text(errors="replace").splitlines()[-TAIL:]
    return "".join([f"    the last lines of {log}:\n", *(f"    | {line}\n" for line in lines)])


def failure(diagnostics: list[str]) -> dict[str, str]:
    """What a failed test has said, and the end of its console log, for show()."""
    logs = []
    reason = details = ""
    for line in diagnostics:
        text = line.removeprefix("# ")
        if text.startswith("log: "):
            logs.append(Path(text.removeprefix("log: ")))
        elif line.startswith("#") and not text.startswith("time: "):
            reason += f"    {text}\n"
        elif not re.match(r"KTAP version|1\.\.\d|# time: ", line):
            # Not of the test's making: Python itself has failed.
            reason += f"    {line}\n"
    for log in logs:
        if log.name.endswith(".console.log") and log.exists():
            details += tail(log)
        else:
            details += f"    see also {log}\n"
    return {"reason": reason, "details": details}
