# SPDX-License-Identifier: GPL-2.0
"""How things are measured: from outside of the guest where that is possible."""

import json
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from ..commands import Program
from ..cpu import kernel_threads
from ..errors import TestFailure
from ..guest import Guest
from ..units import MIB

POLL = 0.002

# How long one resize may take: the C driver works on 32 GiB for minutes.
PATIENCE = 600.0

# Kernel threads that use no more than so many nanoseconds in a second have nothing to do.
AT_REST = 10_000_000

# What is left free when all memory is used once: nothing has to be reclaimed.
SPARED = 96 * MIB


def settle_down() -> None:
    """Lets what a guest still has to do after a resize be done."""
    time.sleep(1)


def touch(guest: Guest) -> None:
    """Has all memory that the guest has free used once. Linux puts the struct pages of what is
    plugged there, and the first to write to a page waits for the host to find one: as much of the
    time to plug as all the rest, more or less of it by chance."""
    free = meminfo(guest)["MemAvailable"]
    with guest.load((free - SPARED) // (2 * MIB) * 2):
        pass


def plug(guest: Guest, size: int) -> float:
    """Seconds until MemTotal shows that there is `size` more than before."""
    before = guest.mem_total()
    # Watched from inside the guest: asking again and again would be work for it.
    call = guest.await_mem_total(before + size, PATIENCE)
    start = time.monotonic()
    guest.request(guest.requested() + size)
    message = call.result(PATIENCE + 30)
    if "error" in message:
        raise TestFailure(message["error"])
    return time.monotonic() - start


def resize(guest: Guest, size: int, poll: float = POLL) -> float:
    """Seconds until the device has what is requested."""
    start = time.monotonic()
    guest.request(size)
    guest.wait_until(lambda: guest.plugged() == size, PATIENCE, "the resize", poll=poll)
    return time.monotonic() - start


def unplug_all(guest: Guest) -> float:
    """Seconds until nothing is plugged; the guest has to agree."""
    seconds = resize(guest, 0)
    guest.expect_hotplugged(0)
    return seconds


def without_driver(guest: Guest, what: str, size: int) -> float:
    """Seconds that the kernel itself needs to add or to remove memory, by its own clock."""
    directory = "/sys/kernel/debug/virtio_mem_test/floor"
    guest.write(f"{directory}/control", f"{what} {size}", PATIENCE)
    return int(guest.read(f"{directory}/status").split()[1]) / 1e9


def step(guest: Guest, size: int) -> float:
    """Seconds until the driver asks the device for what gives it `size`, by the clock of QEMU's
    trace: to look over and over again would take longer than that, and be work for the host."""
    start = time.time()
    guest.request(size)
    guest.wait_until(lambda: guest.plugged() == size, PATIENCE, "the step", poll=0.02)
    traced = REQUEST.findall(guest.qemu.errors.read_text(errors="replace"))
    if not traced:
        raise TestFailure("QEMU has traced no request")
    return float(traced[-1]) - start


def steps(guests: list[Guest], size: int, count: int) -> list[tuple[float, float]]:
    """Median seconds until one device block of 2 MiB on top of `size` is asked for, and until it
    is given back, in each of the guests; these have TRACE, and take turns. Of two guests with
    the same driver, the one that always went first took a fifth longer: they take turns in
    that as well."""
    taken: list[list[tuple[float, float]]] = [[] for _ in guests]
    turns = list(zip(guests, taken, strict=True))
    for _ in range(count):
        for guest, pairs in turns:
            pairs.append((step(guest, size + 2 * MIB), step(guest, size)))
        turns.reverse()
    return [(median(plug for plug, _ in pairs), median(u for _, u in pairs)) for pairs in taken]


def faulted(guest: Guest) -> int:
    """Bytes that the host had to find memory for, or look at, since QEMU was started."""
    fields = Path(f"/proc/{guest.qemu.process.pid}/stat").read_text().rpartition(")")[2].split()
    # minflt and majflt, in the guest's memory mostly; see proc_pid_stat(5).
    return (int(fields[7]) + int(fields[9])) * 4096


def migrated(guest: Guest) -> int:
    """Pages that the guest has migrated since it was started."""
    return guest.vmstat("pgmigrate_success")


def kernel_nanoseconds(guest: Guest) -> int:
    """What all kernel threads together have run for since the guest was started: all of
    them, as it is a driver's own affair in which of them it works."""
    threads = {number for number, _ in kernel_threads(guest)}
    total = 0
    for line in guest.sh("grep -H . /proc/[0-9]*/schedstat 2>/dev/null; true").splitlines():
        path, _, values = line.partition(":")
        if path.split("/")[2] in threads:
            total += int(values.split()[0])
    return total


def let_kernel_rest(guest: Guest) -> None:
    """Waits until kernel threads have no more to do than they always have: after the start the
    kernel tests its ciphers, for longer than a resize takes."""
    used = []

    def at_rest() -> bool:
        used.append(kernel_nanoseconds(guest))
        return len(used) > 1 and used[-1] - used[-2] < AT_REST

    guest.wait_until(at_rest, 120, "kernel threads with nothing to do", poll=1)


def end(guest: Guest, program: Program) -> tuple[float, float]:
    """Kills a program whose memory a shrink to nothing waits for. Gives the seconds until it has
    ended, which is when the kernel has freed all of that, and until nothing is plugged."""

    def wait() -> float:
        program.wait(120)
        return time.monotonic()

    with ThreadPoolExecutor(1) as pool:
        start = time.monotonic()
        ended = pool.submit(wait)
        program.signal(signal.SIGKILL)
        guest.wait_until(lambda: guest.plugged() == 0, 400, "the shrink", poll=POLL)
        seconds = time.monotonic() - start
        return ended.result() - start, seconds


def kernel_memory(guest: Guest) -> int:
    """Bytes that the kernel has allocated for itself, other than struct pages and the like."""
    lines = meminfo(guest)
    return sum(lines[name] for name in ("Slab", "VmallocUsed", "Percpu"))


def meminfo(guest: Guest) -> dict[str, int]:
    """What /proc/meminfo says, in bytes."""
    lines = (line.split() for line in guest.read("/proc/meminfo").splitlines() if " kB" in line)
    return {name.rstrip(":"): int(value) * 1024 for name, value, _ in lines}


def requests(guest: Guest, kind: str) -> int:
    """Requests of a kind that QEMU has traced, which it does with TRACE."""
    return guest.qemu.errors.read_text(errors="replace").count(f"virtio_mem_{kind}_request")


TRACE = ("-trace", "enable=virtio_mem_*_request", "-msg", "timestamp=on")

# When a request was traced: seconds since 1970.
REQUEST = re.compile(r"@(\d+\.\d+):virtio_mem_\w+_request")


class Faults:
    """`vmem-guest faults` in a guest: a workload that goes on touching fresh memory, or a file."""

    def __init__(self, guest: Guest, mib: int, file: str | None = None) -> None:
        of = ["--file", file] if file else []
        self._program = guest.start(["vmem-guest", "faults", "--mib", str(mib), *of])
        self._program.line(PATIENCE)

    def report(self) -> dict[str, int]:
        """Latencies since the last report, in nanoseconds, and how many there were."""
        self._program.input("report\n")
        report: dict[str, int] = json.loads(self._program.line(PATIENCE))
        return report

    def quit(self) -> None:
        self._program.input("quit\n")
        self._program.wait(PATIENCE)
