"""list(): what fits, newest first, whatever else lies in the store."""

from __future__ import annotations

import pytest
from commands import exits_with, sleeper
from conftest import TIMEOUT, Gate, WatchedStore, run_host

from jobsup import Job, JobState, Outcome, RecordError
from jobsup._ulid import new_id


@pytest.fixture
def jobs(store: WatchedStore, gate: Gate) -> dict[str, Job]:
    """One that runs and three that ended, oldest first."""
    made = {
        "good": store.start(exits_with(0), name="a", labels={"team": "blue", "kind": "build"}),
        "bad": store.start(exits_with(3), name="b", labels={"team": "red"}),
        "gone": store.start(["sleep", "100"], name="a", labels={"team": "blue"}),
        "live": store.start(sleeper(gate), name="c"),
    }
    made["gone"].cancel(grace=0)
    store.wait([made[name] for name in ("good", "bad", "gone")], timeout=TIMEOUT)
    return made


FILTERS: list[tuple[dict[str, object], list[str]]] = [
    ({}, ["live", "gone", "bad", "good"]),
    ({"state": JobState.RUNNING}, ["live"]),
    ({"state": "running"}, ["live"]),
    ({"state": "ended"}, ["gone", "bad", "good"]),
    ({"state": ["running", JobState.ENDED]}, ["live", "gone", "bad", "good"]),
    ({"state": ["paused", "stopping"]}, []),
    ({"state": []}, []),
    ({"outcome": Outcome.FAILED}, ["bad"]),
    ({"outcome": ["failed", "cancelled"]}, ["gone", "bad"]),
    ({"outcome": "failed", "state": "running"}, []),
    ({"name": "a"}, ["gone", "good"]),
    ({"name": "c"}, ["live"]),
    ({"name": "d"}, []),
    ({"labels": {}}, ["live", "gone", "bad", "good"]),
    ({"labels": {"team": "blue"}}, ["gone", "good"]),
    ({"labels": {"team": "blue", "kind": "build"}}, ["good"]),
    ({"labels": {"team": "green"}}, []),
    ({"name": "a", "outcome": "cancelled", "labels": {"team": "blue"}}, ["gone"]),
    ({"limit": 2}, ["live", "gone"]),
    ({"limit": 0}, []),
    ({"limit": 9}, ["live", "gone", "bad", "good"]),
    ({"name": "a", "limit": 1}, ["gone"]),
]


def test_list_has_what_fits_newest_first(store: WatchedStore, jobs: dict[str, Job]) -> None:
    for arguments, expected in FILTERS:
        found = store.list(**arguments)  # type: ignore[arg-type]
        names = [name for job in found for name, made in jobs.items() if made == job]
        assert names == expected, arguments


def test_another_process_lists_the_same(store: WatchedStore, jobs: dict[str, Job]) -> None:
    told = run_host(store, "print(*[job.id for job in store.list()])")
    assert told.split() == [job.id for job in store.list()]


def test_empty_and_missing_store(store: WatchedStore) -> None:
    assert store.list() == store.list(limit=9) == store.list(state="running") == []
    assert not store.root.exists()
    store.root.mkdir()
    assert store.list() == []


@pytest.mark.parametrize("arguments", [{"state": "done"}, {"outcome": "fine"}, {"state": [7]}])
def test_unknown_word_is_refused(store: WatchedStore, arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        store.list(**arguments)  # type: ignore[arg-type]


def test_negative_limit_is_refused(store: WatchedStore) -> None:
    with pytest.raises(ValueError, match="limit"):
        store.list(limit=-1)


@pytest.mark.parametrize("damage", [b"", b"{", b'{"format":99}'])
def test_damaged_job_is_listed_and_hides_no_other(
    store: WatchedStore, jobs: dict[str, Job], damage: bytes
) -> None:
    jobs["bad"].dir.meta.write_bytes(damage)
    assert jobs["bad"] in store.list()
    assert len(store.list()) == 4
    assert store.list(state="ended") == [jobs["gone"], jobs["good"]]
    assert store.list(outcome="succeeded") == [jobs["good"]]
    with pytest.raises(RecordError):
        jobs["bad"].status()


def test_directories_that_are_no_jobs_hide_none(store: WatchedStore, jobs: dict[str, Job]) -> None:
    empty = new_id()
    (store.root / "jobs" / "lost+found").mkdir()
    (store.root / "jobs" / "notes.txt").touch()
    (store.root / "jobs" / f".{new_id()}.new").mkdir()
    (store.root / "jobs" / empty).mkdir()  # looks like a job, and is damaged
    assert {job.id for job in store.list()} == {empty, *(job.id for job in jobs.values())}
    assert len(store.list(state="ended")) == 3


def test_marker_of_a_job_that_is_gone_is_no_job(store: WatchedStore, jobs: dict[str, Job]) -> None:
    (store.root / "active" / new_id()).touch()
    assert store.list(state="running") == [jobs["live"]]


def test_active_jobs_are_found_without_a_look_at_the_ended(
    store: WatchedStore, jobs: dict[str, Job]
) -> None:
    """What is active is all that it costs: thousands of ended jobs are not read."""
    for name in ("good", "bad", "gone"):
        jobs[name].dir.meta.write_bytes(b"{")
        jobs[name].dir.spec.write_bytes(b"{")
    assert store.list(state=["running", "paused", "stopping"]) == [jobs["live"]]
    assert store.list(state="running", name="c") == [jobs["live"]]
