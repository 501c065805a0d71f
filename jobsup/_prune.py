"""Delete ended jobs, and the remains of launches that crashed."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

import attrs

from jobsup._adopt import close_books, current_record
from jobsup._jobdir import JobDir, StoreDir
from jobsup._model import JobRecord, JobState, now
from jobsup._strays import StrayTree
from jobsup.errors import RecordError

_BIRTH_SECONDS: Final = 10.0
"""A hidden directory younger than this may be between mkdir(2) and its lock."""
_SWEEP_SECONDS: Final = 5.0


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
        hidden = job.path.with_name(f".{job.path.name}.del")
        os.rename(job.path, hidden)
        JobDir(hidden).remove()
        store.unmark_active(job.path.name)
    except FileNotFoundError:
        return False
    finally:
        os.close(lock)
    return True


def sweep(store: StoreDir) -> tuple[str, ...]:
    """Remove what crashes left: half-born jobs with their processes, half-deleted ones, markers."""
    try:
        hidden = [name for name in os.listdir(store.jobs) if name.startswith(".")]
    except FileNotFoundError:
        return ()
    swept = []
    for name in sorted(hidden):
        job_id, _, kind = name[1:].rpartition(".")
        if kind == "del":
            JobDir(store.jobs / name).remove()
        elif (
            kind == "new"
            and _age(store.jobs / name) > _BIRTH_SECONDS
            and sweep_launch(store, job_id)
        ):
            swept.append(job_id)
    for job_id in store.active_ids():
        _sweep_marker(store, job_id)
    return tuple(swept)


def _age(path: Path) -> float:
    try:
        return abs(time.time() - path.stat().st_mtime)  # abs: the clock may have been set back
    except FileNotFoundError:
        return 0.0


def sweep_launch(store: StoreDir, job_id: str, wait: float = 0.0) -> bool:
    """Undo a launch whose monitor died: kill what it executed, delete its directory."""
    unborn = store.unborn(job_id)
    try:
        lock = unborn.acquire(wait)
    except FileNotFoundError:
        return False
    if lock is None:
        return False
    try:
        with suppress(FileNotFoundError, RecordError):
            tree = StrayTree(unborn.read_record())
            deadline = time.monotonic() + _SWEEP_SECONDS
            while not tree.is_empty():
                tree.force()
                if time.monotonic() > deadline:
                    return False  # the directory stays, and tells the next sweep
        unborn.remove()
        store.unmark_active(job_id)
    finally:
        os.close(lock)
    return True


def _sweep_marker(store: StoreDir, job_id: str) -> None:
    """Remove the marker of a job that ended, or never came to be, in a crash."""
    if store.unborn(job_id).exists():
        return
    job = store.job(job_id)  # looked at second: it is renamed from the first
    if not job.exists():
        store.unmark_active(job_id)
        return
    with suppress(FileNotFoundError, RecordError):
        record = job.read_record()
        if record.state is JobState.ENDED:
            close_books(job, record)
