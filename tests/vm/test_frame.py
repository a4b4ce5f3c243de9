#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The frame itself: what has gone wrong in a guest must come out as a failure."""

import json
import re
import tempfile
import threading
import time
from pathlib import Path

from vmtest.errors import MachineFailure, TestFailure, TestSkip, TooLate, expect, expect_equal
from vmtest.guest import FAILED_EMULATOR, Guest
from vmtest.history import History
from vmtest.iomem import Resource, parse_iomem
from vmtest.jobs import GuestTest, Run
from vmtest.ktap import ONLY_LATE, Test, main, test
from vmtest.leaks import look_for_leaks
from vmtest.memory import MemoryBlock, parse_blocks
from vmtest.paths import FLAVOUR
from vmtest.results import Counts, results_in
from vmtest.runner import run_them
from vmtest.schedule import Job, Load, run_all
from vmtest.splat import (
    STATE_STORE,
    lost_an_interrupt,
    splats,
    without_crash,
    without_expendable,
    without_failed_allocations,
    without_failed_migrations,
    without_raced_compaction,
    without_state_store,
)
from vmtest.testdevice import DeviceGuest

SPLATS = """\
[    1.0] WARNING: CPU: 0 PID: 1 at mm/page_alloc.c:1 x+0x1/0x2
[    1.0] WARNING: possible circular locking dependency detected
[    1.0] BUG: kernel NULL pointer dereference, address: 0000000000000000
[    1.0] BUG: KASAN: slab-use-after-free in x+0x1/0x2
[    1.0] Oops: general protection fault, probably for non-canonical address
[    1.0] Oops: Oops: 0002 [#1] SMP NOPTI
[    1.0] Call Trace:
[    1.0] INFO: task kworker/0:1:11 blocked for more than 60 seconds.
[    1.0] rcu: INFO: rcu_preempt self-detected stall on CPU
[    1.0] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [x:1]
[    1.0] Kernel panic - not syncing: Fatal exception
[    1.0] refcount_t: underflow; use-after-free.
[    1.0] kworker/0:1: page allocation failure: order:0, mode:0x44cca(GFP_KERNEL)
[    1.0] Out of memory: Killed process 1 (x) total-vm:1kB
[    1.0] rust_kernel: panicked at x.rs:1:1:
[    1.0] list_add corruption. prev->next should be next
""".splitlines()

HARMLESS = """\
[    1.0] DEBUG: nothing
[    1.0] rcu: Hierarchical RCU implementation.
[    1.0] rcu: \tRCU CPU stall warnings are on
[    1.0] virtio_mem virtio1: start address: 0x100000000
[    1.0] Spectre V2 : Mitigation: Retpolines
""".splitlines()

FAILED_MIGRATION = """\
[    1.0] kworker/0:1: page allocation failure: order:0, mode:0x44cca(GFP_KERNEL)
[    1.0] Call Trace:
[    1.0]  ? __pfx_alloc_migration_target+0x10/0x10
[    1.0]  </TASK>
[    1.0] Mem-Info:
"""

FAILED_ALLOCATIONS = """\
[    1.0] SLUB: Unable to allocate memory on CPU 1 (of node 0) on node -1, gfp=0xcc0(GFP_KERNEL)
[    1.0]   cache: kmalloc-64, object size: 64, buffer size: 128, default order: 0, min order: 0
[    1.0] insmod: page allocation failure: order:0, mode:0x40cc0(GFP_KERNEL|__GFP_COMP)
[    1.0] Call Trace:
[    1.0]  should_fail_ex+0x10/0x10
[    1.0]  </TASK>
[    1.0] SLUB: Unable to allocate memory on CPU 1 (of node 0) on node -1, gfp=0xcc0(GFP_KERNEL)
"""

KILLED = """\
[    1.0] x invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0
[    1.0] Call Trace:
[    1.0] oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),task=vmem-guest,pid=7,uid=0
[    1.0] Out of memory: Killed process 7 (vmem-guest) total-vm:1kB, oom_score_adj:1000
"""

# Of a machine whose second processor is idle and is not woken.
LOST = """\
[   25.4] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
[   25.4] rcu: \t(detected by 0, t=5252 jiffies, g=5201, q=44 ncpus=2)
[   25.4] RIP: 0010:pv_native_safe_halt+0xf/0x20
[   25.4] Call Trace:
[   25.5] rcu: rcu_preempt kthread timer wakeup didn't happen for 5251 jiffies! g5201 f0x0 RCU_GP_WAIT_FQS(5) ->state=I
[   25.5] rcu: \tPossible timer handling issue on cpu=1 timer-softirq=812
[   25.5] Call Trace:
"""

