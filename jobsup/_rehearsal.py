"""A monitor's life gone through without doing anything.

Python prepares what it runs as it runs it: it writes to code, types and caches.
What was prepared before a fork is shared by all forks and copied by none; and
what each fork writes to, a spare has copied before the order comes.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from functools import partial

from jobsup._birth import Supervised, who_we_are
from jobsup._control import Order, RequestReader, Terms, open_control
from jobsup._events import append_line
from jobsup._jobdir import JobDir, StoreDir
from jobsup._model import JobRecord, JobState, Usage, fill, now, to_json
from jobsup._monitor import Monitor
from jobsup._outputcap import OutputCap
from jobsup._platform import obstacle, own_token
from jobsup._spawn import Command, Inheritance, SpawnFailedError, spawn
from jobsup._tree import Exit, OwnTree
from jobsup._typing import Final

_NOWHERE: Final = "/proc/0"
"""No process has this number: nothing below is ever there, nor can be made."""
_JOB_ID: Final = "0" * 26
_LOOKS: Final = 3
_NULL: Final = 0
"""A monitor's standard input."""


class _Going(OwnTree):
    """A command that exits after some looks, and leaves nothing.

    Nothing is reaped: the launcher, which goes through this, has children of its own.
    """

    looks = 0

    def peek(self) -> Exit | None:
        self.looks += 1
        with suppress(ChildProcessError):  # it is no child of ours
            super().peek()
        return Exit(0, None) if self.looks > _LOOKS else None

    def collect(self) -> bool:
        super().collect()
        return self.looks > _LOOKS

    def _another_dead(self) -> None:
        super()._another_dead()  # a look, which takes nobody

    def usage(self) -> Usage:
        return Usage(0.0, 0)


def rehearse_birth(inherited: Inheritance) -> None:
    """From the order to the command."""
    order = Order(_NOWHERE, _JOB_ID, "start", (_NOWHERE + "/x",), {"PATH": "/"}, record=b"null")
    order = Order.from_bytes(order.to_bytes())
    obstacle()
    unborn = StoreDir(order.root).unborn(order.job_id)
    for act in (unborn.acquire, unborn.begin, partial(open_control, unborn)):
        with suppress(OSError):
            act()
    with suppress(SpawnFailedError):
        spawn(Command(order.argv, {**(order.environment or {}), "A": "b"}, (0, 1, 2)), inherited)
    fill(order.record, at=now().isoformat().encode(), monitor=who_we_are(os.getpid()))
    Supervised(unborn, order.terms, order.record, is_adopted=False)


class _NoPlace(JobDir):
    """Where the final record cannot be written, and nobody tries for long."""

    def write_final_record(self, record: JobRecord) -> None:
        to_json(record)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.text)


def rehearse_life(inherited: Inheritance) -> None:
    """From the command to the final record."""
    with suppress(SpawnFailedError):  # it is there, and nobody can execute it
        spawn(Command(("null",), {"PATH": f"{_NOWHERE}:/dev"}, (0, 1, 2)), inherited)
    record = JobRecord(_JOB_ID, JobState.RUNNING, now(), started_at=now())
    who = who_we_are(os.getpid())
    job = Supervised(
        _NoPlace(StoreDir(_NOWHERE).job(_JOB_ID).text),
        Terms(output_limit=1),
        fill(to_json(record), command=who, monitor=who),
        is_adopted=False,
    )
    job.tree = _Going(os.getpid())
    job.requests = RequestReader(_NULL, _NULL)
    with suppress(OSError):
        own_token(os.getpid())
        append_line(os.devnull, b"")
        monitor, cap = Monitor(job, _NULL), OutputCap(os.devnull, 1, 0.0)
        monitor.keep_within([cap])
        try:
            monitor.run()
        finally:
            cap.close()
