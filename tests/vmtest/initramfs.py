# SPDX-License-Identifier: GPL-2.0
"""The guests' only file system: busybox, our tool, modules, the agent."""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from .build import guest_tool
from .kernel import Kernel, module_bytes
from .paths import AGENT, FLAVOUR, HOOKS, MODULE, TEST_DEVICE, UNSCANNED, WORK

BUSYBOX = Path("/bin/busybox")

# What the command channel needs, where it is not built into the kernel.
CHANNEL_MODULES = ("virtio_pci", "virtio_console")

# What single tests load, from /modules, by file name.
SPARE_MODULES = ("memory_notifier_error_inject", "virtio_balloon", "virtio_blk", "zram")

# The drivers to choose from, by name, with their paths in the guest.
DRIVERS = {
    "rust": "/modules/rust/virtio_mem.ko",
    "hooks": "/modules/hooks/virtio_mem.ko",
    "c": "/modules/c/virtio_mem.ko",
}

# For how long an archive is kept that is not asked for, in seconds. A run that goes on while another
# one has made it anew starts guests with it until its end.
KEPT = 86_400.0

# What kexec_initramfs() adds.
KEXEC_KERNEL = "/kexec/vmlinuz"
KEXEC_INITRD = "/kexec/initrd"


def initramfs(kernel: Kernel) -> Path:
    """The path of the archive, made anew only if something in it has changed."""
    tool = guest_tool()
    sources = [BUSYBOX, tool, kernel.c_driver, Path(__file__)]
    sources += [file for file in (MODULE, HOOKS, TEST_DEVICE, UNSCANNED, AGENT) if file.exists()]
    archive = WORK / f"{FLAVOUR}-initramfs-{_key(sources)}.cpio"
    if not _used(archive):
        WORK.mkdir(parents=True, exist_ok=True)
        _remove_unused()
        with tempfile.TemporaryDirectory(dir=WORK) as staging:
            _populate(Path(staging), kernel, tool)
            _pack(Path(staging), archive)
    return archive


def _used(archive: Path) -> bool:
    """Notes that an archive is asked for; returns whether it is there."""
    try:
        os.utime(archive)
    except FileNotFoundError:
        return False
    return True


def _remove_unused() -> None:
    for old in WORK.glob(f"{FLAVOUR}-initramfs-*.cpio"):
        # Another run may be at it, too.
        with suppress(FileNotFoundError):
            if time.time() - old.stat().st_mtime > KEPT:
                old.unlink()


def kexec_initramfs(kernel: Kernel) -> Path:
    """The same with a kernel and an archive to start from in the guest."""
    base = initramfs(kernel)
    archive = base.with_name(base.name.replace("-initramfs-", "-initramfs-kexec-"))
    if not _used(archive):
        with tempfile.TemporaryDirectory(dir=WORK) as staging:
            root = Path(staging)
            for source, path in ((kernel.image, KEXEC_KERNEL), (base, KEXEC_INITRD)):
                target = root / path.lstrip("/")
                target.parent.mkdir(exist_ok=True)
                shutil.copy(source, target)
            # The kernel unpacks one archive after the other.
            _pack(root, archive, base.read_bytes())
    return archive


def _key(sources: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in sources:
        status = file.stat()
        digest.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def _populate(root: Path, kernel: Kernel, tool: Path) -> None:
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (root / name).mkdir()
    shutil.copy(BUSYBOX, root / "bin/busybox")
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    for applet in applets.stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    # Modules are looked for by modprobe, and helpers started by the kernel, in /sbin.
    (root / "sbin").symlink_to("bin")
    shutil.copy(tool, root / "bin/vmem-guest")
    (root / "init").symlink_to("bin/vmem-guest")

    drivers = {"c": kernel.c_driver}
    drivers |= {name: file for name, file in (("rust", MODULE), ("hooks", HOOKS)) if file.exists()}
    for name, file in drivers.items():
        target = root / DRIVERS[name].lstrip("/")
        target.parent.mkdir(parents=True)
        target.write_bytes(module_bytes(file))
    for file in (TEST_DEVICE, UNSCANNED):
        if file.exists():
            shutil.copy(file, root / "modules")
    if AGENT.exists():
        shutil.copy(AGENT, root / "bin/virtio-mem-agent")

    listed = []
    at_boot = kernel.needed(*CHANNEL_MODULES)
    for file in kernel.needed(*CHANNEL_MODULES, *SPARE_MODULES):
        target = root / "modules" / file.name.removesuffix(".xz")
        target.write_bytes(module_bytes(file))
        if file in at_boot:
            listed.append(f"/{target.relative_to(root)}\n")
    (root / "etc/vmem-modules").write_text("".join(listed))


def _pack(root: Path, archive: Path, before: bytes = b"") -> None:
    files = [str(path.relative_to(root)) for path in sorted(root.rglob("*"))]
    # Never seen half written, not even by another run at the same time, which may have
    # the same process ID in its own namespace.
    with tempfile.NamedTemporaryFile(dir=archive.parent, delete=False) as output:
        unfinished = Path(output.name)
        output.write(before)
        output.flush()
        subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"],
            cwd=root,
            input="\n".join(files).encode(),
            stdout=output,
            check=True,
        )
    unfinished.rename(archive)
