"""A monitor's beginning: take up a job that was laid out, and publish it; or adopt one."""

from __future__ import annotations

import errno
import functools
import os
import select
import time
from contextlib import ExitStack, suppress
from functools import cached_property

from jobsup import _events
from jobsup._control import Order, Report, RequestReader, Terms, open_control
from jobsup._identity import identify_self
from jobsup._jobdir import FILE_MODE, JobDir, StoreDir
from jobsup._layout import lay_out, take_down
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
from jobsup._model import JobRecord, JobState, fill, from_json, now, to_json
from jobsup._platform import obstacle, own_token, uptime
from jobsup._spawn import Command, Inheritance, SpawnFailedError, enter, spawn
from jobsup._spec import Stdin
from jobsup._stopplan import StopPlan, StopStep
from jobsup._strays import MARKER, ChildTree, StrayTree
from jobsup._tree import OwnTree, Tree
from jobsup._typing import Final
from jobsup.errors import RecordError

_LOCK_SECONDS: Final = 5.0
_TAKE_OVER_SECONDS: Final = 0.5
"""A probe lets go in microseconds. Who holds the lock longer is another adopter,
the launcher's say, and whoever sent us makes all others wait."""


class RefusedError(Exception):
    """The order cannot be carried out; the report says why, and nothing was left."""

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.report = report


class Supervised:
    """A job in this monitor's hands. Its lock is held until this process ends, or lets go.

    The record is made of its JSON when something happens: most monitors only
    wait, and need no more than the terms.
    """

    def __init__(self, job_dir: JobDir, terms: Terms, record: bytes, *, is_adopted: bool) -> None:
        self.job_dir = job_dir
        self.is_adopted = is_adopted
        self.terms = terms
        self._record = record
        self.tree: Tree
        self.requests: RequestReader
        self.stdin_writer: int | None = None

    def stop_plan(self) -> StopPlan:
        return StopPlan(StopStep(*step) for step in self.terms.stop)

    @cached_property
    def record(self) -> JobRecord:
        return from_json(JobRecord, self._record, self.job_dir.at("meta.json"))


# -- born ----------------------------------------------------------------------


def bear(
    order: Order, host: int, stdin: int | None, inherited: Inheritance, *, is_subreaper: bool
) -> Supervised:
    """Carry out a ``start`` order: take the job up, execute its command here, and publish it.

    Raises:
        RefusedError: It could not be done.
    """
    store = StoreDir(order.root)
    unborn = store.unborn(order.job_id)
    command = 0
    try:
        if reason := obstacle():
            raise RefusedError(Report("monitor", order.root, None, reason))
        if order.lays_out:
            lay_out(order)
        requests, writer, stdio = _take_up(unborn, order, stdin)
        draft = unborn.begin()
        if _hangs_up(host):
            gone = "whoever asked for the job went away"
            raise RefusedError(Report("monitor", order.root, None, gone))
        if order.cwd is not None:
            enter(order.cwd)
        environment = {**(order.environment or {}), MARKER: order.job_id}
        before = uptime()
        command = spawn(Command(order.argv, environment, stdio), inherited)
        at = b'"%s"' % now().isoformat().encode()
        monitor = who_we_are(os.getpid())
        record = fill(order.record, started_at=at, command=_who(command, before), monitor=monitor)
        if os.pwrite(draft, record, 0) < len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        job = Supervised(store.job(order.job_id), order.terms, record, is_adopted=False)
        job.tree = OwnTree(command) if is_subreaper else ChildTree(job.record)
        os.rename(unborn.text, job.job_dir.text)
    except BaseException as error:
        if command:
            _kill_all(OwnTree(command))
        take_down(unborn)
        raise RefusedError(_report(order, error)) from error
    job.requests, job.stdin_writer = requests, writer
    for fd in {draft, *stdio} - {0}:
        os.close(fd)
    with suppress(OSError):  # the feed may lose a line to a full disk, the job not
        _events.append_line(store.at("events"), fill(order.event, at=at))
    return job


