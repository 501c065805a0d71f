"""Delete ended jobs, by age, number and size."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from typing import Final

import attrs

from jobsup import _index
from jobsup._adopt import current_record, tell_the_end
from jobsup._jobdir import JobDir, StoreDir, read_bytes
from jobsup._model import FORMAT, JobState, now, utc
from jobsup._sweep import sweep
from jobsup.errors import RecordError

Progress = Callable[[int, int], object]

_TELL_SECONDS: Final = 0.1


@attrs.frozen
class Pruned:
    """What a prune removed, or would have.

    Attributes:
        job_ids: The jobs, oldest first.
        freed_bytes: Disk space that they took.
        swept: Ids of launches that crashed, whose remains were removed.
    """

    job_ids: tuple[str, ...] = ()
    freed_bytes: int = 0
    swept: tuple[str, ...] = ()


def prune(
    store: StoreDir,
    *,
    older_than: float | None,
    keep: int | None,
    max_bytes: int | None,
    dry_run: bool,
    progress: Progress | None = None,
) -> Pruned:
    """Remove each ended job that any of the three rules out, the oldest first."""
    swept = () if dry_run else sweep(store)
    run = _Run(store, older_than, keep, max_bytes, progress)
    removed, freed = [], 0
    for name in run.doomed():
        size = disk_bytes(store.job(name).text) if dry_run else _remove(store, name, run.marked)
        if size is not None:
            removed.append(name)
            freed += size
    if not dry_run:
        _index.tidy(store.text, {*run.names}.difference(removed))
    return Pruned(tuple(sorted(removed)), freed, swept)


class _Run:
    """One look at a store, in which each job is read once."""

    def __init__(
        self,
        store: StoreDir,
        older_than: float | None,
        keep: int | None,
        max_bytes: int | None,
        progress: Progress | None,
    ) -> None:
        self._store = store
        self.names = store.ids()
        # Read after the jobs: of one that is not among these, nothing is left to be told.
        self.marked = {*store.active_ids()}
        self._limit = None if older_than is None else now() - timedelta(seconds=older_than)
        self._keep = keep
        self._max_bytes = max_bytes
        self._progress = progress
        self._told_at = time.monotonic()
        self._done = 0

    def doomed(self) -> Iterator[str]:
        """The jobs to be removed, oldest first; asking for the next tells that one is done with."""
        aged: list[str] = []
        older = self._beyond_bounds(aged)
        has_bounds = not (self._keep is None and self._max_bytes is None)
        for name in self.names[:older]:
            ended_at = self._end_of(name)
            if ended_at and (has_bounds or self._is_too_old(ended_at)):
                yield name
            self._step()
        for name in reversed(aged):
            yield name
            self._step()
        if self._progress:
            self._progress(len(self.names), len(self.names))

    def _beyond_bounds(self, aged: list[str]) -> int:
        """How many of the oldest jobs are too many or too much; who of the others is *aged*."""
        at = len(self.names)
        if self._keep is None and self._max_bytes is None:
            return at
        count = size = 0
        while at:
            name = self.names[at - 1]
            ended_at = self._end_of(name)
            if ended_at:
                count += 1
                if self._max_bytes is not None:
                    size += disk_bytes(self._store.job(name).text)
                    if size > self._max_bytes:
                        break
                if self._keep is not None and count > self._keep:
                    break
            at -= 1
            if ended_at and self._is_too_old(ended_at):
                aged.append(name)
            else:
                self._step()
        return at

    def _is_too_old(self, ended_at: datetime) -> bool:
        return self._limit is not None and ended_at < self._limit

    def _end_of(self, name: str) -> datetime | None:
        """When the job ended; None if it has not.

        A damaged job is left to its owner: nobody knows whether it ended.
        """
        job = self._store.job(name)
        with suppress(FileNotFoundError, NotADirectoryError, RecordError):
            if name not in self.marked and (ended_at := _plain_end(job, name)):
                return ended_at
            record = current_record(job)
            if record.state is JobState.ENDED:
                return record.ended_at or now()
        return None

    def _step(self) -> None:
        self._done += 1
        if self._progress and time.monotonic() - self._told_at > _TELL_SECONDS:
            self._told_at = time.monotonic()
            self._progress(self._done, len(self.names))


def _plain_end(job: JobDir, name: str) -> datetime | None:
    """When a job ended of which the record says so without any doubt: all that is read of most."""
    try:
        fields = json.loads(read_bytes(job.at("meta.json")))
        known = (fields["format"], fields["job_id"], fields["state"]) == (FORMAT, name, "ended")
        return utc(fields["ended_at"]) if known else None
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None


def disk_bytes(directory: str) -> int:
    """What the files take on disk, holes apart.  stat(2), st_blocks"""
    total = 0
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def _remove(store: StoreDir, name: str, marked: set[str]) -> int | None:
    """Take the job out of sight, then delete it; what it took on disk.

    None if somebody else does, or still uses it.
    """
    job = store.job(name)
    with suppress(FileNotFoundError), ExitStack() as on_exit:
        lock = job.acquire(wait=1.0)
        if lock is None:
            return None
        on_exit.callback(os.close, lock)
        # Its monitor may have been killed since we looked, with this yet to do.
        is_marked = name in marked and store.is_marked(name)
        if is_marked and job.is_ours():
            with suppress(RecordError):
                tell_the_end(job, job.read_record())
        hidden = store.at(f"jobs/.{name}.del")
        os.rename(job.text, hidden)
        freed = JobDir(hidden).remove()
        if is_marked:
            store.unmark_active(name)
        return freed
    return None
