"""prune(): ended jobs by age, count and size, the remains of crashes, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from commands import sleeper
from conftest import (
    TIMEOUT,
    Gate,
    WatchedStore,
    eventually,
    files_in,
    held,
    host,
    kill_and_wait,
    put,
)

from jobsup import Job, JobNotFoundError, JobRecord, JobState, _prune
from jobsup._identity import is_alive
from jobsup._jobdir import StoreDir
from jobsup._model import now
from jobsup._prune import _remove as remove
from jobsup._ulid import new_id


@pytest.fixture
def jobs(store: WatchedStore) -> list[Job]:
    """Four that ended 4, 3, 2 and 1 hours ago; each takes 16 KiB of output, and a little."""
    StoreDir(store.root).create()
    made = [
        put(store, f"01m8263e42xq9v480e3fqrpt{n:02}", ended_at=now() - timedelta(hours=4 - n))
        for n in range(4)
    ]
    for job in made:
        job.dir.output.write_bytes(b"x" * 16384)
    return made


def ids(jobs: list[Job]) -> tuple[str, ...]:
    return tuple(job.id for job in jobs)


def left(store: WatchedStore) -> list[Job]:
    return store.list()[::-1]


def test_no_rule_prunes_no_job(store: WatchedStore, jobs: list[Job]) -> None:
    assert store.prune().job_ids == ()
    assert left(store) == jobs


def test_end_is_told_though_the_monitor_is_killed_as_we_prune(
    store: WatchedStore, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wrote the final record, and not yet the last line of the feed."""
    directory = StoreDir(store.root)
    directory.mark_active(jobs[0].id)
    lock = jobs[0].dir.acquire()
    assert lock is not None

    def kill_and_remove(store_dir: StoreDir, name: str, marked: set[str]) -> int | None:
        os.close(lock)
        return remove(store_dir, name, marked)

    monkeypatch.setattr(_prune, "_remove", kill_and_remove)
    assert store.prune(keep=3).job_ids == (jobs[0].id,)
    assert [(event.job_id, event.state) for event in store.events().events] == [
        (jobs[0].id, JobState.ENDED)
    ]
    assert directory.active_ids() == []


@pytest.mark.parametrize(("hours", "gone"), [(0, 4), (0.5, 4), (2.5, 2), (3.5, 1), (9, 0)])
def test_by_age(store: WatchedStore, jobs: list[Job], hours: float, gone: int) -> None:
    pruned = store.prune(older_than=hours * 3600)
    assert pruned.job_ids == ids(jobs[:gone])
    assert left(store) == jobs[gone:]
    assert pruned.freed_bytes >= 16384 * gone


@pytest.mark.parametrize("keep", [0, 1, 3, 4, 9])
def test_by_count(store: WatchedStore, jobs: list[Job], keep: int) -> None:
    gone = max(0, 4 - keep)
    assert store.prune(keep=keep).job_ids == ids(jobs[:gone])
    assert left(store) == jobs[gone:]


