# SPDX-License-Identifier: GPL-2.0
"""Random walks of a driver through the hands of a device that makes mistakes.

An episode has a device of random manners, memory in use whose content is checked,
and a number of random events. At its end the device becomes honest, and the driver
has to meet the last request, without having broken a rule.
"""

import random
import time
from collections import Counter
from dataclasses import dataclass, field

from .errors import TestFailure, expect, expect_equal
from .load import Load
from .qemu import DEVICE_MEMORY
from .testdevice import CONTROL, PERSONALITIES, DeviceGuest
from .units import GIB, MIB

BLOCK = 128 * MIB

HIDDEN = 5 * GIB // 2

# How long the driver may take to meet a request once the device is honest: the
# longest that it waits before it asks a host again that would not, and some.
CONVERGENCE = 150.0

# The driver waits half as long for an answer before it says that there is none.
NO_ANSWER = 10.0

# Wrong answers that an honest device may be about to give, and what is done with
# them. ACK is not among them: what a device does not have, nobody can use.
ANSWERS = ("nack", "busy", "error", "4", "77", "0x100", "0xffff")
LENGTHS = ("0", "1", "2", "9", "11", "4096", "0xffffffff")
KINDS = ("plug", "unplug", "unplug-all", "state")
DELIVERIES = ("twice", "hold", "never", "stray", "again")

# What config fields may be said to be.
HOSTILE = (
    "0",
    "1",
    "0xfff",
    "0x200001",
    "0x8000000000000000",
    "0xffffffffffe00000",
    "0xffffffffffffffff",
)
FIELDS = ("usable_region_size", "plugged_size", "requested_size")
FIXED_FIELDS = ("block_size", "addr", "region_size", "node_id")


@dataclass
class Report:
    """What has happened so far."""

    episodes: int = 0
    events: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    slowest_seed: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    # Answers that a fault has struck.
    struck: int = 0
    violations: int = 0
    splats: int = 0

    def __str__(self) -> str:
        def listed(counter: Counter[str]) -> str:
            return ", ".join(f"{count} {name}" for name, count in sorted(counter.items()))

        return "\n".join(
            (
                f"episodes: {self.episodes}",
                f"events: {self.events.total()} ({listed(self.events)})",
                f"faults asked for: {self.faults.total()} ({listed(self.faults)})",
                f"answers: {listed(self.answers)}; {self.struck} of them struck by a fault",
                f"longest time to settle: {self.slowest:.1f} s (seed {self.slowest_seed})",
                f"violations: {self.violations}, splats: {self.splats}",
            )
        )


