# SPDX-License-Identifier: GPL-2.0
"""A guest under test: QEMU, the command channel and the monitor in one."""

import os
import secrets
import signal
import time
from types import TracebackType
from typing import Any, Self

from .accel import ACCELERATORS, accelerator, emulated
from .channel import Channel
from .commands import checked
from .errors import BootFailure, MachineFailure, TestFailure, TestSkip, TestTimeout, TooLate
from .initramfs import DRIVERS, initramfs, kexec_initramfs
from .kernel import OVERHEAD, SLOWNESS, Kernel
from .leaks import leaks, look_for_leaks
from .memory import LIST_BLOCKS
from .paths import LOGS, MODULE
from .qemu import CHANNEL, Machine, MemDevice, Qemu, Refused
from .reboots import BOOT_PATIENCE, CRASH_MEMORY, Reboots
from .saved import Saved
from .splat import (
    lost_an_interrupt,
    splats,
    without_crash,
    without_expendable,
    without_failed_allocations,
    without_failed_migrations,
    without_raced_compaction,
    without_state_store,
)

# An emulated machine hangs now and then before its first process runs (once in
# some hundred boots the log ends where the clock source is switched), or panics
# over its timer. Nothing under test is loaded by then, so another one is booted.
BOOT_TRIES = 3

# While one emulated processor changes the memory map, as it does to reset a PCI function,
# another one that accesses a device may find nothing there, which ends QEMU with this, or
# something else: what it writes to its timer is lost (lost_an_interrupt()). On a busy host
# each was seen twice in some 140 guests that do hardly anything but that.
FAILED_EMULATOR = "iotlb_to_section: Assertion"

# A task that hangs is to be reported before the test that it hangs gives up.
HUNG_TASK = f"sysctl.kernel.hung_task_timeout_secs={60 * SLOWNESS:.0f}"

# On a busy machine the emulated timer's first ticks come too late for the kernel,
# which then takes the timer for broken.
TIMER = "no_timer_check"


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


def may_be_saved(machine: Machine) -> bool:
    """Whether a guest on such a machine can be saved after it has booted, and started from
    there: one that keeps nothing but memory, and nothing outside of its QEMU."""
    plain = machine == Machine(machine.memory, machine.devices, cmdline=machine.cmdline)
    return plain and emulated() and not any(
        d.requested or d.shared or d.allocated_in for d in machine.devices
    )


def said(found: list[str]) -> str:
    """What is told of the splats that were found."""
    return f"the guest's kernel says: {'; '.join(found[:8])}"


