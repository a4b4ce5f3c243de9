# SPDX-License-Identifier: GPL-2.0
"""Putting a guest to sleep, and waking it up."""

import time

from .errors import TestFailure, TestSkip, expect
from .guest import Guest
from .kernel import Kernel

STATE = "/sys/power/state"
MEM_SLEEP = "/sys/power/mem_sleep"

# What Linux says first and last, whether it has slept or was kept from it.
ASLEEP, AWAKE = "PM: suspend entry", "PM: suspend exit"


def suspend(guest: Guest, word: str) -> None:
    """Suspends the guest, until QEMU says that it sleeps.

    To be called once for a guest: this QEMU ends the next sleep at once.
    """
    if Kernel.under_test().has("CONFIG_KCSAN"):
        raise TestSkip("with KCSAN this kernel does not wake up, whatever drivers it has")
    fall_asleep(guest, word)
    guest.wait_until(lambda: status(guest) == "suspended", 30, "not suspended")


def fall_asleep(guest: Guest, word: str) -> None:
    """Has the guest begin to. That it has begun it says before or, if it is slow, after:
    then not before `reconnect`."""
    guest.begin(["sh", "-c", f"echo {word} > {STATE}"])


def wake(guest: Guest) -> None:
    """Wakes a guest that sleeps, and waits until it answers."""
    guest.qemu.qmp("system_wakeup")
    guest.wait_until(lambda: status(guest) == "running" and awake(guest), 60, "not awake")
    guest.reconnect()
    expect(guest.answers(60), "no answer after waking")


def status(guest: Guest) -> str:
    return str(guest.qemu.qmp("query-status")["status"])


def awake(guest: Guest) -> bool:
    """Whether Linux has come back from every sleep."""
    log = guest.console.read_text(errors="replace")
    return log.count(ASLEEP) == log.count(AWAKE)


def sleep_a_while(guest: Guest, seconds: float, patience: float) -> bool:
    """Suspends the guest to RAM, wakes it when some time has passed, and waits until
    it answers; it may also wake by itself, or not fall asleep. Returns whether it slept."""
    asked = guest.console.read_text(errors="replace").count(ASLEEP) + 1
    guest.write(MEM_SLEEP, "deep")
    fall_asleep(guest, "mem")
    deadline = time.monotonic() + patience
    slept = 0.0
    while guest.console.read_text(errors="replace").count(AWAKE) < asked:
        if status(guest) == "suspended":
            slept = slept or time.monotonic()
            if time.monotonic() - slept > seconds:
                guest.qemu.qmp("system_wakeup")
                slept = time.monotonic()
        if time.monotonic() > deadline:
            how = f"{'has slept' if slept else 'never slept'}, QEMU says {status(guest)}"
            raise TestFailure(f"not back from sleep after {patience:g} s: {how}")
        time.sleep(0.05)
    guest.reconnect()
    expect(guest.answers(patience), "no answer after sleep")
    return slept > 0
