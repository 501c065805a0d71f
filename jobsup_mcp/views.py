"""What the client sees: records as plain dicts, with the units in the names."""

from __future__ import annotations

import codecs
from datetime import datetime, timezone
from signal import Signals
from typing import Final, Literal

from typing_extensions import TypedDict

from jobsup import Job, JobRecord, JobSpec, JobState, Outcome

MAX_POLL_CHARACTERS: Final = 8000

_CONTINUATION_BYTES: Final = bytes(range(0x80, 0xC0))
"""Of a UTF-8 character, all but the first."""

State = Literal["queued", "running", "paused", "stopping", "orphaned", "ended"]
OutcomeWord = Literal["succeeded", "failed", "killed", "cancelled", "timed-out", "lost"]
AgentStatus = Literal["queued", "running", "done", "error", "cancelled", "lost"]


class SurvivorView(TypedDict):
    pid: int
    command: str
    uid: int
    state: str
    errno: int | None


class JobView(TypedDict):
    """One job: what was asked for, where it stands, how it went."""

    job_id: str
    name: str | None
    argv: list[str]
    cwd: str | None
    labels: dict[str, str]
    state: State
    outcome: OutcomeWord | None
    reason: str | None
    exit_code: int | None
    signal: str | None
    pid: int | None
    created_at: str
    started_at: str | None
    ended_at: str | None
    timeout_seconds: float | None
    cpu_seconds: float | None
    peak_rss_bytes: int | None
    output_bytes: int
    output_lost_bytes: int
    stdin: str
    survivors: list[SurvivorView]
    gone_proved: bool | None
    note: str | None


class RunView(JobView):
    """A job, and what it wrote last."""

    output: str
    next_offset_bytes: int
    message: str


class OutputView(TypedDict):
    """Some output of a job, and where to read on."""

    job_id: str
    state: State
    output: str
    offset_bytes: int
    next_offset_bytes: int
    total_bytes: int
    lost_bytes: int
    is_end: bool


def time_text(time: datetime | None) -> str | None:
    """ISO 8601, UTC."""
    return None if time is None else time.astimezone(timezone.utc).isoformat()


def signal_text(number: int | None) -> str | None:
    if number is None:
        return None
    return number.name if isinstance(number, Signals) else str(number)


def pid_of(record: JobRecord) -> int | None:
    """Of the command; it may be over, and the number another's."""
    return record.command.pid if record.command else None


def job_view(job: Job) -> JobView:
    """Raises as `Job.status`."""
    return view_of(job.spec(), job.status())


def view_of(spec: JobSpec, record: JobRecord) -> JobView:
    return {
        "job_id": record.job_id,
        "name": spec.name,
        "argv": list(spec.argv),
        "cwd": spec.cwd,
        "labels": dict(spec.labels),
        "state": record.state.value,
        "outcome": record.outcome and record.outcome.value,
        "reason": record.reason,
        "exit_code": record.exit_code,
        "signal": signal_text(record.signal),
        "pid": pid_of(record),
        "created_at": record.created_at.astimezone(timezone.utc).isoformat(),
        "started_at": time_text(record.started_at),
        "ended_at": time_text(record.ended_at),
        "timeout_seconds": spec.timeout,
        "cpu_seconds": record.usage.cpu_seconds if record.usage else None,
        "peak_rss_bytes": record.usage.peak_rss_bytes if record.usage else None,
        "output_bytes": record.output_bytes,
        "output_lost_bytes": record.output_lost_bytes,
        "stdin": spec.stdin.value,
        "survivors": [
            {
                "pid": survivor.pid,
                "command": survivor.command,
                "uid": survivor.uid,
                "state": survivor.state,
                "errno": survivor.errno,
            }
            for survivor in record.survivors
        ],
        "gone_proved": record.proved,
        "note": record.note,
    }


def run_view(job: Job, limit_bytes: int) -> RunView:
    """The job, and the last of its output."""
    view = job_view(job)  # first: what is read after an end is all there is
    tail = output_tail(job, limit_bytes)
    return RunView(
        **view, output=tail["output"], next_offset_bytes=tail["next_offset_bytes"], message=""
    )


def output_tail(job: Job, limit_bytes: int) -> OutputView:
    """The last whole lines that fit; of a line longer than that, its end."""
    return _output(job, None, limit_bytes)


def output_from(job: Job, offset_bytes: int, limit_bytes: int) -> OutputView:
    """Output from a byte offset on."""
    return _output(job, offset_bytes, limit_bytes)


def _output(job: Job, offset: int | None, limit: int) -> OutputView:
    record = job.status()
    total = job.tail_chunk(0).cursor
    begin = max(0, total - limit) if offset is None else offset
    chunk = job.read(begin, limit)
    data = chunk.data
    if offset is None and begin and not (chunk.lost_bytes or chunk.was_reset):
        # We began in the middle of a line, perhaps of a character.
        newline = data.find(b"\n", 0, -1)
        data = data[newline + 1 :] if newline >= 0 else data.lstrip(_CONTINUATION_BYTES)
    # A character of which the last bytes are yet to come is left for the next look.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, final=chunk.eof)
    held_back = len(decoder.getstate()[0])
    return {
        "job_id": job.id,
        "state": record.state.value,
        "output": text,
        "offset_bytes": chunk.cursor - len(data),
        "next_offset_bytes": chunk.cursor - held_back,
        "total_bytes": max(total, chunk.cursor),
        "lost_bytes": chunk.lost_bytes,
        "is_end": chunk.eof,
    }


def agent_status(record: JobRecord) -> AgentStatus:
    """The origin's words, and two that it lacked: `queued` and `lost`."""
    if record.state is JobState.QUEUED:
        return "queued"
    if record.state is not JobState.ENDED:
        return "running"
    assert record.outcome is not None
    return _AGENT_WORDS[record.outcome]


_AGENT_WORDS: Final[dict[Outcome, AgentStatus]] = {
    Outcome.SUCCEEDED: "done",
    Outcome.FAILED: "error",
    Outcome.KILLED: "error",
    Outcome.TIMED_OUT: "error",
    Outcome.CANCELLED: "cancelled",
    Outcome.LOST: "lost",
}


def agent_exit_code(record: JobRecord) -> int | None:
    """As the origin had it: -N for a command that died of signal N."""
    return record.exit_code if record.signal is None else -int(record.signal)


def poll_text(job: Job, lines: int) -> str:
    """The last lines, cut in front to what a reply may hold."""
    text = job.tail(lines)
    if len(text) <= MAX_POLL_CHARACTERS:
        return text
    return "...(truncated)...\n" + text[-MAX_POLL_CHARACTERS:]


def survivors_text(record: JobRecord) -> str:
    """The processes that could not be killed, for people."""
    named = (
        f"pid {one.pid} ({one.command}, uid {one.uid}, state {one.state}, errno {one.errno})"
        for one in record.survivors
    )
    return ", ".join(named)
