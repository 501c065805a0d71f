"""From the end that is asked for, or comes, until it is known."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL, SIGTERM

from benchmarks.bench import TIMEOUT, Bench
from benchmarks.figures import Figure, Target
from benchmarks.programs import SLEEPER, Children, Fifo, children, compiled, fifo
from benchmarks.timing import interleave
from jobsup import JobStore

_NAP_MS = 30
"""A command's life, in which wait() has long begun to wait."""


def bench_cancel(bench: Bench) -> Iterator[Figure]:
    """A job that dies at SIGTERM: the call of cancel() until all of it is proved gone."""
    store = bench.store("cancel")

    def job() -> float:
        started = store.start(SLEEPER)
        begun = time.perf_counter()
        started.cancel()
        started.wait(TIMEOUT)
        return time.perf_counter() - begun

    def child() -> float:
        started = bare.start(SLEEPER)
        begun = time.perf_counter()
        started.terminate()
        started.wait(TIMEOUT)
        return time.perf_counter() - begun

    with children() as bare:
        taken = interleave({"jobsup": job, "Popen": child}, bench.pick(100, 3))
    yield Figure(
        "cancel",
        "cancel() of a job that dies at SIGTERM, to proved gone",
        "ms",
        taken.pop("jobsup"),
        taken,
        target=Target(at_most=5),
        notes={"Popen": "terminate() and wait(), which prove nothing of its descendants"},
    )


def bench_cancel_tree(bench: Bench) -> Iterator[Figure]:
    """Likewise of a tree of 1000 processes."""
    store, count = bench.store("cancel"), bench.pick(1000, 20)
    program = str(compiled("forker.c", bench.directory))
    with fifo(bench, "cancel-tree") as told, children() as bare:
        argv = [program, told.path, str(count)]
        acts = {
            "jobsup": lambda: _cancel_tree(store, argv, told),
            "killpg": lambda: _kill_group(bare, argv, told),
        }
        taken = interleave(acts, bench.pick(20, 2))
    yield Figure(
        "cancel-tree",
        f"cancel() of a tree of {count} processes, to proved gone",
        "ms",
        taken.pop("jobsup"),
        taken,
        target=bench.target(Target(at_most=150)),
        notes={"killpg": "SIGTERM to the group of the same tree, until its last process is dead"},
    )


def _cancel_tree(store: JobStore, argv: list[str], told: Fifo) -> float:
    job = store.start(argv)
    told.read(1)
    begun = time.perf_counter()
    job.cancel()
    job.wait(TIMEOUT)
    return time.perf_counter() - begun


def _kill_group(bare: Children, argv: list[str], told: Fifo) -> float:
    """A pipe that all of the tree hold open is at its end once all are dead."""
    read, write = os.pipe()
    with open(read, "rb", buffering=0) as pipe:
        try:
            child = bare.start(argv, holding=write)
        finally:
            os.close(write)
        told.read(1)
        begun = time.perf_counter()
        try:
            os.killpg(child.pid, SIGTERM)
            pipe.read(1)
        except BaseException:
            os.killpg(child.pid, SIGKILL)
            raise
        child.wait(TIMEOUT)
        return time.perf_counter() - begun


def bench_wait(bench: Bench) -> Iterator[Figure]:
    """How long after the command's exit wait() returns.  The command says when it exits."""
    store, place = bench.store("wait"), bench.place("wait-kept")
    program = str(compiled("stamp.c", bench.directory))
    with fifo(bench, "wait") as told, children() as bare:
        argv = [program, told.path, str(_NAP_MS)]

        def job() -> float:
            store.start(argv).wait(TIMEOUT)
            return time.monotonic() - told.read_seconds()

        def child() -> float:
            bare.start(argv).wait()
            return time.monotonic() - told.read_seconds()

        acts = {"jobsup": job, "Popen": child, "fdatasync": lambda: _keep(place)}
        taken = interleave(acts, bench.pick(100, 3))
    yield Figure(
        "wait",
        "wait() wake-up after the command's exit",
        "ms",
        taken.pop("jobsup"),
        taken,
        target=Target(at_most=3),
        notes={"fdatasync": "of a record like the final one, and its rename, by hand as late"},
    )


def _keep(directory: Path) -> float:
    """What it takes to keep a record past a power cut, after as long a silence of the disk."""
    spare = directory / "spare"
    with open(spare, "wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, 4096)
        time.sleep(_NAP_MS / 1000)
        begun = time.monotonic()
        file.write(bytes(800))
        file.truncate(800)
        os.fdatasync(file.fileno())
        os.replace(spare, directory / "record")
        return time.monotonic() - begun
