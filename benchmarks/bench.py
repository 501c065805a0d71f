"""What every benchmark gets: a place, a size, and somewhere to put its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import attrs

from benchmarks.figures import Target
from jobsup import JobState, JobStore, JobsupError

TIMEOUT: Final = 120.0
"""Seconds that only a benchmark which hangs takes."""
_ACTIVE: Final = frozenset(JobState) - {JobState.ENDED}


class SkipError(Exception):
    """Something that a benchmark cannot do without is not here."""


@attrs.frozen
class Bench:
    """The scratch directory of a run, its stores, and how much it does."""

    directory: Path
    quick: bool = False
    _stores: dict[str, JobStore] = attrs.field(factory=dict)

    def pick(self, full: int, quick: int) -> int:
        """How many: the second if the run is to be short."""
        return quick if self.quick else full

    def target(self, target: Target) -> Target | None:
        """For a figure whose counts are those that the target speaks of in a full run only."""
        return None if self.quick else target

    def store(self, name: str, make: Callable[[Path], JobStore] = JobStore) -> JobStore:
        """The store of that name, made on first use."""
        if name not in self._stores:
            self._stores[name] = make(self.directory / "stores" / name)
        return self._stores[name]

    def place(self, name: str) -> Path:
        """A new directory."""
        path = self.directory / name
        path.mkdir(parents=True)
        return path

    def end_all(self) -> None:
        """Stop what still runs in the stores."""
        for store in self._stores.values():
            cancel_all(store)


def cancel_all(store: JobStore) -> None:
    """Kill the active jobs, and wait until they are gone."""
    with suppress(JobsupError, OSError):
        jobs = store.list(state=_ACTIVE)
        for job in jobs:
            with suppress(JobsupError):
                job.cancel(grace=0)
        store.wait(jobs, timeout=TIMEOUT)


@contextmanager
def open_bench(directory: str, quick: bool) -> Iterator[Bench]:
    """In *directory*, with nothing left running at the end."""
    bench = Bench(Path(directory), quick)
    try:
        yield bench
    finally:
        bench.end_all()
