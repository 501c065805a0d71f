"""Deleting many jobs."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmarks.bench import TIMEOUT, Bench
from benchmarks.bench_look import MANY
from benchmarks.figures import Figure, Target
from benchmarks.stores import make_store
from jobsup import JobStore

_ROUNDS: Final = 2


def bench_prune(bench: Bench) -> Iterator[Figure]:
    """100,000 jobs, beside ``rm -r`` of a quarter as many, which is as fast for each."""
    count = bench.pick(MANY, 400)
    ours, bare = [], []
    for number in range(_ROUNDS):
        root = bench.place(f"prune-{number}")
        ours.append(_rate(make_store(root / "ours", count), _prune))
        bare.append(_rate(make_store(root / "bare", count // 4), _remove))
    yield Figure(
        "prune",
        f"prune of {count:,} jobs",
        "jobs/s",
        ours,
        {"rm -r": bare},
        target=bench.target(Target(at_least=5000)),
        more_is_better=True,
    )


def _rate(store: JobStore, act: Callable[[JobStore], None]) -> float:
    count = len(store.list())
    os.sync()  # or it would wait for what the making of the store left to be written
    begun = time.perf_counter()
    act(store)
    return count / (time.perf_counter() - begun)


def _prune(store: JobStore) -> None:
    store.prune(keep=0)


def _remove(store: JobStore) -> None:
    subprocess.run(["rm", "-r", Path(store.root, "jobs")], timeout=10 * TIMEOUT, check=True)
