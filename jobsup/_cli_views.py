"""What programs are shown of a job: one look at it, as a plain dict whose keys carry units."""

from __future__ import annotations

import errno
import json
import signal
from datetime import datetime, timezone
from typing import Any, NamedTuple

from jobsup import (
    Job,
    JobEndedError,
    JobNotFoundError,
    JobRecord,
    JobSpec,
    JobState,
    JobsupError,
    Outcome,
)


def print_json(value: object) -> None:
    """One document.  Bytes of file names that are not UTF-8 are lone surrogates.  PEP 383"""
    print(json.dumps(value, indent=2))


class Seen(NamedTuple):
    """One look at a job. A damaged one has an error, and what could be read of it."""

    job: Job
    record: JobRecord | None
    spec: JobSpec | None
    error: str | None

    @property
    def word(self) -> str:
        """The state, or how it ended."""
        if self.record is None:
            return "damaged"
        outcome = self.record.outcome
        return self.record.state.value if outcome is None else outcome.value


def look(job: Job) -> Seen:
    """Look at a job, be it damaged; JobNotFoundError if it was pruned in the meantime."""
    record = spec = error = None
    try:
        spec = job.spec()
    except JobNotFoundError:
        raise
    except (JobsupError, OSError) as problem:
        error = str(problem)
    try:
        record = job.status()
    except JobNotFoundError:
        raise
    except (JobsupError, OSError) as problem:
        error = str(problem)
    return Seen(job, record, spec, error)


def view(seen: Seen, *, live: bool = False) -> dict[str, Any]:
    """All that is known of a job. Keys carry their unit; *live* looks at its processes too."""
    fields: dict[str, Any] = {"id": seen.job.id, "error": seen.error}
    if seen.spec:
        fields |= _spec_view(seen.spec)
    if seen.record:
        fields |= _record_view(seen.record)
    if live and seen.record and seen.record.state is not JobState.ENDED:
        fields |= _live_view(seen.job)
    return fields


def _spec_view(spec: JobSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "argv": list(spec.argv),
        "cwd": spec.cwd,
        "env_names": list(spec.env_names),
        "clean_env": spec.clean_env,
        "stdin": spec.stdin.value,
        "stderr": "separate" if spec.separate_stderr else "merge",
        "timeout_seconds": spec.timeout,
        "stop": str(spec.stop),
        "grace_seconds": spec.stop.grace,
        "lifetime": spec.lifetime.value,
        "leftovers": spec.leftovers.value,
        "output_limit_bytes": spec.output_limit,
        "on_output_limit": spec.on_output_limit.value,
        "labels": dict(spec.labels),
    }


def _record_view(record: JobRecord) -> dict[str, Any]:
    return {
        "state": record.state.value,
        "outcome": record.outcome and record.outcome.value,
        "reason": record.reason,
        "exit_code": record.exit_code,
        "signal": record.signal and int(record.signal),
        "signal_name": record.signal and signal_name(record.signal),
        "stop_cause": record.stop_cause and record.stop_cause.value,
        "created_at": _iso(record.created_at),
        "started_at": _iso(record.started_at),
        "ended_at": _iso(record.ended_at),
        "duration_seconds": duration_of(record),
        "pid": record.command and record.command.pid,
        "monitor_pid": record.monitor and record.monitor.pid,
        "output_bytes": record.output_bytes,
        "output_lost_bytes": record.output_lost_bytes,
        "cpu_seconds": record.usage and record.usage.cpu_seconds,
        "peak_rss_bytes": record.usage and record.usage.peak_rss_bytes,
        "proved": record.proved,
        "survivors": [
            {
                "pid": survivor.pid,
                "command": survivor.command,
                "uid": survivor.uid,
                "state": survivor.state,
                "errno": survivor.errno,
                "errno_name": errno_name(survivor.errno),
            }
            for survivor in record.survivors
        ],
        "adoptions": record.adoptions,
        "note": record.note,
    }


def _live_view(job: Job) -> dict[str, Any]:
    try:
        usage = job.usage()
    except JobEndedError:
        return {}
    return {
        "processes": usage.processes,
        "cpu_seconds": usage.cpu_seconds,
        "rss_bytes": usage.rss_bytes,
    }


def duration_of(record: JobRecord) -> float | None:
    """Seconds from the start to the end, or until now."""
    if record.started_at is None:
        return None
    end = record.ended_at or datetime.now(timezone.utc)
    return max(0.0, round((end - record.started_at).total_seconds(), 3))


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(timezone.utc).isoformat()


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def errno_name(number: int | None) -> str | None:
    return None if number is None else errno.errorcode.get(number, str(number))


def passed_on(record: JobRecord) -> int:
    """The exit code of `run` and `wait`: the command's own, 128+n for a signal.

    Zero only for a job that succeeded: a command that was stopped may well
    have returned 0. A lost status is no status.
    """
    if record.outcome is Outcome.LOST:
        return 125
    own = record.exit_code if record.signal is None else 128 + record.signal
    return own or int(record.outcome is not Outcome.SUCCEEDED)
