# SPDX-License-Identifier: GPL-2.0
"""A QEMU process: its command line, its life, its monitor."""

import contextlib
import os
import signal
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qemu.qmp.legacy import QEMUMonitorProtocol

from .units import GIB, MIB

QEMU = "qemu-system-x86_64"


@dataclass(frozen=True)
class MemDevice:
    """A virtio-mem device."""

    name: str = "vm0"
    size: int = 8 * GIB
    node: int = 0
    block_size: int = 2 * MIB
    requested: int = 0


@dataclass(frozen=True)
class Machine:
    """What the guest's hardware is."""

    memory: int = 2 * GIB
    devices: tuple[MemDevice, ...] = (MemDevice(),)
    # With more than one node, memory and processors are spread evenly.
    nodes: int = 1
    cpus: int = 2
    cmdline: str = ""
    extra: tuple[str, ...] = field(default=())

    @property
    def max_memory(self) -> int:
        # A device's region is aligned to what the guest may map at once.
        return self.memory + sum(device.size + GIB for device in self.devices)

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
        for device in self.devices:
            backend = f"{device.name}-memory"
            arguments += [
                "-object",
                f"memory-backend-ram,id={backend},size={device.size},reserve=off",
                "-device",
                f"virtio-mem-pci,id={device.name},memdev={backend},node={device.node},"
                f"block-size={device.block_size},requested-size={device.requested}",
            ]
        return [*arguments, *self.extra]


class Qemu:
    """A running QEMU."""

    def __init__(
        self, machine: Machine, accel: list[str], kernel: Path, initrd: Path, console: Path
    ) -> None:
        ours = {}
        theirs = {}
        for name in ("qmp", "channel"):
            ours[name], theirs[name] = socket.socketpair()
        cmdline = f"console=ttyS0 ignore_loglevel panic=-1 {machine.cmdline}".strip()
        command = [
            *(QEMU, "-nodefaults", "-no-user-config", "-nographic", "-no-reboot"),
            *("-machine", "q35", *accel),
            *("-kernel", str(kernel), "-initrd", str(initrd), "-append", cmdline),
            *("-chardev", f"file,id=console,path={console}", "-serial", "chardev:console"),
            *("-chardev", f"socket,id=qmp,fd={theirs['qmp'].fileno()}"),
            *("-mon", "chardev=qmp,mode=control"),
            *("-chardev", f"socket,id=channel,fd={theirs['channel'].fileno()}"),
            *("-device", "virtio-serial-pci"),
            *("-device", "virtserialport,chardev=channel,name=vmem"),
            *machine.arguments(),
        ]
        console.parent.mkdir(parents=True, exist_ok=True)
        self.errors = console.with_suffix(".qemu")
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=subprocess.STDOUT,
                pass_fds=[end.fileno() for end in theirs.values()],
                # A group of its own, so that it is killed with all it starts.
                start_new_session=True,
            )
        for end in theirs.values():
            end.close()
        self.command = command
        self.channel = ours["channel"]
        self._qmp_socket = ours["qmp"]
        self._qmp: QEMUMonitorProtocol | None = None

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Executes a monitor command; raises what QEMU says against it."""
        if self._qmp is None:
            qmp = QEMUMonitorProtocol(self._qmp_socket)
            qmp.settimeout(60)
            qmp.connect()
            self._qmp = qmp
        return self._qmp.cmd(command, **arguments)

    def stop(self) -> None:
        """Kills QEMU and all it has started; harmless when repeated."""
        if self._qmp is not None:
            # It is about to be killed: how it parts does not matter.
            with contextlib.suppress(Exception):
                self._qmp.close()
            self._qmp = None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.channel.close()
        self._qmp_socket.close()
