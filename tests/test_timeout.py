"""timeout of start(): kept by the monitor, whoever has gone."""

from __future__ import annotations

from datetime import timedelta
from signal import SIGKILL, SIGTERM, SIGWINCH

import pytest
from commands import exits_with, polite
from conftest import TIMEOUT, UNPROVEN, WatchedStore, kill_and_wait, run_host

from jobsup import JobState, Outcome, StopCause


@pytest.mark.parametrize("limit", [0, 0.2])
def test_job_is_stopped_when_its_time_is_up(store: WatchedStore, limit: float) -> None:
    record = store.start(["sleep", "100"], timeout=limit).wait(timeout=TIMEOUT)
    assert (record.outcome, record.signal) == (Outcome.TIMED_OUT, SIGTERM)
    assert (record.stop_cause, record.reason) == (StopCause.TIMEOUT, UNPROVEN)
    assert record.ended_at is not None
    assert record.started_at is not None
    assert record.ended_at - record.started_at >= timedelta(seconds=limit)


def test_limit_holds_after_the_starter_is_gone(store: WatchedStore) -> None:
    job_id = run_host(store, "print(store.start(['sleep', '100'], timeout=0.2).id)").strip()
    assert store.get(job_id).wait(timeout=TIMEOUT).outcome is Outcome.TIMED_OUT


def test_limit_is_kept_by_the_stop_plan(store: WatchedStore) -> None:
    # Nobody is moved by SIGWINCH, not even who has not come to ignore it yet.
    job = store.start(["sleep", "100"], timeout=0.1, stop="WINCH 0.1, KILL")
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.signal) == (Outcome.TIMED_OUT, SIGKILL)


def test_timed_out_whatever_it_then_returned(store: WatchedStore) -> None:
    """It is asked again and again, as it may come late to where it listens."""
    asked = "WINCH 0.1, " * 90 + "KILL"
    job = store.start(polite(0, on=SIGWINCH), timeout=0.1, stop=asked)
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.exit_code) == (Outcome.TIMED_OUT, 0)


def test_job_that_ends_in_time_keeps_its_outcome(store: WatchedStore) -> None:
    record = store.start(exits_with(3), timeout=100).wait(timeout=TIMEOUT)
    assert (record.outcome, record.stop_cause) == (Outcome.FAILED, None)


def test_cancel_that_came_first_stands(store: WatchedStore) -> None:
    job = store.start(["sleep", "100"], timeout=1.5, stop="WINCH 2, KILL")
    job.cancel()  # the limit comes in the middle of the plan
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.stop_cause) == (Outcome.CANCELLED, StopCause.CANCEL)


def test_time_runs_on_while_paused(store: WatchedStore) -> None:
    job = store.start(["sleep", "100"], timeout=1.5)
    job.pause()
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.signal) == (Outcome.TIMED_OUT, SIGTERM)


@pytest.mark.usefixtures("no_launcher")
def test_adopter_keeps_the_rest_of_the_time(store: WatchedStore) -> None:
    job = store.start(["sleep", "100"], timeout=1.5)
    kill_and_wait(job.status().monitor)
    assert job.status().state is not JobState.ENDED
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.adoptions) == (Outcome.TIMED_OUT, 1)
    assert record.ended_at is not None
    assert record.started_at is not None
    # The start time of a process counts in ticks of 10 ms.
    assert record.ended_at - record.started_at >= timedelta(seconds=1.48)
