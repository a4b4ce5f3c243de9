# SPDX-License-Identifier: GPL-2.0
"""A guest under test: QEMU, the command channel and the monitor in one."""

import contextlib
import os
import queue
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from .accel import ACCELERATORS, accelerator
from .channel import Call, Channel, Message
from .errors import BootFailure, TestFailure, TestSkip, expect
from .initramfs import DRIVERS, KEXEC_INITRD, KEXEC_KERNEL, initramfs, kexec_initramfs
from .kernel import SLOWNESS, Kernel, slowness
from .leaks import leaks, look_for_leaks
from .load import Load
from .memory import LIST_BLOCKS, MemoryBlock, parse_blocks
from .paths import LOGS, MODULE, STOCK
from .qemu import CHANNEL, Machine, MemDevice, Qemu
from .splat import (
    splats,
    without_crash,
    without_expendable,
    without_failed_allocations,
    without_failed_migrations,
)
from .units import GIB, KIB, mib

# An emulated machine hangs now and then before its first process runs (once in
# some hundred boots the log ends where the clock source is switched), or panics
# over its timer. Nothing under test is loaded by then, so another one is booted.
BOOT_PATIENCE = 40.0 * SLOWNESS
BOOT_TRIES = 3

# A task that hangs is to be reported before the test that it hangs gives up.
HUNG_TASK = f"sysctl.kernel.hung_task_timeout_secs={60 * SLOWNESS:.0f}"

# On a busy machine the emulated timer's first ticks come too late for the kernel,
# which then takes the timer for broken.
TIMER = "no_timer_check"

# What is set aside for a crash kernel, and what it is told besides.
CRASH_MEMORY = "crashkernel=256M"
CRASH_CMDLINE = "nr_cpus=1 reset_devices"

# Different in each boot.
BOOT_ID = "/proc/sys/kernel/random/boot_id"


def driver_under_test() -> str:
    """ "rust", or "c" for the kernel's own driver (VMEM_DRIVER=c)."""
    name = os.environ.get("VMEM_DRIVER", "rust")
    if name not in DRIVERS:
        raise RuntimeError(f"VMEM_DRIVER={name}: one of {', '.join(DRIVERS)}")
    return name


def extend_time_limit(seconds: float) -> None:
    """Gives the running test more time, if it has a limit."""
    left = signal.getitimer(signal.ITIMER_REAL)[0]
    if left:
        signal.setitimer(signal.ITIMER_REAL, left + seconds)


def only_ours(what: str) -> None:
    """Skips a test of what the C driver does not have."""
    if driver_under_test() != "rust":
        raise TestSkip(f"not with the C driver: {what}")


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
        _checked(self._channel.send("input", "input", target=self._call.number, data=text))

    def signal(self, signal: int) -> None:
        """Sends a signal to it and all it has started."""
        _checked(self._channel.send("signal", "signal", target=self._call.number, signal=signal))

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


def _checked(call: Call, timeout: float = 60) -> Message:
    message = call.result(timeout)
    if "error" in message:
        raise TestFailure(f"{call.what}: {message['error']}")
    return message


