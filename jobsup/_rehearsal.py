"""A monitor's life gone through without doing anything.

Python prepares what it runs as it runs it: it writes to code, types and caches.
What was prepared before a fork is shared by all forks and copied by none; and
what each fork writes to, a spare has copied before the order comes.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Final

from jobsup._birth import Supervised, who_we_are
from jobsup._control import Order, RequestReader, Terms
from jobsup._jobdir import JobDir, StoreDir
from jobsup._model import JobRecord, JobState, Usage, fill, now, to_json
from jobsup._monitor import Monitor
from jobsup._platform import obstacle
from jobsup._spawn import Command, Inheritance, SpawnFailedError, spawn
from jobsup._tree import Exit, OwnTree

_NOWHERE: Final = "/proc/0"
"""No process has this number: nothing below is ever there, nor can be made."""
_JOB_ID: Final = "0" * 26
_NULL: Final = 0
"""A monitor's standard input."""


class _Gone(OwnTree):
    """What is left of a command that has exited: nothing."""

    def peek(self) -> Exit | None:
        return Exit(0, None)

    def collect(self) -> bool:
        return True

    def usage(self) -> Usage:
        return Usage(0.0, 0)


def rehearse_birth(inherited: Inheritance) -> None:
    """From the order to the command."""
    order = Order(_NOWHERE, _JOB_ID, "start", (_NOWHERE + "/x",), {"PATH": "/"}, record=b"null")
    order = Order.from_bytes(order.to_bytes())
    obstacle()
    unborn = StoreDir(order.root).unborn(order.job_id)
    with suppress(OSError):
        unborn.acquire()
    with suppress(SpawnFailedError):
        spawn(Command(order.argv, {**(order.environment or {}), "A": "b"}, (0, 1, 2)), inherited)
    fill(order.record, at=now().isoformat().encode(), monitor=who_we_are(os.getpid()))
    Supervised(unborn, order.terms, order.record, is_adopted=False)


class _NoPlace(JobDir):
    """Where the final record cannot be written, and nobody tries for long."""

    def write_final_record(self, record: JobRecord) -> None:
        to_json(record)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.text)


def rehearse_life() -> None:
    """From the loop to the final record."""
    record = JobRecord(_JOB_ID, JobState.RUNNING, now(), started_at=now())
    who = who_we_are(os.getpid())
    job = Supervised(
        _NoPlace(StoreDir(_NOWHERE).job(_JOB_ID).text),
        Terms(output_limit=1),
        fill(to_json(record), command=who, monitor=who),
        is_adopted=False,
    )
    job.tree = _Gone(os.getpid())
    job.requests = RequestReader(_NULL, _NULL)
    with suppress(OSError):
        Monitor(job, _NULL).run()
