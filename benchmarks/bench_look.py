"""What it takes to look: at one job, at many, at the end of much output."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.bench import TIMEOUT, Bench
from benchmarks.figures import Figure, Target
from benchmarks.programs import SLEEPER, children
from benchmarks.stores import fill_output, make_store
from benchmarks.timing import interleave, timed
from jobsup import JobState, JobStore

MANY: Final = 100_000
"""Ended jobs in the store that `list`, `cli` and `prune` share."""
FEW: Final = 20
_ACTIVE_JOBS: Final = 5


def many_jobs(bench: Bench) -> JobStore:
    return bench.store("many", partial(make_store, count=bench.pick(MANY, 300)))


def few_jobs(bench: Bench) -> JobStore:
    return bench.store("few", partial(make_store, count=FEW))


def bench_status(bench: Bench) -> Iterator[Figure]:
    """status() of an ended and of a running job."""
    store, rounds = bench.store("status"), bench.pick(2000, 50)
    with children() as bare:
        job, child = store.start(SLEEPER), bare.start(SLEEPER)
        acts = {"jobsup": timed(job.status), "Popen.poll()": timed(child.poll)}
        taken = interleave(acts, rounds)
    yield Figure(
        "status-running",
        "status() of a running job",
        "us",
        taken.pop("jobsup"),
        taken,
        target=Target(at_most=100),
    )
    job.cancel(grace=0)
    job.wait(TIMEOUT)
    record = job.dir.meta
    acts = {"jobsup": timed(job.status), "read of the file": timed(record.read_bytes)}
    taken = interleave(acts, rounds)
    yield Figure(
        "status-ended",
        "status() of an ended job",
        "us",
        taken.pop("jobsup"),
        taken,
        target=Target(at_most=50),
    )


def bench_list(bench: Bench) -> Iterator[Figure]:
    """The newest 20 of many ended jobs, and the active ones among them."""
    many, few = many_jobs(bench), few_jobs(bench)
    count, rounds = bench.pick(MANY, 300), bench.pick(30, 3)
    acts = {
        "jobsup": timed(lambda: many.list(limit=20)),
        f"{FEW} jobs in the store": timed(lambda: few.list(limit=20)),
    }
    taken = interleave(acts, rounds)
    yield Figure(
        "list",
        f"list(limit=20) with {count:,} ended jobs in the store",
        "ms",
        taken.pop("jobsup"),
        taken,
        target=bench.target(Target(at_most=20)),
    )
    for store in (many, few):
        for _ in range(_ACTIVE_JOBS):
            store.start(SLEEPER)
    running = JobState.RUNNING
    acts = {
        "jobsup": timed(lambda: many.list(state=running)),
        f"{FEW} ended jobs in the store": timed(lambda: few.list(state=running)),
    }
    taken = interleave(acts, rounds)
    yield Figure(
        "list-active",
        f"list(state='running'), {_ACTIVE_JOBS} running, {count:,} ended jobs in the store",
        "ms",
        taken.pop("jobsup"),
        taken,
        target=bench.target(Target(times_baseline=1.5)),
    )


def bench_tail(bench: Bench) -> Iterator[Figure]:
    """The last 20 lines of 10 GiB.  Nearly all of it is a hole, as in a file that was trimmed."""
    size = bench.pick(10 << 30, 1 << 20)
    store = bench.store("tail", partial(make_store, count=1))
    job = store.list()[0]
    path = fill_output(job, size, b"".join(b"line %7d of output\n" % n for n in range(40_000)))
    assert job.tail(20).count("\n") == 20
    acts = {
        "jobsup": timed(lambda: job.tail(20)),
        "read of 64 KiB": timed(lambda: _last_block(path)),
        "tail -n 20": timed(lambda: _tail_program(path)),
    }
    taken = interleave(acts, bench.pick(200, 3))
    yield Figure(
        "tail",
        f"tail(20) of {size / (1 << 30):.3g} GiB of output",
        "ms",
        taken.pop("jobsup"),
        taken,
        target=bench.target(Target(at_most=1)),
    )


def _last_block(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, 1 << 16, os.fstat(fd).st_size - (1 << 16))
    finally:
        os.close(fd)


def _tail_program(path: Path) -> None:
    subprocess.run(["tail", "-n", "20", path], stdout=subprocess.DEVNULL, check=True)