RACED = """\
[    1.0] page dumped because: VM_BUG_ON_PAGE(PagePoisoned(page))
[    1.0] kernel BUG at include/linux/mm.h:2402!
[    1.0] RIP: 0010:__get_pfnblock_flags_mask+0x223/0x230
[    1.0] Call Trace:
[    1.0]  get_pfnblock_migratetype+0xe/0x30
[    1.0]  compaction_alloc+0x1557/0x2650
[    1.0]  compact_zone+0x206d/0x3bc0
[    1.0] ---[ end trace 0000000000000000 ]---
[    1.0] RIP: 0010:__get_pfnblock_flags_mask+0x223/0x230
"""

CRASH = """\
[    9.0] sysrq: Trigger a crash
[    9.0] Kernel panic - not syncing: sysrq triggered crash
[    9.0] Call Trace:
"""
NEXT_KERNEL = "[    0.0] Linux version 7.2\n"


# A test file of two that fail when both are run: one is only late, the other is wrong.
TWO_TESTS = f"""\
#!/bin/sh
case $1 in
'^two/slow$')
	if [ -e "$0.tried" ]; then
		echo 'ok 1 slow'
	else
		: >"$0.tried"
		echo '# TooLate: no answer'
		echo '# {ONLY_LATE}'
		echo 'not ok 1 slow'
	fi ;;
'^two/wrong$')
	echo '# TestFailure: a wrong answer'
	echo 'not ok 1 wrong' ;;
esac
"""


@test()
def tells_wanted_crashes() -> None:
    expect_equal(splats(without_crash(CRASH + NEXT_KERNEL)), [], "splats")
    for before, after in (SPLATS[0], ""), ("", SPLATS[0]):
        log = f"{before}\n{CRASH}{NEXT_KERNEL}{after}"
        expect_equal(splats(without_crash(log)), SPLATS[:1], "splats")
    # A crash that no other kernel came after.
    expect_equal(len(splats(without_crash(CRASH))), 2, "splats")


@test()
def tells_lost_interrupts() -> None:
    starved = LOST.replace("timer wakeup didn't happen", "starved")
    for log in (LOST, starved, LOST + LOST):
        expect(lost_an_interrupt(log, splats(log)), f"not found: {log}")
    # Of a processor that spins, and of a thread that is woken and does not end it.
    spins = LOST.replace("pv_native_safe_halt", "queued_spin_lock_slowpath")
    woken = LOST.replace("kthread timer wakeup didn't happen", "")
    for log in (spins, woken, LOST + SPLATS[0], ""):
        expect(not lost_an_interrupt(log, splats(log)), f"found: {log}")


@test()
def tells_failed_machines() -> None:
    """What the emulator does wrong is told from what a test finds."""
    for told, said, failure, expected in (
        ("", LOST, TooLate("no answer"), MachineFailure),
        ("", LOST, TestFailure("a wrong answer"), TestFailure),
        ("", SPLATS[0], TooLate("no answer"), TooLate),
        (FAILED_EMULATOR, "", TestFailure("the guest is gone"), MachineFailure),
        (FAILED_EMULATOR, "", BrokenPipeError("of the monitor"), MachineFailure),
        ("an error", "", TestFailure("the guest is gone"), TestFailure),
    ):
        try:
            with Guest() as guest:
                with guest.qemu.errors.open("a") as errors, guest.console.open("a") as console:
                    errors.write(told)
                    console.write(said)
                raise failure
        except TestFailure as found:
            expect_equal(type(found), expected, f"failure with {told!r} and {said!r}")


