# SPDX-License-Identifier: GPL-2.0
"""Commands whose output is read as it comes, and that end when their time is up."""

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

from .paths import TOP

# Those that run.
_running: set["subprocess.Popen[str]"] = set()


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


# Runs a command with what others leave of the processors' time. Where the kernel shares that
# among sessions first, being nice alone is being nice to oneself (sched(7), autogroup).
PATIENTLY = """
{ echo 19 >/proc/self/autogroup; } 2>/dev/null
exec nice -n 19 "$@"
"""


def start(command: list[str], patient: bool = False, **environment: str) -> subprocess.Popen[str]:
    """Starts a command in the repository, as the first of a group of processes."""
    if patient:
        command = ["sh", "-c", PATIENTLY, "patiently", *command]
    process = subprocess.Popen(
        # Should we be killed, it ends as it does when its time is up.
        ["setpriv", "--pdeathsig", "TERM", *command],
        cwd=TOP,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    _running.add(process)
    return process


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
    _running.discard(process)


def kill_all() -> None:
    """Ends all of them."""
    for process in list(_running):
        kill(process)
