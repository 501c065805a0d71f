"""status(): where a job stands, from any process, without blocking, and nothing invented."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from signal import SIGABRT, SIGKILL, SIGSEGV, SIGSTOP, SIGTERM, SIGUSR1

import pytest
from commands import daemonizer, dies_of, exits_with, python, sleeper
from conftest import (
    PROVES,
    TIMEOUT,
    UNPROVEN,
    Gate,
    WatchedStore,
    eventually,
    held,
    host,
    kill_and_wait,
    run_host,
    state_of,
    without_privilege,
)

from jobsup import Job, JobNotFoundError, JobState, Outcome, ProcessIdentity, RecordError
from jobsup._identity import is_alive, send_verified
from jobsup._model import now


def test_running_job(store: WatchedStore, gate: Gate) -> None:
    before = now()
    job = store.start(sleeper(gate), name="train")
    (pid,) = gate.pids()
    record = job.status()
    assert (record.job_id, record.state) == (job.id, JobState.RUNNING)
    assert (record.outcome, record.reason, record.exit_code, record.signal) == (None,) * 4
    assert (record.ended_at, record.usage, record.proved, record.stop_cause) == (None,) * 4
    assert record.started_at is not None
    assert before <= record.created_at <= record.started_at <= now()
    assert record.command == held(pid)
    assert record.monitor is not None
    assert is_alive(record.monitor)
    assert record.monitor.pid not in (pid, os.getpid())


@pytest.mark.parametrize("code", [0, 1, 2, 7, 126, 127, 128, 255])
def test_exit_code_is_the_command_s(store: WatchedStore, code: int) -> None:
    record = store.start(exits_with(code)).wait(timeout=TIMEOUT)
    assert (record.exit_code, record.signal) == (code, None)
    assert record.outcome is (Outcome.FAILED if code else Outcome.SUCCEEDED)


@pytest.mark.parametrize("number", [SIGTERM, SIGKILL, SIGSEGV, SIGABRT, SIGUSR1, 40, 64])
def test_signal_is_the_one_it_died_of(store: WatchedStore, number: int) -> None:
    record = store.start(dies_of(number)).wait(timeout=TIMEOUT)
    assert (record.exit_code, record.signal) == (None, number)
    assert (record.outcome, record.reason) == (Outcome.KILLED, UNPROVEN)


def test_ended_job_is_final(store: WatchedStore) -> None:
    job = store.start(exits_with(3))
    record = job.wait(timeout=TIMEOUT)
    assert record.state is JobState.ENDED
    assert record.ended_at is not None
    assert record.started_at is not None
    assert timedelta(0) <= record.ended_at - record.started_at < timedelta(seconds=60)
    assert record.proved is PROVES
    assert record.usage is not None
    assert job.status() == record == Job(job.id, store.root).status()
    for identity in (record.command, record.monitor):
        assert identity is not None
        assert not is_alive(identity) or identity == record.monitor  # on its way out


def test_another_process_sees_the_same(store: WatchedStore, gate: Gate) -> None:
    job = store.start(sleeper(gate), name="train")
    gate.wait()
    body = "job = store.get('train'); print(job.id, job.status().state.value)"
    assert run_host(store, body).split() == [job.id, "running"]


def test_output_bytes_grow_while_it_runs(store: WatchedStore, gate: Gate) -> None:
    job = store.start(["sh", "-c", f"echo one; echo x > {gate.told}; read x < {gate.opened}"])
    gate.wait()
    assert job.status().output_bytes == 4
    gate.open()


# -- it never blocks ---------------------------------------------------------


@contextmanager
def stopped(identity: ProcessIdentity | None) -> Iterator[None]:
    """With the process in state T."""
    assert identity is not None
    pid = identity.pid
    try:
        assert send_verified(identity, SIGSTOP) is None
        eventually(lambda: state_of(pid) == "T", "the process stopped")
        yield
    finally:
        send_verified(identity, signal.SIGCONT)


def test_readers_do_not_wait_for_the_monitor(store: WatchedStore, gate: Gate) -> None:
    job = store.start(sleeper(gate), name="train")
    gate.wait()
    monitor = job.status().monitor
    assert monitor is not None
    with stopped(monitor):
        record = job.status()
        assert (record.state, record.adoptions) == (JobState.RUNNING, 0)
        assert store.list(state="running") == [job]
        assert store.get("train") == job
        assert job.tail() == ""
        assert not job.read().eof
        assert len(store.events().events) == 1
        assert store.prune(keep=0).job_ids == ()
        assert state_of(monitor.pid) == "T"


def test_readers_write_nothing(store: WatchedStore, gate: Gate) -> None:
    """A user who may only read sees the job."""
    job = store.start(sleeper(gate), name="train")
    gate.wait()
    closed = [job.dir.path, store.root / "jobs", store.root / "active", store.root]
    for path in closed:
        path.chmod(0o500)
    body = """