@test()
def tells_splats() -> None:
    for line in SPLATS:
        expect_equal(splats(line), [line], "splats")
    for line in HARMLESS:
        if "stall" not in line:
            expect_equal(splats(line), [], "splats")
    expect_equal(splats(without_failed_migrations(FAILED_MIGRATION)), [], "splats")
    other = FAILED_MIGRATION.replace("alloc_migration_target", "vmalloc")
    expect_equal(len(splats(without_failed_migrations(other + SPLATS[0]))), 3, "splats")
    expect_equal(splats(without_failed_allocations(FAILED_ALLOCATIONS)), [], "splats")
    other = FAILED_ALLOCATIONS + "".join(f"{line}\n" for line in SPLATS[:5]) + FAILED_ALLOCATIONS
    expect_equal(splats(without_failed_allocations(other)), SPLATS[:5], "splats")
    expect_equal(splats(without_expendable(KILLED)), [], "splats")
    expect_equal(splats(without_raced_compaction(RACED)), [], "splats")
    for line in SPLATS:
        log = f"{RACED}{line}\n{RACED}"
        expect_equal(splats(without_raced_compaction(log)), [line], "splats")
    # Of another processor, in the middle of it.
    for line in SPLATS[:4]:
        log = RACED.replace("[    1.0]  compact_z", f"{line}\n[    1.0]  compact_z")
        expect(line in splats(without_raced_compaction(log)), f"lost: {line}")
    other = RACED.replace("compaction_alloc", "isolate_pages")
    expect_equal(len(splats(without_raced_compaction(other))), 4, "splats")
    known = "WARNING: possible circular locking dependency\n" + "\n".join(STATE_STORE)
    expect_equal(splats(without_state_store(f"{known}\n</TASK>")), [], "splats")
    other = known.replace("kernfs_drain", "")
    expect_equal(len(splats(without_state_store(f"{other}\n</TASK>"))), 1, "splats")
    # One that was not to be killed, before one that was.
    other = KILLED.replace("oom_score_adj:1000", "oom_score_adj:0")
    expect_equal(len(splats(without_expendable(other + KILLED))), 4, "splats")


@test()
def parses() -> None:
    text = "8000000\nmemory32/node0\nmemory32/state:online\nmemory32/valid_zones:Movable\n"
    block = MemoryBlock(32, 128 << 20, "online", "Movable", 0)
    expect_equal(parse_blocks(text), [block], "blocks")
    text = "100000000-2ffffffff : virtio1\n  100000000-107ffffff : System RAM (virtio_mem)\n"
    region = Resource(0, 0x100000000, 0x2FFFFFFFF, "virtio1")
    added = Resource(1, 0x100000000, 0x107FFFFFF, "System RAM (virtio_mem)")
    expect_equal(parse_iomem(text), [region, added], "resources")


@test()
def counts() -> None:
    expect_equal(results_in("all is well\nok 1 x\n"), Counts(), "without results")
    ktap = "TAP version 13\n1..3\nok 1 a\nok 2 - b # SKIP no\nnot ok 3 c\n"
    expect_equal(results_in(ktap), Counts(1, 1, 1), "KTAP")
    cargo = "test result: ok. 7 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out\n" * 2
    expect_equal(results_in(cargo), Counts(14, 2, 4), "cargo")


@test()
def late_ones_are_tried_again() -> None:
    for jobs, passed, failed in (1, 0, 2), (2, 1, 1):
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "two"
            file.write_text(TWO_TESTS)
            file.chmod(0o755)
            names = "slow", "wrong"
            tests = [GuestTest(FLAVOUR, file, Test(name, lambda: None, 10)) for name in names]
            history = Path(directory) / "history"
            run = Run(History(history))
            run_them(run, [], tests, jobs)
            expect_equal(run.counts, Counts(passed, failed), f"results with {jobs} at once")
            run.history.save()
            later = History(history)
            known = [later.expected(test.key) is not None for test in tests]
            # One that has failed says nothing of how long it takes.
            expect_equal(known, [bool(passed), False], "tests whose time is known")


@test()
def a_test_without_a_result_has_failed() -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "silent"
        for script in "exit 0", "echo 'ok 1 another'", "kill -9 $$":
            file.write_text(f"#!/bin/sh\n{script}\n")
            file.chmod(0o755)
            run = Run(History(Path(directory) / "history"))
            run_them(run, [], [GuestTest(FLAVOUR, file, Test("one", lambda: None, 10))], 2)
            expect_equal(run.counts, Counts(failed=1), f"results of '{script}'")


class FakeLoad(Load):
    """A machine that always has room for more, or never."""

    def __init__(self, idle: bool) -> None:
        super().__init__()
        self.idle = idle

    def allows_more(self) -> bool:
        return self.idle


@test()
def more_at_once_while_they_wait() -> None:
    for at_once, idle, most in (1, True, 1), (2, False, 2), (2, True, 4):
        now, seen = threading.Semaphore(0), [0]
        lock = threading.Lock()
        running = 0

        def job() -> None:
            nonlocal running
            with lock:
                running += 1
                seen.append(running)
                if running == most:
                    now.release(8)
            # Until as many run as ever will: then all of them end.
            now.acquire(timeout=10)
            time.sleep(0.2)
            with lock:
                running -= 1

        run_all([Job(job, 20)] * 8, at_once, FakeLoad(idle))
        expect_equal((len(seen) - 1, max(seen)), (8, most), "jobs run, and run at once")


