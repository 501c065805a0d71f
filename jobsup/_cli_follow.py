"""A job's output on our own streams, and `jobsup run`, which is its job's foreground."""

from __future__ import annotations

import base64
import codecs
import json
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, Final, Literal, NamedTuple, Protocol

from jobsup import Job, JobRecord, JobState, JobsupError
from jobsup._cli_text import SHORT, complain, survivor_lines
from jobsup._cli_views import look, view

StreamName = Literal["output", "stderr"]

_LOOK_SECONDS: Final = 1.0
_PIECE_BYTES: Final = 1 << 20


class Outlet(Protocol):
    """Where a piece of output goes; the arguments are the fields of a chunk."""

    def show(self, data: bytes, cursor: int, lost_bytes: int, was_reset: bool) -> None: ...


class Plain:
    """The bytes as they are. What is missing from them is told on stderr."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def show(self, data: bytes, cursor: int, lost_bytes: int, was_reset: bool) -> None:
        if was_reset:
            complain("the command truncated its output, which begins anew here")
        if lost_bytes:
            complain(f"{lost_bytes} bytes of output were dropped here to keep its limit")
        write_all(self._fd, data)


class JsonLines:
    """One JSON object a piece, on stdout.

    A piece that is not UTF-8 by itself has its bytes beside the text, in which
    they are replaced.
    """

    def __init__(self, stream: StreamName) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def show(self, data: bytes, cursor: int, lost_bytes: int, was_reset: bool) -> None:
        if lost_bytes or was_reset:
            self._decoder.reset()
        piece = {
            "stream": self._stream,
            "text": self._decoder.decode(data),
            "next_offset_bytes": cursor,
            "lost_bytes": lost_bytes,
            "was_reset": was_reset,
        }
        try:
            data.decode()
        except UnicodeDecodeError:
            piece["base64"] = base64.b64encode(data).decode()
        print_line(piece)


_one_at_a_time: Final = threading.Lock()


def print_line(value: object) -> None:
    """One line of JSON, whole, whoever else prints."""
    with _one_at_a_time:
        write_all(1, json.dumps(value).encode() + b"\n")


def write_all(fd: int, data: bytes) -> None:
    """All of it, also where somebody made our stream non-blocking."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            select.select([], [fd], [])


def copy(job: Job, stream: StreamName, outlet: Outlet, *, cursor: int, follow: bool) -> None:
    """The output from *cursor* on: until the job has ended, or what there is by now."""
    if follow:
        for chunk in job.follow_chunks(cursor, stream=stream):
            outlet.show(chunk.data, chunk.cursor, chunk.lost_bytes, chunk.was_reset)
        return
    end = job.status().output_bytes  # do not run after a job that writes faster than we do
    while True:
        chunk = job.read(cursor, _PIECE_BYTES, stream=stream)
        cursor = chunk.cursor
        if chunk.data or chunk.lost_bytes or chunk.was_reset:
            outlet.show(chunk.data, cursor, chunk.lost_bytes, chunk.was_reset)
        if not chunk.data or cursor >= end:
            return


# -- run ---------------------------------------------------------------------


class _Happened(NamedTuple):
    """What ends a wait of `_Foreground`."""

    what: Literal["signal", "stream-ended", "nobody-reads", "failed"]
    error: Exception | None = None


class _Foreground:
    """A job that this process shows to the end, and stops when it is told to stop."""

    def __init__(self, job: Job, events: SimpleQueue[_Happened]) -> None:
        self._job = job
        self._events = events
        self._stops = 0

    def pump(self, stream: StreamName, outlet: Outlet) -> None:
        """Show a stream. In a thread: our own stdout may block as long as it likes."""
        shown = True
        try:
            for chunk in self._job.follow_chunks(stream=stream):
                try:
                    if shown:
                        outlet.show(chunk.data, chunk.cursor, chunk.lost_bytes, chunk.was_reset)
                except OSError as error:
                    shown = False  # and read on, for the end is still to be told
                    self._events.put(_Happened("nobody-reads", error))
            self._events.put(_Happened("stream-ended"))
        except Exception as error:
            self._events.put(_Happened("failed", error))

    def until_ended(self, streams: int) -> JobRecord:
        """Wait for the end of all *streams*, and act on what comes in between."""
        unread: Exception | None = None
        while streams:
            happened = self._next()
            if happened is None:
                self._give_up_on_survivors()
            elif happened.what == "stream-ended":
                streams -= 1
            elif happened.what == "signal":
                self._stop_further()
            elif happened.what == "nobody-reads":
                # A command that writes to a pipe which nobody reads would die
                # of it; do not leave it behind to write for ever.
                unread = unread or happened.error
                if not self._stops:
                    self._stops = 1
                    self._job.cancel()
            elif happened.error is not None:
                raise happened.error
        if unread:
            raise unread
        return self._job.wait()

    def _next(self) -> _Happened | None:
        try:
            # That a process cannot be killed wakes nobody: look now and then.
            return self._events.get(timeout=_LOOK_SECONDS if self._stops else None)
        except Empty:
            return None

    def _stop_further(self) -> None:
        self._stops += 1
        if self._stops > 2:  # neither the plan nor the kill brought us out of here
            raise KeyboardInterrupt
        if self._stops == 1:
            plan = self._job.spec().stop
            complain(f"stopping job {self._job.id[-SHORT:]} ({plan}); once more kills it")
            self._job.cancel()
        else:
            complain(f"killing job {self._job.id[-SHORT:]}")
            self._job.cancel(grace=0)

    def _give_up_on_survivors(self) -> None:
        record = self._job.status()
        if is_stuck(record):
            raise unkillable(record)


def is_stuck(record: JobRecord) -> bool:
    """Some processes of it were sent SIGKILL in vain."""
    return record.state is JobState.STOPPING and bool(record.survivors)


def unkillable(record: JobRecord) -> JobsupError:
    """What to say of a job some processes of which cannot be killed; names them on stderr."""
    for line in survivor_lines(record):
        complain(f"cannot kill {line}")
    return JobsupError(f"job {record.job_id} is still {record.state.value}")


@contextmanager
def _signals_into(events: SimpleQueue[_Happened]) -> Iterator[None]:
    before: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # by nohup(1), or a shell's &
            before[number] = signal.signal(number, lambda *_: events.put(_Happened("signal")))
    try:
        yield
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)


def run(start: Callable[[], Job], *, separate: bool, as_json: bool) -> JobRecord:
    """Start a job and show its output to the end.

    The first SIGINT or SIGTERM stops it by its plan, the second kills it; its
    output is shown to the end all the same.
    """
    events: SimpleQueue[_Happened] = SimpleQueue()
    with _signals_into(events):  # before the start: a job that we lose sight of would run on
        job = start()
        if as_json:
            print_line({"event": "started", **view(look(job))})
        foreground = _Foreground(job, events)
        streams: list[StreamName] = ["output", "stderr"] if separate else ["output"]
        for fd, stream in enumerate(streams, start=1):
            outlet = JsonLines(stream) if as_json else Plain(fd)
            threading.Thread(target=foreground.pump, args=(stream, outlet), daemon=True).start()
        record = foreground.until_ended(len(streams))
        if as_json:
            print_line({"event": "ended", **view(look(job))})
        return record
