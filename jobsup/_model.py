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
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs

from jobsup._spec import Choice, JobSpec
from jobsup._stopplan import ProcessIdentity, as_signal, nested, whole
from jobsup.errors import RecordError

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


@attrs.frozen
class Usage:
    """What the processes reaped by the monitor took, from getrusage(2)."""

    cpu_seconds: float = attrs.field(converter=float)
    peak_rss_bytes: int = attrs.field(validator=whole)
    """Of the largest single process, not the sum. Counted from the fork, so that of
    a small command it is the size of the process that it was forked from."""

    @classmethod
    def of(cls, value: object) -> Usage:
        return nested(cls, value)


@attrs.frozen
class Survivor:
    """A process of the job that could not be killed, or was left alive."""

    pid: int = attrs.field(validator=whole)
    command: str
    uid: int = attrs.field(validator=whole)
    state: str
    """One letter, as in proc_pid_stat(5)."""
    errno: int | None = attrs.field(default=None, validator=attrs.validators.optional(whole))
    """Why the signal failed; None if it was sent and did not (yet) kill."""
    token: str = attrs.field(default="", validator=attrs.validators.instance_of(str))
    """The start token of its `ProcessIdentity`."""

    @classmethod
    def of(cls, value: object) -> Survivor:
        return nested(cls, value)


def _survivors(value: Iterable[object]) -> tuple[Survivor, ...]:
    return tuple(Survivor.of(item) for item in value)


def optional(converter: Any) -> Any:
    """A field that may be None, and otherwise takes what *converter* does."""
    return attrs.field(default=None, converter=attrs.converters.optional(converter))


def _maybe(kind: type) -> Any:
    """An optional field that JSON gives as it is."""
    check = attrs.validators.optional(attrs.validators.instance_of(kind))
    return attrs.field(default=None, validator=check)


def _count() -> Any:
    return attrs.field(default=0, validator=whole)


@attrs.frozen
class JobRecord:
    """Where a job stands, as `meta.json` keeps it. Times are aware and UTC."""

    job_id: str = attrs.field(validator=attrs.validators.instance_of(str))
    state: JobState = attrs.field(converter=JobState)
    created_at: datetime = attrs.field(converter=utc)
    outcome: Outcome | None = optional(Outcome)
    reason: str | None = _maybe(str)
    """Refines the outcome: owner-died, output-limit, reboot, monitor-died,
    pid-namespace, unproven."""
    exit_code: int | None = _maybe(int)
    signal: int | None = optional(as_signal)
    """The signal that the command died of; exit_code is None then."""
    stop_cause: StopCause | None = optional(StopCause)
    started_at: datetime | None = optional(utc)
    ended_at: datetime | None = optional(utc)
    command: ProcessIdentity | None = optional(ProcessIdentity.of)
    monitor: ProcessIdentity | None = optional(ProcessIdentity.of)
    usage: Usage | None = optional(Usage.of)
    survivors: tuple[Survivor, ...] = attrs.field(default=(), converter=_survivors)
    """Processes that could not be killed so far; with ``leftovers="wait"`` those that outlived
    the command, and with ``"leave"`` those left. At most 20 of them."""
    proved: bool | None = _maybe(bool)
    """Ended only: True if the kernel proved the tree empty (ECHILD), False if a
    later look found no process of the job, which an escaped one may have evaded."""
    adoptions: int = _count()
    output_bytes: int = _count()
    output_lost_bytes: int = _count()
    """Bytes dropped from the middle of the output to keep its limit."""
    note: str | None = _maybe(str)
    """What a reader should know besides, such as that the output could not be trimmed."""
    sequence: int = _count()
    """Counts the transitions; the feed of events carries the same number."""

    @property
    def command_exited(self) -> bool:
        """Whether the command's exit status is known; others of the job may live on."""
        return self.exit_code is not None or self.signal is not None


def to_json(value: JobSpec | JobRecord) -> bytes:
    """One line of JSON that carries the format's number."""
    fields = attrs.asdict(value, value_serializer=_plain)
    return json.dumps({"format": FORMAT, **fields}, separators=(",", ":")).encode() + b"\n"


def _plain(_: object, __: object, value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    return value


_Document = TypeVar("_Document", JobSpec, JobRecord)


def from_json(cls: type[_Document], data: bytes, path: Path) -> _Document:
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
            raise RecordError(
                path, f"has format {number}, this jobsup reads up to {FORMAT}; use a newer jobsup"
            )
        known = {field.name for field in attrs.fields(cls)}
        document = cls(**{key: value for key, value in fields.items() if key in known})
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise RecordError(path, f"is damaged ({type(error).__name__}: {error})") from error
    return document