job = store.get("train")
print(job.status().state.value, len(store.list()), repr(job.tail()), job.read().cursor)
"""
    try:
        assert run_host(store, body, preexec_fn=without_privilege) == "running 1 '' 0\n"
    finally:
        for path in reversed(closed):
            path.chmod(0o700)


# -- what is not there, or damaged -------------------------------------------


def test_unknown_job(store: WatchedStore) -> None:
    job = Job("0" * 26, store.root)
    for look in (job.status, job.spec, job.tail, job.read, job.cancel, job.wait, job.pause):
        with pytest.raises(JobNotFoundError, match="no job '0000") as caught:
            look()
        assert str(store.root) in str(caught.value)


def test_deleted_job(store: WatchedStore) -> None:
    job = store.start(["true"])
    job.wait(timeout=TIMEOUT)
    store.prune(keep=0)
    with pytest.raises(JobNotFoundError):
        job.status()


def _damage_empty(job: Job) -> None:
    job.dir.meta.write_bytes(b"")


def _damage_torn(job: Job) -> None:
    job.dir.meta.write_bytes(job.dir.meta.read_bytes()[:100])


def _damage_missing(job: Job) -> None:
    job.dir.meta.unlink()


def _damage_foreign(job: Job) -> None:
    text = job.dir.meta.read_text()
    job.dir.meta.write_text(text.replace(job.id, "0" * 26))


def _damage_newer(job: Job) -> None:
    text = job.dir.meta.read_text()
    job.dir.meta.write_text(text.replace('"format":1', '"format":42'))


DAMAGES = [_damage_empty, _damage_torn, _damage_missing, _damage_foreign, _damage_newer]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_record_is_an_error_that_names_it(
    store: WatchedStore, damage: Callable[[Job], None]
) -> None:
    job = store.start(["echo", "hello"])
    job.wait(timeout=TIMEOUT)
    damage(job)
    for look in (job.status, job.wait, job.cancel):
        with pytest.raises(RecordError) as caught:
            look()
        assert str(job.dir.meta) in str(caught.value)
    assert job.tail() == "hello\n"  # what it wrote is there all the same


def test_newer_format_names_its_number(store: WatchedStore) -> None:
    job = store.start(["true"])
    job.wait(timeout=TIMEOUT)
    _damage_newer(job)
    with pytest.raises(RecordError, match="format 42, this jobsup reads up to 1"):
        job.status()


def test_damaged_spec_does_not_hide_the_record(store: WatchedStore) -> None:
    job = store.start(exits_with(3))
    job.wait(timeout=TIMEOUT)
    job.dir.spec.write_bytes(b"{")
    assert job.status().exit_code == 3
    with pytest.raises(RecordError, match="damaged"):
        job.spec()


def test_lock_that_was_deleted_does_not_hide_a_record(store: WatchedStore) -> None:
    job = store.start(exits_with(3))
    job.wait(timeout=TIMEOUT)
    job.dir.lock.unlink()
    assert job.status().exit_code == 3


# -- leftovers ---------------------------------------------------------------


def test_leftovers_are_killed_by_default(store: WatchedStore, gate: Gate) -> None:
    body = """
def stay():
    os.setsid()
    tell(sys.argv[1], os.getpid())
    sleep()
fork(stay)
wait_for(sys.argv[2])
os._exit(3)
"""
    job = store.start(python(body, gate.told, gate.opened))
    child = held(gate.pids()[0])
    gate.open()
    record = job.wait(timeout=TIMEOUT)
    assert not is_alive(child)
    assert (record.outcome, record.exit_code, record.stop_cause) == (Outcome.FAILED, 3, None)
    assert (record.survivors, record.proved) == ((), PROVES)


def test_leftovers_that_are_waited_for_are_the_job(
    store: WatchedStore, gate: Gate, make_gate: Callable[[], Gate]
) -> None:
    until = make_gate()
    job = store.start(daemonizer(gate, code=3, until=until), leftovers="wait")
    daemon = held(gate.pids()[0])
    assert job.status().state is JobState.RUNNING
    assert is_alive(daemon)
    until.open()
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.exit_code, record.proved) == (Outcome.FAILED, 3, PROVES)


def test_leftovers_that_are_waited_for_can_be_cancelled(store: WatchedStore, gate: Gate) -> None:
    job = store.start(daemonizer(gate), leftovers="wait")
    daemon = held(gate.pids()[0])
    eventually(lambda: job.status().command_exited, "the command has exited")
    job.cancel()
    record = job.wait(timeout=TIMEOUT)
    assert not is_alive(daemon)
    assert (record.outcome, record.exit_code) == (Outcome.CANCELLED, 0)


def test_leftovers_that_are_left_are_listed(
    store: WatchedStore, gate: Gate, make_gate: Callable[[], Gate]
) -> None:
    until = make_gate()
    job = store.start(daemonizer(gate, until=until), leftovers="leave")
    daemon = held(gate.pids()[0])
    try:
        record = job.wait(timeout=TIMEOUT)
        assert is_alive(daemon)
        assert (record.outcome, record.proved) == (Outcome.SUCCEEDED, False)
        assert [(left.pid, left.errno) for left in record.survivors] == [(daemon.pid, None)]
        assert record.survivors[0].uid == os.geteuid()
    finally:
        kill_and_wait(daemon)


def test_job_without_leftovers_has_none_to_leave(store: WatchedStore) -> None:
    record = store.start(["true"], leftovers="leave").wait(timeout=TIMEOUT)
    assert (record.survivors, record.proved) == ((), PROVES)


# -- the directory -----------------------------------------------------------


def test_store_that_was_moved_is_the_same_store(store: WatchedStore, tmp_path: Path) -> None:
    job = store.start(exits_with(3))
    job.wait(timeout=TIMEOUT)
    shutil.copytree(store.root, tmp_path / "moved", ignore=shutil.ignore_patterns("control"))
    assert Job(job.id, tmp_path / "moved").status().exit_code == 3


def test_stdio_of_the_monitor_is_nothing(store: WatchedStore, gate: Gate) -> None:
    """It holds no terminal and no pipe of the starter, whose reader would wait for it."""
    body = """
print(store.start(sys.argv[1:]).id)
"""
    job_id = subprocess.run(
        ["sh", "-c", '"$@" | cat', "sh", *host(store, body, *sleeper(gate))],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.strip()
    assert store.get(job_id).status().state is JobState.RUNNING
