"""Disks that are full, out of inodes or read-only, records that are damaged, clocks that step."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGKILL

import pytest
from commands import exits_with, sleeper, stubborn
from conftest import (
    TIMEOUT,
    Gate,
    WatchedStore,
    eventually,
    files_in,
    held,
    kill_and_wait,
    run_host,
    state_of,
    wait_gone,
    wait_let_go,
)
from witnesses import compiled

from jobsup import Job, JobState, JobsupError, Outcome, RecordError, SpawnError, StopCause
from jobsup._identity import is_alive

BLOCK = 4096


pytestmark = pytest.mark.usefixtures("no_launcher")


def mount(*words: object) -> None:
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small(tmpfs: Path, make_store: Callable[[Path], WatchedStore]) -> WatchedStore:
    """A store on a disk of one MiB."""
    return make_store(tmpfs / "store")


# -- not a block left ----------------------------------------------------------


@contextmanager
def left(path: Path, blocks: int) -> Iterator[None]:
    """With room for so many blocks."""
    filler = path / "filler"
    with open(filler, "wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(b"x" * BLOCK)
        file.truncate(file.tell() - blocks * BLOCK)
        try:
            yield
        finally:
            filler.unlink()


def start_and_end(store: WatchedStore) -> bool:
    """Whether a job could be started: it then has its status; else nothing of it is left."""
    before = files_in(store)
    try:
        job = store.start(["sh", "-c", "exit 7"])
    except SpawnError as error:
        reason = str(error)
    else:
        assert job.wait(timeout=TIMEOUT).exit_code == 7
        eventually(lambda: store.prune(keep=0) and files_in(store) == before, "the job pruned")
        return True
    assert "No space left" in reason
    assert files_in(store) == before
    return False


def test_disk_that_is_full_at_some_moment_of_birth(tmpfs: Path, small: WatchedStore) -> None:
    assert start_and_end(small)
    results = []
    for blocks in range(14):
        with left(tmpfs, blocks):
            results.append(start_and_end(small))
    assert results[0] is False
    assert results[-1] is True
    assert start_and_end(small)


@pytest.mark.parametrize("size", [1, 100_000])
def test_input_that_finds_no_room(tmpfs: Path, small: WatchedStore, size: int) -> None:
    small.start(["true"]).wait(timeout=TIMEOUT)
    before = files_in(small)
    with left(tmpfs, 0), pytest.raises(SpawnError, match="No space left"):
        small.start(["cat"], stdin=b"x" * size)
    assert files_in(small) == before


def test_full_disk_while_it_runs(tmpfs: Path, small: WatchedStore, gate: Gate) -> None:
    """Every request works; what could not be written is told by the next record that can."""
    job = small.start(stubborn(gate), grace=0.1)
    gate.wait()
    with left(tmpfs, 0):
        job.pause()
        job.resume()
        job.send_signal("WINCH")
    job.pause()
    assert job.status().state is JobState.PAUSED
    with left(tmpfs, 0):
        job.cancel()
        record = job.wait(timeout=TIMEOUT)
        assert (record.outcome, record.adoptions) == (Outcome.CANCELLED, 0)
    assert job.status() == record


def test_end_is_settled_on_a_full_disk(tmpfs: Path, small: WatchedStore, gate: Gate) -> None:
    """Nobody lives who could write it later, so whoever looks writes it into the spare."""
    job = small.start(sleeper(gate))
    gate.wait()
    before = job.status()
    with left(tmpfs, 0):
        kill_and_wait(before.monitor)
        kill_and_wait(before.command)
        record = job.status()
        assert record.state is JobState.ENDED
        assert record.outcome in (Outcome.KILLED, Outcome.LOST)
        assert job.dir.read_record() == record
    assert job.status() == record
    assert small.prune(keep=0).job_ids == (job.id,)
    assert files_in(small) == []


# -- not an inode left ---------------------------------------------------------


@pytest.fixture
def few(tmpfs: Path, make_store: Callable[[Path], WatchedStore]) -> WatchedStore:
    """A store on a disk with room for 60 files."""
    mount("-o", "remount,nr_inodes=60", tmpfs)
    return make_store(tmpfs / "store")


@contextmanager
def files_left(path: Path, count: int) -> Iterator[None]:
    """With room for so many files."""
    fillers = path / "fillers"
    fillers.mkdir()
    with suppress(OSError):
        for number in range(1000):
            (fillers / str(number)).touch()
    for number, _ in enumerate(os.listdir(fillers)):
        if number < count:
            (fillers / str(number)).unlink()
    try:
        yield
    finally:
        shutil.rmtree(fillers)


def test_inodes_that_run_out_at_some_moment_of_birth(tmpfs: Path, few: WatchedStore) -> None:
    assert start_and_end(few)
    results = []
    for count in range(14):
        with files_left(tmpfs, count):
            results.append(start_and_end(few))
    assert results[0] is False
    assert results[-1] is True


def test_job_without_an_inode_left(tmpfs: Path, few: WatchedStore, gate: Gate) -> None:
    job = few.start(stubborn(gate), grace=0.1)
    (pid,) = gate.pids()
    with files_left(tmpfs, 0):
        with pytest.raises(JobsupError, match="does not answer"):
            job.pause()  # it hears, but there is no room for the FIFO of its answer
        eventually(lambda: state_of(pid) == "T", "the command stopped")
        job.cancel()
        record = job.wait(timeout=TIMEOUT)
        assert (record.outcome, record.adoptions) == (Outcome.CANCELLED, 0)
        assert job.dir.read_record() == record
    assert job.status() == record


# -- read-only -----------------------------------------------------------------


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """With a read-only view of *path* over itself: mount(8) refuses to remount what is in use."""
    mount("--bind", "-o", "ro", path, path)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def test_status_outlives_a_disk_that_is_read_only_for_a_while(
    small: WatchedStore, gate: Gate
) -> None:
    job = small.start(exits_with(7, when_opened=gate))
    command = job.status().command
    assert command is not None
    with read_only(small.root):
        gate.open()
        wait_gone(command)
        assert job.status().state is JobState.RUNNING  # the last that could be written
        assert job.tail() == ""
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.exit_code, record.adoptions) == (Outcome.FAILED, 7, 0)


def test_cancel_on_a_read_only_disk(small: WatchedStore, gate: Gate) -> None:
    job = small.start(stubborn(gate), grace=0.1)
    gate.wait()
    command = job.status().command
    assert command is not None
    with read_only(small.root):
        job.cancel()
        wait_gone(command)
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.stop_cause) == (Outcome.CANCELLED, StopCause.CANCEL)


def test_start_on_a_read_only_disk(small: WatchedStore) -> None:
    assert start_and_end(small)
    with read_only(small.root), pytest.raises(SpawnError, match="Read-only"):
        small.start(["true"])
    assert files_in(small) == []


def test_orphan_on_a_read_only_disk_is_told_and_adopted_later(
    small: WatchedStore, gate: Gate
) -> None:
    job = small.start(exits_with(7, when_opened=gate))
    with read_only(small.root):
        kill_and_wait(job.status().monitor)
        assert job.status().state is JobState.ORPHANED
        assert [each.id for each in small.list()] == [job.id]
    assert job.status().state is JobState.RUNNING
    gate.open()
    record = job.wait(timeout=TIMEOUT)
    assert (record.exit_code, record.adoptions) == (7, 1)


def test_prune_on_a_read_only_disk_says_so(small: WatchedStore) -> None:
    job = small.start(["true"])
    record = job.wait(timeout=TIMEOUT)
    eventually(lambda: not os.listdir(small.root / "active"), "the marker gone")
    with read_only(small.root), pytest.raises(OSError, match="Read-only"):
        small.prune(keep=0)
    assert job.status() == record
    assert small.prune(keep=0).job_ids == (job.id,)


# -- damaged records -----------------------------------------------------------


def truncated(path: Path, _: Job) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def emptied(path: Path, _: Job) -> None:
    path.write_bytes(b"")


def garbled(path: Path, _: Job) -> None:
    path.write_bytes(os.urandom(300))


def foreign(path: Path, other: Job) -> None:
    path.write_bytes((other.dir.path / path.name).read_bytes())


def newer(path: Path, _: Job) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "format": 99}))


Damage = Callable[[Path, Job], None]
DAMAGES = [truncated, emptied, garbled, foreign, newer]


@pytest.mark.parametrize("damage", DAMAGES)
def test_record_damaged_under_a_live_monitor(
    store: WatchedStore, gate: Gate, damage: Damage
) -> None:
    """It is told, and healed by the monitor's next word."""
    job, other = store.start(exits_with(7, when_opened=gate)), store.start(["sleep", "90"])
    before = job.status()
    assert before.monitor is not None
    damage(job.dir.meta, other)
    with pytest.raises(RecordError, match=r"meta\.json"):
        job.status()
    assert other.status().state is JobState.RUNNING
    gate.open()
    wait_let_go(job)
    record = job.status()
    assert (record.exit_code, record.monitor) == (7, before.monitor)


