"""The child that builds a job around itself, and then becomes its command.

A monitor forks it before anything is known of the job. What building takes of
memory so ends with the exec, and the monitor stays small; and while nothing is
ordered yet, the child can go through the motions. It keeps all that it made
undone-able until the monitor says go.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Final, NoReturn

from jobsup import _events
from jobsup._control import RELAUNCH, Order, Report, open_control, receive_fds
from jobsup._identity import identify, identify_self
from jobsup._jobdir import DIR_MODE, FILE_MODE, JobDir, StoreDir
from jobsup._model import JobRecord, JobState, now, to_json
from jobsup._platform import obstacle
from jobsup._spawn import Command, Inheritance, SpawnFailedError, become
from jobsup._spec import JobSpec, Stdin
from jobsup._strays import MARKER
from jobsup._value import Value
from jobsup.errors import RecordError

GO: Final = b"!"
FAILED: Final = b"x"
LOCK_SECONDS: Final = 5.0
_LENGTH: Final = struct.Struct("=I")
_MAX_FDS: Final = 5
_BLOCK: Final = 1 << 16


class Taken(Value):
    """An order that has come."""

    order: Order
    host: int
    """The socket on which the host waits for a report."""
    inherited: Inheritance


class Built(Value):
    """A job that lacks only its monitor's go, as its child describes it."""

    hidden: str
    published: str
    spec: bytes
    record: bytes
    event: bytes

    def send(self, channel: socket.socket, fds: list[int]) -> None:
        text = b"\0".join((os.fsencode(self.hidden), os.fsencode(self.published)))
        data = b"\0".join((text, self.spec, self.record, self.event))
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        flags = getattr(socket, "MSG_NOSIGNAL", 0)
        channel.sendmsg([_LENGTH.pack(len(data))], [rights], flags)
        channel.sendall(data, flags)

    @classmethod
    def receive(cls, channel: socket.socket) -> tuple[Built, list[int]] | None:
        """The job and its descriptors; None if the child ended instead."""
        head, fds = receive_fds(channel, _LENGTH.size, _MAX_FDS)
        if len(head) < _LENGTH.size:
            return None
        (left,) = _LENGTH.unpack(head)
        data = b""
        while len(data) < left:
            if not (part := channel.recv(min(left - len(data), _BLOCK))):
                return None
            data += part
        hidden, published, spec, record, event = data.split(b"\0")
        return cls(os.fsdecode(hidden), os.fsdecode(published), spec, record, event), fds


class RefusedError(Exception):
    """The order cannot be carried out; the report says why, and nothing was left."""

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.report = report


def be_child(take: Callable[[socket.socket], Taken], channel: socket.socket) -> NoReturn:
    """Wait for an order, build its job, and become its command; or tell the host why not."""
    try:
        os.setsid()
        taken = take(channel)
        root = taken.order.root
        try:
            _build(taken, channel)
        except RefusedError as refused:
            report = refused.report
        except Exception as error:
            report = Report("monitor", root, None, f"{type(error).__name__}: {error}")
        with suppress(OSError):  # the monitor may be gone, or not have said go
            channel.send(FAILED, getattr(socket, "MSG_NOSIGNAL", 0))
        with suppress(OSError):  # and so may the host
            os.write(taken.host, report.to_bytes())
    finally:
        os._exit(127)


def _build(taken: Taken, channel: socket.socket) -> NoReturn:
    order = taken.order
    store = StoreDir(order.root)
    if reason := obstacle():
        raise RefusedError(Report("monitor", order.root, None, reason))
    spec = JobSpec(**(order.spec or {}))
    with ExitStack() as undo:
        try:
            hidden = store.unborn(order.job_id)
            stdio, fds = _lay_out(hidden, spec, order.stdin_fd, undo)
            record = _first_record(order)
            hidden.write_record(record)
            undo.callback(_unmark, store, order.job_id)
            store.mark_active(order.job_id)
            published = store.job(order.job_id).at("")[:-1]
            event = _events.line_of(record, now())
            built = Built(hidden.at("")[:-1], published, to_json(spec), to_json(record), event)
            if not _may_go(built, channel, [taken.host, *fds]):
                gone = "its monitor died, or whoever asked for the job went away"
                raise RefusedError(Report(RELAUNCH, order.root, None, gone))
            environment = {**(order.environment or {}), MARKER: order.job_id}
            cwd = spec.cwd if order.enters_cwd else None
            command = Command(spec.argv, environment, cwd, stdio)
            become(command, taken.inherited, channel.fileno(), taken.host)
        except SpawnFailedError as failure:
            subject = spec.argv[0] if failure.stage == "exec" else spec.cwd or ""
            reason = os.strerror(failure.number)
            raise RefusedError(Report(failure.stage, subject, failure.number, reason)) from failure
        except OSError as error:
            raise RefusedError(refusal("store", order.root, error)) from error


def _may_go(built: Built, channel: socket.socket, fds: list[int]) -> bool:
    try:
        built.send(channel, fds)
        return channel.recv(1) == GO
    except ConnectionError:
        return False


def _lay_out(
    hidden: JobDir, spec: JobSpec, stdin_fd: int | None, undo: ExitStack
) -> tuple[tuple[int, int, int], list[int]]:
    """The directory and its files; the command's stdio, and what the monitor is to hold."""
    os.mkdir(hidden.at("")[:-1], DIR_MODE)
    undo.callback(hidden.remove)
    lock = hidden.acquire(LOCK_SECONDS)
    if lock is None or os.stat(hidden.at("lock")).st_ino != os.fstat(lock).st_ino:
        raise OSError(errno.EBUSY, "the directory was taken for a crashed launch")
    os.mkfifo(hidden.at("control"), FILE_MODE)
    requests = open_control(hidden)
    hidden.write_spec(spec)
    hidden.reserve_spare()
    stdio, writer = _open_stdio(hidden, spec, stdin_fd)
    return stdio, [lock, *requests, *([] if writer is None else [writer])]


def _first_record(order: Order) -> JobRecord:
    return JobRecord(
        order.job_id,
        JobState.RUNNING,
        created_at=now(),
        started_at=now(),
        command=identify_self(),
        monitor=identify(os.getppid()),
    )


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


def _unmark(store: StoreDir, job_id: str) -> None:
    with suppress(OSError):  # prune sweeps it; what is to be told is why the start failed
        store.unmark_active(job_id)


def refusal(stage: str, subject: str, error: OSError | RecordError) -> Report:
    """The report that says so."""
    if isinstance(error, RecordError):
        return Report(stage, subject, None, str(error))
    if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
        stage = "exists"
    return Report(stage, subject, error.errno, error.strerror or str(error))
