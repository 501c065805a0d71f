"""Many short jobs, a few at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from itertools import count as numbers
from typing import Final

from benchmarks.bench import TIMEOUT, Bench
from benchmarks.figures import Figure, Target
from benchmarks.held import run_python
from benchmarks.peers.queues import TaskSpooler
from benchmarks.programs import TRUE
from benchmarks.timing import interleave
from jobsup import Job, JobStore

# A process of its own, which may wait for any child: all are these.
_CHILDREN: Final = """
import os, subprocess, sys, time
count, parallel = int(sys.argv[1]), int(sys.argv[2])
begun = time.perf_counter()
running = {}
for _ in range(count):
    if len(running) == parallel:
        running.pop(os.wait()[0]).returncode = 0
    child = subprocess.Popen(["true"], stdin=subprocess.DEVNULL, start_new_session=True)
    running[child.pid] = child
while running:
    running.pop(os.wait()[0]).returncode = 0
print(count / (time.perf_counter() - begun))
"""


def bench_rate(bench: Bench) -> Iterator[Figure]:
    """500 jobs, submitted to all recorded as ended, at the same parallelism for all."""
    count = bench.pick(500, 10)
    for parallel in sorted({os.cpu_count() or 1, bench.pick(16, 4)}):
        yield _rate(bench, count, parallel)


def _rate(bench: Bench, count: int, parallel: int) -> Figure:
    store = bench.store("rate")
    missing: dict[str, str] = {}
    acts = {"jobsup": _per_second(count, lambda: run_jobs(store, count, parallel))}
    if why := TaskSpooler.missing():
        missing[TaskSpooler.name] = why
    else:
        acts[TaskSpooler.name] = _task_spooler(bench, count, parallel)
    acts["Popen"] = lambda: _children(count, parallel)
    taken = interleave(acts, bench.pick(5, 1), warm_up=bench.pick(1, 0))
    return Figure(
        f"rate-{parallel}",
        f"{count} short jobs, {parallel} at a time, to all ended",
        "jobs/s",
        taken.pop("jobsup"),
        taken,
        missing,
        Target(no_worse_than=(TaskSpooler.name,)),
        more_is_better=True,
    )


def _per_second(count: int, act: Callable[[], object]) -> Callable[[], float]:
    def rate() -> float:
        begun = time.perf_counter()
        act()
        return count / (time.perf_counter() - begun)

    return rate


def run_jobs(store: JobStore, count: int, parallel: int) -> None:
    """Never more than *parallel* at once; jobs that ended make room."""
    running: list[Job] = []
    for _ in range(count):
        if len(running) == parallel:
            pending = store.wait(running, mode="any", timeout=TIMEOUT).pending
            running = [job for job in running if job.id in pending]
        running.append(store.start(TRUE))
    store.wait(running, timeout=TIMEOUT)


def _children(count: int, parallel: int) -> float:
    """Likewise of bare children: what no supervisor can be faster than."""
    return float(run_python(_CHILDREN, str(count), str(parallel)))


def _task_spooler(bench: Bench, count: int, parallel: int) -> Callable[[], float]:
    """A server of its own each time, so that it has nothing in its books."""
    fresh = numbers()

    def rate() -> float:
        directory = bench.place(f"rate-tsp-{parallel}-{next(fresh)}")
        with TaskSpooler(directory, TRUE, count, at_once=parallel) as spooler:
            begun = time.perf_counter()
            for _ in range(count):
                spooler.submit()
            spooler.wait_all(last=parallel)
            return count / (time.perf_counter() - begun)

    return rate
