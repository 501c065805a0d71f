"""What can happen to a job, and where it leads. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from jobsup._model import JobRecord, JobState, Outcome, StopCause, Survivor, Usage
from jobsup._stopplan import ProcessIdentity
from jobsup._typing import Final
from jobsup._value import Value, evolve

RUNNING = JobState.RUNNING
PAUSED = JobState.PAUSED
STOPPING = JobState.STOPPING
ORPHANED = JobState.ORPHANED
ENDED = JobState.ENDED


class CommandExited(Value):
    """The command was seen dead. Both fields are None where its status is lost."""

    exit_code: int | None
    signal: int | None

    def applied_to(self, record: JobRecord) -> JobRecord:
        return evolve(record, exit_code=self.exit_code, signal=self.signal)


class CommandDetached(CommandExited):
    """The command exited, and by ``leftovers="wait"`` what it left *living* is the job."""

    living: tuple[Survivor, ...] = ()

    def applied_to(self, record: JobRecord) -> JobRecord:
        return evolve(super().applied_to(record), survivors=self.living)


class StopRequested(Value):
    """Somebody, or a limit, wants the job stopped."""

    cause: StopCause

    def applied_to(self, record: JobRecord) -> JobRecord:
        # STOPPING: another cause came first, or the command ended by itself.
        if record.stop_cause or record.state is STOPPING:
            return record
        reason = None if self.cause in _OUTCOME_SAYS_IT else self.cause.value
        return evolve(record, stop_cause=self.cause, reason=reason)


class Paused(Value):
    """Every process of the tree was sent SIGSTOP."""

    def applied_to(self, record: JobRecord) -> JobRecord:
        return record


class Resumed(Value):
    """Every process of the tree was sent SIGCONT."""

    def applied_to(self, record: JobRecord) -> JobRecord:
        return record


class TreeEmptied(Value):
    """Nothing of the job is alive. *lost_reason* says why a status may be missing."""

    at: datetime
    proved: bool
    usage: Usage | None = None
    lost_reason: str | None = None

    def applied_to(self, record: JobRecord) -> JobRecord:
        return _ended(record, self, survivors=())


class TreeReleased(Value):
    """By ``leftovers="leave"``: what outlived the command is listed and left."""

    at: datetime
    left: tuple[Survivor, ...]
    usage: Usage | None = None

    def applied_to(self, record: JobRecord) -> JobRecord:
        empty = TreeEmptied(self.at, proved=False, usage=self.usage)
        return _ended(record, empty, survivors=self.left)


class MonitorDied(Value):
    """The lock is free though the job had not ended."""

    def applied_to(self, record: JobRecord) -> JobRecord:
        return record


class Adopted(Value):
    """A new monitor supervises on."""

    monitor: ProcessIdentity

    def applied_to(self, record: JobRecord) -> JobRecord:
        return evolve(record, monitor=self.monitor, adoptions=record.adoptions + 1)


class AdoptedPaused(Adopted):
    """As `Adopted`, and the tree was paused when the old monitor died."""


class AdoptedStopping(Adopted):
    """As `Adopted`, and a stop or a sweep was under way when the old monitor died."""


Event = (
    CommandExited
    | StopRequested
    | Paused
    | Resumed
    | TreeEmptied
    | TreeReleased
    | MonitorDied
    | Adopted
)

EVENTS: Final = (
    CommandExited,
    CommandDetached,
    StopRequested,
    Paused,
    Resumed,
    TreeEmptied,
    TreeReleased,
    MonitorDied,
    Adopted,
    AdoptedPaused,
    AdoptedStopping,
)

TRANSITIONS: Final[Mapping[tuple[JobState, type[Event]], JobState]] = {
    (RUNNING, StopRequested): STOPPING,
    (RUNNING, CommandExited): STOPPING,  # descendants may outlive it: sweep them too
    (RUNNING, CommandDetached): RUNNING,
    (RUNNING, Paused): PAUSED,
    (RUNNING, Resumed): RUNNING,
    (RUNNING, TreeEmptied): ENDED,  # the last of a detached tree went by itself
    (RUNNING, MonitorDied): ORPHANED,
    (PAUSED, StopRequested): STOPPING,
    (PAUSED, CommandExited): STOPPING,  # SIGKILL ends a stopped process too
    (PAUSED, CommandDetached): PAUSED,
    (PAUSED, Paused): PAUSED,
    (PAUSED, Resumed): RUNNING,
    (PAUSED, TreeEmptied): ENDED,
    (PAUSED, MonitorDied): ORPHANED,
    (STOPPING, StopRequested): STOPPING,  # perhaps with a shorter grace
    (STOPPING, CommandExited): STOPPING,
    (STOPPING, TreeEmptied): ENDED,
    (STOPPING, TreeReleased): ENDED,
    (STOPPING, MonitorDied): ORPHANED,
    (ORPHANED, CommandExited): ORPHANED,  # its zombie told whoever settles the record
    (ORPHANED, Adopted): RUNNING,
    (ORPHANED, AdoptedPaused): PAUSED,
    (ORPHANED, AdoptedStopping): STOPPING,
    (ORPHANED, TreeEmptied): ENDED,
}


def advance(record: JobRecord, event: Event) -> JobRecord:
    """The record after *event*; the only reader of `TRANSITIONS`."""
    pair = (record.state, type(event))
    assert pair in TRANSITIONS, f"no transition for {pair[0].value} on {pair[1].__name__}"
    after = event.applied_to(record)
    return evolve(after, state=TRANSITIONS[pair], sequence=record.sequence + 1)


def outcome_of(record: JobRecord) -> Outcome:
    """How a job went of which nothing is alive; the first rule that fits."""
    if not record.command_exited:
        return Outcome.LOST
    if record.stop_cause:
        return _OUTCOMES[record.stop_cause]
    if record.signal is not None:
        return Outcome.KILLED
    return Outcome.FAILED if record.exit_code else Outcome.SUCCEEDED


_OUTCOMES: Final = {
    StopCause.CANCEL: Outcome.CANCELLED,
    StopCause.TIMEOUT: Outcome.TIMED_OUT,
    StopCause.OWNER_DIED: Outcome.CANCELLED,
    StopCause.OUTPUT_LIMIT: Outcome.KILLED,
}
_OUTCOME_SAYS_IT: Final = (StopCause.CANCEL, StopCause.TIMEOUT)


def _ended(record: JobRecord, event: TreeEmptied, survivors: tuple[Survivor, ...]) -> JobRecord:
    outcome = outcome_of(record)
    reason = record.reason
    if outcome is Outcome.LOST:
        reason = event.lost_reason or "monitor-died"
    elif reason is None and not event.proved and not survivors:
        reason = "unproven"
    return evolve(
        record,
        outcome=outcome,
        reason=reason,
        ended_at=event.at,
        usage=event.usage or record.usage,
        survivors=survivors,
        proved=event.proved,
    )
