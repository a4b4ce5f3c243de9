# SPDX-License-Identifier: GPL-2.0
"""What is asked of a guest: programs to run, files to read and write."""

import os
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass

from .channel import Call, Channel, Message
from .errors import TestFailure, TooLate
from .kernel import SLOWNESS


@dataclass(frozen=True)
class Result:
    """How a program in the guest has ended."""

    rc: int | None
    stdout: str
    stderr: str
    seconds: float


class Program:
    """A program that runs in the guest."""

    def __init__(self, channel: Channel, call: Call) -> None:
        self._channel = channel
        self._call = call
        first = call.next(30)
        if "error" in first:
            raise TestFailure(f"{call.what}: {first['error']}")
        self.pid: int = first["pid"]

    def line(self, timeout: float) -> str:
        """The next line of its output."""
        message = self._call.next(timeout)
        if message["done"]:
            raise TestFailure(f"{self._call.what}: has ended: {_result(message)}")
        return str(message["line"])

    def input(self, text: str) -> None:
        """Writes to its standard input."""
        checked(self._channel.send("input", "input", target=self._call.number, data=text))

    def signal(self, signal: int) -> None:
        """Sends a signal to it and all it has started."""
        checked(self._channel.send("signal", "signal", target=self._call.number, signal=signal))

    def wait(self, timeout: float) -> Result:
        """Waits until it ends."""
        return _result(self._call.result(timeout))


def _result(message: Message) -> Result:
    return Result(
        message.get("rc"),
        message.get("stdout", ""),
        message.get("stderr", ""),
        message.get("ms", 0) / 1000,
    )


def checked(call: Call, timeout: float = 60) -> Message:
    """Waits for an answer that must not be an error."""
    message = call.result(timeout)
    if "error" in message:
        raise TestFailure(f"{call.what}: {message['error']}")
    return message


class Commands:
    """What a guest can be asked over its command channel."""

    channel: Channel

    def answers(self, timeout: float) -> bool:
        """Whether the guest answers at all."""
        call = self.channel.send("read", "asking for an answer", path="/proc/version")
        try:
            return call.messages.get(timeout=timeout) is not None
        except queue.Empty:
            return False

    # Programs and files in the guest

    def run(self, *argv: str, timeout: float = 30, stdin: str | None = None) -> Result:
        """Runs a program to its end, whatever its exit status."""
        limit = timeout * SLOWNESS
        call = self.channel.send("run", " ".join(argv), argv=argv, timeout=limit, stdin=stdin)
        message = call.result(timeout + 30)
        if "error" in message:
            raise TestFailure(f"{call.what}: {message['error']}")
        if message.get("timed_out"):
            raise TooLate(f"{call.what}: did not end within {limit:g} s")
        return _result(message)

    def sh(self, script: str, timeout: float = 30) -> str:
        """Runs a shell command that must succeed, and returns its output."""
        result = self.run("sh", "-c", script, timeout=timeout)
        if result.rc != 0:
            raise TestFailure(f"`{script}` failed ({result.rc}): {result.stderr.strip()}")
        return result.stdout

    def start(self, argv: list[str]) -> Program:
        """Starts a program in the background, its output read line by line."""
        return Program(self.channel, self.begin(argv))

    def begin(self, argv: list[str]) -> Call:
        """As `start`, for a program that may keep the guest from answering."""
        return self.channel.send("run", " ".join(argv), argv=argv, stream=True)

    def read(self, path: str) -> str:
        """Reads a file."""
        return str(checked(self.channel.send("read", f"reading {path}", path=path))["data"])

    def write(self, path: str, data: str, timeout: float = 60) -> None:
        """Writes a file in one go."""
        errno = self.try_write(path, data, timeout)
        if errno:
            raise TestFailure(f"writing {data!r} to {path}: {os.strerror(errno)}")

    def try_write(self, path: str, data: str, timeout: float = 60) -> int:
        """Writes a file in one go; returns the errno, 0 for success."""
        call = self.channel.send("write", f"writing {data!r} to {path}", path=path, data=data)
        return int(call.result(timeout).get("errno", 0))

    def dmesg(self) -> str:
        return self.sh("dmesg")

    def wait_until(
        self,
        predicate: Callable[[], object],
        timeout: float,
        what: str | Callable[[], str],
        poll: float | None = None,
    ) -> float:
        """Waits until `predicate` holds; returns the seconds it took. It is looked at every `poll`
        seconds, or ever more seldom: what it asks of the guest costs an emulated processor more
        than what is waited for."""
        timeout *= SLOWNESS
        start = time.monotonic()
        while not predicate():
            if time.monotonic() - start > timeout:
                text = what if isinstance(what, str) else what()
                raise TooLate(f"after {timeout:g} s: {text}")
            rest = min(max(0.1, (time.monotonic() - start) * 0.1), 1.0)
            time.sleep(rest if poll is None else poll)
        return time.monotonic() - start
