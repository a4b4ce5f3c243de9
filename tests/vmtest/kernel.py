# SPDX-License-Identifier: GPL-2.0
"""The kernel to boot, and its modules."""

import lzma
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .paths import FLAVOUR, STOCK, WORK, kernel_dir
from .units import MIB


def slowness(flavour: str) -> float:
    """How many times longer things may take than on the stock kernel in a guest that
    has the machine to itself: others run beside it, and the other kernels look at
    every access to memory, and at every lock."""
    return 2.0 if flavour == STOCK else 8.0


# That of the kernel under test.
SLOWNESS = slowness(FLAVOUR)


# What that needs for itself beyond what the stock kernel needs, of a GiB, in bytes.
OVERHEAD = 0 if FLAVOUR == STOCK else 256 * MIB


# What kernels to find mistakes with have to be told when they start, so that they do, and
# look at nothing in which there are none.
CHECKS = {
    "CONFIG_PAGE_OWNER": "page_owner=on",
    "CONFIG_PAGE_TABLE_CHECK": "page_table_check=on",
    # What a processor keeps of free objects, or has kept, is found to point to them: one
    # that was once among them never looks lost (SLUB's sheaves, from which pointers are
    # not erased). Caches that are checked have none.
    # Its 64 MiB of buffers for devices that reach no more than 4 GiB are only scanned.
    "CONFIG_DEBUG_KMEMLEAK": "slab_debug=F swiotlb=noforce",
}


@dataclass(frozen=True)
class Kernel:
    """A kernel image with the modules directory that belongs to it."""

    directory: Path

    @classmethod
    def under_test(cls) -> "Kernel":
        return cls(kernel_dir())

    @cached_property
    def release(self) -> str:
        return (self.directory / "release").read_text().strip()

    @cached_property
    def _config(self) -> frozenset[str]:
        return frozenset((self.directory / "build" / ".config").read_text().splitlines())

    def has(self, option: str) -> bool:
        """Whether an option is set in the configuration, as built in or as a module."""
        return f"{option}=y" in self._config or f"{option}=m" in self._config

    @property
    def checks(self) -> list[str]:
        """Words for its command line with which it looks for mistakes: not the stock
        kernel, which is tested as it is shipped."""
        if FLAVOUR == STOCK:
            return []
        return [word for option, word in CHECKS.items() if self.has(option)]

    @property
    def poison(self) -> str:
        """The word with which such a kernel fills free memory, and looks whether it has
        changed: guests with much memory take two to three times as long."""
        checked = FLAVOUR != STOCK and self.has("CONFIG_PAGE_POISONING")
        return "page_poison=1" if checked else ""

    @property
    def image(self) -> Path:
        """As it is shipped, and as boot loaders and kexec want it."""
        return self.directory / "vmlinuz"

    @cached_property
    def boot_image(self) -> Path:
        """What QEMU starts: the same uncompressed where it can be entered that way (PVH).

        An emulated processor takes seconds to unpack and relocate a kernel.
        """
        if not self.has("CONFIG_PVH"):
            return self.image
        status = self.image.stat()
        target = WORK / f"vmlinux-{self.release}-{status.st_size}-{int(status.st_mtime)}"
        if not target.exists():
            WORK.mkdir(parents=True, exist_ok=True)
            script = self.directory / "linux" / "scripts" / "extract-vmlinux"
            # Never seen half written.
            with tempfile.NamedTemporaryFile(dir=WORK, delete=False) as output:
                result = subprocess.run(
                    [script, self.image], stdout=output, stderr=subprocess.PIPE, text=True
                )
            if result.returncode:
                Path(output.name).unlink()
                raise RuntimeError(f"{script} {self.image}: {result.stderr.strip()}")
            Path(output.name).rename(target)
        return target

    @property
    def modules(self) -> Path:
        return self.directory / "lib" / "modules" / self.release

    @property
    def c_driver(self) -> Path:
        """The kernel's own virtio_mem module, compressed or not."""
        return next(self.modules.glob("kernel/drivers/virtio/virtio_mem.ko*"))

    def needed(self, *names: str) -> list[Path]:
        """The modules to load, in order, for the named ones to be there.

        Empty where all of them are built into the image.
        """
        dependencies: dict[str, list[str]] = {}
        for line in (self.modules / "modules.dep").read_text().splitlines():
            file, _, rest = line.partition(":")
            name = Path(file).name.split(".")[0].replace("-", "_")
            # modules.dep lists the farthest dependency last.
            dependencies[name] = [*reversed(rest.split()), file]
        order: list[str] = []
        for name in names:
            files = dependencies.get(name, [])
            order += [file for file in files if file not in order]
        return [self.modules / file for file in order]


def module_bytes(file: Path) -> bytes:
    """A module's content, decompressed: the guest's tools need not know xz."""
    data = file.read_bytes()
    return lzma.decompress(data) if file.suffix == ".xz" else data
