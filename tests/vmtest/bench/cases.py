# SPDX-License-Identifier: GPL-2.0
"""The cases: what a host or an administrator waits for."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from statistics import median

from ..accel import accelerator
from ..cpu import driver_thread, runs, thread_nanoseconds
from ..errors import TestFailure
from ..guest import Guest
from ..qemu import MemDevice
from ..testdevice import LOW, DeviceGuest
from ..units import GIB, KIB, MIB
from . import measure
from .case import FLOOR, OURS, QUICK, Row, Values, case, together

# How large a guest without a load of its own is when it is resized, in GiB.
IDLE_SIZES = (1, 4) if QUICK else (1, 8, 32)
LARGEST_PLUG = 16 if QUICK else 64
# How often the smallest of these is plugged and unplugged in each guest: it takes so short a time
# that what else the machine does weighs as much.
REPEATS = {1: 1 if QUICK else 5}

PLUG = {size: Row(f"plug {size} GiB", ratio=1.0) for size in (*IDLE_SIZES[:2], LARGEST_PLUG)}
UNPLUG = {size: Row(f"unplug {size} idle GiB", ratio=0.06) for size in IDLE_SIZES}

# With as much on top of it Linux has the memory block already.
PART_OF_A_BLOCK = 130 * MIB
STEPS = 20


def like_a_real_one() -> str:
    """The accelerator to measure with."""
    return "tcg-max" if accelerator() == "tcg" else accelerator()


def guest_for(driver: str, *devices: MemDevice, name: str, **options: object) -> Guest:
    """A guest with a driver, or with none for the floor."""
    options = {"accel": like_a_real_one(), **options}
    loaded = None if driver == FLOOR else driver
    return Guest(*devices, driver=loaded, log=f"bench.{name}.{driver}", **options)  # type: ignore[arg-type]


def idle_values(plug: Callable[[int], float], unplug: Callable[[int], float]) -> Values:
    """Seconds that each size takes, given what plugs and what unplugs so many bytes; of several
    times in the same guest the median."""
    values = {}
    for size in IDLE_SIZES:
        taken = []
        for _ in range(REPEATS.get(size, 1)):
            plugging = plug(size * GIB)
            measure.settle_down()
            taken.append((plugging, unplug(size * GIB)))
            measure.settle_down()
        if size in PLUG:
            values[PLUG[size]] = median(plugging for plugging, _ in taken)
        values[UNPLUG[size]] = median(unplugging for _, unplugging in taken)
    return values


@case()
def idle(driver: str) -> Values:
    with guest_for(driver, MemDevice(size=max(IDLE_SIZES) * GIB), name="idle") as guest:
        measure.touch(guest)
        return idle_values(
            lambda size: measure.plug(guest, size), lambda _: measure.unplug_all(guest)
        )


@case(FLOOR)
def floor(_driver: str) -> Values:
    largest = max(IDLE_SIZES) * GIB
    # More than the host may have: what is not touched needs none.
    ram = f"memory-backend-ram,id=ram,size={(LOW + largest) // MIB}M,reserve=off"
    with DeviceGuest(
        hidden=largest,
        ram=LOW,
        create=False,
        load=False,
        policy="online_movable",
        log="bench.floor",
        accel=like_a_real_one(),
        extra=("-object", ram, "-machine", "memory-backend=ram"),
    ) as guest:
        measure.touch(guest)
        return idle_values(
            lambda size: measure.without_driver(guest, "add", size),
            lambda size: measure.without_driver(guest, "remove", size),
        )


@case()
def largest_plug(driver: str) -> Values:
    with guest_for(driver, MemDevice(size=LARGEST_PLUG * GIB), name="plug") as guest:
        measure.touch(guest)
        return {PLUG[LARGEST_PLUG]: measure.plug(guest, LARGEST_PLUG * GIB)}


NOT_CLEARED = Row("unplug 8 idle GiB, init_on_alloc=0", ratio=0.75)
PLUG_REQUESTS = Row("requests to plug 8 GiB", "requests", limit=8)
UNPLUG_REQUESTS = Row("requests to unplug 8 GiB", "requests", limit=8)


@case()
def not_cleared(driver: str) -> Values:
    with guest_for(
        driver, MemDevice(), name="init", cmdline="init_on_alloc=0", extra=measure.TRACE
    ) as guest:
        measure.plug(guest, 8 * GIB)
        measure.settle_down()
        seconds = measure.unplug_all(guest)
        return {
            NOT_CLEARED: seconds,
            PLUG_REQUESTS: measure.requests(guest, "plug"),
            UNPLUG_REQUESTS: measure.requests(guest, "unplug"),
        }


UNTOUCHED = 1 if QUICK else 4
TOUCHED = Row(f"host memory touched to unplug {UNTOUCHED} GiB never used", "MiB", ratio=0.01)


@case()
def touched(driver: str) -> Values:
    device = MemDevice(size=UNTOUCHED * GIB, shared=True)
    with guest_for(driver, device, name="touched") as guest:
        measure.plug(guest, UNTOUCHED * GIB)
        measure.settle_down()
        before = measure.faulted(guest)
        measure.unplug_all(guest)
        return {TOUCHED: (measure.faulted(guest) - before) / MIB}


FREED = Row("unplug 4 GiB, 3.5 of which were used and freed", ratio=0.10)


@case(quick=False)
def used_and_freed(driver: str) -> Values:
    with guest_for(driver, MemDevice(size=4 * GIB), name="freed", memory=GIB) as guest:
        measure.plug(guest, 4 * GIB)
        with guest.load(3584):
            pass
        measure.settle_down()
        return {FREED: measure.unplug_all(guest)}


SPARSE = Row("4 to 1 GiB, a page in use in each 2 MiB", ratio=0.50)


@case(quick=False)
def sparse(driver: str) -> Values:
    with guest_for(driver, MemDevice(size=4 * GIB), name="sparse") as guest:
        measure.plug(guest, 4 * GIB)
        with guest.load(4096, "--sparse"):
            return {SPARSE: measure.resize(guest, GIB)}


UNEVEN = Row("unplug half of a guest in uneven use", ratio=0.30)
UNEVEN_PAGES = Row("pages migrated by that", "pages", ratio=1.0)


@case(quick=False)
def uneven(driver: str) -> Values:
    device = MemDevice(size=4 * GIB)
    with guest_for(driver, device, name="uneven", memory=GIB, failed_migrations=True) as guest:
        measure.plug(guest, 4 * GIB)
        # As many GiB as there are, half of which are freed in places.
        loads = [guest.load(500, seed=seed) for seed in range(8)]
        for load in loads[1::2] + loads[:1]:
            load.quit()
        measure.settle_down()
        before = measure.migrated(guest)
        seconds = measure.resize(guest, 2 * GIB)
        return {UNEVEN: seconds, UNEVEN_PAGES: measure.migrated(guest) - before}


EXIT = Row("from a process's exit to the size it blocked", limit=1.0)
KILL = Row("from the signal that ends a process to that size")
WAITING = Row("kernel threads while waiting for busy memory", "% of a CPU", limit=0.1)
# That of all kernel threads has what the kernel does at one time more than at another.
THREAD = Row("the driver's thread while waiting for busy memory", "% of a CPU", limit=0.1)
SETTLED = Row("kernel threads while settled", "% of a CPU", limit=0.1)

WINDOW = 20.0
RUNS = Row(f"runs of the driver's thread in {WINDOW:g} s, settled", "runs", limit=0)
# By then the first attempts, which follow each other soon, are over.
LONG = 60.0


def busy_share(nanoseconds: Callable[[], int], seconds: float = WINDOW) -> float:
    """How much of one processor is used by those whose time `nanoseconds` says, in %."""
    before, start = nanoseconds(), time.monotonic()
    time.sleep(seconds)
    return 100 * (nanoseconds() - before) / 1e9 / (time.monotonic() - start)


# The C driver may wait for five minutes.
@case(quick=False, their_rounds=2)
def waiting(driver: str) -> Values:
    device = MemDevice(size=2 * GIB)
    with guest_for(
        driver, device, name="waiting", memory=768 * MIB, failed_migrations=True, load=False
    ) as guest:
        everything = partial(measure.kernel_nanoseconds, guest)
        time.sleep(10)
        without = busy_share(everything)
        guest.insmod()
        measure.resize(guest, GIB)
        guest.expect_hotplugged(GIB)
        time.sleep(5)
        # The C driver works in threads that others use as well.
        thread = driver_thread(guest) if driver == OURS else None
        before = runs(guest, thread) if thread else 0
        settled = busy_share(everything)
        own: Values = {RUNS: runs(guest, thread) - before} if thread else {}
        load = guest.load(1152)
        guest.request(0)
        time.sleep(LONG)
        guest.settle(quiet=10, timeout=120)
        share = busy_share(everything)
        if thread:
            # Long enough to have attempts in it, not only looks at free memory.
            own[THREAD] = busy_share(partial(thread_nanoseconds, guest, thread), LONG)
        ended, seconds = measure.end(guest, load.program)
        # Less than nothing is as much as the guest itself does at one time more than at another.
        more = {WAITING: max(0.0, share - without), SETTLED: max(0.0, settled - without)}
        return {EXIT: max(0.0, seconds - ended), KILL: seconds, **more, **own}


PLUG_STEP = Row("2 MiB more, until the host is asked for them", "ms", ratio=1.0)
UNPLUG_STEP = Row("2 MiB less, until the host has them", "ms", ratio=1.0)


@together
def small_steps(drivers: tuple[str, ...]) -> dict[str, Values]:
    with ExitStack() as stack:
        guests = {}
        for driver in drivers:
            guest = guest_for(driver, MemDevice(size=GIB), name="steps", extra=measure.TRACE)
            guests[driver] = stack.enter_context(guest)
            measure.resize(guest, PART_OF_A_BLOCK)
        measure.settle_down()
        steps = measure.steps(list(guests.values()), PART_OF_A_BLOCK, STEPS)
        return {
            driver: {PLUG_STEP: plug * 1000, UNPLUG_STEP: unplug * 1000}
            for driver, (plug, unplug) in zip(guests, steps, strict=True)
        }


FAULT = Row("page fault of a workload while its guest is resized, p99.9", "us", ratio=1.0)

# What the host asks for, and after how many seconds it asks for the next: enough for either
# driver, so that the workload lives through as much time and as many resizes with both.
SCHEDULE = ((4 * GIB, 5.0), (GIB, 45.0))


@case(quick=False)
def page_faults(driver: str) -> Values:
    with guest_for(driver, MemDevice(size=4 * GIB), name="faults") as guest:
        measure.resize(guest, GIB)
        faults = measure.Faults(guest, 256)
        faults.report()
        for size, seconds in SCHEDULE * 2:
            # To look at the device more often would take the guest's processors away.
            taken = measure.resize(guest, size, poll=0.1)
            if taken > seconds:
                raise TestFailure(f"{size // GIB} GiB took {taken:.0f} s, {seconds:.0f} were set")
            time.sleep(seconds - taken)
        delay = faults.report()["p999_ns"]
        faults.quit()
        return {FAULT: delay / 1000}


TIB = 1024 * GIB
# A processor with enough address bits.
WIDE = ("-cpu", "max,la57=off,phys-bits=46")
FLAT_PLUG = Row("plug 2 MiB: 512 GiB plugged of 1 TiB, against 1 GiB", "times", limit=1.5)
FLAT_UNPLUG = Row("unplug 2 MiB: 512 GiB plugged of 1 TiB, against 1 GiB", "times", limit=1.5)


# The C driver needs more than ten minutes to plug 512 GiB.
@case(quick=False, rounds=1, their_rounds=0)
def large_region(driver: str) -> Values:
    device, extra = MemDevice(size=TIB), (*WIDE, *measure.TRACE)
    # What Linux keeps for each page of 512 GiB takes 8 GiB.
    with guest_for(driver, device, name="tib", memory=11 * GIB, extra=extra) as guest:
        measure.resize(guest, GIB + PART_OF_A_BLOCK)
        measure.settle_down()
        [small] = measure.steps([guest], GIB + PART_OF_A_BLOCK, STEPS)
        measure.resize(guest, 512 * GIB + PART_OF_A_BLOCK)
        guest.settle(quiet=5, timeout=600)
        [large] = measure.steps([guest], 512 * GIB + PART_OF_A_BLOCK, STEPS)
        return {FLAT_PLUG: large[0] / small[0], FLAT_UNPLUG: large[1] / small[1]}


MEMORY = Row("driver's own memory per TiB of region", "KiB", limit=160)


@case()
def own_memory(driver: str) -> Values:
    device = MemDevice(size=8 * TIB)
    directory = "/sys/bus/virtio/drivers/virtio_mem"
    with guest_for(driver, device, name="memory", extra=WIDE) as guest:
        name = guest.sh(f"cd {directory}; ls -d virtio*").strip()
        # What is made once and kept is there by then.
        sizes = []
        for file in ("unbind", "bind", "unbind", "bind"):
            guest.write(f"{directory}/{file}", name)
            time.sleep(2)
            sizes.append(measure.kernel_memory(guest))
        return {MEMORY: (sizes[3] - sizes[2]) / 8 / KIB}


PLUG_INSTRUCTIONS = Row("instructions to plug 2 GiB", "millions", ratio=1.0)
UNPLUG_INSTRUCTIONS = Row("instructions to unplug 2 idle GiB", "millions", ratio=1.0)


@case(quick=False)
def instructions(driver: str) -> Values:
    device = MemDevice(size=2 * GIB)
    # The time that kernel threads have run is the number of their instructions.
    with guest_for(driver, device, name="instructions", accel="icount") as guest:
        values = {}
        for row, size in ((PLUG_INSTRUCTIONS, 2 * GIB), (UNPLUG_INSTRUCTIONS, 0)):
            measure.let_kernel_rest(guest)
            before = measure.kernel_nanoseconds(guest)
            measure.resize(guest, size)
            guest.expect_hotplugged(size)
            values[row] = (measure.kernel_nanoseconds(guest) - before) / 1e6
        return values
