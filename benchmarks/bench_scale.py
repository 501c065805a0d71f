"""What many jobs at once take."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from benchmarks.timing import report
from jobsup import JobStore

_TIMEOUT = 60.0


def bench_memory(store: JobStore, count: int) -> None:
    """Proportional set size of a monitor, against the command it supervises."""
    jobs = [store.start(["sleep", "100"]) for _ in range(count)]
    children = [subprocess.Popen(["sleep", "100"]) for _ in range(count)]
    try:
        monitors = [job.status().monitor for job in jobs]
        ours = [_pss_mib(monitor.pid) for monitor in monitors if monitor]
        bare = [_pss_mib(child.pid) for child in children]
        report(f"PSS of a monitor, {count} jobs", ours, bare, unit="MiB")
    finally:
        for child in children:
            child.kill()
            child.wait(_TIMEOUT)
        for job in jobs:
            job.cancel(grace=0)
        store.wait(jobs, timeout=_TIMEOUT)


def _pss_mib(pid: int) -> float:
    """Private memory and a share of what is shared.  proc_pid_smaps(5), Pss"""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def bench_list(store: JobStore, rounds: int) -> None:
    """The newest 20 of all jobs that the other benchmarks left."""
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        for job in store.list(limit=20):
            job.status()
        seconds.append(time.perf_counter() - begun)
    report(f"list(limit=20) of {len(store.list())} jobs, with status", seconds, None)


def bench_idle_cpu(store: JobStore, count: int, seconds: float) -> None:
    """CPU time of the monitors of silent jobs, in thousandths of a core."""
    jobs = [store.start(["sleep", "100"]) for _ in range(count)]
    try:
        monitors = [monitor.pid for job in jobs if (monitor := job.status().monitor)]
        before = sum(map(_cpu_ticks, monitors))
        time.sleep(seconds)
        ticks = sum(map(_cpu_ticks, monitors)) - before
        report(
            f"idle CPU of {count} jobs (ticks of 10 ms in {seconds:g} s)", [ticks], None, "ticks"
        )
    finally:
        for job in jobs:
            job.cancel(grace=0)
        store.wait(jobs, timeout=_TIMEOUT)


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
