"""Stores with many jobs in them, without running any.

The one place that knows how an ended job lies on disk; where that changes,
`make_store` changes.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Final

from jobsup import Job, JobRecord, JobSpec, JobState, JobStore, Outcome
from jobsup._jobdir import FILE_MODE, StoreDir
from jobsup._model import now, to_json
from jobsup._ulid import new_id

_LOG: Final = b"2026-01-01T00:00:00Z started pid 1234\n2026-01-01T00:00:09Z ended: succeeded\n"
_OUTPUT: Final = b"a line of output\n"


def make_store(root: Path, count: int) -> JobStore:
    """*count* jobs that ended a day ago, each with all files that a real one has."""
    directory = StoreDir(root)
    directory.create()
    some_id = new_id()
    record, spec = _record(some_id), to_json(JobSpec(["true"]))
    for _ in range(count):
        job_id = new_id()
        path = f"{directory.jobs}/{job_id}"
        os.mkdir(path, 0o700)
        os.mkfifo(f"{path}/control", FILE_MODE)
        for name, data in (
            ("spec.json", spec),
            ("meta.json", record.replace(some_id.encode(), job_id.encode())),
            ("lock", b""),
            ("output", _OUTPUT),
            ("monitor.log", _LOG),
        ):
            _write(f"{path}/{name}", data)
    return JobStore(root)


def _record(job_id: str) -> bytes:
    ended = now() - timedelta(days=1)
    return to_json(
        JobRecord(
            job_id,
            JobState.ENDED,
            created_at=ended,
            started_at=ended,
            ended_at=ended,
            outcome=Outcome.SUCCEEDED,
            exit_code=0,
            proved=True,
        )
    )


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def fill_output(job: Job, size: int, end: bytes) -> Path:
    """Make the job's output *size* bytes long: a hole, and *end*."""
    path = job.dir.output
    with open(path, "r+b") as file:
        file.truncate(size - len(end))
        file.seek(size - len(end))
        file.write(end)
    return path
