"""What a reader does when the lock is free: settle the record, or have the job adopted."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from typing import Final

from jobsup import _events
from jobsup._control import Order
from jobsup._jobdir import JobDir
from jobsup._launch import launch
from jobsup._lifecycle import TRANSITIONS, CommandExited, MonitorDied, TreeEmptied, advance
from jobsup._model import JobRecord, JobState, now
from jobsup._platform import moved_since, obstacle
from jobsup._strays import StrayTree
from jobsup.errors import RecordError, SpawnError

_PATIENCE_SECONDS: Final = 10.0
"""How long to wait for another process that adopts; readers do not block on it."""
_POLL_SECONDS: Final = 0.01
"""Who waits longer between two tries loses to whoever has just come."""


def current_record(job_dir: JobDir) -> JobRecord:
    """The truth about a job, whoever has to be asked for it.

    Raises:
        FileNotFoundError: There is no such job.
        RecordError: Its record is damaged or of a newer format.
    """
    record = job_dir.read_record()
    if record.state is JobState.ENDED:
        close_books(job_dir, record)
        return record
    if job_dir.is_held():
        return record
    record = job_dir.read_record()  # the monitor may have ended it between the two looks
    return record if record.state is JobState.ENDED else _take_over(job_dir, record)


def _take_over(job_dir: JobDir, record: JobRecord) -> JobRecord:
    """One process at a time settles or adopts; the others read what it made of it."""
    from filelock import FileLock, Timeout  # noqa: PLC0415 - 35 ms that only this needs

    if record.monitor is None or (record.state, MonitorDied) not in TRANSITIONS:
        raise RecordError(job_dir.meta, f"is damaged ({record.state.value} without a monitor)")
    orphaned = advance(record, MonitorDied())
    if obstacle():
        return orphaned
    if not job_dir.is_ours():  # what we wrote and ran there, its owner could not manage
        return _verdict(job_dir, orphaned) or orphaned
    try:
        with FileLock(
            job_dir.store.lock,
            timeout=_PATIENCE_SECONDS,
            poll_interval=_POLL_SECONDS,
            fallback_to_soft=False,
        ):
            settled = _settle(job_dir)
            if settled is None:
                launch(Order(str(job_dir.store.root), job_dir.path.name, "adopt"))
                settled = job_dir.read_record()
            return settled
    except (Timeout, SpawnError):
        # A launcher does not ask for our lock when it replaces a monitor of its own.
        return job_dir.read_record() if job_dir.is_held() else orphaned
    except FileNotFoundError:
        raise
    except OSError:  # a store that cannot be written: nobody can adopt, but who looks may know
        return _verdict(job_dir, orphaned) or orphaned


def _settle(job_dir: JobDir) -> JobRecord | None:
    """The final record of a job of which nothing lives; None if it must be adopted."""
    lock = job_dir.acquire()
    if lock is None:  # adopted while we waited
        return job_dir.read_record()
    try:
        record = job_dir.read_record()
        if record.state is JobState.ENDED:
            return record
        record = job_dir.ahead_of(record) or record
        settled: JobRecord | None = record
        if record.state is not JobState.ENDED:
            settled = _verdict(job_dir, advance(record, MonitorDied()))
        if settled is not None:
            job_dir.write_final_record(settled)
            tell_the_end(job_dir, settled)
        return settled
    finally:
        os.close(lock)


def _verdict(job_dir: JobDir, orphaned: JobRecord) -> JobRecord | None:
    """How an orphaned job ended, None if something of it lives."""
    assert orphaned.monitor is not None
    moved = moved_since(orphaned.monitor.token)
    if moved is None:
        with closing(StrayTree(orphaned)) as tree:
            exit = tree.peek()
            if not tree.is_empty():
                return None
        if exit and not orphaned.command_exited:
            orphaned = advance(orphaned, CommandExited(exit.exit_code, exit.signal))
    return advance(orphaned, TreeEmptied(now(), proved=moved == "reboot", lost_reason=moved))


def close_books(job_dir: JobDir, record: JobRecord) -> None:
    """Tell the feed of the end and unmark the job, if its monitor was killed before it did."""
    store = job_dir.store
    if not store.is_marked(record.job_id) or not job_dir.is_ours():
        return
    with suppress(OSError):
        lock = job_dir.acquire()
        if lock is None:  # the monitor is at it
            return
        try:
            tell_the_end(job_dir, record)
        finally:
            os.close(lock)


def tell_the_end(job_dir: JobDir, record: JobRecord) -> None:
    """With the lock held: the last event, unless it is there, and off with the marker."""
    store = job_dir.store
    with suppress(OSError):
        if not _events.has_event(store.events, record):
            _events.append(store.at("events"), record, now())
        store.unmark_active(record.job_id)
