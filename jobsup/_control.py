"""Every word one process says to another: requests and their answers, orders and reports.

A request is one JSON line of at most PIPE_BUF bytes into the job's control
FIFO; its answer comes back through a FIFO that the client made for it. An
order, what to start, goes to a new monitor through a socket, and the report,
what became of it, comes back the same way.
"""

from __future__ import annotations

import errno
import json
import marshal
import os
import re
import select
import signal
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from jobsup._jobdir import FILE_MODE, JobDir, unlink
from jobsup._model import json_line
from jobsup._spec import JobSpec, Leftovers, Lifetime, OnOutputLimit, Stdin
from jobsup._stopplan import StopPlan, optional
from jobsup._typing import TYPE_CHECKING, ClassVar, Final, NamedTuple
from jobsup._value import Value, as_dict, evolve

if TYPE_CHECKING:
    from pathlib import Path

LINE_LIMIT: Final = select.PIPE_BUF
ANSWER_SECONDS: Final = 10.0
_MAY_GO_UNANSWERED: Final = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
)
LONGEST_SECONDS: Final = 86_400.0
"""Of one wait for a descriptor: poll(2) counts milliseconds in an int."""
_REPLY_NAME: Final = r"reply\.[0-9a-f]{16}\Z"


class Request(Value):
    """One thing asked of a monitor; *verb* is one of `VERBS`."""

    verb: str
    plan: StopPlan | None = None
    """For ``stop``: None is the plan the job was started with."""
    signal: int | None = None
    reply: str | None = None
    convert: ClassVar = {"plan": optional(StopPlan.of)}

    def to_line(self) -> bytes:
        line = b"\n" + json_line(as_dict(self))  # the first one ends half a line of somebody else
        if len(line) > LINE_LIMIT:
            raise ValueError(
                f"the stop plan is too long: the request has {len(line)} bytes, {LINE_LIMIT} fit"
            )
        return line


VERBS: Final = ("stop", "signal", "pause", "resume", "close-stdin")


def parse_request(line: bytes) -> Request | None:
    """What `Request.to_line` made; None for anything else, whoever wrote it."""
    try:
        request = Request(**json.loads(line))
        if request.verb not in VERBS:
            return None
        number = request.signal
        if request.verb == "signal" and not (
            type(number) is int and number in signal.valid_signals()  # True is 1, and so is 1.0
        ):
            return None
        if request.reply is not None and not re.match(_REPLY_NAME, request.reply):
            return None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    return request