def _take_up(
    unborn: JobDir, order: Order, stdin: int | None
) -> tuple[RequestReader, int | None, tuple[int, int, int]]:
    """Lock the job and open its files: what comes and goes through them, and the command's three.

    The descriptor of the lock is nobody's: it closes when this process ends, or
    lets go of all that it has open.
    """
    lock = unborn.acquire(_LOCK_SECONDS)
    if lock is None or os.stat(unborn.at("lock")).st_ino != os.fstat(lock).st_ino:
        raise OSError(errno.EBUSY, "the directory was taken for a crashed launch")
    requests = RequestReader(*open_control(unborn))
    output = _open_output(unborn.at("output"))
    stderr = _open_output(unborn.at("stderr")) if order.terms.separate_stderr else output
    writer = None
    if order.terms.stdin_is_open:
        # Non-blocking, or it would wait for a writer, which comes next.  fifo(7)
        stdin = os.open(unborn.at("stdin"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        writer = _open_stdin_writer(unborn)
        os.set_blocking(stdin, True)
    return requests, writer, (stdin or 0, output, stderr)  # our own 0 is /dev/null


def _who(pid: int, since: int | None = None) -> bytes:
    """The identity of ourselves or our own child, born after *since*, as a record keeps it."""
    return b'{"pid":%d,"token":"%s"}' % (pid, own_token(pid, since).encode())


who_we_are: Final = functools.cache(_who)
"""Of *our* pid, which nobody else has while we live."""


def _open_output(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)


def _open_stdin_writer(job_dir: JobDir) -> int:
    """What keeps the command's standard input open."""
    return os.open(job_dir.at("stdin"), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _hangs_up(host: int) -> bool:
    """Whether nobody waits for our report: an interrupted start() is to leave nothing.

    At most it has shut its sending side down, so only its end hangs up.  poll(2)
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


def _report(order: Order, error: BaseException) -> Report:
    """What tells the host of *error*."""
    if isinstance(error, RefusedError):
        return error.report
    if isinstance(error, SpawnFailedError):
        subject = order.cwd if error.stage == "cwd" else order.argv[0]
        return Report(error.stage, subject or "", error.number, os.strerror(error.number))
    if isinstance(error, OSError):
        stage = "exists" if error.errno in (errno.EEXIST, errno.ENOTEMPTY) else "store"
        return Report(stage, order.root, error.errno, error.strerror or str(error))
    return Report("monitor", order.root, None, f"{type(error).__name__}: {error}")


# -- adopted -------------------------------------------------------------------


def adopt(order: Order) -> Supervised:
    """Carry out an ``adopt`` order: take over a job whose monitor died."""
    job_dir = StoreDir(order.root).job(order.job_id)
    on_refusal = ExitStack()
    try:
        lock = job_dir.acquire(_TAKE_OVER_SECONDS)
        if lock is None:
            raise OSError(errno.EBUSY, "another monitor holds it")
        # Before the host hears of it: who looks next would take us for a monitor.
        on_refusal.callback(os.close, lock)
        record = job_dir.read_record()
        record = job_dir.ahead_of(record) or record
        if record.state is JobState.ENDED:  # ahead: whoever looks next publishes it
            raise OSError(errno.EALREADY, "the job has ended")
        spec = job_dir.read_spec()
        requests = RequestReader(*open_control(job_dir))
        stdin_writer = None
        if spec.stdin is Stdin.FIFO:
            with suppress(OSError):  # the command closed its end
                stdin_writer = _open_stdin_writer(job_dir)
        tree = StrayTree(record)
        tree.members()  # while the command lives: its session tells who is its own
        adopted = {PAUSED: AdoptedPaused, STOPPING: AdoptedStopping}.get(record.state, Adopted)
        record = advance(advance(record, MonitorDied()), adopted(identify_self()))
    except (OSError, RecordError) as error:
        on_refusal.close()
        number = getattr(error, "errno", None)
        reason = getattr(error, "strerror", None) or str(error)
        raise RefusedError(Report("monitor", str(job_dir.path), number, reason)) from error
    on_refusal.pop_all()
    log(job_dir, f"{adopted.__name__}: {record.state.value}")
    with suppress(OSError):  # a full disk is no reason to leave the job alone
        job_dir.write_record(record)
        _events.append(job_dir.store.at("events"), record, now())
    job = Supervised(job_dir, Terms.of(spec), to_json(record), is_adopted=True)
    job.tree, job.requests, job.stdin_writer = tree, requests, stdin_writer
    return job
