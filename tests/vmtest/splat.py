# SPDX-License-Identifier: GPL-2.0
"""Finding what a kernel prints when something has gone wrong in it."""

import re

SPLATS = re.compile(
    r"""
      \bWARNING:\ | \bBUG[:\ ] | \bOops\b | \bKASAN\b | \bKFENCE\b | \bUBSAN\b | \bkmemleak:\ \d
    | general\ protection\ fault | unable\ to\ handle | refcount_t | list_(?:add|del)\ corruption
    | possible\ (?:circular\ locking|recursive\ locking|irq\ lock\ inversion|unsafe)
    | inconsistent\ lock\ state | suspicious\ RCU\ usage | bad\ unlock\ balance | held\ lock
    | hung\ task | blocked\ for\ more\ than | soft\ lockup | hard\ LOCKUP
    | rcu:?.*\bstall | rcu_(?:sched|preempt)\ .*\bstalls?\b
    | Call\ Trace | \bRIP:\ | Kernel\ panic | panicked\ at | stack-protector | Bad\ page
    | scheduling\ while\ atomic | sleeping\ function\ called
    | page\ allocation\ failure | Out\ of\ memory | oom-kill
      # Of our own driver: it would have unplugged memory that Linux may use.
    | not\ sent:\ Linux\ may\ use | no\ memory\ block\ found
    """,
    re.VERBOSE,
)

# Said in every boot, by a kernel that has nothing wrong with it.
HARMLESS = re.compile(r"refcount_t: (?:leaking nothing|selftest)|RIP: 0033")


# The kernel's report that a page could not be moved for want of a free one.
ALLOCATION_FAILURE = re.compile(r"[^\n]*page allocation failure.*?</TASK>", re.DOTALL)


def without_failed_migrations(log: str) -> str:
    """The log without the reports that pages could not be moved.

    The kernel's page migration says so, at length, whenever memory runs out
    under it; nothing is lost by it but peace of mind.
    """

    def keep(match: re.Match[str]) -> str:
        return "" if "alloc_migration_target" in match[0] else match[0]

    return ALLOCATION_FAILURE.sub(keep, log)


# The kernel's reports of allocations that failed, where it was made fail them. Some are
# warnings: that the metadata of more memory cannot be allocated, and, when an interrupt
# is freed, that its directory in /proc could not be created.
FAILED_ALLOCATION = re.compile(
    # With a stack, which ends before anything else is complained about.
    r"[^\n]*(?:page|vmemmap) alloc(?:ation)? failure(?:(?!cut here|WARNING:|BUG:).)*?</TASK>[^\n]*"
    r"|[^\n]*vmalloc error(?:(?!cut here|WARNING:|BUG:).)*?</TASK>[^\n]*"
    # Without.
    r"|[^\n]*SLUB: Unable to allocate[^\n]*"
    r"|[^\n]*cut here[^\n]*\n(?:[^\n]*name '\w+'\n)?"
    r"[^\n]*WARNING: (?:arch/x86/mm/init_64|fs/proc/generic)[.]c:.*?end trace[^\n]*",
    re.DOTALL,
)


def without_failed_allocations(log: str) -> str:
    """The log without the reports that memory could not be allocated."""
    return FAILED_ALLOCATION.sub("", log)


# The kernel's report that it has killed a process, or found none to kill, as memory
# had run out.
OUT_OF_MEMORY = re.compile(r"[^\n]* invoked oom-killer:.*?Killed process[^\n]*", re.DOTALL)


def without_expendable(log: str) -> str:
    """The log without the reports that a load was killed which is there for that."""

    def keep(match: re.Match[str]) -> str:
        last = match[0].splitlines()[-1]
        return "" if "(vmem-guest)" in last and "oom_score_adj:1000" in last else match[0]

    return OUT_OF_MEMORY.sub(keep, log)


# A report of lockdep, up to the end of the stack of who has caused it.
LOCKDEP = re.compile(r"[^\n]*WARNING: possible circular locking.*?</TASK>", re.DOTALL)

# One that is the kernel's own, and no deadlock: try_remove_memory() waits for those who
# write to a memory block's `state` while it holds the locks that they want; but they
# got past lock_device_hotplug_sysfs() first, which lets go where it would have to wait.
STATE_STORE = ("state_store", "mem_hotplug_begin", "kernfs_drain", "remove_memory_block_devices")


def without_state_store(log: str) -> str:
    """The log without that report."""

    def keep(match: re.Match[str]) -> str:
        return "" if all(name in match[0] for name in STATE_STORE) else match[0]

    return LOCKDEP.sub(keep, log)


# A crash that was asked for, up to where the log of the next kernel begins.
CRASH = re.compile(r"sysrq: Trigger a crash.*?(?=\] Linux version )", re.DOTALL)


def without_crash(log: str) -> str:
    """The log without a crash by SysRq, if another kernel came after it."""
    return CRASH.sub("", log)


# The kernel's compaction takes the pages of a zone in which all are online for online without
# asking (zone->contiguous in pageblock_pfn_to_page()), and that is taken back only after the
# pages of a block that goes offline were poisoned (remove_pfn_range_from_zone()). A kernel that
# poisons them finds that it has read one, with the registers shown twice.
RACED_COMPACTION = re.compile(
    r"[^\n]*VM_BUG_ON_PAGE\(PagePoisoned\(page\)\)"
    r"(?:(?!WARNING:|BUG:|end trace).)*end trace[^\n]*"
    r"(?:(?!WARNING:|BUG:|RIP:).)*RIP:[^\n]*",
    re.DOTALL,
)
COMPACTION = ("get_pfnblock_migratetype", "compaction_alloc", "compact_zone")


def without_raced_compaction(log: str) -> str:
    """The log without the reports of that. Who has compacted memory was killed."""

    def keep(match: re.Match[str]) -> str:
        return "" if all(name in match[0] for name in COMPACTION) else match[0]

    return RACED_COMPACTION.sub(keep, log)


def splats(log: str) -> list[str]:
    """The lines of a kernel log that tell of something wrong."""
    return [
        line.strip()
        for line in log.splitlines()
        if SPLATS.search(line) and not HARMLESS.search(line)
    ]


# What the kernel says of a grace period that does not end as the thread which is to end it is
# not woken: by its timer, or by the interrupt that tells its idle processor of it.
NOT_WOKEN = re.compile(r"kthread (?:timer wakeup didn't happen|starved) for \d+ jiffies")
OF_AN_IDLE_PROCESSOR = re.compile(r"rcu:?.*\bstall|RIP: \S+:pv_native_safe_halt\b|Call Trace")


def lost_an_interrupt(log: str, found: list[str]) -> bool:
    """Whether a machine hangs as its processors wait for an interrupt that has not come.

    `found` is what is wrong by its log, without what the test reckons with.
    Nothing that runs in a guest can do that: a processor that spins, or a task that waits
    for ever, leaves another log.
    """
    idle = all(OF_AN_IDLE_PROCESSOR.search(line) for line in found)
    return idle and NOT_WOKEN.search(log) is not None
