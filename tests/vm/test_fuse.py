#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A file system in userspace that does not answer, as any user can run one, and whose pages stay locked.

Linux waits for such a page, without an end, when memory is to be emptied (`MIGRATE_SYNC`), whatever
driver asks for that.
"""

import time

from vmtest.cpu import driver_thread
from vmtest.dialogue import Dialogue
from vmtest.errors import expect, expect_equal
from vmtest.guest import Guest, only_ours
from vmtest.ktap import main, test
from vmtest.units import MIB

DRIVER = "/sys/bus/virtio/drivers/virtio_mem"
DIRECTORY = "/tmp/fuse"

# To let go of the device, in seconds: 5 are for the call that waits.
PROMPTLY = 10.0


class Fuse(Dialogue):
    """`vmem-guest fuse` in a guest, and somebody who reads its file."""

    def __init__(self, guest: Guest) -> None:
        guest.sh(f"mkdir -p {DIRECTORY}")
        super().__init__(guest, "vmem-guest", "fuse", DIRECTORY)
        self.reader = guest.start(["sh", "-c", f"cat {DIRECTORY}/file | wc -c"])
        guest.wait_until(lambda: self.command("reads")["waiting"] > 0, 20, "nobody reads")


@test(limit=180)
def unbinds_while_it_waits_for_a_page() -> None:
    only_ours("it waits for the page for ever")
    with Guest() as guest:
        guest.resize(512 * MIB)
        guest.expect_hotplugged(512 * MIB)
        with Fuse(guest) as fuse:
            guest.request(0)
            stack = f"/proc/{driver_thread(guest)}/stack"
            guest.wait_until(
                lambda: "migrate_pages" in guest.read(stack), 60, "no page is waited for", poll=0.5
            )
            print(f"{guest.plugged() // MIB} MiB are left; {guest.read(stack)}")
            name = guest.sh(f"basename {DRIVER}/virtio*").strip()
            begun = time.monotonic()
            guest.write(f"{DRIVER}/unbind", name)
            seconds = time.monotonic() - begun
            print(f"unbinding took {seconds:.1f} s")
            expect(seconds < PROMPTLY, f"it took {seconds:.1f} s")
            expect("is finished later" in guest.dmesg(), "no call was left")
            fuse.command("answer")
            expect_equal(fuse.reader.wait(60).rc, 0, "exit status of the reader")
            guest.write(f"{DRIVER}/bind", name)
            guest.wait_plugged(0)
            guest.expect_hotplugged(0)
        guest.rmmod()


if __name__ == "__main__":
    main()
