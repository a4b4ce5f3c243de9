# SPDX-License-Identifier: GPL-2.0
"""A guest that boots again, starts another kernel, or moves to another QEMU."""

import contextlib
import queue
import time
from collections.abc import Iterator

from .accel import emulated
from .errors import TestFailure, TooLate, expect
from .initramfs import KEXEC_INITRD, KEXEC_KERNEL
from .kernel import OVERHEAD, SLOWNESS
from .qemu import CHANNEL
from .resizing import Resizing
from .units import GIB, MIB

# How long a kernel may take to come up, in seconds.
BOOT_PATIENCE = 40.0 * SLOWNESS

# For how long loading a kernel is tried again while the kernel is busy with another one, in seconds.
BUSY_PATIENCE = 20.0 * SLOWNESS

# What is set aside for a crash kernel, and what it is told besides.
CRASH_MEMORY = f"crashkernel={256 + OVERHEAD // MIB}M"
CRASH_CMDLINE = "nr_cpus=1 reset_devices"

# Different in each boot.
BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Reboots(Resizing):
    """A guest whose kernel, or whose machine, is replaced."""

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
                raise TooLate(f"no other kernel has come up in {BOOT_PATIENCE:g} s")
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
        end = time.monotonic() + BUSY_PATIENCE
        # Busy: the kernel tells the one that is loaded of a memory block.
        while (result := self.run(*argv)).rc != 0 and "os error 16" in result.stderr:
            if time.monotonic() > end:
                break
        expect(result.rc == 0, f"cannot load another kernel: {result.stderr.strip()}")

    def _run_unanswered(self, *argv: str) -> None:
        self.channel.send("run", " ".join(argv), argv=argv)

    # Another QEMU

    def migrate(self, patience: float = 60) -> bool:
        """Has another QEMU take the guest; returns whether it did.

        Gives up, which changes nothing, when it is not done within `patience` seconds.
        Nothing may be asked of the guest meanwhile. An emulated one stands still: which
        pages it writes to again QEMU does not see in all of its memory, or it ends with
        a failed assertion (in 10.0, physical_memory_dirty_bits_cleared() is called with
        an offset in a block of memory where it wants an address).
        """
        before, after = self.qemu, self.qemu.successor()
        still = emulated()
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
            # As long as it arrives, `cont` says no more than that it may run then, and a guest
            # that has been stopped stays so.
            self.wait_until(lambda: self._status() != "inmigrate", 60, "does not arrive")
            if still:
                self.qemu.qmp("cont")
            self.wait_until(
                lambda: self._status() == "running", 60, lambda: f"it is {self._status()}"
            )
        finally:
            (before if moved else after).stop()
        return moved

    def _status(self) -> str:
        return str(self.qemu.qmp("query-status")["status"])

    def reconnect(self) -> None:
        """Hangs up and connects to the guest anew.

        Linux 7.3.4, back from sleep, asks its virtio-serial ports whether the host is
        there before it can take the answers (virtcons_restore()), and writes nothing to
        them until it hears of the host again.
        """
        self.channel.reattach(self.qemu.port(CHANNEL))
