"""The feed of state changes: append-only JSON lines; a cursor is a byte offset."""

from __future__ import annotations

import json
import os
from datetime import datetime

from jobsup._jobdir import FILE_MODE
from jobsup._model import JobRecord, JobState, Outcome, json_line, utc
from jobsup._stopplan import optional
from jobsup._typing import TYPE_CHECKING, ClassVar, Final, NamedTuple
from jobsup._value import Value

if TYPE_CHECKING:
    from pathlib import Path

_BLOCK: Final = 64 * 1024


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value


class JobEvent(Value):
    """One state change of one job. *sequence* counts those of the job."""

    job_id: str
    sequence: int
    state: JobState
    at: datetime
    outcome: Outcome | None = None
    exit_code: int | None = None
    signal: int | None = None
    convert: ClassVar = {
        "job_id": _text,
        "sequence": _number,
        "state": JobState,
        "at": utc,
        "outcome": optional(Outcome),
        "exit_code": optional(_number),
        "signal": optional(_number),
    }


class EventPage(NamedTuple):
    """Some events, oldest first, and the cursor for those that come after."""

    events: list[JobEvent]
    cursor: int


def append(path: str | Path, record: JobRecord, at: datetime) -> None:
    """Add the state that *record* has reached."""
    append_line(path, line_of(record, at))


def line_of(record: JobRecord, at: datetime | None) -> bytes:
    """What the feed says of the state that *record* has reached."""
    fields = {
        "job_id": record.job_id,
        "sequence": record.sequence,
        "state": record.state.value,
        "at": at and at.isoformat(),
        "outcome": record.outcome and record.outcome.value,
        "exit_code": record.exit_code,
        "signal": record.signal,
    }
    return json_line(fields)


def append_line(path: str | Path, line: bytes) -> None:
    """One write(2) of less than PIPE_BUF bytes to an O_APPEND file: the lines of
    concurrent monitors do not mix.
    """
    fd = _open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        size = os.fstat(fd).st_size
        # A full disk may have cut the last line short: do not glue ours to it.
        torn = size and os.pread(fd, 1, size - 1) != b"\n"
        os.write(fd, b"\n" + line if torn else line)
    finally:
        os.close(fd)


def read(path: Path, since: int, limit: int) -> EventPage:
    """Up to *limit* events from the byte offset *since* on; a torn line is skipped."""
    events: list[JobEvent] = []
    cursor = since
    if not path.exists():
        return EventPage(events, cursor)
    with open(path, "rb", opener=_open) as file:
        if since > os.fstat(file.fileno()).st_size:
            raise ValueError(f"cursor {since} is beyond the end of {path}; begin again at 0")
        file.seek(since)
        while len(events) < limit and (line := file.readline(_BLOCK)):
            if not line.endswith(b"\n") and len(line) < _BLOCK:
                break  # it is being written
            cursor += len(line)
            if event := _parse(line):
                events.append(event)
    return EventPage(events, cursor)


def has_event(path: Path, record: JobRecord) -> bool:
    """Whether the feed tells of this transition, which a crash may have cut off.

    Looks backwards from the end, no further than the job's own birth.
    """
    wanted = record.job_id.encode()
    if not path.exists():
        return False
    with open(path, "rb", opener=_open) as file:
        end = os.fstat(file.fileno()).st_size
        tail = b""
        while end > 0:
            start = max(0, end - _BLOCK)
            file.seek(start)
            tail = file.read(end - start) + tail
            first, *lines = tail.split(b"\n")
            for line in reversed(lines):
                if wanted in line and (event := _parse(line)):
                    return event.sequence >= record.sequence
            tail, end = first, start
        event = _parse(tail) if wanted in tail else None
        return event is not None and event.sequence >= record.sequence


def _open(path: str | Path, flags: int) -> int:
    """A file of ours: no link to elsewhere, no FIFO to hang on."""
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, FILE_MODE)


def _parse(line: bytes) -> JobEvent | None:
    try:
        return JobEvent(**json.loads(line))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
