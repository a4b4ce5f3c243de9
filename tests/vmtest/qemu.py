# SPDX-License-Identifier: GPL-2.0
"""A QEMU process: its command line, its life, its monitor."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qemu.qmp.legacy import QEMUMonitorProtocol, QMPError

from .units import GIB, MIB

QEMU = "qemu-system-x86_64"

# What Qemu.qmp() raises when QEMU refuses to do something.
Refused = QMPError

# The name of the virtio-serial port that the guest's first process listens at.
CHANNEL = "vmem"

# While the kernel boots, only its notices and complaints go to the serial console, which
# is slow; the guest's first process lets the rest through.
QUIET = "loglevel=6"

# Where the addresses begin that memory devices can have, with memory of up to
# 2 GiB: all of that is below 4 GiB then.
DEVICE_MEMORY = 4 * GIB


@dataclass(frozen=True)
class MemDevice:
    """A virtio-mem device."""

    name: str = "vm0"
    size: int = 8 * GIB
    node: int = 0
    block_size: int = 2 * MIB
    requested: int = 0
    # Where its region is; 0 leaves it to QEMU.
    address: int = 0
    # The PCI bus it is on; by default one from which it cannot be taken.
    bus: str = ""
    # Whether its memory is a file, whose size tells what of it was ever touched.
    shared: bool = False
    # A directory for a file with its memory, which is allocated when it is plugged: the host has
    # as much room as there is.
    allocated_in: str = ""

    @property
    def options(self) -> dict[str, str | int]:
        """The device, whose memory is `backend`, as -device and device_add take it."""
        options: dict[str, str | int] = {
            "driver": "virtio-mem-pci",
            "id": self.name,
            "memdev": self.backend,
            "node": self.node,
            "block-size": self.block_size,
            "requested-size": self.requested,
        }
        if self.address:
            options["memaddr"] = self.address
        if self.bus:
            options["bus"] = self.bus
        if self.allocated_in:
            options["prealloc"] = "on"
        return options

    @property
    def backend(self) -> str:
        """The name of the memory that it offers."""
        return f"{self.name}-memory"


@dataclass(frozen=True)
class Machine:
    """What the guest's hardware is."""

    memory: int = 2 * GIB
    devices: tuple[MemDevice, ...] = (MemDevice(),)
    # With more than one node, memory and processors are spread evenly.
    nodes: int = 1
    cpus: int = 2
    cmdline: str = ""
    # Whether QEMU goes on when the guest reboots, or is reset; it ends if not.
    reboot: bool = False
    # The names of more virtio-serial ports; Qemu.port() is the host's end of one.
    ports: tuple[str, ...] = ()
    extra: tuple[str, ...] = field(default=())
    # A file with the machine's memory, which is written to it, or is only where the
    # memory's content comes from.
    ram: Path | None = None
    ram_written: bool = False

    @property
    def max_memory(self) -> int:
        # A device's region is aligned to what the guest may map at once, and one
        # that is told where to be leaves a gap.
        ends = [device.address + device.size for device in self.devices if device.address]
        gap = max(0, max(ends, default=0) - DEVICE_MEMORY)
        return self.memory + gap + sum(device.size + GIB for device in self.devices)

    def arguments(self) -> list[str]:
        mib = self.memory // MIB
        arguments = ["-m", f"{mib}M,maxmem={self.max_memory // MIB}M"]
        # A socket of its own for each node: Linux warns of a socket on two.
        arguments += ["-smp", f"{self.cpus},sockets={self.nodes}"]
        if self.nodes > 1:
            for node in range(self.nodes):
                cpus = "".join(
                    f",cpus={cpu}" for cpu in range(self.cpus) if cpu % self.nodes == node
                )
                arguments += [
                    *("-object", f"memory-backend-ram,id=ram{node},size={mib // self.nodes}M"),
                    *("-numa", f"node,nodeid={node},memdev=ram{node}{cpus}"),
                ]
        if self.ram is not None:
            access = "share=on" if self.ram_written else "share=off,readonly=on,rom=off"
            arguments += [
                *("-object", f"memory-backend-file,id=ram,size={mib}M,mem-path={self.ram},{access}"),
                *("-machine", "memory-backend=ram"),
            ]
        for device in self.devices:
            kind = "memory-backend-memfd,share=on" if device.shared else "memory-backend-ram"
            if device.allocated_in:
                kind = f"memory-backend-file,share=on,mem-path={device.allocated_in}"
            pairs = ",".join(f"{name}={value}" for name, value in device.options.items())
            arguments += [
                "-object",
                f"{kind},id={device.backend},size={device.size},reserve=off",
                "-device",
                pairs.removeprefix("driver="),
            ]
        # What a device is on has to come before it.
        return [*self.extra, *arguments]