@pytest.mark.parametrize("damage", DAMAGES)
def test_record_damaged_and_its_monitor_dead(
    store: WatchedStore, gate: Gate, damage: Damage
) -> None:
    """Nobody knows whose the processes are: nothing is invented, signalled or deleted."""
    job, other = store.start(sleeper(gate)), store.start(["sleep", "90"])
    (pid,) = gate.pids()
    command, bystander = held(pid), other.status().command
    before = job.dir.meta.read_bytes()
    kill_and_wait(job.status().monitor)
    damage(job.dir.meta, other)
    for look in (job.status, job.cancel, job.wait):
        with pytest.raises(RecordError, match=r"meta\.json"):
            look()
    assert job in store.list()
    assert store.prune(keep=0).job_ids == ()
    assert is_alive(command)
    assert bystander is not None
    assert is_alive(bystander)
    job.dir.meta.write_bytes(before)
    assert job.status().adoptions == 1
    job.cancel(grace=0)
    assert job.wait(timeout=TIMEOUT).outcome is Outcome.CANCELLED


@pytest.mark.parametrize("damage", [truncated, emptied, garbled, newer])
def test_spec_damaged_and_its_monitor_dead(store: WatchedStore, gate: Gate, damage: Damage) -> None:
    """Nobody knows how to supervise it, but its end is told."""
    job = store.start(sleeper(gate))
    gate.wait()
    before = job.status()
    kill_and_wait(before.monitor)
    damage(job.dir.spec, job)
    assert job.status().state is JobState.ORPHANED
    kill_and_wait(before.command)
    assert job.status().state is JobState.ENDED


