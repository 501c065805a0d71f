"""Many jobs: at once, by many processes, and one after the other; none may be lost, nothing left.

Each function ends all it started, and returns figures.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import attrs
from clients import ClientPool
from histories import all_events, faults_of
from model_jobs import TOKEN, living_with

from jobsup import Job, JobRecord, JobState, JobStore, Outcome
from jobsup._model import from_json
from jobsup._platform import ProcessRow, children_of

PATIENCE: Final = 110.0
"""Seconds that only a failing test takes."""
_CALLERS: Final = 4
_MAY_GROW: Final = 4 << 20
"""Bytes of memory by which a caller may grow: the allocator keeps what it once had."""

_KEPT_LINES: Final = 4
"""Descriptors, to monitors that may come back for another job."""
_BYTES_OF_AN_END: Final = 512
"""What the caller itself keeps of each of many jobs."""

Figures = dict[str, Any]
End = tuple[int, int | None, int | None]
"""Sequence number, exit code and signal."""


@attrs.frozen
class Footprint:
    """What this process holds."""

    descriptors: int
    zombies: int
    rss_bytes: int

    @classmethod
    def take(cls) -> Footprint:
        rows = [ProcessRow.read(pid) for pid in children_of(os.getpid())]
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            len(os.listdir("/proc/self/fd")),
            sum(row is not None and row.is_zombie for row in rows),
            pages * os.sysconf("SC_PAGE_SIZE"),
        )

    def check_against(self, earlier: Footprint, may_grow: int = _MAY_GROW) -> None:
        more = self.descriptors - earlier.descriptors
        assert more <= _KEPT_LINES, f"descriptors leak: {earlier}, {self}"
        assert self.zombies <= earlier.zombies, f"zombies are left: {earlier}, {self}"
        grown = self.rss_bytes - earlier.rss_bytes
        assert grown < may_grow, f"memory leaks: {grown} bytes"


def at_once(store: JobStore, count: int, life: int = 100) -> Figures:
    """So many jobs run at the same time, each for *life* seconds unless it is cancelled."""
    mark, begun = secrets.token_hex(8), time.monotonic()

    def start(_: int) -> Job:
        return store.start(["sleep", str(life)], env={TOKEN: mark}, grace=PATIENCE)

    def end(job: Job) -> JobRecord:
        job.cancel()
        return job.wait(PATIENCE)

    start(0)  # what the first call loads is no leak
    with ThreadPoolExecutor(_CALLERS) as pool:
        before = Footprint.take()
        jobs = [*pool.map(start, range(count - 1)), *store.list()[-1:]]
        ids = {job.id for job in jobs}
        started = time.monotonic() - begun
        assert len(ids) == count
        assert {job.id for job in store.list(state="running")} == ids
        assert len(living_with(mark)) == count
        held = [_descriptors_of(job.status()) for job in jobs]
        records = list(pool.map(end, jobs))
        Footprint.take().check_against(before)
    ended = time.monotonic() - begun - started
    for record in records:
        assert (record.outcome, record.proved) == (Outcome.CANCELLED, True), record
    assert not living_with(mark), "processes are left"
    ends = {record.job_id: _end_of(record) for record in records}
    _check_ends(store, ends)
    _check_prune(store)
    return {
        "jobs": count,
        "start_seconds": round(started, 1),
        "cancel_seconds": round(ended, 1),
        "most_descriptors_of_a_monitor": max(held),
    }


def hammer(pool: ClientPool, store: JobStore, processes: int, rounds: int, seed: int) -> Figures:
    """So many processes start jobs in one store, and look at those of all the others."""
    begun = time.monotonic()
    clients = [pool.new() for _ in range(processes)]
    for number, client in enumerate(clients):
        client.send("hammer", root=str(store.root), seed=seed + number, rounds=rounds)
    ends: dict[str, End] = {}
    looks = 0
    for client in clients:
        reply = client.receive(PATIENCE)
        client.close()
        assert reply.error is None, reply.text
        looks += reply.value["looks"]
        codes = reply.value["codes"]
        for job_id, text in reply.value["ended"].items():
            record = from_json(JobRecord, text.encode(), Path("of a client"))
            assert (record.job_id, record.exit_code) == (job_id, codes[job_id]), record
            ends[job_id] = _end_of(record)
    assert len(ends) == processes * rounds
    assert {job.id for job in store.list()} == ends.keys(), "jobs were lost"
    _check_ends(store, ends)
    _check_prune(store)
    seconds = round(time.monotonic() - begun, 1)
    return {"processes": processes, "jobs": len(ends), "looks": looks, "seconds": seconds}


def in_a_row(
    store: JobStore, count: int, keep: int = 20, deadline: float = float("inf")
) -> Figures:
    """So many jobs one after the other, of which the newest are kept; fewer if time runs out."""
    begun = time.monotonic()
    batch = max(keep, count // 20)
    ends: dict[str, End] = {}
    before = None
    for number in range(count):
        if time.monotonic() > deadline:
            break
        record = store.start(["sh", "-c", f"exit {number % 3}"]).wait(PATIENCE)
        assert record.exit_code == number % 3, record
        ends[record.job_id] = _end_of(record)
        if number % batch == batch - 1:
            store.prune(keep=keep)
            left = len(os.listdir(store.root / "jobs"))
            assert left == keep, f"{left} directories are left of {keep}"
            before = before or Footprint.take()
    assert ends
    before, after = before or Footprint.take(), Footprint.take()
    after.check_against(before, may_grow=_MAY_GROW + len(ends) * _BYTES_OF_AN_END)
    _check_ends(store, ends)
    feed_bytes = os.stat(store.root / "events").st_size
    _check_prune(store)
    return {
        "jobs": len(ends),
        "seconds": round(time.monotonic() - begun, 1),
        "grown_bytes": after.rss_bytes - before.rss_bytes,
        "feed_bytes": feed_bytes,
    }


def _end_of(record: JobRecord) -> End:
    return record.sequence, record.exit_code, record.signal


def _check_ends(store: JobStore, ends: Mapping[str, End]) -> None:
    """The feed tells of each job, once, the end that the record tells of."""
    deadline = time.monotonic() + PATIENCE
    while True:  # a monitor tells the feed after the record
        feed = all_events(store)
        told = sum(events[-1].state is JobState.ENDED for events in feed.values())
        if told == len(ends) or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert feed.keys() == ends.keys()
    for job_id, events in feed.items():
        faults = faults_of(events)
        assert not faults, f"{faults} in {events}"
        last = events[-1]
        assert (last.sequence, last.exit_code, last.signal) == ends[job_id], last


def _check_prune(store: JobStore) -> None:
    """Nothing stays that prune could leave behind."""
    deadline = time.monotonic() + PATIENCE
    while os.listdir(store.root / "jobs") or os.listdir(store.root / "active"):
        store.prune(keep=0)
        assert time.monotonic() < deadline, "prune leaves files"


def _descriptors_of(record: JobRecord) -> int:
    assert record.monitor
    return len(os.listdir(f"/proc/{record.monitor.pid}/fd"))