def ends_with_us() -> tuple[str, ...]:
    """What to begin a command with so that whatever ends this process ends that, too. The kernel
    takes the end of the thread that has started it for that: another thread's goes on."""
    if threading.current_thread() is not threading.main_thread():
        return ()
    return "setpriv", "--pdeathsig", "KILL"


class Qemu:
    """A running QEMU."""

    def __init__(
        self,
        machine: Machine,
        accel: list[str],
        kernel: Path,
        initrd: Path,
        console: Path,
        incoming: bool = False,
    ) -> None:
        """Starts QEMU; with `incoming` it waits for the guest of another one, and its
        console log goes on where that of the other ends."""
        # Its path is short, as that of a socket has to be.
        self._sockets = tempfile.TemporaryDirectory(prefix="vmem-")
        self._qmp_socket, qmp = socket.socketpair()
        channel = socket.socket(socket.AF_UNIX)
        channel.bind(self._port_path(CHANNEL))
        # From here on it can be connected to, whenever QEMU accepts that.
        channel.listen(1)
        cmdline = f"console=ttyS0 {QUIET} panic=-1 {machine.cmdline}".strip()
        command = [
            *ends_with_us(),
            *(QEMU, "-nodefaults", "-no-user-config", "-nographic"),
            *(() if machine.reboot else ("-no-reboot",)),
            *("-machine", "q35", *accel),
            *("-kernel", str(kernel), "-initrd", str(initrd), "-append", cmdline),
            *("-chardev", f"file,id=console,path={console},append={'on' if incoming else 'off'}"),
            *("-serial", "chardev:console"),
            *("-chardev", f"socket,id=qmp,fd={qmp.fileno()}"),
            *("-mon", "chardev=qmp,mode=control"),
            *("-chardev", f"socket,id=channel,fd={channel.fileno()},server=on,wait=off"),
            *("-device", "virtio-serial-pci"),
            *("-device", f"virtserialport,chardev=channel,name={CHANNEL}"),
            *self._port_arguments(machine),
            *machine.arguments(),
            *(("-incoming", "defer") if incoming else ()),
        ]
        console.parent.mkdir(parents=True, exist_ok=True)
        self.errors = console.with_suffix(".qemu")
        with self.errors.open("ab" if incoming else "wb") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=subprocess.STDOUT,
                pass_fds=[qmp.fileno(), channel.fileno()],
                # A group of its own, so that it is killed with all it starts.
                start_new_session=True,
            )
        qmp.close()
        channel.close()
        self.command = command
        self._qmp: QEMUMonitorProtocol | None = None
        # One command at a time, of whichever thread.
        self._qmp_lock = threading.Lock()
        self._settings = (machine, accel, kernel, initrd, console)

    def successor(self) -> "Qemu":
        """Another QEMU, for the guest of this one to migrate to."""
        return Qemu(*self._settings, incoming=True)

    @property
    def incoming(self) -> str:
        """Where a successor takes its guest from, as QEMU calls it."""
        return f"unix:{self._port_path('incoming')}"

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Executes a monitor command; raises what QEMU says against it."""
        with self._qmp_lock:
            if self._qmp is None:
                qmp = QEMUMonitorProtocol(self._qmp_socket)
                qmp.settimeout(60)
                qmp.connect()
                self._qmp = qmp
            return self._qmp.cmd(command, **arguments)

    def _port_arguments(self, machine: Machine) -> list[str]:
        arguments = []
        for number, name in enumerate(machine.ports):
            socket_options = f"path={self._port_path(name)},server=on,wait=off"
            arguments += ["-chardev", f"socket,id=port{number},{socket_options}"]
            arguments += ["-device", f"virtserialport,chardev=port{number},name={name}"]
        return arguments

    def _port_path(self, name: str) -> str:
        return f"{self._sockets.name}/{name}"

    def port(self, name: str) -> socket.socket:
        """Opens the host's end of a virtio-serial port, which one at a time can."""
        end = socket.socket(socket.AF_UNIX)
        end.connect(self._port_path(name))
        return end

    def touched(self, device: MemDevice) -> int:
        """How much of a device's shared memory the machine has memory for: what
        was written or read, and not discarded since."""
        for descriptor in Path(f"/proc/{self.process.pid}/fd").iterdir():
            if descriptor.readlink().name.startswith("memfd:memory-backend"):
                status = descriptor.stat()
                if status.st_size == device.size:
                    # In units of 512 bytes, whatever st_blksize is.
                    return status.st_blocks * 512
        raise RuntimeError(f"the memory of {device.name} is not shared")

    def stop(self) -> None:
        """Kills QEMU and all it has started; harmless when repeated."""
        # First of all, as a test's time limit may strike in what follows.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        try:
            self.process.wait()
        finally:
            if self._qmp is not None:
                # It has been killed: how it parts does not matter.
                with contextlib.suppress(Exception):
                    self._qmp.close()
                self._qmp = None
            self._qmp_socket.close()
            self._sockets.cleanup()
