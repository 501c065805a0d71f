"""Build a job under a hidden name, execute its command, and publish it by one rename(2)."""

from __future__ import annotations

import errno
import os
import select
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from jobsup import _events
from jobsup._control import Order, Report, RequestReader
from jobsup._identity import identify, identify_self
from jobsup._jobdir import DIR_MODE, FILE_MODE, JobDir, StoreDir
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
from jobsup._model import JobRecord, JobState, now
from jobsup._spawn import Child, Command, Inheritance, SpawnFailedError
from jobsup._spec import JobSpec, Stdin
from jobsup._strays import MARKER, ChildTree, StrayTree
from jobsup._tree import OwnTree, Tree
from jobsup._value import Value
from jobsup.errors import RecordError

LOCK_SECONDS = 5.0


class RefusedError(Exception):
    """The order cannot be carried out; the report says why, and nothing was left."""

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.report = report


class Supervised(Value):
    """A job in this monitor's hands. Its lock is held for as long as this process lives."""

    job_dir: JobDir
    spec: JobSpec
    record: JobRecord
    tree: Tree
    requests: RequestReader
    stdin_writer: int | None


def give_birth(order: Order, inherited: Inheritance, is_subreaper: bool) -> Supervised:
    """Carry out a ``start`` order: a whole job, or `RefusedError` and nothing."""
    spec = JobSpec(**(order.spec or {}))
    store = StoreDir(Path(order.root))
    hidden = store.unborn(order.job_id)
    with ExitStack() as undo:
        try:
            hidden.path.mkdir(DIR_MODE)
            undo.callback(hidden.remove)
            lock = hidden.acquire(LOCK_SECONDS)
            if lock is None or os.stat(hidden.lock).st_ino != os.fstat(lock).st_ino:
                raise OSError(errno.EBUSY, "the directory was taken for a crashed launch")
            os.mkfifo(hidden.control, FILE_MODE)
            requests = RequestReader(hidden)
            hidden.write_spec(spec)
            hidden.reserve_spare()
            stdio, stdin_writer = _open_stdio(hidden, spec, order.stdin_fd)
            environment = {**(order.environment or {}), MARKER: order.job_id}
            cwd = spec.cwd if order.enters_cwd else None
            child = Child(Command(spec.argv, environment, cwd, stdio), inherited)
        except OSError as error:
            raise RefusedError(_report("store", str(store.root), error)) from error
        undo.callback(_kill_all, OwnTree(child.pid))
        undo.callback(child.abandon)
        try:
            record = JobRecord(
                order.job_id,
                JobState.RUNNING,
                created_at=now(),
                started_at=now(),
                command=identify(child.pid),
                monitor=identify_self(),
            )
            hidden.write_record(record)
            undo.callback(_unmark, store, order.job_id)
            store.mark_active(order.job_id)
            if _host_is_gone():
                gone = "whoever asked for the job went away"
                raise RefusedError(Report("monitor", str(store.root), None, gone))
            child.execute()
            job_dir = store.job(order.job_id)
            os.rename(hidden.path, job_dir.path)
        except SpawnFailedError as failure:
            subject = spec.argv[0] if failure.stage == "exec" else spec.cwd or ""
            reason = os.strerror(failure.number)
            raise RefusedError(Report(failure.stage, subject, failure.number, reason)) from failure
        except OSError as error:
            raise RefusedError(_report("store", str(store.root), error)) from error
        undo.pop_all()
    for fd in set(stdio):
        os.close(fd)
    with suppress(OSError):  # the feed may lose a line to a full disk, the job not
        _events.append(store.events, record, now())
    tree: Tree = OwnTree(child.pid) if is_subreaper else ChildTree(record)
    return Supervised(job_dir, spec, record, tree, requests, stdin_writer)


def adopt(order: Order) -> Supervised:
    """Carry out an ``adopt`` order: take over a job whose monitor died."""
    job_dir = StoreDir(Path(order.root)).job(order.job_id)
    on_refusal = ExitStack()
    try:
        lock = job_dir.acquire(LOCK_SECONDS)
        if lock is None:
            raise OSError(errno.EBUSY, "another monitor holds it")
        # Before the host hears of it: who looks next would take us for a monitor.
        on_refusal.callback(os.close, lock)
        record = job_dir.read_record()
        if record.state is JobState.ENDED:
            raise OSError(errno.EALREADY, "the job has ended")
        spec = job_dir.read_spec()
        requests = RequestReader(job_dir)
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
        raise RefusedError(_report("monitor", str(job_dir.path), error)) from error
    on_refusal.pop_all()
    log(job_dir, f"{adopted.__name__}: {record.state.value}")
    with suppress(OSError):  # a full disk is no reason to leave the job alone
        job_dir.write_record(record)
        _events.append(job_dir.store.events, record, now())
    return Supervised(job_dir, spec, record, tree, requests, stdin_writer)


def _open_stdio(
    hidden: JobDir, spec: JobSpec, stdin_fd: int | None
) -> tuple[tuple[int, int, int], int | None]:
    """The command's descriptors 0, 1 and 2, and the write end that keeps an open stdin open."""
    writer = None
    if spec.stdin is Stdin.FIFO:
        os.mkfifo(hidden.stdin, FILE_MODE)
        # Non-blocking, or it would wait for a writer, which comes next.  fifo(7)
        stdin = os.open(hidden.stdin, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        writer = os.open(hidden.stdin, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(stdin, True)
    elif stdin_fd is not None:
        stdin = stdin_fd
    else:
        stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    output = _open_output(hidden.output)
    stderr = _open_output(hidden.stderr) if spec.separate_stderr else output
    return (stdin, output, stderr), writer


def _open_output(path: os.PathLike[str]) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)


def _host_is_gone() -> bool:
    """Whether nobody waits for our report: an interrupted start() is to leave nothing.

    The host has shut its sending side down, so only its end hangs up.  poll(2)
    """
    poll = select.poll()
    poll.register(0, 0)
    return bool(poll.poll(0))


def _unmark(store: StoreDir, job_id: str) -> None:
    with suppress(OSError):  # prune sweeps it; what is to be told is why the start failed
        store.unmark_active(job_id)


def _kill_all(tree: OwnTree) -> None:
    """Undo an execution: SIGKILL until ECHILD."""
    tree.peek()
    while not tree.collect():
        with suppress(OSError):  # a look that was refused; the next one may not be
            tree.force()
        time.sleep(0.001)
        tree.peek()


def _report(stage: str, subject: str, error: OSError | RecordError) -> Report:
    if isinstance(error, RecordError):
        return Report(stage, subject, None, str(error))
    if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
        stage = "exists"
    return Report(stage, subject, error.errno, error.strerror or str(error))