# -- the directory is gone -----------------------------------------------------


def test_timeout_of_a_job_whose_directory_was_deleted(store: WatchedStore, gate: Gate) -> None:
    job = store.start(stubborn(gate), timeout=0.3, grace=0.1, output_limit=1 << 20)
    gate.wait()
    record = job.status()
    assert record.monitor is not None
    assert record.command is not None
    shutil.rmtree(job.dir.path)
    wait_gone(record.monitor)
    assert not is_alive(record.command)
    store.prune()
    assert files_in(store) == []


def test_adopter_finds_no_output(store: WatchedStore, gate: Gate) -> None:
    """There is nothing to limit any more, but all else to do."""
    job = store.start(exits_with(7, when_opened=gate))
    kill_and_wait(job.status().monitor)
    job.dir.output.unlink()
    assert job.status().state is JobState.RUNNING
    gate.open()
    record = job.wait(timeout=TIMEOUT)
    assert (record.exit_code, record.adoptions) == (7, 1)


# -- the clock -----------------------------------------------------------------


class Clock:
    """The wall clock of whoever is started from now on."""

    def __init__(self, path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path = path
        self.step(0)
        monkeypatch.setenv("LD_PRELOAD", str(library))

    def step(self, seconds: int) -> None:
        self._path.write_bytes(struct.pack("=q", seconds))


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    step = tmp_path / "step"
    library = compiled("clock.c", tmp_path, "-shared", "-fPIC", f'-DSTEP_FILE="{step}"')
    return Clock(step, library, monkeypatch)


DAY = 86_400
STEPS = [-30 * DAY, 30 * DAY]


@pytest.mark.parametrize("step", STEPS)
def test_clock_that_steps_under_a_job(
    store: WatchedStore, gate: Gate, clock: Clock, step: int
) -> None:
    """Limits and grace count seconds that passed; who is who does not depend on the time."""
    job = store.start(stubborn(gate), timeout=3600, grace=3600)
    gate.wait()
    clock.step(step)
    job.pause()
    job.resume()
    assert job.status().state is JobState.RUNNING
    job.cancel()
    assert job.status().state is JobState.STOPPING
    job.cancel(grace=0.1)
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.adoptions) == (Outcome.CANCELLED, 0)
    assert record.started_at is not None
    assert record.ended_at is not None
    told = (record.ended_at - record.started_at).total_seconds()
    assert abs(told - step) < DAY  # the clock did step, for the monitor


