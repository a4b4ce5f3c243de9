# SPDX-License-Identifier: GPL-2.0
"""Choosing QEMU's accelerator by trying it.

That /dev/kvm exists says little: nested, it may hang or abort. So a guest is
booted to its first process under a time limit, and the answer is kept until the
machine is started again.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from .initramfs import initramfs
from .kernel import Kernel
from .paths import WORK
from .qemu import Machine, Qemu

ACCELERATORS = {
    "kvm": ["-accel", "kvm", "-cpu", "host"],
    # Without the string instructions that real processors are fast at: an emulated one takes a
    # byte at a time, and the kernel would clear and copy with them.
    "tcg": ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off,erms=off,fsrm=off"],
    # With all that there is, so that the kernel does what it does on a real processor.
    "tcg-max": ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"],
    # One processor at a time, and a nanosecond of the guest's for each instruction: what the
    # guest measures is how many instructions it has executed, whatever the machine does.
    "icount": ["-accel", "tcg,thread=single", "-cpu", "max,la57=off", "-icount", "shift=0"],
}

# A guest that runs on the processor is up in a second or two.
PATIENCE = 15.0


@cache
def _choice() -> tuple[str, str]:
    """The fastest accelerator that works here, and why it is not a faster one."""
    chosen = os.environ.get("VMEM_ACCEL")
    if chosen:
        if chosen not in ACCELERATORS:
            raise RuntimeError(f"VMEM_ACCEL={chosen}: one of {', '.join(ACCELERATORS)}")
        return chosen, "as VMEM_ACCEL says"
    WORK.mkdir(parents=True, exist_ok=True)
    file = WORK / "accelerator.json"
    key = _key()
    try:
        answer = json.loads(file.read_text())
    except (OSError, ValueError):
        answer = {}
    if answer.get("key") != key:
        problem = _problem_with_kvm()
        answer = {"key": key, "name": "tcg" if problem else "kvm", "problem": problem}
        file.write_text(json.dumps(answer) + "\n")
        if problem:
            print(f"# KVM {problem}: falling back to TCG, which is slower", file=sys.stderr)
    problem = answer["problem"]
    return answer["name"], f"KVM {problem}" if problem else ""


def accelerator() -> str:
    """The name of the accelerator to use."""
    return _choice()[0]


def emulated() -> bool:
    """Whether guests run on emulated processors."""
    return accelerator() != "kvm"


def describe_accelerator() -> str:
    """The accelerator, and why it is not a faster one."""
    name, reason = _choice()
    return f"{name.upper()} ({reason})" if reason else name.upper()


def _key() -> str:
    """Changes with everything that may change the answer."""
    parts = [Path("/proc/sys/kernel/random/boot_id").read_text(), str(os.getuid())]
    try:
        status = os.stat("/dev/kvm")
        parts.append(f"{status.st_rdev} {status.st_mode} {status.st_gid}")
    except OSError:
        parts.append("no kvm")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _problem_with_kvm() -> str | None:
    """What is wrong with KVM; None if it works."""
    if not os.path.exists("/dev/kvm"):
        return "is not there"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "may not be used by this user"
    kernel = Kernel.under_test()
    with tempfile.TemporaryDirectory() as directory:
        console = Path(directory) / "console"
        machine = Machine(devices=(), cpus=1, cmdline="vmem.poweroff")
        image = initramfs(kernel)
        qemu = Qemu(machine, ACCELERATORS["kvm"], kernel.boot_image, image, console)
        try:
            status = qemu.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return f"does not boot a guest within {PATIENCE:.0f} s"
        finally:
            qemu.stop()
        up = console.exists() and "vmem-guest: up" in console.read_text(errors="replace")
        return None if status == 0 and up else f"fails (QEMU ended with status {status})"
