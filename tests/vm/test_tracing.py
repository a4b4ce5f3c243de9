#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What developers see: tracepoints, and the driver's files in debugfs."""

import re

from vmtest.errors import expect, expect_equal
from vmtest.guest import Guest, only_ours
from vmtest.ktap import main, test
from vmtest.units import GIB, MIB

NOT_OURS = "it has neither tracepoints nor debugfs files"
TRACING = "/sys/kernel/tracing"
EVENTS = {
    "answer_received",
    "block_added",
    "block_offlined",
    "block_onlined",
    "block_removed",
    "range_refused",
    "range_taken",
    "request_sent",
    "state",
    "step",
}


def traced(guest: Guest) -> list[tuple[str, str]]:
    """The names and texts of the events so far."""
    pattern = re.compile(r": virtio_mem_(\w+): virtio\d+ (.*)")
    trace = guest.read(f"{TRACING}/trace")
    return [(match[1], match[2]) for match in pattern.finditer(trace)]


@test()
def tracepoints() -> None:
    only_ours(NOT_OURS)
    with Guest(memory=GIB) as guest:
        there = guest.sh(f"ls -d {TRACING}/events/virtio_mem/*/").split()
        names = {path.split("/")[-2].removeprefix("virtio_mem_") for path in there}
        expect_equal(names, EVENTS, "tracepoints")
        guest.resize(130 * MIB)
        guest.expect_hotplugged(130 * MIB)
        expect_equal(traced(guest), [], "events while they are off")
        guest.write(f"{TRACING}/events/virtio_mem/enable", "1")
        guest.resize(258 * MIB)
        guest.expect_hotplugged(258 * MIB)
        with guest.load(900, "--mlock"):
            guest.request(2 * MIB)
            guest.wait_waiting("memory-in-use")
        guest.wait_plugged(2 * MIB)
        guest.resize(0)
        guest.wait_blocks(0)
        events = traced(guest)
        expect_equal({name for name, _ in events}, EVENTS, "kinds of events")
        texts = [f"{name} {text}" for name, text in events]
        address = guest.device()["memaddr"]
        for wanted in (
            rf"request_sent plug addr={address + 130 * MIB:#x} size={126 * MIB:#x}",
            rf"answer_received plug addr={address + 130 * MIB:#x} size={126 * MIB:#x} answer=ack "
            r"latency_us=\d+",
            rf"block_added addr={address + 256 * MIB:#x} size={128 * MIB:#x}",
            rf"block_onlined addr={address + 256 * MIB:#x} size={128 * MIB:#x} movable",
            rf"block_offlined addr={address:#x} size={128 * MIB:#x}",
            rf"block_removed addr={address:#x} size={128 * MIB:#x}",
            r"range_refused addr=0x\w+ size=0x\w+ in-use",
            r"step remove outcome=(done|in-use|interrupted) took_us=\d+",
            r"state state=waiting reason=memory-in-use requested=0x200000 plugged=0x\w+",
            r"state state=settled reason=none requested=0x0 plugged=0x0",
        ):
            expect(any(re.fullmatch(wanted, text) for text in texts), f"no event: {wanted}")
        # Off again, nothing is recorded.
        guest.write(f"{TRACING}/events/virtio_mem/enable", "0")
        guest.sh(f": >{TRACING}/trace")
        guest.resize(2 * MIB)
        expect_equal(traced(guest), [], "events after they were switched off")
        guest.resize(0)
        guest.rmmod()


@test()
def debugfs() -> None:
    only_ours(NOT_OURS)
    with Guest() as guest:
        guest.resize(130 * MIB)
        guest.expect_hotplugged(130 * MIB)
        top = "/sys/kernel/debug/virtio_mem"
        path = guest.sh(f"echo {top}/virtio*").strip()
        blocks = guest.read(f"{path}/blocks").splitlines()
        address = guest.device()["memaddr"]
        expect_equal(
            blocks[:3],
            [
                f"0 {address:#x} movable ffffffffffffffff",
                f"1 {address + 128 * MIB:#x} movable 1",
                f"2 {address + 256 * MIB:#x} absent 0",
            ],
            "the block map",
        )
        expect_equal(len(blocks), guest.device()["max-size"] // (128 * MIB), "lines")
        engine = guest.read(f"{path}/engine")
        expect(f"requested_size: {130 * MIB}," in engine, "the engine's state lacks the request")
        guest.resize(0)
        guest.wait_blocks(0)
        latency = guest.read(f"{path}/latency")
        for what in ("plug", "unplug", "add", "offline"):
            expect(re.search(rf"^{what}\n  < \d+ us: \d+$", latency, re.M), f"no latency: {what}")
        # An open file keeps the module, but not the device.
        device = path.rpartition("/")[2]
        said = guest.sh(
            f"exec 3<{path}/engine; ! rmmod virtio_mem 2>/dev/null || echo unloaded; "
            f"echo {device} >/sys/bus/virtio/drivers/virtio_mem/unbind; "
            "cat <&3 2>/dev/null && echo read; ls /sys/kernel/debug/virtio_mem"
        )
        expect_equal(said, "", "with an open file")
        guest.rmmod()
        expect_equal(guest.sh(f"ls -d {top} 2>/dev/null || true"), "", "left over")


if __name__ == "__main__":
    main()
