"""Where a job stands (`JobRecord`), and the JSON of specs and records.

No I/O here: frozen classes, their checks, and their JSON. The field
converters take a JSON value as well as the real one, so reading a record is
calling its class.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable
from datetime import datetime, timezone

from jobsup._spec import Choice, JobSpec
from jobsup._stopplan import ProcessIdentity, as_signal, nested, only, optional, whole
from jobsup._typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar
from jobsup._value import Value, as_dict, fields_of
from jobsup.errors import RecordError

if TYPE_CHECKING:
    from pathlib import Path

FORMAT: Final = 1
"""Of spec.json and meta.json. An old one stays readable, a newer one is refused."""


class JobState(Choice):
    """Where a job is."""

    QUEUED = "queued"
    """Waits; nothing was exec'd. This release never queues a job."""
    RUNNING = "running"
    """The command was exec'd and its monitor lives."""
    PAUSED = "paused"
    """The tree was stopped by SIGSTOP on request."""
    STOPPING = "stopping"
    """A stop plan, or the sweep after the command, is under way."""
    ORPHANED = "orphaned"
    """The monitor died, processes may live on, nobody has adopted the job yet."""
    ENDED = "ended"
    """Final."""


class Outcome(Choice):
    """How an ended job went. The rules are those of `jobsup._lifecycle.outcome_of`."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    KILLED = "killed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed-out"
    LOST = "lost"


class StopCause(Choice):
    """Why jobsup itself stopped a job; the one recorded first stands."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    OWNER_DIED = "owner-died"
    OUTPUT_LIMIT = "output-limit"


def utc(value: datetime | str) -> datetime:
    time = datetime.fromisoformat(value) if isinstance(value, str) else value
    if time.tzinfo is None:
        raise ValueError(f"the time {value!r} has no zone")
    return time


def now() -> datetime:
    return datetime.now(timezone.utc)


class Usage(Value):
    """What the processes reaped by the monitor took, from getrusage(2)."""

    cpu_seconds: float
    peak_rss_bytes: int
    """Of the largest single process, not the sum. Counted from the fork, so that of
    a small command it is the size of the process that it was forked from."""
    convert: ClassVar = {"cpu_seconds": float, "peak_rss_bytes": whole("peak_rss_bytes")}

    @classmethod
    def of(cls, value: object) -> Usage:
        return nested(cls, value)


class Survivor(Value):
    """A process of the job that could not be killed, or was left alive."""

    pid: int
    command: str
    uid: int
    state: str
    """One letter, as in proc_pid_stat(5)."""
    errno: int | None = None
    """Why the signal failed; None if it was sent and did not (yet) kill."""
    token: str = ""
    """The start token of its `ProcessIdentity`."""
    convert: ClassVar = {
        "pid": whole("pid"),
        "uid": whole("uid"),
        "errno": optional(whole("errno")),
        "token": only(str, "token"),
    }

    @classmethod
    def of(cls, value: object) -> Survivor:
        return nested(cls, value)


def _survivors(value: Iterable[object]) -> tuple[Survivor, ...]:
    return tuple(Survivor.of(item) for item in value)


class JobRecord(Value):
    """Where a job stands, as `meta.json` keeps it. Times are aware and UTC."""

    job_id: str
    state: JobState
    created_at: datetime
    outcome: Outcome | None = None
    reason: str | None = None
    """Refines the outcome: owner-died, output-limit, reboot, monitor-died,
    pid-namespace, unproven."""
    exit_code: int | None = None
    signal: int | None = None
    """The signal that the command died of; exit_code is None then."""
    stop_cause: StopCause | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    command: ProcessIdentity | None = None
    monitor: ProcessIdentity | None = None
    usage: Usage | None = None
    survivors: tuple[Survivor, ...] = ()
    """Processes that could not be killed so far; with ``leftovers="wait"`` those that outlived
    the command, and with ``"leave"`` those left. At most 20 of them."""
    proved: bool | None = None
    """Ended only: True if the kernel proved the tree empty (ECHILD), False if a
    later look found no process of the job, which an escaped one may have evaded."""
    adoptions: int = 0
    output_bytes: int = 0
    output_lost_bytes: int = 0
    """Bytes dropped from the middle of the output to keep its limit."""
    note: str | None = None
    """What a reader should know besides, such as that the output could not be trimmed."""
    sequence: int = 0
    """Counts the transitions; the feed of events carries the same number."""
    convert: ClassVar = {
        "job_id": only(str, "job_id"),
        "state": JobState,
        "created_at": utc,
        "outcome": optional(Outcome),
        "reason": optional(only(str, "reason")),
        "exit_code": optional(only(int, "exit_code")),
        "signal": optional(as_signal),
        "stop_cause": optional(StopCause),
        "started_at": optional(utc),
        "ended_at": optional(utc),
        "command": optional(ProcessIdentity.of),
        "monitor": optional(ProcessIdentity.of),
        "usage": optional(Usage.of),
        "survivors": _survivors,
        "proved": optional(only(bool, "proved")),
        "adoptions": whole("adoptions"),
        "output_bytes": whole("output_bytes"),
        "output_lost_bytes": whole("output_lost_bytes"),
        "note": optional(only(str, "note")),
        "sequence": whole("sequence"),
    }

    @property
    def command_exited(self) -> bool:
        """Whether the command's exit status is known; others of the job may live on."""
        return self.exit_code is not None or self.signal is not None


def plain(value: object) -> object:
    """For an encoder: what JSON has no word for."""
    if isinstance(value, Value):
        return as_dict(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{value!r} has no JSON")


_encoder: Final = json.JSONEncoder(separators=(",", ":"), default=plain)


def json_line(fields: dict[str, Any]) -> bytes:
    """Without spaces.  One encoder: json.dumps() would make another each time."""
    return _encoder.encode(fields).encode() + b"\n"


def to_json(value: JobSpec | JobRecord) -> bytes:
    """One line of JSON that carries the format's number."""
    return json_line({"format": FORMAT, **as_dict(value)})


def fill(document: bytes, **fields: bytes) -> bytes:
    """What `to_json` made, with the JSON of some fields in the place of their null."""
    for name, value in fields.items():
        before, key, after = document.partition(b'"%s":' % name.encode())
        document = before + key + value + after.removeprefix(b"null")
    return document


_Document = TypeVar("_Document", JobSpec, JobRecord)


def from_json(cls: type[_Document], data: bytes, path: str | Path) -> _Document:
    """Read what `to_json` wrote; keys of later minor additions are ignored.

    Raises:
        RecordError: *data* is damaged or of a newer format; it names *path*.
    """
    try:
        fields = json.loads(data)
        number = fields.pop("format")
        if type(number) is not int or number < 1:
            raise ValueError(f"no format {number!r}")
        if number > FORMAT:
            raise RecordError.of(
                path,
                f"has format {number}, this jobsup reads up to {FORMAT}; use a newer jobsup",
            )
        known = fields_of(cls)
        document = cls(**{key: value for key, value in fields.items() if key in known})
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise RecordError.of(path, f"is damaged ({type(error).__name__}: {error})") from error
    return document
