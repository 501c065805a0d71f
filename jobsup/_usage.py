"""CPU and memory of a running tree, through psutil."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import attrs
import psutil

from jobsup._identity import is_alive
from jobsup._model import JobRecord
from jobsup._stopplan import ProcessIdentity
from jobsup._strays import StrayTree


@attrs.frozen
class TreeUsage:
    """What a job's living processes take now.

    Attributes:
        processes: How many there are, zombies apart.
        cpu_seconds: User and system time of them, without those that ended.
        rss_bytes: Resident memory; pages they share count once for each.
    """

    processes: int
    cpu_seconds: float
    rss_bytes: int


def tree_usage(record: JobRecord) -> TreeUsage:
    """Of everything below the job's monitor and its command."""
    found: dict[int, psutil.Process] = {}
    # Below an adopter nobody is its child: there they are found by looking.
    strays: Sequence[ProcessIdentity] = ()
    if record.adoptions:
        with closing(StrayTree(record)) as tree:
            strays = tree.members()
    for identity in (record.monitor, record.command, *strays):
        if identity is None or not is_alive(identity):
            continue
        try:
            process = psutil.Process(identity.pid)
            below = process.children(recursive=True)
        except psutil.NoSuchProcess:
            continue
        found.update((child.pid, child) for child in below)
        if identity is not record.monitor:
            found[process.pid] = process
    count, cpu_seconds, rss_bytes = 0, 0.0, 0
    for process in found.values():
        try:
            with process.oneshot():
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                times, memory = process.cpu_times(), process.memory_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        count += 1
        cpu_seconds += times.user + times.system
        rss_bytes += memory.rss
    return TreeUsage(count, round(cpu_seconds, 6), rss_bytes)
