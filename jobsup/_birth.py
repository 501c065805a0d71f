"""A monitor's beginning: have a child build the job and publish it, or adopt one."""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NoReturn

from jobsup import _events
from jobsup._build import FAILED, GO, Built, RefusedError, Taken, be_child, refusal
from jobsup._control import Order, RequestReader, open_control
from jobsup._identity import identify_self
from jobsup._jobdir import JobDir, StoreDir
from jobsup._ledger import log
from jobsup._lifecycle import (
    PAUSED,
    STOPPING,
    Adopted,
    AdoptedPaused,
    AdoptedStopping,
    MonitorDied,
    advance,
)
from jobsup._model import JobRecord, JobState, from_json, now, to_json
from jobsup._spec import JobSpec, Stdin
from jobsup._strays import ChildTree, StrayTree
from jobsup._tree import OwnTree, Tree
from jobsup.errors import RecordError

_TAKE_OVER_SECONDS: Final = 0.5
"""A probe lets go in microseconds. Who holds the lock longer is another adopter,
the launcher's say, and whoever sent us makes all others wait."""


class Supervised:
    """A job in this monitor's hands. Its lock is held for as long as this process lives.

    Spec and record are read when something happens. Most monitors only wait,
    and these two would double what they take.
    """

    def __init__(self, job_dir: JobDir, spec: bytes, record: bytes, *, is_adopted: bool) -> None:
        self.job_dir = job_dir
        self.is_adopted = is_adopted
        self._spec = spec
        self._record = record
        self.tree: Tree
        self.requests: RequestReader
        self.stdin_writer: int | None = None

    @cached_property
    def spec(self) -> JobSpec:
        return from_json(JobSpec, self._spec, self.job_dir.at("spec.json"))

    @cached_property
    def record(self) -> JobRecord:
        return from_json(JobRecord, self._record, self.job_dir.at("meta.json"))

    @cached_property
    def terms(self) -> dict[str, Any]:
        """The spec, as it lies on disk."""
        return dict(json.loads(self._spec))


class Nascent:
    """A job that is being built: the child waits for its order, or is at it."""

    def __init__(self, take: Callable[[socket.socket], Taken], *, is_subreaper: bool) -> None:
        self._is_subreaper = is_subreaper
        self.channel, theirs = socket.socketpair()
        self._child = os.fork()
        if self._child == 0:
            self.channel.close()
            be_child(take, theirs)
        theirs.close()

    def wait(self) -> tuple[Built, list[int]]:
        """What the child has built.

        This and `publish` end this process where nothing comes of it: the child
        has told the host, or undoes what it did and tells it then.
        """
        received = Built.receive(self.channel)
        if received is None:
            os._exit(1)
        return received

    def publish(self, built: Built, fds: list[int]) -> tuple[Supervised, int]:
        """Go, and one rename(2).  The job, and the host's socket."""
        host, _lock, *fds = fds
        if _hangs_up(host):
            os._exit(1)
        self.channel.sendall(GO)
        if self.channel.recv(1) == FAILED:
            os._exit(1)
        self.channel.close()
        job = Supervised(JobDir(built.published), built.spec, built.record, is_adopted=False)
        job.tree = OwnTree(self._child) if self._is_subreaper else ChildTree(job.record)
        try:
            os.rename(built.hidden, built.published)
        except OSError as error:
            self._undo(JobDir(built.hidden), host, error)
        job.requests = RequestReader(*fds[:2])
        job.stdin_writer = fds[2] if len(fds) > 2 else None
        with suppress(OSError):  # the feed may lose a line to a full disk, the job not
            _events.append_line(job.job_dir.store.at("events"), built.event)
        return job, host

    def _undo(self, hidden: JobDir, host: int, error: OSError) -> NoReturn:
        _kill_all(OwnTree(self._child))
        hidden.remove()
        with suppress(OSError):  # prune sweeps it
            hidden.store.unmark_active(hidden.id)
        with suppress(OSError):
            os.write(host, refusal("store", str(hidden.store.root), error).to_bytes())
        os._exit(1)


def adopt(order: Order) -> Supervised:
    """Carry out an ``adopt`` order: take over a job whose monitor died."""
    job_dir = StoreDir(Path(order.root)).job(order.job_id)
    on_refusal = ExitStack()
    try:
        lock = job_dir.acquire(_TAKE_OVER_SECONDS)
        if lock is None:
            raise OSError(errno.EBUSY, "another monitor holds it")
        # Before the host hears of it: who looks next would take us for a monitor.
        on_refusal.callback(os.close, lock)
        record = job_dir.read_record()
        if record.state is JobState.ENDED:
            raise OSError(errno.EALREADY, "the job has ended")
        spec = job_dir.read_spec()
        requests = RequestReader(*open_control(job_dir))
        stdin_writer = None
        if spec.stdin is Stdin.FIFO:
            with suppress(OSError):  # the command closed its end
                stdin_writer = os.open(job_dir.stdin, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        tree = StrayTree(record)
        tree.members()  # while the command lives: its session tells who is its own
        adopted = {PAUSED: AdoptedPaused, STOPPING: AdoptedStopping}.get(record.state, Adopted)
        record = advance(advance(record, MonitorDied()), adopted(identify_self()))
    except (OSError, RecordError) as error:
        on_refusal.close()
        raise RefusedError(refusal("monitor", str(job_dir.path), error)) from error
    on_refusal.pop_all()
    log(job_dir, f"{adopted.__name__}: {record.state.value}")
    with suppress(OSError):  # a full disk is no reason to leave the job alone
        job_dir.write_record(record)
        _events.append(job_dir.store.events, record, now())
    job = Supervised(job_dir, to_json(spec), to_json(record), is_adopted=True)
    job.tree, job.requests, job.stdin_writer = tree, requests, stdin_writer
    return job


def _hangs_up(host: int) -> bool:
    """Whether nobody waits for our report: an interrupted start() is to leave nothing.

    The host has shut its sending side down, so only its end hangs up.  poll(2)
    """
    poll = select.poll()
    poll.register(host, 0)
    return bool(poll.poll(0))


def _kill_all(tree: OwnTree) -> None:
    """Undo an execution: SIGKILL until ECHILD."""
    tree.peek()
    while not tree.collect():
        with suppress(OSError):  # a look that was refused; the next one may not be
            tree.force()
        time.sleep(0.001)
        tree.peek()