class Guest:
    """A booted guest. Use it as a context; leaving it fails on a kernel splat."""

    # Set by the test frame: the name that log files get.
    log_name = "guest"

    def __init__(
        self,
        *devices: MemDevice,
        policy: str | None = None,
        driver: str | None = None,
        load: bool = True,
        parameters: str = "",
        cmdline: str = "",
        log: str | None = None,
        failed_migrations: bool = False,
        failed_allocations: bool = False,
        expendable: bool = False,
        kexec: bool = False,
        crash: bool = False,
        no_devices: bool = False,
        **machine: Any,
    ) -> None:
        """Boots a guest and loads the driver under test (not with `load=False`).

        `policy` is the guest's default for onlining memory, as in
        /sys/devices/system/memory/auto_online_blocks. Without it, it is what the
        driver wants: ours nothing, the C driver online_movable, as it gets back
        no memory that the kernel itself can use. With `failed_migrations` the
        kernel may report that it could not move pages for want of free ones, with
        `failed_allocations` that it could not allocate any, whatever for, and with
        `expendable` that it has killed a load that was to be killed first.
        With `kexec` it has what kexec() needs, with `crash` what crash() needs, and
        may crash by SysRq when another kernel comes after it. Without `devices` it has
        one of QEMU's, or with `no_devices` none.
        """
        kernel = Kernel.under_test()
        self.driver = driver or driver_under_test()
        if self.driver == "rust" and not MODULE.exists():
            raise TestFailure(f"{MODULE} does not exist: build it first")
        if policy is None and self.driver == "c":
            policy = "online_movable"
        words = [HUNG_TASK, TIMER, cmdline]
        if policy is not None:
            words.append(f"memhp_default_state={policy}")
        if crash:
            words.append(CRASH_MEMORY)
        self.machine = Machine(
            devices=() if no_devices else devices or (MemDevice(),),
            cmdline=" ".join(filter(None, words)),
            **machine,
        )
        self.failed_migrations = failed_migrations
        self.failed_allocations = failed_allocations
        self.expendable = expendable
        self.may_crash = crash
        self.console = LOGS / f"{log or Guest.log_name}.console.log"
        image = kexec_initramfs(kernel) if kexec or crash else initramfs(kernel)
        accel = ACCELERATORS[accelerator()]
        for tries in reversed(range(BOOT_TRIES)):
            self.qemu = Qemu(self.machine, accel, kernel.image, image, self.console)
            self.channel = Channel(self.qemu.port(CHANNEL))
            if self._boot(last=tries == 0):
                break
        try:
            # Memory that the kernel itself has, to compare MemTotal with.
            self.base_memory = self.mem_total()
            if load:
                self.insmod(parameters)
        except BaseException:
            self.close()
            raise

    def _boot(self, last: bool) -> bool:
        """Waits until the guest's first process runs; unless this is the `last` try,
        returns whether it does."""
        started = time.monotonic()
        try:
            self._wait_up()
        except BootFailure as failure:
            self.close()
            if last:
                raise
            print(f"{failure}; its log ends with {self._last_line()}; booting another one")
            extend_time_limit(time.monotonic() - started)
            return False
        except BaseException:
            self.close()
            raise
        return True

    def _wait_up(self) -> None:
        # The guest answers as soon as its first process has opened the port.
        call = self.channel.send("read", "booting", path="/proc/version")
        deadline = time.monotonic() + BOOT_PATIENCE
        while time.monotonic() < deadline:
            ended = self.qemu.process.poll() is not None
            if ended and self.qemu.errors.exists():
                errors = self.qemu.errors.read_text(errors="replace").strip()
                if errors:
                    raise TestFailure(f"QEMU has ended early: {errors}")
            if ended:
                raise BootFailure("the guest has ended while it booted")
            # Without a message the channel has been closed: QEMU is about to end.
            if not call.messages.empty() and call.messages.queue[0] is not None:
                _checked(call)
                return
            time.sleep(0.02)
        raise BootFailure(f"the guest did not boot within {BOOT_PATIENCE:g} s")

    def _last_line(self) -> str:
        log = self.console.read_text(errors="replace") if self.console.exists() else ""
        lines = log.splitlines()
        return repr(lines[-1] if lines else "")

    def reconnect(self) -> None:
        """Hangs up and connects to the guest anew.

        Linux 7.3.4, back from sleep, asks its virtio-serial ports whether the host is
        there before it can take the answers (virtcons_restore()), and writes nothing to
        them until it hears of the host again.
        """
        self.channel.reattach(self.qemu.port(CHANNEL))

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
            raise TestFailure(f"{call.what}: did not end within {limit:g} s")
        return _result(message)

    def sh(self, script: str, timeout: float = 30) -> str:
        """Runs a shell command that must succeed, and returns its output."""
        result = self.run("sh", "-c", script, timeout=timeout)
        if result.rc != 0:
            raise TestFailure(f"`{script}` failed ({result.rc}): {result.stderr.strip()}")
        return result.stdout

    def start(self, argv: list[str]) -> Program:
        """Starts a program in the background, its output read line by line."""
        call = self.channel.send("run", " ".join(argv), argv=argv, stream=True)
        return Program(self.channel, call)

    def read(self, path: str) -> str:
        """Reads a file."""
        return str(_checked(self.channel.send("read", f"reading {path}", path=path))["data"])

    def write(self, path: str, data: str, timeout: float = 60) -> None:
        """Writes a file in one go."""
        errno = self.try_write(path, data, timeout)
        if errno:
            raise TestFailure(f"writing {data!r} to {path}: {os.strerror(errno)}")

    def try_write(self, path: str, data: str, timeout: float = 60) -> int:
        """Writes a file in one go; returns the errno, 0 for success."""
        call = self.channel.send("write", f"writing {data!r} to {path}", path=path, data=data)
        return int(call.result(timeout).get("errno", 0))

    def migrate(self, patience: float = 60) -> bool:
        """Has another QEMU take the guest; returns whether it did.

        Gives up, which changes nothing, when it is not done within `patience` seconds.
        Nothing may be asked of the guest meanwhile. An emulated one stands still: which
        pages it writes to again QEMU does not see in all of its memory, or it ends with
        a failed assertion (in 10.0, physical_memory_dirty_bits_cleared() is called with
        an offset in a block of memory where it wants an address).
        """
        before, after = self.qemu, self.qemu.successor()
        still = accelerator() == "tcg"
        moved = False
        try:
            after.qmp("migrate-incoming", uri=after.incoming)
            if still:
                before.qmp("stop")
            # The guest need not stand still for more than its clock can bear.
            limits = {"max-bandwidth": 64 * GIB, "downtime-limit": 10000}
            before.qmp("migrate-set-parameters", **limits)
            before.qmp("migrate", uri=after.incoming)
            deadline = time.monotonic() + patience
            while before.qmp("query-migrate")["status"] not in ("completed", "failed", "cancelled"):
                if time.monotonic() > deadline:
                    before.qmp("migrate_cancel")
                    deadline += patience
                time.sleep(0.1)
            moved = before.qmp("query-migrate")["status"] == "completed"
            if moved:
                self.qemu = after
                self.channel.reattach(after.port(CHANNEL))
            if still:
                self.qemu.qmp("cont")
            self.wait_until(
                lambda: self.qemu.qmp("query-status")["status"] == "running", 60, "not running"
            )
        finally:
            (before if moved else after).stop()
        return moved

    # Modules

    @property
    def module(self) -> str:
        """The path in the guest of the driver under test."""
        return DRIVERS[self.driver]

    def insmod(self, parameters: str = "", driver: str | None = None) -> None:
        """Loads the driver under test, or another one."""
        path = DRIVERS[driver] if driver else self.module
        self.sh(f"insmod {path} {parameters}".strip(), timeout=60)

    def rmmod(self) -> None:
        self.sh("rmmod virtio_mem", timeout=60)

    def dmesg(self) -> str:
        return self.sh("dmesg")

    # Other kernels

    @contextlib.contextmanager
    def rebooting(self) -> Iterator[None]:
        """Around what makes the guest boot: waits until the new kernel answers.

        No driver is loaded then, and hotplugged() counts from there.
        """
        before = self.read(BOOT_ID)
        yield
        deadline = time.monotonic() + BOOT_PATIENCE
        while self._boot_id() in (None, before):
            if time.monotonic() > deadline:
                raise TestFailure(f"no other kernel has come up in {BOOT_PATIENCE:g} s")
            time.sleep(0.1)
        self.base_memory = self.mem_total()

    def _boot_id(self) -> str | None:
        # Between two kernels a request may be lost: an answer is not waited for.
        call = self.channel.send("read", "waiting for another kernel", path=BOOT_ID)
        try:
            message = call.messages.get(timeout=1)
        except queue.Empty:
            return None
        if message is None:
            raise TestFailure("the guest has ended instead of booting again")
        return message.get("data")

    def reset(self) -> None:
        """Resets the machine."""
        with self.rebooting():
            self.qemu.qmp("system_reset")

    def reboot(self) -> None:
        """Reboots from inside of the guest."""
        with self.rebooting():
            self._run_unanswered("reboot", "-f")

    def kexec(self) -> None:
        """Has the guest start a kernel itself, without the machine being reset."""
        self._kexec_load("load", self.read("/proc/cmdline"))
        with self.rebooting():
            self._run_unanswered("vmem-guest", "kexec", "execute")

    def load_crash_kernel(self) -> None:
        """To be called with the memory plugged that the dump is to have."""
        words = [w for w in self.read("/proc/cmdline").split() if w != CRASH_MEMORY]
        self._kexec_load("load-crash", " ".join([*words, CRASH_CMDLINE]))

    def crash(self) -> None:
        """Has the kernel panic, and the crash kernel take over."""
        with self.rebooting():
            self.channel.send("write", "crashing", path="/proc/sysrq-trigger", data="c")

    def _kexec_load(self, how: str, cmdline: str) -> None:
        argv = ("vmem-guest", "kexec", how, KEXEC_KERNEL, KEXEC_INITRD, cmdline.strip())
        result = self.run(*argv)
        expect(result.rc == 0, f"cannot load another kernel: {result.stderr.strip()}")

    def _run_unanswered(self, *argv: str) -> None:
        self.channel.send("run", " ".join(argv), argv=argv)

    # Memory

    def mem_total(self) -> int:
        """MemTotal in bytes."""
        return self.meminfo("MemTotal")

    def meminfo(self, key: str) -> int:
        for line in self.read("/proc/meminfo").splitlines():
            name, _, rest = line.partition(":")
            if name == key:
                return int(rest.split()[0]) * KIB
        raise TestFailure(f"/proc/meminfo has no {key}")

    def hotplugged(self) -> int:
        """How much MemTotal is above what it was before the driver was loaded."""
        return self.mem_total() - self.base_memory

    def expect_hotplugged(self, size: int, timeout: float = 20) -> None:
        """Waits until MemTotal has grown by exactly `size` since the driver came."""
        call = self.await_mem_total(self.base_memory + size, timeout)
        message = call.result(timeout + 30)
        if "error" in message:
            got = self.hotplugged()
            raise TestFailure(f"MemTotal has grown by {mib(got)}, expected {mib(size)}")

    def await_mem_total(self, size: int, timeout: float) -> Call:
        """Has the guest watch for a MemTotal of `size`; does not wait."""
        fields = {"key": "MemTotal", "min": size // KIB, "max": size // KIB}
        limit = timeout * SLOWNESS
        return self.channel.send("await_meminfo", "waiting for MemTotal", timeout=limit, **fields)

    def blocks(self, device: str | None = None) -> list[MemoryBlock]:
        """The memory blocks in the region of one device, or of all."""
        regions = [
            range(data["memaddr"], data["memaddr"] + data["max-size"])
            for data in self.memory_devices()
            if device in (None, data["id"])
        ]
        return [
            block
            for block in parse_blocks(self.sh(LIST_BLOCKS))
            if any(block.start in region for region in regions)
        ]

    def wait_blocks(self, count: int, device: str | None = None) -> list[MemoryBlock]:
        """Waits until a device has `count` memory blocks, and returns them.

        The device may have the memory before Linux has, and the other way round.
        """
        blocks: list[MemoryBlock] = []

        def there() -> bool:
            blocks[:] = self.blocks(device)
            return len(blocks) == count

        self.wait_until(there, 20, lambda: f"{len(blocks)} memory blocks, expected {count}")
        return blocks

    def load(self, mib_: int, *options: str, seed: int = 1) -> Load:
        """Puts memory to use."""
        return Load(self, mib_, *options, seed=seed)

    # The device, seen from the host

    def memory_devices(self) -> list[dict[str, Any]]:
        return [entry["data"] for entry in self.qemu.qmp("query-memory-devices")]

    def device(self, name: str = "vm0") -> dict[str, Any]:
        for data in self.memory_devices():
            if data["id"] == name:
                return data
        raise TestFailure(f"QEMU has no memory device {name}")

    def plugged(self, name: str = "vm0") -> int:
        """What the guest has taken."""
        return int(self.device(name)["size"])

    def requested(self, name: str = "vm0") -> int:
        """What the guest should have."""
        return int(self.device(name)["requested-size"])

    def request(self, size: int, name: str = "vm0") -> None:
        """Asks the guest to have `size`; does not wait."""
        path = f"/machine/peripheral/{name}"
        self.qemu.qmp("qom-set", path=path, property="requested-size", value=size)

    def wait_plugged(self, size: int, name: str = "vm0", timeout: float = 60) -> float:
        """Waits until the guest has exactly `size`; returns the seconds it took.

        Fails when nothing has changed for `timeout` seconds: how long a change takes
        in all depends on the machine.
        """
        timeout *= SLOWNESS
        start = since = time.monotonic()
        last = self.plugged(name)
        while last != size:
            time.sleep(0.02)
            now, got = time.monotonic(), self.plugged(name)
            if got != last:
                last, since = got, now
            elif now - since > timeout:
                text = f"{name}: plugged {mib(last)}, expected {mib(size)}"
                raise TestFailure(f"unchanged for {timeout:g} s: {text}")
        return time.monotonic() - start

    def resize(self, size: int, name: str = "vm0", timeout: float = 60) -> float:
        """Asks for `size` and waits for it; returns the seconds it took."""
        self.request(size, name)
        return self.wait_plugged(size, name, timeout)

    def settle(self, name: str = "vm0", quiet: float = 1.5, timeout: float = 60) -> int:
        """Waits until the plugged size has not changed for a while; returns it."""
        # On the stock kernel as it is: it is not a limit.
        quiet *= SLOWNESS / slowness(STOCK)
        last, since = self.plugged(name), time.monotonic()
        deadline = since + timeout * SLOWNESS
        while time.monotonic() - since < quiet:
            expect(time.monotonic() < deadline, f"{name}: plugged size does not settle")
            time.sleep(0.05)
            now = self.plugged(name)
            if now != last:
                last, since = now, time.monotonic()
        return last

    def wait_waiting(self, reason: str, timeout: float = 120) -> int:
        """Waits until our driver has tried all it can, and says why it goes no further;
        returns the plugged size. How long that takes depends on the machine."""
        words = f"waiting: {reason}, plugged size: "

        def said() -> list[str]:
            lines = [line for line in self.dmesg().splitlines() if "virtio_mem virtio" in line]
            return [line for line in lines[-1:] if words in line]

        self.wait_until(said, timeout, f"the driver does not say '{words}'", poll=0.5)
        return int(said()[0].split(words)[1], 16)

    def wait_until(
        self,
        predicate: Callable[[], object],
        timeout: float,
        what: str | Callable[[], str],
        poll: float = 0.1,
    ) -> float:
        """Waits until `predicate` holds; returns the seconds it took."""
        timeout *= SLOWNESS
        start = time.monotonic()
        while not predicate():
            if time.monotonic() - start > timeout:
                text = what if isinstance(what, str) else what()
                raise TestFailure(f"after {timeout:g} s: {text}")
            time.sleep(poll)
        return time.monotonic() - start

    # The end

    def splats(self) -> list[str]:
        log = self.console.read_text(errors="replace")
        if self.failed_migrations:
            log = without_failed_migrations(log)
        if self.failed_allocations:
            log = without_failed_allocations(log)
        if self.expendable:
            log = without_expendable(log)
        return splats(without_crash(log) if self.may_crash else log)

    def expect_clean_log(self) -> None:
        """Fails if the kernel has complained about anything."""
        found = self.splats()
        if found:
            raise TestFailure(f"the guest's kernel says: {'; '.join(found[:4])}")

    def expect_no_leaks(self) -> None:
        """Fails if the kernel has lost memory, where the kernel can tell."""
        if not look_for_leaks() or self.qemu.process.poll() is not None:
            return
        found = leaks(self)
        if found:
            self.console.with_suffix(".leaks").write_text("".join(found))
            raise TestFailure(f"the kernel has lost {len(found)} objects: {found[0]}")

    def post_mortem(self) -> None:
        """Keeps what the guest still can tell about itself beside its console log."""
        stacks = "for f in $(grep -l '^v[im]' /proc/[0-9]*/task/*/comm); do cat $f ${f%comm}stack; done"
        script = f"cat /proc/meminfo /proc/iomem /proc/modules; {LIST_BLOCKS}; {stacks}"
        try:
            text = f"host: {self.memory_devices()}\n" + self.sh(script, timeout=10)
        except Exception as error:  # A guest in any state whatsoever, or none.
            text = f"nothing: {error}\n"
        self.console.with_suffix(".state").write_text(text)

    def close(self) -> None:
        self.qemu.stop()
        self.channel.close()
        if self.qemu.errors.exists() and not self.qemu.errors.stat().st_size:
            self.qemu.errors.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.expect_no_leaks()
                self.expect_clean_log()
            else:
                self.post_mortem()
                found = self.splats()
                if found and value is not None:
                    value.add_note(f"the guest's kernel says: {'; '.join(found[:4])}")
        finally:
            self.close()
