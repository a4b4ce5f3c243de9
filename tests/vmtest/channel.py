# SPDX-License-Identifier: GPL-2.0
"""The host's end of the command channel into a guest."""

import contextlib
import itertools
import json
import queue
import socket
import threading
from typing import Any

from .errors import TestFailure, TooLate
from .kernel import SLOWNESS

Message = dict[str, Any]


class Call:
    """A request that was sent, and the messages that have come back for it."""

    def __init__(self, number: int, what: str) -> None:
        self.number = number
        self.what = what
        self.messages: queue.Queue[Message | None] = queue.Queue()

    def next(self, timeout: float) -> Message:
        """The next message of the guest about this request, which the stock kernel
        has to give within `timeout` seconds."""
        timeout *= SLOWNESS
        try:
            message = self.messages.get(timeout=timeout)
        except queue.Empty:
            raise TooLate(f"no answer from the guest in {timeout:g} s: {self.what}") from None
        if message is None:
            raise TestFailure(f"the guest is gone: {self.what}")
        return message

    def result(self, timeout: float) -> Message:
        """The last message."""
        while True:
            message = self.next(timeout)
            if message["done"]:
                return message


class Channel:
    """Sends requests, and sorts the answers with a thread of its own."""

    def __init__(self, sock: socket.socket) -> None:
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        # Held while a message is sent: those of several threads do not mix.
        self._sending = threading.Lock()
        self._calls: dict[int, Call] = {}
        self._closed = False
        self._socket = sock
        self._listen()

    def reattach(self, sock: socket.socket) -> None:
        """Goes on with another connection to the same guest, which still answers what
        was asked through the one before. What was on its way there is lost."""
        with self._sending, self._lock:
            before, self._socket = self._socket, sock
            # Its thread is woken up, and finds that it is no longer the one.
            with contextlib.suppress(OSError):
                before.shutdown(socket.SHUT_RDWR)
            before.close()
            self._listen()

    def close(self) -> None:
        self._socket.close()

    def _listen(self) -> None:
        self._closed = False
        threading.Thread(target=self._receive, args=(self._socket,), daemon=True).start()

    def send(self, op: str, what: str, **fields: Any) -> Call:
        """Sends a request; does not wait."""
        call = Call(next(self._numbers), what)
        with self._lock:
            if self._closed:
                raise TestFailure(f"the guest is gone: {what}")
            self._calls[call.number] = call
        message = {"id": call.number, "op": op} | fields
        try:
            with self._sending:
                self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise TestFailure(f"the guest is gone ({error}): {what}") from None
        return call

    def _receive(self, sock: socket.socket) -> None:
        try:
            with sock.makefile("rb") as lines:
                for line in lines:
                    # QEMU or the guest's kernel may end in the middle of a line.
                    with contextlib.suppress(ValueError):
                        self._sort(json.loads(line))
        except (OSError, ValueError):
            pass  # Closed under our hands.
        with self._lock:
            if sock is not self._socket:
                return
            self._closed = True
            for call in self._calls.values():
                call.messages.put(None)

    def _sort(self, message: Message) -> None:
        with self._lock:
            call = self._calls.get(message["id"])
            if call is not None and message["done"]:
                del self._calls[message["id"]]
        if call is not None:
            call.messages.put(message)