class Episode:
    """One walk, all of which follows from its seed."""

    def __init__(self, guest: DeviceGuest, seed: int, report: Report) -> None:
        self.guest = guest
        self.seed = seed
        self.report = report
        self.random = random.Random(seed)
        self.history: list[str] = []
        # Whether a request may go without an answer for good.
        self.unanswered = False
        self.events = (
            (8, self.resize),
            (5, self.add_fault),
            (2, self.lie),
            (2, self.honest),
            (2, self.rebind),
            (1, self.reload),
            (1, self.replace),
            (2, self.move_block),
            (1, self.notify),
            (1, self.migrate),
            (3, self.rest),
        )

    def note(self, what: str) -> None:
        self.history.append(what)

    def control(self, *lines: str) -> None:
        self.note("; ".join(lines))
        self.guest.control(*lines)

    # The device

    def set_up(self) -> None:
        """A new device in place of the one before, and the driver loaded anew."""
        choice = self.random
        guest = self.guest
        if guest.status()["created"]:
            guest.control("honest", "destroy")
        guest.sh("rmmod virtio_mem 2>/dev/null || true")
        guest.control("system-reset")
        personality = choice.choice(PERSONALITIES)
        self.block = (4 if personality == "dragonball" else 2) * MIB
        region = choice.choice((384, 512, 640)) * MIB
        start = choice.randrange(0, HIDDEN - region, BLOCK)
        # Firecracker's region is aligned, and usable as far as it is requested.
        if personality != "firecracker" and choice.random() < 0.5:
            shift = choice.randrange(0, BLOCK, self.block)
            start += min(shift, HIDDEN - region - start)
        start += DEVICE_MEMORY
        self.region = range(start, start + region)
        first = -(-start // BLOCK)
        self.limit = (self.region.stop // BLOCK - first) * BLOCK
        self.control(
            f"setup personality={personality} addr={start} region_size={region} "
            f"requested_size={self.size()}",
            f"seed {choice.randrange(1, 1 << 32)}",
        )
        self.parameters = choice.choice(("", "", "", "force_bbm=1"))
        self.control("create")
        self.insmod()

    def insmod(self) -> None:
        self.note(f"insmod {self.parameters}")
        self.guest.insmod(self.parameters)

    def size(self) -> int:
        """A size that can be had."""
        if self.random.random() < 0.15:
            return self.random.choice((0, self.limit))
        return self.random.randrange(0, self.limit + 1, self.block)

    # Events

    def resize(self) -> None:
        quiet = " quiet" if self.random.random() < 0.1 else ""
        self.control(f"request {self.size()}{quiet}")

    def add_fault(self) -> None:
        choice = self.random
        words = []
        if choice.random() < 0.7:
            words.append(f"kind={choice.choice(KINDS)}")
        if choice.random() < 0.3:
            words.append(f"skip={choice.randrange(4)}")
        if choice.random() < 0.5:
            words.append(f"times={choice.randrange(1, 5)}")
        if choice.random() < 0.5:
            words.append(f"percent={choice.choice((10, 50, 90))}")
        what = choice.choice(("code", "code", "act", "act", "len", "delay", "delivery", "state"))
        self.report.faults[what] += 1
        if what in ("code", "act"):
            words.append(f"code={choice.choice(ANSWERS)}")
        if what == "act":
            words.append("act")
        elif what == "len":
            words.append(f"len={choice.choice(LENGTHS)}")
        elif what == "delay":
            words.append(f"delay={choice.choice((1, 30, 400, 6000))}")
        elif what == "delivery":
            words.append(choice.choice(DELIVERIES))
            self.unanswered |= words[-1] != "hold"
        elif what == "state":
            words.append(f"state={choice.choice((2, 3, 0xFFFF))}")
        line = f"fault {' '.join(words)}"
        self.note(line)
        # There is room for so many and no more.
        self.guest.try_control(line)

    def lie(self) -> None:
        choice = self.random
        name = choice.choice(FIELDS if choice.random() < 0.8 else FIXED_FIELDS)
        values = [
            str(self.size()) if choice.random() < 0.5 else choice.choice(HOSTILE) for _ in "12"
        ]
        self.report.faults["config"] += 1
        if choice.random() < 0.5:
            self.control(f"lie {name} {values[0]}", "notify")
        else:
            self.control(f"flap {name} {' '.join(values)}", "notify")
        if choice.random() < 0.3:
            self.control(f"generations {choice.randrange(1, 6)}", "notify")

    def honest(self) -> None:
        self.control("honest")

    def rebind(self) -> None:
        name = self.guest.name
        if name:
            self.note("unbind")
            self.guest.unbind()
            self.pause()
            self.note("bind")
            # It may be refused: the config space says what it will.
            self.guest.try_write("/sys/bus/virtio/drivers/virtio_mem/bind", name)

    def reload(self) -> None:
        self.note("rmmod")
        self.guest.rmmod()
        self.pause()
        self.insmod()

    def replace(self) -> None:
        self.control(self.random.choice(("destroy", "destroy surprise")))
        self.pause()
        self.control("create")

    def move_block(self) -> None:
        blocks = self.guest.blocks()
        if blocks:
            block = self.random.choice(blocks)
            state = self.random.choice(("offline", "offline", "online_movable"))
            self.note(f"{state} {block.number}")
            self.guest.sh(f"echo {state} | timeout 20 tee {block.sysfs}/state >/dev/null 2>&1 || :")

    def notify(self) -> None:
        self.control("notify")

    def migrate(self) -> None:
        self.control(f"migrating {self.random.choice(('on', 'off'))}")

    def rest(self) -> None:
        self.pause(self.random.uniform(0.2, 2.0))

    def pause(self, limit: float = 0.3) -> None:
        time.sleep(self.random.uniform(0.0, limit))

    # All of it

    def run(self) -> None:
        self.set_up()
        choice = self.random
        with self.guest.load(2 * choice.randrange(16, 160), "--watch", seed=self.seed) as load:
            for _ in range(choice.randrange(5, 16)):
                weights = [weight for weight, _ in self.events]
                event = choice.choices([event for _, event in self.events], weights)[0]
                event()
                self.report.events[event.__name__] += 1
                self.pause()
            self.end(load)

    def end(self, load: Load) -> None:
        """The device is honest from now on, and the driver does as it is told."""
        guest = self.guest
        self.control("honest")
        if not guest.name:
            self.reload()
        self.recount()
        # In big blocks if they are what it has.
        size = self.size() // BLOCK * BLOCK if self.parameters else self.size()
        self.control(f"request {size}")
        started = time.monotonic()
        self.revive(size)
        guest.wait_plugged(size, timeout=CONVERGENCE)
        self.online_all()
        guest.converge(size, timeout=CONVERGENCE)
        seconds = time.monotonic() - started
        if seconds > self.report.slowest:
            self.report.slowest, self.report.slowest_seed = seconds, self.seed
        expect(load.check() > 0, "nothing was checked")
        guest.control("check")
        self.count()
        guest.expect_obedient()
        guest.expect_clean_log()
        # Nothing is left to the next one.
        guest.request(0)
        self.online_all()
        guest.converge(0, timeout=CONVERGENCE)
        guest.wait_blocks(0)

    def recount(self) -> None:
        """An UNPLUG that Cloud Hypervisor carried out and answered with an error counts as
        plugged until UNPLUG_ALL, and it refuses by that count to plug what is asked for. The
        driver sends UNPLUG_ALL when it is bound to a device of which nothing is in use."""
        guest = self.guest
        status = guest.status()
        if status["plugged_size"] <= status["plugged"]:
            return
        self.control("request 0")
        self.revive(0)
        guest.wait_plugged(0, timeout=CONVERGENCE)
        self.online_all()
        guest.wait_blocks(0)
        self.rebind()
        # Its first request.
        guest.wait_state("settled")
        expect_equal(guest.status()["plugged_size"], 0, "the device's count")

    def revive(self, size: int) -> None:
        """A request that was never answered, or answered as another one, keeps the driver
        from asking again until it is bound anew. It waits for some seconds before it says
        that it is stalled."""
        guest = self.guest
        # None of those that are late, and honest by now.
        if not self.unanswered:
            return
        deadline = time.monotonic() + NO_ANSWER
        while guest.state()[0] != "stalled":
            done = guest.plugged() == size and guest.state()[0] == "settled"
            if done or time.monotonic() > deadline:
                return
            time.sleep(0.2)
        deadline = time.monotonic() + 3
        while guest.state()[0] == "stalled":
            if time.monotonic() > deadline:
                self.rebind()
                return
            time.sleep(0.3)

    def online_all(self) -> None:
        for block in self.guest.blocks():
            if block.state == "offline":
                self.note(f"online_movable {block.number}")
                # The driver may be there before.
                self.guest.try_write(f"{block.sysfs}/state", "online_movable")

    def count(self) -> None:
        status = self.guest.status()
        self.report.struck = status["faults"]
        self.report.violations = status["violations"]
        self.report.splats = len(self.guest.splats())
        self.report.answers = Counter(
            {key[8:]: value for key, value in status.items() if key.startswith("answers.")}
        )


# Seconds between two lines that tell how it goes.
INTERVAL = 60.0


def walk(seed: int, seconds: float) -> Report:
    """Goes from episode to episode, from this seed on, for about so many seconds."""
    report = Report()
    started = said = time.monotonic()
    with DeviceGuest(hidden=HIDDEN, create=False, load=False) as guest:
        while not report.episodes or time.monotonic() - started < seconds:
            episode = Episode(guest, seed, report)
            try:
                episode.run()
            except Exception as error:
                print(f"seed {seed} fails: {error}")
                print("\n".join(f"  {line}" for line in episode.history))
                print(guest.run("tail", "-n", "12", f"{CONTROL}/log", timeout=20).stdout)
                raise TestFailure(f"seed {seed}: {error}") from error
            report.episodes += 1
            seed += 1
            now = time.monotonic()
            if now - said >= INTERVAL:
                said = now
                print(f"{now - started:6.0f} s  {report.episodes} episodes", flush=True)
    return report