def test_by_size(store: WatchedStore, jobs: list[Job]) -> None:
    each = store.prune(keep=0, dry_run=True).freed_bytes // 4
    assert each >= 16384
    assert store.prune(max_bytes=4 * each).job_ids == ()
    pruned = store.prune(max_bytes=2 * each + each // 2)
    assert pruned.job_ids == ids(jobs[:2])
    assert pruned.freed_bytes == 2 * each
    assert store.prune(max_bytes=0).job_ids == ids(jobs[2:])


def test_by_any_of_the_rules(store: WatchedStore, jobs: list[Job]) -> None:
    assert store.prune(older_than=3.5 * 3600, keep=2).job_ids == ids(jobs[:2])


def test_dry_run_deletes_nothing(store: WatchedStore, jobs: list[Job]) -> None:
    (store.root / "jobs" / f".{new_id()}.del").mkdir()
    before = files_in(store)
    pruned = store.prune(keep=1, dry_run=True)
    assert pruned.job_ids == ids(jobs[:3])
    assert files_in(store) == before
    assert store.prune(keep=1).freed_bytes == pruned.freed_bytes


@pytest.mark.parametrize(
    "arguments", [{"keep": -1}, {"max_bytes": -1}, {"older_than": -1}, {"older_than": float("inf")}]
)
def test_bad_rule_is_refused(
    store: WatchedStore, jobs: list[Job], arguments: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        store.prune(**arguments)  # type: ignore[arg-type]
    assert left(store) == jobs


def test_pruned_job_is_gone(store: WatchedStore) -> None:
    job = store.start(["echo", "hello"])
    job.wait(timeout=TIMEOUT)
    assert store.prune(keep=0).job_ids == (job.id,)
    assert files_in(store) == []
    with pytest.raises(JobNotFoundError):
        job.tail()


def test_missing_store(store: WatchedStore) -> None:
    assert store.prune(keep=0).job_ids == ()
    assert not store.root.exists()


def test_progress_is_told(
    store: WatchedStore, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rules in ({"older_than": 2.5 * 3600, "keep": 3}, {"keep": 1}, {"max_bytes": 1 << 30}, {}):
        monkeypatch.setattr(_prune, "_TELL_SECONDS", -1.0)
        told: list[tuple[int, int]] = []
        store.prune(**rules, dry_run=True, progress=lambda *both: told.append(both))  # noqa: B023
        assert told == [*((done, 4) for done in range(1, 5)), (4, 4)]
        monkeypatch.setattr(_prune, "_TELL_SECONDS", 100.0)
        told.clear()
        store.prune(**rules, dry_run=True, progress=lambda *both: told.append(both))  # noqa: B023
        assert told == [(4, 4)]  # at a bounded rate
    told.clear()
    assert store.prune(keep=0, progress=lambda *both: told.append(both)).job_ids == ids(jobs)
    assert told == [(4, 4)]


# -- never an active job -----------------------------------------------------

EVERYTHING = {"keep": 0, "older_than": 0, "max_bytes": 0}


@pytest.mark.usefixtures("no_launcher")
def test_active_jobs_are_never_touched(store: WatchedStore, gate: Gate) -> None:
    running = store.start(sleeper(gate))
    paused = store.start(sleeper(gate))
    orphaned = store.start(sleeper(gate))
    for _ in range(3):
        gate.wait()
    paused.pause()
    kill_and_wait(orphaned.status().monitor)
    assert store.prune(**EVERYTHING).job_ids == ()  # type: ignore[arg-type]
    assert running.status().state is JobState.RUNNING
    assert paused.status().state is JobState.PAUSED
    assert orphaned.status().state is JobState.RUNNING
    assert len(os.listdir(store.root / "active")) == 3


def test_damaged_job_is_left_to_its_owner(store: WatchedStore, jobs: list[Job]) -> None:
    jobs[0].dir.meta.write_bytes(b"{")
    assert store.prune(keep=0).job_ids == ids(jobs[1:])
    assert left(store) == jobs[:1]


def test_what_people_put_there_is_left(store: WatchedStore, jobs: list[Job]) -> None:
    (store.root / "jobs" / "notes").mkdir()
    (store.root / "jobs" / "notes" / "precious").touch()
    (store.root / "jobs" / ".hidden").touch()
    store.prune(**EVERYTHING)  # type: ignore[arg-type]
    assert sorted(os.listdir(store.root / "jobs")) == [".hidden", "notes"]


def test_two_prunes_at_once(store: WatchedStore) -> None:
    made = [put(store, f"01m8263e42xq9v480e3fqrpt{n:02}") for n in range(40)]
    body = "print(*store.prune(keep=0).job_ids)"
    both = [subprocess.Popen(host(store, body), stdout=subprocess.PIPE, text=True) for _ in "ab"]
    told = [process.communicate(timeout=60)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(told[0] + told[1]) == [job.id for job in made]  # each by one of them
    assert files_in(store) == []


# -- what crashes left -------------------------------------------------------


@pytest.fixture
def stray(store: WatchedStore) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A launch whose monitor was killed before it published the job: its command lives."""
    job_id = new_id()
    process = subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.alarm(100); signal.pause()"],
        env={**os.environ, "JOBSUP_JOB_ID": job_id},
        start_new_session=True,
    )
    directory = StoreDir(store.root)
    directory.create()
    unborn = directory.unborn(job_id)
    unborn.path.mkdir()
    unborn.lock.touch()
    unborn.write_record(
        JobRecord(job_id, JobState.RUNNING, created_at=now(), command=held(process.pid))
    )
    directory.mark_active(job_id)
    yield job_id, process
    process.kill()
    process.wait()


def _make_old(path: Path) -> None:
    os.utime(path, (time.time() - 60,) * 2)


def test_crashed_launch_is_swept_with_its_processes(
    store: WatchedStore, stray: tuple[str, subprocess.Popen[bytes]]
) -> None:
    job_id, process = stray
    identity = held(process.pid)
    _make_old(StoreDir(store.root).unborn(job_id).path)
    assert store.prune().swept == (job_id,)
    eventually(lambda: not is_alive(identity), "its command gone")
    assert files_in(store) == []


def test_launch_under_way_is_not_swept(
    store: WatchedStore, stray: tuple[str, subprocess.Popen[bytes]]
) -> None:
    job_id, process = stray
    unborn = StoreDir(store.root).unborn(job_id)
    assert store.prune().swept == ()  # too young
    _make_old(unborn.path)
    lock = unborn.acquire()
    assert lock is not None
    try:
        assert store.prune().swept == ()  # its monitor lives
    finally:
        os.close(lock)
    assert process.poll() is None
    assert files_in(store) == [f"active/{job_id}", f"jobs/.{job_id}.new"]


def test_bystander_with_a_stale_record_s_pid_is_not_hurt(
    store: WatchedStore, stray: tuple[str, subprocess.Popen[bytes]]
) -> None:
    """The pid of the dead launch belongs to somebody else now."""
    job_id, process = stray
    process.kill()
    process.wait()
    with subprocess.Popen(["sleep", "100"]) as bystander:
        unborn = StoreDir(store.root).unborn(job_id)
        record = unborn.read_record()
        assert record.command is not None
        text = unborn.meta.read_text()
        unborn.meta.write_text(
            text.replace(f'"pid":{record.command.pid}', f'"pid":{bystander.pid}')
        )
        _make_old(unborn.path)
        assert store.prune().swept == (job_id,)
        assert bystander.poll() is None
        bystander.kill()


@pytest.mark.parametrize("record", [None, b"", b"{"])
def test_launch_that_crashed_early_is_swept(store: WatchedStore, record: bytes | None) -> None:
    directory = StoreDir(store.root)
    directory.create()
    unborn = directory.unborn(new_id())
    unborn.path.mkdir()
    if record is not None:
        unborn.meta.write_bytes(record)
    _make_old(unborn.path)
    assert len(store.prune().swept) == 1
    assert files_in(store) == []


def test_half_deleted_job_is_deleted(store: WatchedStore, jobs: list[Job]) -> None:
    hidden = jobs[0].dir.path.with_name(f".{jobs[0].id}.del")
    jobs[0].dir.path.rename(hidden)
    store.prune()
    assert not hidden.exists()
    assert left(store) == jobs[1:]


def test_stale_markers_are_removed(store: WatchedStore, jobs: list[Job], gate: Gate) -> None:
    running = store.start(sleeper(gate))
    directory = StoreDir(store.root)
    directory.mark_active(jobs[0].id)  # ended, in a crash before it was unmarked
    directory.mark_active(new_id())  # never came to be
    store.prune()
    assert os.listdir(store.root / "active") == [running.id]


def test_end_that_a_crash_kept_from_the_feed_is_told(store: WatchedStore, jobs: list[Job]) -> None:
    StoreDir(store.root).mark_active(jobs[0].id)
    store.prune()
    events = store.events().events
    assert [(event.job_id, event.state) for event in events] == [(jobs[0].id, JobState.ENDED)]
    StoreDir(store.root).mark_active(jobs[0].id)
    store.prune()
    assert store.events().events == events  # once
