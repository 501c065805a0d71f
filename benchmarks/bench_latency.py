"""Start, status, wait and cancel, against the same with a bare subprocess."""

from __future__ import annotations

import subprocess
import time

from benchmarks.timing import report, time_each
from jobsup import Job, JobStore

_TIMEOUT = 60.0
_SLEEPER = ["sleep", "100"]


def bench_start(store: JobStore, rounds: int) -> None:
    """The call until the command was exec'd."""
    jobs: list[Job] = []
    children: list[subprocess.Popen[bytes]] = []
    ours = time_each(lambda: jobs.append(store.start(["true"])), rounds)
    bare = time_each(lambda: children.append(subprocess.Popen(["true"])), rounds)
    for job in jobs:
        job.wait(_TIMEOUT)
    for child in children:
        child.wait(_TIMEOUT)
    report("start() of true", ours, bare)


def bench_start_to_ended(store: JobStore, rounds: int) -> None:
    """What supervision costs: a job that does nothing against a bare child."""
    ours = time_each(lambda: store.start(["true"]).wait(_TIMEOUT), rounds)
    bare = time_each(lambda: subprocess.run(["true"], check=True), rounds)
    report("start to ended", ours, bare)


def bench_cancel(store: JobStore, rounds: int) -> None:
    """A job that dies at SIGTERM: the call until it is proved gone."""
    ours, bare = [], []
    for _ in range(rounds):
        job = store.start(_SLEEPER)
        child = subprocess.Popen(_SLEEPER)
        begun = time.perf_counter()
        job.cancel()
        job.wait(_TIMEOUT)
        ours.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        child.terminate()
        child.wait(_TIMEOUT)
        bare.append(time.perf_counter() - begun)
    report("cancel to proved gone", ours, bare)


def bench_status(store: JobStore, rounds: int) -> None:
    """A look at a running and at an ended job, against Popen.poll()."""
    job = store.start(_SLEEPER)
    child = subprocess.Popen(_SLEEPER)
    try:
        bare = time_each(child.poll, rounds)
        report("status() of a running job", time_each(job.status, rounds), bare)
    finally:
        child.kill()
        child.wait(_TIMEOUT)
        job.cancel(grace=0)
        job.wait(_TIMEOUT)
    report("status() of an ended job", time_each(job.status, rounds), bare)