class Guest(Reboots):
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
        raced_compaction: bool = False,
        kexec: bool = False,
        crash: bool = False,
        sleeps: bool = False,
        no_devices: bool = False,
        accel: str | None = None,
        memory: int = Machine.memory,
        **machine: Any,
    ) -> None:
        """Boots a guest and loads the driver under test (not with `load=False`).

        `policy` is the guest's default for onlining memory, as in
        /sys/devices/system/memory/auto_online_blocks. Without it, it is what the
        driver wants: ours nothing, the C driver online_movable, as it gets back
        no memory that the kernel itself can use. With `failed_migrations` the
        kernel may report that it could not move pages for want of free ones, with
        `failed_allocations` that it could not allocate any, whatever for, and with
        `expendable` that it has killed a load that was to be killed first. With
        `raced_compaction` its compaction of memory may run into memory that goes
        offline; whether that has `spoiled` it is known when splats() were looked for.
        With `kexec` it has what kexec() needs, with `crash` what crash() needs, and
        may crash by SysRq when another kernel comes after it. With `sleeps` it can be
        suspended to RAM: what wakes it up knows no uncompressed kernels. Without
        `devices` it has one of QEMU's, or with `no_devices` none. `accel` is one of
        ACCELERATORS, if not the fastest that works. To its `memory` comes what the kernel
        under test needs more of it than the stock kernel.
        """
        kernel = Kernel.under_test()
        self.driver = driver or driver_under_test()
        if self.driver == "rust" and not MODULE.exists():
            raise TestFailure(f"{MODULE} does not exist: build it first")
        if policy is None and self.driver == "c":
            policy = "online_movable"
        words = [HUNG_TASK, TIMER, *kernel.checks, cmdline]
        if policy is not None:
            words.append(f"memhp_default_state={policy}")
        if crash:
            words.append(CRASH_MEMORY)
        self.machine = Machine(
            devices=() if no_devices else devices or (MemDevice(),),
            cmdline=" ".join(filter(None, words)),
            memory=memory + OVERHEAD,
            **machine,
        )
        self.failed_migrations = failed_migrations
        self.failed_allocations = failed_allocations
        self.expendable = expendable
        self.raced_compaction = raced_compaction
        # Whether that was seen: who was killed has kept the pages it had isolated.
        self.spoiled = False
        self.may_crash = crash
        # Whether lockdep has given up.
        self.unchecked = False
        self.console = LOGS / f"{log or Guest.log_name}.console.log"
        image = kexec_initramfs(kernel) if kexec or crash else initramfs(kernel)
        arguments = ACCELERATORS[accel or accelerator()]
        start = kernel.image if sleeps else kernel.boot_image
        saved = None
        if may_be_saved(self.machine) and accel is None and not (kexec or crash or sleeps):
            saved = Saved(self.machine, arguments, start, image)
        for tries in reversed(range(BOOT_TRIES)):
            if saved is not None and saved.is_due(f"{self.console.name} {tries}"):
                if self._start(saved):
                    break
            self._attach(Qemu(self.machine, arguments, start, image, self.console))
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

    def _start(self, saved: Saved) -> bool:
        """Starts the guest where one like it has been saved, or saves it first; returns
        whether that could be done."""
        try:
            if not saved.there():
                with saved.booting(self.console) as qemu:
                    if qemu is None:
                        return False
                    self._attach(qemu)
                    try:
                        self._wait_up()
                    finally:
                        self.channel.close()
            self._attach(saved.start(self.console))
        except (TestFailure, Refused) as failure:
            print(f"{failure}; booting it instead")
            return False
        try:
            self._wait_up()
            self.sh(f"vmem-guest reseed {secrets.token_hex(32)}")
        except BaseException as failure:
            self.close()
            if not isinstance(failure, TestFailure):
                raise
            print(f"{failure}; booting it instead")
            return False
        return True

    def _attach(self, qemu: Qemu) -> None:
        self.qemu = qemu
        self.channel = Channel(qemu.port(CHANNEL))

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
            status = self.qemu.process.poll()
            if status is not None:
                errors = self.qemu.errors.read_text(errors="replace").strip()
                # It aborts on assertions of its own: no driver has been loaded yet.
                if errors and status != -signal.SIGABRT:
                    raise TestFailure(f"QEMU has ended early: {errors}")
                raise BootFailure(f"the guest has ended while it booted: {errors or status}")
            # Without a message the channel has been closed: QEMU is about to end.
            if not call.messages.empty() and call.messages.queue[0] is not None:
                checked(call)
                return
            time.sleep(0.02)
        raise BootFailure(f"the guest did not boot within {BOOT_PATIENCE:g} s")

    def _last_line(self) -> str:
        log = self.console.read_text(errors="replace") if self.console.exists() else ""
        lines = log.splitlines()
        return repr(lines[-1] if lines else "")

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

    def wait_stuck(self, reason: str) -> None:
        """Waits until the driver goes no further, which ours gives a reason for."""
        if self.driver == "rust":
            self.wait_waiting(reason)
        else:
            self.settle(quiet=3)

    # The end

    def splats(self) -> list[str]:
        whole = self.console.read_text(errors="replace")
        log = without_state_store(whole)
        if log != whole and not self.unchecked:
            self.unchecked = True
            print("lockdep has reported state_store(), and looks no further in this guest")
        if self.failed_migrations:
            log = without_failed_migrations(log)
        if self.failed_allocations:
            log = without_failed_allocations(log)
        if self.expendable:
            log = without_expendable(log)
        if self.raced_compaction:
            before, log = log, without_raced_compaction(log)
            self.spoiled = log != before
        return splats(without_crash(log) if self.may_crash else log)

    def expect_clean_log(self) -> None:
        """Fails if the kernel has complained about anything."""
        found = self.splats()
        if found:
            raise TestFailure(said(found))

    def expect_sound_machine(self, failure: Exception) -> None:
        """Raises MachineFailure if `failure` comes from the emulator and not from the guest."""
        if FAILED_EMULATOR in self.qemu.errors.read_text(errors="replace"):
            raise MachineFailure(f"QEMU has failed over a memory map: {failure}") from failure
        late = isinstance(failure, TooLate | TestTimeout)
        log = self.console.read_text(errors="replace")
        if late and lost_an_interrupt(log, self.splats()):
            raise MachineFailure(f"the machine has lost an interrupt: {failure}") from failure

    def expect_no_leaks(self) -> None:
        """Fails if the kernel has lost memory, where the kernel can tell."""
        # Who was killed in the kernel has freed nothing of its own.
        if not look_for_leaks() or self.spoiled or self.qemu.process.poll() is not None:
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
        try:
            self.qemu.stop()
        finally:
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
                # However a test notices that QEMU is gone.
                if isinstance(value, Exception):
                    self.expect_sound_machine(value)
                found = self.splats()
                if found and value is not None:
                    value.add_note(said(found))
        finally:
            self.close()
