"""The transition table, exhaustively: every state on every event, and what any history leads to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import product

import pytest

from jobsup import JobRecord, JobState, Outcome, ProcessIdentity, StopCause
from jobsup._lifecycle import (
    EVENTS,
    PAUSED,
    STOPPING,
    TRANSITIONS,
    Adopted,
    AdoptedPaused,
    AdoptedStopping,
    CommandDetached,
    CommandExited,
    Event,
    MonitorDied,
    Paused,
    Resumed,
    StopRequested,
    TreeEmptied,
    TreeReleased,
    advance,
    outcome_of,
)
from jobsup._model import Survivor, Usage
from jobsup._value import evolve

BORN = datetime(2026, 1, 1, tzinfo=timezone.utc)
LATER = datetime(2026, 1, 2, tzinfo=timezone.utc)
OLD_MONITOR = ProcessIdentity(100, "old")
NEW_MONITOR = ProcessIdentity(200, "new")
LEFT = (Survivor(300, "daemon", 0, "S"),)
RUNNING = JobRecord("x", JobState.RUNNING, created_at=BORN, monitor=OLD_MONITOR)

EXAMPLES: dict[type[Event], Event] = {
    CommandExited: CommandExited(3, None),
    CommandDetached: CommandDetached(0, None),
    StopRequested: StopRequested(StopCause.CANCEL),
    Paused: Paused(),
    Resumed: Resumed(),
    TreeEmptied: TreeEmptied(LATER, proved=True),
    TreeReleased: TreeReleased(LATER, LEFT),
    MonitorDied: MonitorDied(),
    Adopted: Adopted(NEW_MONITOR),
    AdoptedPaused: AdoptedPaused(NEW_MONITOR),
    AdoptedStopping: AdoptedStopping(NEW_MONITOR),
}
EXITS = [(0, None), (3, None), (None, 15), (None, 9), (None, None)]


def test_there_is_an_example_of_every_event() -> None:
    assert set(EXAMPLES) == set(EVENTS)


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("kind", EVENTS)
def test_every_state_on_every_event(state: JobState, kind: type[Event]) -> None:
    record = evolve(RUNNING, state=state, sequence=7)
    if (state, kind) in TRANSITIONS:
        after = advance(record, EXAMPLES[kind])
        assert after.state is TRANSITIONS[state, kind]
        assert after.sequence == 8
    else:
        with pytest.raises(AssertionError, match=f"no transition for {state.value} on "):
            advance(record, EXAMPLES[kind])


@pytest.mark.parametrize("kind", EVENTS)
def test_ended_is_final(kind: type[Event]) -> None:
    assert (JobState.ENDED, kind) not in TRANSITIONS


@pytest.mark.parametrize(
    "state", [JobState.RUNNING, JobState.PAUSED, JobState.STOPPING, JobState.ORPHANED]
)
def test_what_can_always_happen_has_a_row(state: JobState) -> None:
    """The world does not ask whether an event fits."""
    assert (state, TreeEmptied) in TRANSITIONS
    assert (state, CommandExited) in TRANSITIONS
    if state is not JobState.ORPHANED:
        assert (state, MonitorDied) in TRANSITIONS
        assert (state, StopRequested) in TRANSITIONS


def test_states_that_a_job_can_reach() -> None:
    """All but queued, which this release never enters; and from each the end can be reached."""
    assert _reachable(JobState.RUNNING) == set(JobState) - {JobState.QUEUED}
    for state in _reachable(JobState.RUNNING):
        assert JobState.ENDED in _reachable(state)


def _reachable(origin: JobState) -> set[JobState]:
    found = {origin}
    while True:
        grown = found | {to for (state, _), to in TRANSITIONS.items() if state in found}
        if grown == found:
            return found
        found = grown


# -- whole histories ---------------------------------------------------------


def _can_follow(history: tuple[Event, ...], state: JobState, kind: type[Event]) -> bool:
    """Whether the world can do it: a command ends once, an adopter reads what the dead left."""
    if (state, kind) not in TRANSITIONS:
        return False
    if issubclass(kind, CommandExited):
        return not any(isinstance(event, CommandExited) for event in history)
    if issubclass(kind, Adopted):
        if not isinstance(history[-1], MonitorDied):
            return False  # who settles the record saw the command dead, and adopts nothing
        state = RUNNING.state
        for event in history[:-1]:
            state = TRANSITIONS[state, type(event)]
        return kind is {PAUSED: AdoptedPaused, STOPPING: AdoptedStopping}.get(state, Adopted)
    return True


def _events_after(history: tuple[Event, ...], record: JobRecord) -> Iterator[Event]:
    for kind in EVENTS:
        if not _can_follow(history, record.state, kind):
            continue
        if isinstance(example := EXAMPLES[kind], CommandExited):
            yield from (type(example)(*status) for status in EXITS)
        elif kind is StopRequested:
            yield from map(StopRequested, StopCause)
        elif kind is TreeEmptied:
            yield TreeEmptied(LATER, proved=True, usage=Usage(1.0, 2))
            yield TreeEmptied(LATER, proved=False, lost_reason="reboot")
        else:
            yield EXAMPLES[kind]


def _histories(length: int) -> Iterator[tuple[tuple[Event, ...], JobRecord]]:
    level: list[tuple[tuple[Event, ...], JobRecord]] = [((), RUNNING)]
    for _ in range(length):
        following = []
        seen = set()
        for history, record in level:
            for event in _events_after(history, record):
                after = advance(record, event)
                key = (after, _past((*history, event)))
                yield (*history, event), after
                if key not in seen:  # two ways to the same place have the same future
                    seen.add(key)
                    following.append(((*history, event), after))
        level = following


def _past(history: tuple[Event, ...]) -> tuple[object, ...]:
    """All of a history that what follows depends on, besides the record."""
    states = [RUNNING.state]
    for event in history:
        states.append(TRANSITIONS[states[-1], type(event)])
    has_exited = any(isinstance(event, CommandExited) for event in history)
    return states[-2], type(history[-1]), has_exited


def test_invariants_of_every_history() -> None:
    count = 0
    for history, record in _histories(5):
        count += 1
        told = [type(event).__name__ for event in history]
        assert record.sequence == len(history), told
        assert record.exit_code is None or record.signal is None, told
        is_ended = record.state is JobState.ENDED
        assert (record.outcome is not None) is is_ended, told
        assert (record.ended_at is not None) is is_ended, told
        assert (record.proved is not None) is is_ended, told
        assert not record.survivors or record.proved is False, told
        if is_ended:
            assert record.outcome is outcome_of(record), told
            assert (record.outcome is Outcome.LOST) is not record.command_exited, told
            if record.outcome is Outcome.LOST:
                assert record.reason, told
        exits = [event for event in history if isinstance(event, CommandExited)]
        if exits:
            assert (record.exit_code, record.signal) == (exits[0].exit_code, exits[0].signal), told
        adoptions = sum(isinstance(event, Adopted) for event in history)
        assert record.adoptions == adoptions, told
        assert record.monitor == (NEW_MONITOR if adoptions else OLD_MONITOR), told
    assert count > 1000


def test_the_first_cause_stands_in_every_history() -> None:
    for history, record in _histories(4):
        causes = [event.cause for event in history if isinstance(event, StopRequested)]
        ended_by_itself = next(
            (
                type(event) is CommandExited
                for event in history
                if isinstance(event, StopRequested) or type(event) is CommandExited
            ),
            False,
        )
        expected = causes[0] if causes and not ended_by_itself else None
        assert record.stop_cause is expected, history


# -- outcomes ----------------------------------------------------------------

OUTCOMES = {
    # (stop cause, exit code, signal): outcome, the first rule that fits
    (None, 0, None): Outcome.SUCCEEDED,
    (None, 3, None): Outcome.FAILED,
    (None, None, 15): Outcome.KILLED,
    (None, None, 9): Outcome.KILLED,
}
ASKED = {
    StopCause.CANCEL: Outcome.CANCELLED,
    StopCause.TIMEOUT: Outcome.TIMED_OUT,
    StopCause.OWNER_DIED: Outcome.CANCELLED,
    StopCause.OUTPUT_LIMIT: Outcome.KILLED,
}


@pytest.mark.parametrize(("cause", "status"), list(product([None, *StopCause], EXITS)))
def test_outcome_is_the_first_rule_that_fits(
    cause: StopCause | None, status: tuple[int | None, int | None]
) -> None:
    record = evolve(RUNNING, stop_cause=cause, exit_code=status[0], signal=status[1])
    if status == (None, None):
        expected = Outcome.LOST  # what nobody reaped is never invented
    elif cause is not None:
        expected = ASKED[cause]  # whatever it then returned
    else:
        expected = OUTCOMES[None, status[0], status[1]]
    assert outcome_of(record) is expected


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (StopCause.CANCEL, None),
        (StopCause.TIMEOUT, None),
        (StopCause.OWNER_DIED, "owner-died"),
        (StopCause.OUTPUT_LIMIT, "output-limit"),
    ],
)
def test_reason_says_what_the_outcome_does_not(cause: StopCause, reason: str | None) -> None:
    record = _after(StopRequested(cause), CommandExited(None, 15), EXAMPLES[TreeEmptied])
    assert (record.outcome, record.reason) == (ASKED[cause], reason)


@pytest.mark.parametrize("reason", ["reboot", "pid-namespace", None])
def test_lost_says_why(reason: str | None) -> None:
    record = _after(MonitorDied(), TreeEmptied(LATER, proved=False, lost_reason=reason))
    assert (record.outcome, record.reason) == (Outcome.LOST, reason or "monitor-died")


def test_status_that_was_published_outlives_the_monitor() -> None:
    record = _after(
        CommandExited(0, None),
        MonitorDied(),
        TreeEmptied(LATER, proved=False, lost_reason="reboot"),
    )
    assert (record.outcome, record.exit_code) == (Outcome.SUCCEEDED, 0)


def test_what_nobody_proved_is_said() -> None:
    """Where another reason does not stand already."""
    unproven = TreeEmptied(LATER, proved=False)
    assert _after(CommandExited(0, None), unproven).reason == "unproven"
    assert _after(CommandExited(0, None), EXAMPLES[TreeEmptied]).reason is None
    stopped = _after(StopRequested(StopCause.OWNER_DIED), CommandExited(None, 15), unproven)
    assert stopped.reason == "owner-died"


def test_released_tree_is_listed() -> None:
    record = _after(CommandExited(0, None), TreeReleased(LATER, LEFT))
    assert (record.outcome, record.survivors, record.proved) == (Outcome.SUCCEEDED, LEFT, False)


def _after(*events: Event) -> JobRecord:
    record = RUNNING
    for event in events:
        record = advance(record, event)
    return record
