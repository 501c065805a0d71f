"""Walking a stop plan: what is sent when, and how a second request shortens it."""

from __future__ import annotations

from signal import SIGINT, SIGKILL, SIGTERM

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobsup import StopPlan, StopStep
from jobsup._ladder import Ladder

LADDER = StopPlan.parse("INT 5, TERM 10, KILL")
GRACES = st.integers(0, 100).map(float)  # whole seconds: sums of them are exact
STEPS = st.builds(StopStep, st.sampled_from([1, 2, 3, 15]), GRACES)
PLANS = st.lists(STEPS, max_size=4).map(lambda steps: StopPlan((*steps, StopStep(SIGKILL))))


def climb(ladder: Ladder, until: float, now: float = 0.0) -> list[tuple[float, int]]:
    """What is sent when, if the monitor wakes exactly when it asked for."""
    sent = []
    while now <= until:
        while step := ladder.take(now):
            sent.append((now, step.signal))
        if ladder.is_forcing:
            break
        now = ladder.next_at
    return sent


def test_steps_are_taken_when_they_are_due() -> None:
    ladder = Ladder(LADDER, now=100.0)
    assert ladder.kill_at == 115.0
    assert climb(ladder, 1000.0, now=100.0) == [(100.0, SIGINT), (105.0, SIGTERM), (115.0, SIGKILL)]
    assert ladder.is_forcing


def test_step_is_taken_once_and_not_too_early() -> None:
    ladder = Ladder(LADDER, now=0.0)
    assert ladder.take(0.0) == StopStep(SIGINT, 5.0)
    assert ladder.take(0.0) is None
    assert ladder.take(4.999) is None
    assert not ladder.is_forcing
    assert ladder.take(5.0) == StopStep(SIGTERM, 10.0)


def test_late_waking_gives_the_whole_grace_all_the_same() -> None:
    """A laptop that slept through the grace still lets the command answer the next signal."""
    ladder = Ladder(LADDER, now=0.0)
    ladder.take(0.0)
    assert ladder.take(3600.0) == StopStep(SIGTERM, 10.0)
    assert ladder.take(3600.0) is None
    assert ladder.kill_at == 3610.0


def test_plan_of_kill_alone_forces_at_once() -> None:
    ladder = Ladder(StopPlan.with_grace(0), now=0.0)
    assert climb(ladder, 0.0) == [(0.0, SIGKILL)]


def test_nothing_is_taken_after_force() -> None:
    ladder = Ladder(StopPlan.with_grace(0), now=0.0)
    climb(ladder, 0.0)
    ladder.shorten(LADDER, 1.0)
    assert ladder.take(1e9) is None


def test_shorter_plan_goes_on_from_what_was_sent() -> None:
    ladder = Ladder(StopPlan.parse("TERM 100, KILL"), now=0.0)
    ladder.take(0.0)
    ladder.shorten(StopPlan.parse("TERM 2, KILL"), 10.0)
    assert climb(ladder, 1000.0, now=10.0) == [(12.0, SIGKILL)]  # TERM was sent already


def test_shorter_plan_sends_what_was_not_sent() -> None:
    ladder = Ladder(StopPlan.parse("INT 100, TERM 100, KILL"), now=0.0)
    ladder.take(0.0)
    ladder.shorten(StopPlan.parse("INT 1, TERM 2, KILL"), 10.0)
    assert climb(ladder, 1000.0, now=10.0) == [(11.0, SIGTERM), (13.0, SIGKILL)]


def test_zero_grace_shortens_to_force() -> None:
    ladder = Ladder(LADDER, now=0.0)
    ladder.take(0.0)
    ladder.shorten(StopPlan.with_grace(0), 1.0)
    assert climb(ladder, 1.0, now=1.0) == [(1.0, SIGKILL)]


@pytest.mark.parametrize("text", ["TERM 100, KILL", "INT 5, TERM 10, KILL"])
def test_longer_plan_changes_nothing(text: str) -> None:
    ladder = Ladder(LADDER, now=0.0)
    ladder.take(0.0)
    ladder.shorten(StopPlan.parse(text), 1.0)
    assert climb(ladder, 1000.0, now=1.0) == [(5.0, SIGTERM), (15.0, SIGKILL)]


@given(plan=PLANS, others=st.lists(st.tuples(PLANS, GRACES), max_size=4))
def test_no_request_ever_puts_the_end_off(
    plan: StopPlan, others: list[tuple[StopPlan, float]]
) -> None:
    ladder = Ladder(plan, now=0.0)
    now = 0.0
    for other, pause in others:
        now += pause
        while ladder.take(now):
            pass  # a late waking may put the end off; a request never does
        before = ladder.kill_at
        ladder.shorten(other, now)
        assert ladder.kill_at <= before
    sent = climb(ladder, 1e9, now=now)
    assert ladder.is_forcing
    times = [at for at, _ in sent]
    assert times == sorted(times)
    assert SIGKILL not in [number for _, number in sent[:-1]]
