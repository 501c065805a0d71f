"""Remove what crashes left: half-born jobs with their processes, half-deleted ones, markers."""

from __future__ import annotations

import os
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from jobsup._adopt import close_books
from jobsup._jobdir import JobDir, StoreDir
from jobsup._model import JobRecord, JobState, now
from jobsup._strays import StrayTree
from jobsup.errors import RecordError

_BIRTH_SECONDS: Final = 10.0
"""A hidden directory younger than this may be between mkdir(2) and its lock."""
_SWEEP_SECONDS: Final = 5.0


def sweep(store: StoreDir) -> tuple[str, ...]:
    """Undo all that a crash left half done; the ids of the launches among it."""
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
        if unborn.has_begun():
            deadline = time.monotonic() + _SWEEP_SECONDS
            with closing(StrayTree(_record_of(unborn))) as tree:
                while not tree.is_empty():
                    tree.force()
                    if time.monotonic() > deadline:
                        return False  # the directory stays, and tells the next sweep
        unborn.remove()
        store.unmark_active(job_id)
    finally:
        os.close(lock)
    return True


def _record_of(unborn: JobDir) -> JobRecord:
    """What its monitor wrote, or what is enough to find its processes by their marker."""
    with suppress(RecordError):
        return unborn.read_record()
    return JobRecord(unborn.id, JobState.RUNNING, now())


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
