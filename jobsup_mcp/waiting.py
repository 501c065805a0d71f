"""Waiting for jobs, within what clients bear, and telling how it goes."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Final, Literal, TypeVar

import anyio.to_thread

from jobsup import Job, JobRecord, JobState
from jobsup_mcp.desk import Desk

_T = TypeVar("_T")

MAX_WAIT_SECONDS: Final = 45.0
"""Of one call: some clients give up after 60 s, whatever progress they are told."""

_BEAT_SECONDS: Final = 1.0
"""Between two words of progress, not between two looks: an end wakes us at once."""

_KILL_SECONDS: Final = 10.0
"""For SIGKILL to work, before we say that it did not."""

Progress = Callable[[float, float, str], Awaitable[None]]

progress: ContextVar[Progress | None] = ContextVar("progress", default=None)
"""How the request that is being served may tell its client: done, total, message."""


def capped(seconds: float, what: str = "timeout_seconds") -> float:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{what} must be a finite number of seconds >= 0, not {seconds!r}")
    return min(seconds, MAX_WAIT_SECONDS)


async def wait(
    desk: Desk, jobs: Sequence[Job], mode: Literal["any", "all"], seconds: float
) -> list[str]:
    """Until any or all have ended, at most *seconds*; the ids of those that have not.

    The end of a job wakes us. A caller that is cancelled stops waiting, and the jobs run on.
    """
    tell = progress.get()
    started = time.monotonic()
    while True:
        left = max(0.0, seconds - (time.monotonic() - started))
        pause = min(left, _BEAT_SECONDS) if tell else left
        waited = await desk.store.wait_async(jobs, mode=mode, timeout=pause)
        if not waited.pending or (mode == "any" and waited.ended) or pause == left:
            return waited.pending
        if tell:
            elapsed = time.monotonic() - started
            message = f"{len(waited.pending)} of {len(jobs)} jobs still run after {elapsed:.0f} s"
            await tell(elapsed, seconds, message)


async def cancel(desk: Desk, job: Job) -> JobRecord:
    """Stop the job by its plan, and return once its whole tree is gone.

    Not ended in the record that comes back: something could not be killed, or
    not yet. It is named there.
    """
    await in_thread(job.cancel)
    plan = job.spec().stop
    await wait(desk, [job], "all", plan.grace + _KILL_SECONDS)
    return job.status()


async def in_thread(function: Callable[[], _T]) -> _T:
    """Call what blocks for some milliseconds, without holding up the other requests."""
    return await anyio.to_thread.run_sync(function)


def has_ended(record: JobRecord) -> bool:
    return record.state is JobState.ENDED
