"""Waiting for jobs to end: block on what their monitors read, then read the records.

A monitor reads its job's control FIFO until the final record is written, or
until it dies; then the write end of whoever waits reports an error.  pipe(7)
This needs no look at the monitor, whatever its pid means to us.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from typing import Final, Literal, NamedTuple

from jobsup._adopt import current_record
from jobsup._control import LONGEST_SECONDS, open_for_write
from jobsup._jobdir import JobDir
from jobsup._model import JobRecord, JobState

Mode = Literal["any", "all"]

_BLIND_SECONDS: Final = 0.02
"""Between two looks where nobody reads: the monitor is dying, or has adopted the
job just now, or somebody has deleted its FIFO."""


class Waited(NamedTuple):
    """What a wait for several jobs came to, each in the order asked."""

    ended: list[JobRecord]
    pending: list[str]
    """Ids of the jobs that had not ended in time."""


class _Look:
    """One look at the jobs that are waited for, and what to block on until the next."""

    def __init__(
        self, jobs: Iterable[JobDir], known: dict[str, JobRecord], on_exit: ExitStack
    ) -> None:
        self.filenos: list[int] = []
        self.is_blind = False
        for job_dir in jobs:
            try:
                ended = self._look_at(job_dir, on_exit)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise job_dir.missing(error) from None
            if ended is not None:
                known[job_dir.path.name] = ended

    def _look_at(self, job_dir: JobDir, on_exit: ExitStack) -> JobRecord | None:
        """The final record; None if there is none yet, and something to block on."""
        if self._listen_to(job_dir, on_exit):
            return None
        record = current_record(job_dir)
        if record.state is JobState.ENDED:
            return record
        self.is_blind = True
        return None

    def _listen_to(self, job_dir: JobDir, on_exit: ExitStack) -> bool:
        """Block on the job's monitor; False if it is not seen to live."""
        with suppress(FileNotFoundError, NotADirectoryError):
            fd = open_for_write(job_dir.at("control"))
            if fd is not None:
                on_exit.callback(os.close, fd)
                self.filenos.append(fd)
                # Somebody else may read there, too.
                return job_dir.is_held()
        return False

    def pause(self, left: float | None) -> float | None:
        """Seconds to block at most."""
        longest = _BLIND_SECONDS if self.is_blind else LONGEST_SECONDS
        if left is None:
            return longest if self.is_blind else None
        return min(left, longest)


def wait(jobs: Sequence[JobDir], mode: Mode, timeout: float | None) -> Waited:
    """Until any or all have ended, or the time is up."""
    deadline = None if timeout is None else time.monotonic() + timeout
    known: dict[str, JobRecord] = {}
    while True:
        with ExitStack() as on_exit:
            look = _Look(_unknown(jobs, known), known, on_exit)
            left = _left(deadline)
            if _is_over(jobs, known, mode) or left == 0:
                return _waited(jobs, known)
            poll = select.poll()
            for fd in look.filenos:
                poll.register(fd, 0)  # POLLERR comes unasked
            pause = look.pause(left)
            poll.poll(None if pause is None else pause * 1000)


async def wait_async(jobs: Sequence[JobDir], mode: Mode, timeout: float | None) -> Waited:
    """As `wait`, woken by the event loop: no thread, no polling."""
    import asyncio  # noqa: PLC0415 - 40 ms that only this needs

    deadline = None if timeout is None else time.monotonic() + timeout
    known: dict[str, JobRecord] = {}
    loop = asyncio.get_running_loop()
    while True:
        with ExitStack() as on_exit:
            look = _Look(_unknown(jobs, known), known, on_exit)
            left = _left(deadline)
            if _is_over(jobs, known, mode) or left == 0:
                return _waited(jobs, known)
            woken = asyncio.Event()
            for fd in look.filenos:
                loop.add_reader(fd, woken.set)
                on_exit.callback(loop.remove_reader, fd)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(woken.wait(), look.pause(left))


def _unknown(jobs: Sequence[JobDir], known: dict[str, JobRecord]) -> list[JobDir]:
    return [job_dir for job_dir in jobs if job_dir.path.name not in known]


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _is_over(jobs: Sequence[JobDir], known: dict[str, JobRecord], mode: Mode) -> bool:
    ended = [job_dir.path.name in known for job_dir in jobs]
    return all(ended) or (mode == "any" and any(ended))


def _waited(jobs: Sequence[JobDir], known: dict[str, JobRecord]) -> Waited:
    names = [job_dir.path.name for job_dir in jobs]
    return Waited(
        [known[name] for name in names if name in known],
        [name for name in names if name not in known],
    )
