"""Histories: several processes act on one store and are killed, and a model knows what must hold.

JOBSUP_TEST_SCALE multiplies how many; JOBSUP_TEST_SEED draws the same ones again.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clients import ClientPool
from conftest import WatchedStore
from histories import faults_of
from judge import HistoryError, Judge
from model_jobs import ModelJob
from stateful import Stage, run_histories
from witnesses import compiled

from jobsup import JobRecord, JobState, Outcome, StopCause
from jobsup._events import JobEvent
from jobsup._model import now
from jobsup._value import evolve

SCALE = float(os.environ.get("JOBSUP_TEST_SCALE", "1"))
HISTORIES = int(36 * SCALE)
STEPS = 30

pytestmark = pytest.mark.timeout(120 + 240 * SCALE)


def test_histories(tmp_path: Path, make_store: Callable[[Path], WatchedStore]) -> None:
    make_store(tmp_path / "none")  # marks all processes, and sees that none is left
    seed = int(os.environ.get("JOBSUP_TEST_SEED", secrets.randbits(32)))
    truth = compiled("truth.c", tmp_path, "-static")
    with ClientPool() as pool:
        stage = Stage(pool, truth, tmp_path)
        run_histories(stage, seed, HISTORIES, STEPS)
    print(f"seed {seed}: {stage}")


# -- that the checks find what they are for ----------------------------------------


def feed(*told: tuple[int, JobState]) -> list[JobEvent]:
    return [JobEvent("an id", sequence, state, now()) for sequence, state in told]


RUNNING, PAUSED, STOPPING = JobState.RUNNING, JobState.PAUSED, JobState.STOPPING
ENDED = JobState.ENDED


@pytest.mark.parametrize(
    "told",
    [
        [(0, RUNNING), (1, STOPPING), (2, STOPPING), (3, ENDED)],
        [(0, RUNNING), (1, PAUSED), (2, RUNNING), (3, STOPPING), (4, ENDED)],
        [(0, RUNNING), (2, RUNNING), (3, STOPPING), (4, ENDED)],  # adopted
        [(2, ENDED)],  # its monitor was killed at once, and settled by whoever looked
    ],
)
def test_legal_feeds(told: list[tuple[int, JobState]]) -> None:
    assert faults_of(feed(*told)) == []


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        ([(0, RUNNING), (1, STOPPING)], "0 ends"),
        ([], "0 ends"),
        ([(0, RUNNING), (1, STOPPING), (2, ENDED), (3, ENDED)], "2 ends"),
        ([(0, RUNNING), (1, STOPPING), (2, ENDED), (4, RUNNING), (5, ENDED)], "after the end"),
        ([(0, RUNNING), (1, STOPPING), (2, PAUSED), (3, ENDED)], "paused cannot be 1 steps after"),
        ([(0, RUNNING), (2, STOPPING), (1, STOPPING), (3, ENDED)], "1 comes after 2"),
        ([(0, RUNNING), (0, RUNNING), (1, ENDED)], "0 comes after 0"),
    ],
)
def test_illegal_feeds(told: list[tuple[int, JobState]], fault: str) -> None:
    assert any(fault in found for found in faults_of(feed(*told)))


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ModelJob]:
    job = ModelJob(tmp_path, tmp_path / "truth", natural=3, delay=0, kind="plain", timeout=None)
    yield job
    job.close()


def ended(record: JobRecord, **fields: Any) -> JobRecord:
    return evolve(record, state=ENDED, ended_at=now(), **fields)


def test_model_knows_the_truth(model: ModelJob, record: JobRecord) -> None:
    model.release()
    model.told.write_text("3")
    assert model.faults_of(ended(record, outcome=Outcome.FAILED, exit_code=3)) == []
    [invented] = model.faults_of(ended(record, outcome=Outcome.SUCCEEDED, exit_code=0))
    assert "wrote down 3" in invented
    [unasked] = model.faults_of(
        ended(record, outcome=Outcome.CANCELLED, exit_code=3, stop_cause=StopCause.CANCEL)
    )
    assert "nobody stopped it" in unasked
    [lost] = model.faults_of(ended(record, outcome=Outcome.LOST))
    assert "nobody killed its monitor" in lost
    model.monitor_kills = 1
    assert model.faults_of(ended(record, outcome=Outcome.LOST)) == []


def test_model_knows_who_killed_it(model: ModelJob, record: JobRecord) -> None:
    killed = ended(record, outcome=Outcome.KILLED, signal=signal.SIGKILL)
    [fault] = model.faults_of(killed)
    assert "nobody's doing" in fault
    model.signals.add(signal.SIGKILL)
    assert model.faults_of(killed) == []


def test_second_end_and_forgotten_cancel_are_seen(
    tmp_path: Path, model: ModelJob, record: JobRecord
) -> None:
    judge = Judge(tmp_path / "store")
    model.signals.add(signal.SIGKILL)
    end = ended(record, outcome=Outcome.KILLED, signal=signal.SIGKILL)
    judge.see(model, end, None)
    with pytest.raises(HistoryError, match="a second end"):
        judge.see(model, evolve(end, reason="unproven"), None)
    assert judge.failure


def test_what_is_drawn_depends_on_the_seed_alone(
    tmp_path: Path, make_store: Callable[[Path], WatchedStore]
) -> None:
    """Though the processes interleave as they like."""
    make_store(tmp_path / "none")
    truth = compiled("truth.c", tmp_path, "-static")
    drawn = []
    with ClientPool() as pool:
        for number in range(2):
            folder = tmp_path / str(number)
            folder.mkdir()
            stage = Stage(pool, truth, folder)
            run_histories(stage, 1, count=2, steps=10)
            drawn.append((stage.histories, stage.jobs, stage.drawn))
    assert drawn[0] == drawn[1]
