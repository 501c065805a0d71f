"""Waiting for jobs to end: block on what their monitors read, then read the records.

A monitor reads its job's control FIFO until it has written the final record
and lets go, or dies; then the write end of whoever waits reports an error.
This needs no look at the monitor, whatever its pid means to us.  pipe(7)
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from typing import Final, Literal, NamedTuple

from jobsup._adopt import current_record
from jobsup._control import open_for_write
from jobsup._jobdir import JobDir
from jobsup._model import JobRecord, JobState
from jobsup._platform import NAME

Mode = Literal["any", "all"]

_LONGEST_SECONDS: Final = 5.0
"""Between two looks: somebody else may read the FIFO too, and outlive the monitor there."""
_BLIND_SECONDS: Final = (0.01, 0.1)
"""Between two where nobody reads: the monitor is dying, or has adopted the job just
now, or somebody has deleted its FIFO. The first, then doubling up to the last."""


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
                known[job_dir.id] = ended

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
        # Where there is no FIFO that can be opened, the record is looked at instead.
        with suppress(OSError):
            fd = open_for_write(job_dir.at("control"))
            if fd is not None:
                on_exit.callback(os.close, fd)
                self.filenos.append(fd)
                # On macOS poll(2) does not tell of errors alone.
                self.is_blind |= NAME == "portable"
                return job_dir.is_held()  # somebody else may read there, too
        return False


class _Naps:
    """How long to block between two looks."""

    def __init__(self, timeout: float | None) -> None:
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._blind = _BLIND_SECONDS[0]

    def left(self) -> float | None:
        """Seconds until the time is up."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def after(self, look: _Look) -> float:
        longest = _LONGEST_SECONDS
        if look.is_blind:
            longest, self._blind = self._blind, min(2 * self._blind, _BLIND_SECONDS[1])
        left = self.left()
        return longest if left is None else min(left, longest)


def wait(jobs: Sequence[JobDir], mode: Mode, timeout: float | None) -> Waited:
    """Until any or all have ended, or the time is up."""
    naps = _Naps(timeout)
    known: dict[str, JobRecord] = {}
    while True:
        with ExitStack() as on_exit:
            look = _Look(_unknown(jobs, known), known, on_exit)
            if _is_over(jobs, known, mode) or naps.left() == 0:
                return _waited(jobs, known)
            poll = select.poll()
            for fd in look.filenos:
                poll.register(fd, 0)  # POLLERR comes unasked
            poll.poll(naps.after(look) * 1000)


async def wait_async(jobs: Sequence[JobDir], mode: Mode, timeout: float | None) -> Waited:
    """As `wait`, woken by the event loop: no thread, no polling."""
    import asyncio  # noqa: PLC0415 - 40 ms that only this needs

    naps = _Naps(timeout)
    known: dict[str, JobRecord] = {}
    loop = asyncio.get_running_loop()
    while True:
        with ExitStack() as on_exit:
            look = _Look(_unknown(jobs, known), known, on_exit)
            if _is_over(jobs, known, mode) or naps.left() == 0:
                return _waited(jobs, known)
            woken = asyncio.Event()
            for fd in look.filenos:
                loop.add_reader(fd, woken.set)
                on_exit.callback(loop.remove_reader, fd)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(woken.wait(), naps.after(look))


def _unknown(jobs: Sequence[JobDir], known: dict[str, JobRecord]) -> list[JobDir]:
    return [job_dir for job_dir in jobs if job_dir.id not in known]


def _is_over(jobs: Sequence[JobDir], known: dict[str, JobRecord], mode: Mode) -> bool:
    ended = [job_dir.id in known for job_dir in jobs]
    return all(ended) or (mode == "any" and any(ended))


def _waited(jobs: Sequence[JobDir], known: dict[str, JobRecord]) -> Waited:
    names = [job_dir.id for job_dir in jobs]
    return Waited(
        [known[name] for name in names if name in known],
        [name for name in names if name not in known],
    )
