# SPDX-License-Identifier: GPL-2.0
"""What fills the memory of guests that are used: files, swap, pools of huge pages."""

import time

from ..disk import insmod, mount, read_file, use_swap
from ..errors import TestFailure
from ..guest import Guest
from ..hugetlb import Pool
from ..units import MIB
from .activity import Activity, attempt

TMPFS = "/tmp/soak-tmpfs"

# Left to others when memory is used for a file, in bytes.
SPARED = 192 * MIB

# A device whose content is compressed memory, for a file system whose files are all hole ...
FILES = ("/dev/zram0", 64 * MIB)
# ... and for swap.
SWAP = ("/dev/zram1", 512 * MIB)


def prepare(guest: Guest) -> None:
    """Gives a guest a file system, a tmpfs, and swap."""
    insmod(guest, "zram", "num_devices=2")
    for device, size in (FILES, SWAP):
        guest.write(f"/sys/block/{device.rpartition('/')[2]}/disksize", str(size))
    mount(guest, FILES[0])
    use_swap(guest, SWAP[0])
    guest.sh(f"mkdir {TMPFS} && mount -t tmpfs -o size=512M none {TMPFS}")


class Files(Activity):
    """Files are read, so that they are in the page cache, and written to a tmpfs and read back."""

    name = "files"
    pause = (2.0, 8.0)

    def run(self) -> str:
        size = self.dice.randrange(16, 512) * MIB
        if self.dice.random() < 0.5:
            read_file(self.guest, "/tmp/disk/file", size)
            return f"{size // MIB} MiB read"
        return self.keep(self.dice.randrange(8, 64) * MIB)

    def keep(self, size: int) -> str:
        """Writes a file to the tmpfs, and looks some time later whether it is as it was."""
        file = f"{TMPFS}/file"
        if self.guest.meminfo("MemAvailable") < size + SPARED:
            self.effective = False
            return "no room for a file"
        write = f"dd if=/dev/urandom of={file} bs=1M count={size // MIB} 2>/dev/null && md5sum {file}"
        before = attempt(self.guest, write)
        if before.rc == 0:
            self.site.pause(self.dice.uniform(1, 8))
            after = attempt(self.guest, f"md5sum {file}")
            if after.rc == 0 and after.stdout != before.stdout:
                raise TestFailure(f"a file in a tmpfs has changed: {before.stdout}, {after.stdout}")
        self.guest.sh(f"rm -f {file}")
        self.effective = before.rc == 0
        return f"{size // MIB} MiB in a tmpfs ({before.rc})"


class HugePages(Activity):
    """A pool of huge pages that grows and shrinks, and is as large as it was made."""

    name = "pool of huge pages"
    pause = (2.0, 8.0)

    def run(self) -> str:
        pool, wanted = Pool(self.guest), self.dice.randrange(48)
        before = self.site.meddled
        got = pool.ask_for(wanted)
        time.sleep(self.dice.uniform(0.5, 4))
        after, left = self.site.meddled, pool.total()
        # Who takes a memory block offline by hand takes its free pages from the pool.
        if left < got and before == after and before % 2 == 0:
            raise TestFailure(f"the pool had {got} pages, and has {left}")
        self.effective = got > 0 or wanted == 0
        return f"{wanted} pages asked for, {got} there, {left} after a while"

    def calm_down(self) -> None:
        Pool(self.guest).ask_for(0)
