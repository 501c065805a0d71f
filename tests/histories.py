"""What must hold of the feed of a store, whatever was done to it and whoever was killed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from jobsup import JobRecord, JobState, JobStore
from jobsup._events import JobEvent
from jobsup._lifecycle import TRANSITIONS

BORN = JobState.RUNNING
"""Where every job of this release begins, with sequence 0."""


def all_events(store: JobStore) -> dict[str, list[JobEvent]]:
    """The whole feed, by job."""
    found: dict[str, list[JobEvent]] = {}
    cursor = 0
    while (page := store.events(cursor)).events:
        cursor = page.cursor
        for event in page.events:
            found.setdefault(event.job_id, []).append(event)
    return found


@cache
def reachable(state: JobState, steps: int) -> frozenset[JobState]:
    """Where exactly so many transitions can lead."""
    if steps == 0:
        return frozenset([state])
    after = {to for (came_from, _), to in TRANSITIONS.items() if came_from is state}
    return frozenset(end for next in after for end in reachable(next, steps - 1))


def faults_of(events: Iterable[JobEvent]) -> list[str]:
    """What is wrong with the feed of one job that has ended.

    A monitor that was killed may have left out an event, never the last one:
    the number of the next tells by how many transitions it was reached.
    """
    faults = []
    state, sequence = BORN, 0
    ends = 0
    for place, event in enumerate(events):
        steps = event.sequence - sequence
        if steps < 0 or (steps == 0 and place > 0):
            faults.append(f"number {event.sequence} comes after {sequence}")
        elif event.state not in reachable(state, steps):
            faults.append(f"{event.state.value} cannot be {steps} steps after {state.value}")
        if ends:
            faults.append(f"{event.state.value} comes after the end")
        ends += event.state is JobState.ENDED
        state, sequence = event.state, event.sequence
    if ends != 1:
        faults.append(f"{ends} ends")
    return faults


def faults_of_end(event: JobEvent, record: JobRecord) -> list[str]:
    """Where the last event of a job tells of another end than its record."""
    names = ("state", "sequence", "outcome", "exit_code", "signal")
    told = {name: getattr(event, name) for name in names}
    kept = {name: getattr(record, name) for name in names}
    return [] if told == kept else [f"the feed says {told}, the record {kept}"]
