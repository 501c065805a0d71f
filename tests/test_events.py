"""The feed of state changes: what it tells, in which order, and what it survives."""

from __future__ import annotations

import os
from multiprocessing import get_context
from pathlib import Path

import pytest
from commands import exits_with, sleeper
from conftest import TIMEOUT, Gate, WatchedStore, eventually

from jobsup import JobRecord, JobState, Outcome
from jobsup._events import EventPage, append, has_event, read
from jobsup._model import now
from jobsup._value import evolve


@pytest.fixture
def feed(tmp_path: Path) -> Path:
    return tmp_path / "events"


def _ended(record: JobRecord, sequence: int) -> JobRecord:
    return evolve(
        record, state=JobState.ENDED, outcome=Outcome.FAILED, exit_code=3, sequence=sequence
    )


# -- the file ----------------------------------------------------------------


def test_empty_feed(feed: Path) -> None:
    assert read(feed, 0, 10) == ([], 0)
    feed.touch()
    assert read(feed, 0, 10) == ([], 0)


def test_event_is_read_as_appended(feed: Path, record: JobRecord) -> None:
    at = now()
    append(feed, record, at)
    append(feed, _ended(record, 2), at)
    events, cursor = read(feed, 0, 10)
    assert [event.sequence for event in events] == [0, 2]
    last = events[-1]
    assert (last.job_id, last.state, last.at) == (record.job_id, JobState.ENDED, at)
    assert (last.outcome, last.exit_code, last.signal) == (Outcome.FAILED, 3, None)
    assert cursor == feed.stat().st_size


def test_cursor_goes_on_where_it_was(feed: Path, record: JobRecord) -> None:
    for sequence in range(10):
        append(feed, evolve(record, sequence=sequence), now())
    seen, cursor = [], 0
    while (page := read(feed, cursor, 3)).events:
        seen += [event.sequence for event in page.events]
        cursor = page.cursor
    assert seen == list(range(10))


def test_cursor_beyond_the_end_is_refused(feed: Path, record: JobRecord) -> None:
    append(feed, record, now())
    with pytest.raises(ValueError, match="beyond the end"):
        read(feed, feed.stat().st_size + 1, 10)


def test_line_being_written_is_left_for_later(feed: Path, record: JobRecord) -> None:
    append(feed, record, now())
    whole = feed.read_bytes()
    feed.write_bytes(whole + whole[:20])
    events, cursor = read(feed, 0, 10)
    assert (len(events), cursor) == (1, len(whole))


def test_line_that_a_full_disk_cut_is_skipped(feed: Path, record: JobRecord) -> None:
    append(feed, record, now())
    line = feed.read_bytes()
    feed.write_bytes(line + line[:20])
    append(feed, _ended(record, 1), now())
    assert [event.sequence for event in read(feed, 0, 10).events] == [0, 1]


@pytest.mark.parametrize(
    "junk", [b"\n", b"{}\n", b"\xff\xfe\n", b"[1]\n", b'{"job_id":7}\n', b"x" * 200_000 + b"\n"]
)
def test_damaged_line_is_skipped(feed: Path, record: JobRecord, junk: bytes) -> None:
    append(feed, record, now())
    with open(feed, "ab") as file:
        file.write(junk)
    append(feed, _ended(record, 1), now())
    events = read(feed, 0, 10).events
    assert [event.sequence for event in events if event.job_id == record.job_id] == [0, 1]


def _append_many(path: Path, record: JobRecord, name: str) -> None:
    for sequence in range(100):
        append(path, evolve(record, job_id=name, sequence=sequence), now())


def test_lines_of_many_monitors_do_not_mix(feed: Path, record: JobRecord) -> None:
    names = ["a", "b", "c"]
    context = get_context("spawn")
    writers = [context.Process(target=_append_many, args=(feed, record, name)) for name in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    events = read(feed, 0, 10_000).events
    for name in names:
        assert [event.sequence for event in events if event.job_id == name] == list(range(100))


@pytest.mark.parametrize("others", [0, 1, 2000])
def test_whether_the_feed_tells_of_a_transition(feed: Path, record: JobRecord, others: int) -> None:
    ended = _ended(record, 2)
    assert not has_event(feed, ended)
    append(feed, record, now())
    line = feed.read_bytes()
    with open(feed, "ab") as file:  # several blocks of another job's
        file.write(line.replace(record.job_id.encode(), b"0" * 26) * others)
    assert has_event(feed, record)
    assert not has_event(feed, ended)
    append(feed, ended, now())
    assert has_event(feed, ended)


def test_feed_that_is_a_link_is_not_followed(feed: Path, record: JobRecord, tmp_path: Path) -> None:
    feed.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        append(feed, record, now())


# -- of real jobs ------------------------------------------------------------


def _until_ended(store: WatchedStore, count: int, since: int = 0) -> EventPage:
    """The feed once it tells of so many ends; a record tells of its end a moment earlier."""

    def look() -> EventPage | None:
        page = store.events(since)
        ends = sum(event.state is JobState.ENDED for event in page.events)
        return page if ends == count else None

    page = eventually(look, f"{count} ends in the feed")
    assert isinstance(page, EventPage)
    return page


def test_feed_tells_every_state_of_a_job(store: WatchedStore) -> None:
    job = store.start(exits_with(3))
    record = job.wait(timeout=TIMEOUT)
    events, cursor = _until_ended(store, 1)
    assert {event.job_id for event in events} == {job.id}
    states = [JobState.RUNNING, JobState.STOPPING, JobState.ENDED]
    assert [event.state for event in events] == states
    assert [event.sequence for event in events] == [0, 1, 2]
    assert events[-1].exit_code == 3
    assert events[-1].outcome is record.outcome is Outcome.FAILED
    assert store.events(since=cursor) == ([], cursor)


def test_feed_tells_pauses_and_cancels(store: WatchedStore, gate: Gate) -> None:
    job = store.start(sleeper(gate))
    gate.wait()
    _, cursor = store.events()
    job.pause()
    job.resume()
    job.cancel()
    record = job.wait(timeout=TIMEOUT)
    events = _until_ended(store, 1, since=cursor).events
    states = [event.state.value for event in events]
    assert states == ["paused", "running", "stopping", "stopping", "ended"]
    assert [event.sequence for event in events] == list(range(1, record.sequence + 1))


def test_feed_of_several_jobs_is_one(store: WatchedStore) -> None:
    jobs = [store.start(exits_with(code)) for code in range(3)]
    store.wait(jobs, timeout=TIMEOUT)
    events = _until_ended(store, 3).events
    for code, job in enumerate(jobs):
        mine = [event for event in events if event.job_id == job.id]
        assert [event.sequence for event in mine] == [0, 1, 2]
        assert mine[-1].exit_code == code


def test_feed_of_no_store_is_empty(store: WatchedStore) -> None:
    assert store.events() == ([], 0)


def test_job_ends_though_the_feed_cannot_be_written(store: WatchedStore) -> None:
    store.root.mkdir()
    os.mkdir(store.root / "events")
    job = store.start(exits_with(3))
    assert job.wait(timeout=TIMEOUT).exit_code == 3