@test()
def jobs_wait_for_what_they_need() -> None:
    done: list[str] = []

    def needs_what_is_built() -> None:
        expect("built" in done, "run before what it needs was built")
        done.append("second")

    run_all(
        [
            Job(lambda: done.append("first"), 30),
            Job(needs_what_is_built, 20, ready=lambda: "built" in done),
            Job(lambda: done.append("built"), 10, patient=True),
            # What it needs never comes: the others are run all the same.
            Job(lambda: done.append("never"), 40, ready=lambda: False),
        ],
        2,
    )
    expect_equal(sorted(done), ["built", "first", "second"], "jobs done")


@test()
def slow_ones_are_named() -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "history"
        for seconds in 10, 12, 11:
            history = History(file)
            history.took("a", seconds)
            history.took("b", 1)
            history.save()
        history = History(file)
        history.was_late("a")
        history.took("a", 30)
        history.took("b", 4)
        history.took("check", 300, patient=True)
        expect_equal([line.split()[0] for line in history.slower()], ["a"], "slower ones")
        expect_equal(history.late(), ["a, and 0 times in 3 before"], "late ones")
        expect_equal(history.slowest(1)[0].split(), "a 30.0 s (11.0 s before)".split(), "slowest")
        history.save()
        expect_equal(History(file).late(), [], "late ones of a run that has just begun")


@test()
def commands_in_the_guest() -> None:
    with Guest(load=False) as guest:
        result = guest.run("sh", "-c", "cat; echo no >&2; exit 3", stdin="yes")
        expect_equal((result.rc, result.stdout, result.stderr), (3, "yes", "no\n"), "result")
        # One that hangs, with a child of its own, holds up no other.
        begun = time.monotonic()
        sleeper = guest.start(["sh", "-c", "sleep 600 & sleep 600"])
        expect_equal(guest.sh("echo here"), "here\n", "output beside a hanging command")
        sleeper.signal(9)
        expect_equal(sleeper.wait(10).rc, -9, "result of a killed command")
        try:
            guest.run("sleep", "600", timeout=1)
        except TestFailure as failure:
            expect("did not end within" in str(failure), f"wrong failure: {failure}")
        else:
            raise TestFailure("a command outlived its time limit")
        expect(time.monotonic() - begun < 30, "waited for a hanging command")
        guest.sh("true &")
        stats = guest.sh("sleep 0.3; cat /proc/[0-9]*/stat 2>/dev/null; true").splitlines()
        expect(all(line.rpartition(")")[2].split()[0] != "Z" for line in stats), "zombies")


@test()
def changed_page_is_found() -> None:
    with Guest(load=False) as guest:
        program = guest.start(["vmem-guest", "load", "--mib", "64"])
        expect_equal(json.loads(program.line(30))["pages"], 16384, "pages of the load")
        # The load's mapping is the one with room for 64 MiB; its middle is in use.
        start, end = next(
            (start, end)
            for line in guest.read(f"/proc/{program.pid}/maps").splitlines()
            for start, end in [[int(word, 16) for word in line.split()[0].split("-")]]
            if end - start >= 64 << 20
        )
        page = (start + end) // 2 // 4096
        guest.sh(
            f"printf x | dd of=/proc/{program.pid}/mem bs=4096 seek={page} conv=notrunc 2>/dev/null"
        )
        program.input("check\n")
        expect("corrupted" in json.loads(program.line(30)), "the changed page was not found")
        expect_equal(json.loads(program.line(30))["corrupted"], 1, "changed pages")
        program.input("quit\n")
        expect_equal(json.loads(program.line(30))["corrupted"], 1, "changed pages")
        expect_equal(program.wait(30).rc, 1, "exit status of the load")


@test()
def lost_memory_is_a_failure() -> None:
    if not look_for_leaks():
        raise TestSkip("this kernel does not look for lost memory")
    try:
        with DeviceGuest(load=False) as guest:
            # A pointer to one of them may stay where it is not overwritten, on a stack
            # for instance, and then that one does not count as lost.
            for _ in range(8):
                guest.control("leak")
    except TestFailure as failure:
        expect(
            re.search("the kernel has lost [1-8] objects", str(failure)) is not None,
            f"wrong failure: {failure}",
        )
    else:
        raise TestFailure("lost memory went unnoticed")


@test()
def crash_is_a_failure() -> None:
    try:
        with Guest(load=False) as guest:
            guest.run("sh", "-c", "echo c >/proc/sysrq-trigger", timeout=20)
    except TestFailure as failure:
        notes = " ".join(getattr(failure, "__notes__", []))
        expect("the guest is gone" in str(failure), f"wrong failure: {failure}")
        expect("panic" in notes or "Oops" in notes or "BUG" in notes, f"no splat in: {notes}")
    else:
        raise TestFailure("a crash went unnoticed")


if __name__ == "__main__":
    main()