@contextmanager
def _sigpipe_blocked() -> Iterator[None]:
    """Have a write to a dead reader raise EPIPE also where SIGPIPE would kill the host."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
    try:
        yield
    except BrokenPipeError:
        # write(2) sends it to the writing thread: take ours back before unblocking.
        if signal.SIGPIPE not in before and signal.SIGPIPE in signal.sigpending():
            signal.sigwait([signal.SIGPIPE])
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def open_for_write(fifo: str | Path) -> int | None:
    """The write end of a FIFO that somebody reads; None if nobody does."""
    try:
        # Without O_NONBLOCK, open() waits for a reader: forever, once the
        # monitor is dead. With it, "no reader" is ENXIO at once.  fifo(7)
        fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


def write_some(fd: int, data: bytes | memoryview, deadline: float | None) -> int:
    """Write what fits, once something does; 0 when the deadline passed first.

    Raises:
        BrokenPipeError: Nobody reads any more.
    """
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    while poll.poll(_milliseconds(deadline)):
        try:
            with _sigpipe_blocked():
                return os.write(fd, data)
        except BlockingIOError:
            # Room, but less than the PIPE_BUF bytes that must go as one.
            time.sleep(0.001)
            if deadline is not None and time.monotonic() >= deadline:
                break
    return 0


def _milliseconds(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    return min(max(0.0, deadline - time.monotonic()), LONGEST_SECONDS) * 1000


class Answer(Value):
    """What the monitor said; None of both when it died or did not answer in time."""

    heard: bool
    error: str | None = None


def ask(
    job_dir: JobDir, request: Request, monitor: int | None, wait: float = ANSWER_SECONDS
) -> Answer | None:
    """Send *request* and wait until the monitor has acted on it; None if no monitor listens.

    *monitor* is a descriptor that turns readable when that monitor dies. The
    FIFO alone does not tell: it may have a new reader by then, and the old one
    have taken the request along.
    """
    deadline = time.monotonic() + wait
    with ExitStack() as on_exit:
        control = open_for_write(job_dir.at("control"))
        if control is None:
            return None
        on_exit.callback(os.close, control)
        name = f"reply.{os.urandom(8).hex()}"
        reply = job_dir.at(name)
        answers = None
        try:
            os.mkfifo(reply, FILE_MODE)
            os.chmod(reply, 0o622)  # root may ask another's monitor; the directory is private
            on_exit.callback(unlink, reply)
            answers = os.open(reply, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            on_exit.callback(os.close, answers)
            request = evolve(request, reply=name)
        except OSError as error:
            # A full disk or table must not keep anybody from cancelling.
            if error.errno not in _MAY_GO_UNANSWERED:
                raise
        try:
            if not write_some(control, request.to_line(), deadline):
                return Answer(heard=False)
        except BrokenPipeError:
            return None
        if answers is None:
            return Answer(heard=False)
        return _answer(control, answers, monitor, deadline)


def _answer(control: int, answers: int, monitor: int | None, deadline: float) -> Answer | None:
    poll = select.poll()
    poll.register(answers, select.POLLIN)
    poll.register(control, 0)  # POLLERR comes unasked: nobody reads any more
    if monitor is not None:
        poll.register(monitor, select.POLLIN)
    ready = poll.poll(_milliseconds(deadline))
    with suppress(BlockingIOError):  # it may have answered before it died
        if line := os.read(answers, LINE_LIMIT):
            return Answer(heard=True, error=json.loads(line)["error"])
    return None if ready else Answer(heard=False)


def answer(job_dir: JobDir, request: Request, error: str | None) -> None:
    """Tell the client that its request was acted on, if it still listens."""
    if request.reply is None:
        return
    try:
        fd = open_for_write(job_dir.at(request.reply))
        if fd is None:
            return
        try:
            os.write(fd, json.dumps({"error": error}).encode()[:LINE_LIMIT])
        finally:
            os.close(fd)
    except OSError:
        pass  # the client is gone, or planted something: its loss


def open_control(job_dir: JobDir) -> tuple[int, int]:
    """The monitor's end of the control FIFO, and a writer that is never used.

    Without a writer of our own, poll(2) would report a hang-up for ever after
    the first client has gone.  fifo(7)
    """
    control = job_dir.at("control")
    reader = os.open(control, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return reader, os.open(control, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)


class RequestReader:
    """What comes through the two ends that `open_control` opened."""

    def __init__(self, reader: int, own_writer: int) -> None:
        self.fd = reader
        self._own_writer = own_writer
        self._partial = b""

    def read(self, reject: Callable[[bytes], None]) -> list[Request]:
        """The requests that have come, a bounded number; *reject* is told of garbage."""
        try:
            # No more at a time: whoever floods us must not keep us from the clock.
            data = self._partial + os.read(self.fd, LINE_LIMIT)
        except BlockingIOError:
            return []
        *lines, self._partial = data.split(b"\n")
        if len(self._partial) > LINE_LIMIT:
            reject(self._partial)
            self._partial = b""
        requests = []
        for line in filter(None, lines):
            request = parse_request(line)
            if request:
                requests.append(request)
            else:
                reject(line)
        return requests


class Terms(NamedTuple):
    """What a monitor needs of a spec, which as a whole it never makes."""

    timeout: float | None = None
    owner: tuple[int, str] | None = None
    """Pid and token of the process whose end ends the job."""
    output_limit: int | None = None
    kills_on_limit: bool = False
    separate_stderr: bool = False
    stdin_is_open: bool = False
    leftovers: str = Leftovers.KILL.value
    stop: tuple[tuple[int, float], ...] = ()
    """The steps of the stop plan."""

    @classmethod
    def of(cls, spec: JobSpec) -> Terms:
        owner = spec.owner if spec.lifetime is Lifetime.OWNER else None
        return cls(
            spec.timeout,
            (owner.pid, owner.token) if owner else None,
            spec.output_limit,
            spec.on_output_limit is OnOutputLimit.KILL,
            spec.separate_stderr,
            spec.stdin is Stdin.FIFO,
            spec.leftovers.value,
            tuple((int(step.signal), step.grace) for step in spec.stop.steps),
        )


ALONG_BYTES: Final = 1 << 15
"""Of an order that goes in one message with its descriptors; a longer one comes after them."""


class Order(NamedTuple):
    """What a new monitor is to do, handed over in memory.

    A tuple, and documents that the host has written: whatever the monitor
    makes of an order, it keeps the memory of for as long as the job lives.
    """

    root: str
    job_id: str
    verb: str
    """``start`` or ``adopt``."""
    argv: tuple[str, ...] = ()
    environment: dict[str, str] | None = None
    """The command's, whole. Never written to disk."""
    stdin_fd: int | None = None
    cwd: str | None = None
    """None: the command stays where the starter is."""
    spec: bytes = b""
    record: bytes = b""
    """The first one, but for what only its monitor knows: `fill` it in."""
    event: bytes = b""
    """What the feed is told, likewise."""
    terms: Terms = Terms()
    lays_out: bool = False
    """True: the host may not; the monitor is to lay the directory out."""
    umask: int | None = None
    mask: tuple[int, ...] | None = None
    """The starter's, where the monitor does not inherit them."""

    def to_bytes(self) -> bytes:
        # Both ends are the same interpreter, and nobody else has the socket.
        return marshal.dumps([tuple(part) if isinstance(part, Terms) else part for part in self])

    @classmethod
    def from_bytes(cls, data: bytes) -> Order:
        order = cls._make(marshal.loads(data))
        return order._replace(terms=Terms._make(order.terms))


IDLE: Final = b"\0"
"""What a monitor says to its host that would take another order."""


RELAUNCH: Final = "relaunch"
"""The stage of a report that says: not from here, but a monitor of your own can."""


class Report(Value):
    """What became of an order: done, or at which stage which system error forbade it."""

    stage: str | None = None
    subject: str = ""
    errno: int | None = None
    reason: str = ""

    def to_bytes(self) -> bytes:
        return json_line(as_dict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Report | None:
        """The report, None if *data* ends without one."""
        if data == DONE:
            return cls()
        try:
            return cls(**json.loads(data.splitlines()[-1]))
        except (ValueError, TypeError, IndexError):
            return None


DONE: Final = Report().to_bytes()
