"""Delete ended jobs, by age, number and size."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import attrs

from jobsup._adopt import current_record, tell_the_end
from jobsup._jobdir import JobDir, StoreDir
from jobsup._model import JobRecord, JobState, now
from jobsup._sweep import sweep
from jobsup.errors import RecordError


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
) -> Pruned:
    """Remove each ended job that any of the three rules out."""
    swept = () if dry_run else sweep(store)
    ended = _ended_jobs(store)
    doomed: dict[str, JobDir] = {}
    if older_than is not None:
        limit = now() - timedelta(seconds=older_than)
        doomed.update(
            (job.path.name, job) for job, record in ended if (record.ended_at or now()) < limit
        )
    if keep is not None:
        doomed.update((job.path.name, job) for job, _ in ended[: max(0, len(ended) - keep)])
    sizes: dict[str, int] = {}
    if max_bytes is not None:
        left = 0
        for job, _ in reversed(ended):
            sizes[job.path.name] = disk_bytes(job.path)
            left += sizes[job.path.name]
            if left > max_bytes:
                doomed[job.path.name] = job
    removed, freed = [], 0
    for name, job in sorted(doomed.items()):
        size = sizes.get(name) or disk_bytes(job.path)
        if dry_run or _remove(store, job):
            removed.append(name)
            freed += size
    return Pruned(tuple(removed), freed, swept)


def disk_bytes(directory: Path) -> int:
    """What the files take on disk, holes apart.  stat(2), st_blocks"""
    total = 0
    with suppress(FileNotFoundError):
        for entry in os.scandir(directory):
            with suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def _ended_jobs(store: StoreDir) -> list[tuple[JobDir, JobRecord]]:
    """Oldest first.  A damaged job is left to its owner: nobody knows whether it ended."""
    found = []
    for name in store.ids():
        job = store.job(name)
        with suppress(FileNotFoundError, NotADirectoryError, RecordError):
            record = current_record(job)
            if record.state is JobState.ENDED:
                found.append((job, record))
    return found


def _remove(store: StoreDir, job: JobDir) -> bool:
    """Take the job out of sight, then delete it.  False if somebody else does, or still uses it."""
    try:
        lock = job.acquire(wait=1.0)
    except FileNotFoundError:
        return False
    if lock is None:
        return False
    try:
        # Its monitor may have been killed since we looked, with this yet to do.
        if store.is_marked(job.path.name) and job.is_ours():
            with suppress(RecordError):
                tell_the_end(job, job.read_record())
        hidden = job.path.with_name(f".{job.path.name}.del")
        os.rename(job.path, hidden)
        JobDir(hidden).remove()
        store.unmark_active(job.path.name)
    except FileNotFoundError:
        return False
    finally:
        os.close(lock)
    return True