@pytest.mark.parametrize("step", STEPS)
def test_timeout_comes_though_the_clock_stepped(
    store: WatchedStore, gate: Gate, clock: Clock, step: int
) -> None:
    job = store.start(sleeper(gate), timeout=1, grace=1)
    clock.step(step)
    assert job.wait(timeout=TIMEOUT).outcome is Outcome.TIMED_OUT


LOOK = """
job = store.list()[0]
print(job.status().state.value, job.status().adoptions)
job.cancel(grace=0)
print(job.wait(timeout=30).outcome.value)
print(store.prune(older_than=3600).job_ids == (), store.prune(keep=0).job_ids == (job.id,))
"""


@pytest.mark.parametrize("step", STEPS)
def test_adopted_after_the_clock_stepped(
    store: WatchedStore, gate: Gate, clock: Clock, step: int
) -> None:
    """By a process that has the new time, as its monitor then has."""
    job = store.start(sleeper(gate), timeout=3600)
    gate.wait()
    clock.step(step)
    kill_and_wait(job.status().monitor)
    assert run_host(store, LOOK).splitlines() == ["running 1", "cancelled", "True True"]


IN_ANOTHER_TIME = ["unshare", "--time", "--monotonic", "100000", "--boottime", "100000", "--fork"]


def test_job_of_another_time_namespace(store: WatchedStore, gate: Gate) -> None:
    """Its start times read otherwise from here, and it is its own all the same."""
    body = "import sys, jobsup; print(jobsup.JobStore(sys.argv[1]).start(sys.argv[2:]).id)"
    program = [sys.executable, "-c", body, str(store.root), *sleeper(gate)]
    done = subprocess.run(
        [*IN_ANOTHER_TIME, *program], capture_output=True, text=True, check=False, timeout=60
    )
    if "unshare" in done.stderr:
        pytest.skip(f"needs unshare with time namespaces: {done.stderr}")
    assert done.returncode == 0, done.stderr
    job = store.get(done.stdout.strip())
    (pid,) = gate.pids()
    assert job.status().state is JobState.RUNNING
    assert store.wait([job], timeout=0.1).pending == [job.id]
    kill_and_wait(held(job.dir.read_record().monitor.pid))  # type: ignore[union-attr]
    assert is_alive(held(pid))
    assert job.status().state is JobState.RUNNING
    job.cancel(grace=0)
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.signal) == (Outcome.CANCELLED, SIGKILL)
