"""Fixtures, and the few verbs that all tests share."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import settings

from jobsup import (
    Job,
    JobRecord,
    JobSpec,
    JobState,
    JobStore,
    JobsupError,
    Outcome,
    ProcessIdentity,
)
from jobsup._identity import identify, is_alive, open_process, send_verified
from jobsup._jobdir import JobDir, StoreDir
from jobsup._launch import LAUNCHER
from jobsup._model import now, to_json
from jobsup._platform import NAME, ProcessRow, environ_of, processes
from jobsup._strays import MARKER
from jobsup._ulid import new_id

TIMEOUT = 30.0
"""Seconds that only a failing test takes."""

PROVES = NAME == "linux"
"""Whether the kernel proves that a tree is empty; the portable path only looks."""
KERNEL = tuple(map(int, platform.release().split("-")[0].split(".")[:2]))
"""The first two numbers of its release."""
UNPROVEN = None if PROVES else "unproven"

settings.register_profile("jobsup", deadline=None)  # a loaded machine is no failure
settings.load_profile("jobsup")

_TEST_MARKER = "JOBSUP_TEST"
"""In the environment of everything that a test with a store starts."""


def eventually(condition: Callable[[], Any], what: str, timeout: float = TIMEOUT) -> Any:
    """What *condition* returns once it is true; for what no descriptor tells."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < deadline, f"after {timeout:g} s still not: {what}"
        time.sleep(0.005)
    return result


def held(pid: int) -> ProcessIdentity:
    """The identity of a process that is known to live."""
    identity = identify(pid)
    assert identity is not None, f"process {pid} is gone"
    return identity


def wait_gone(identity: ProcessIdentity) -> None:
    """Until the process has ended; a zombie has."""
    handle = open_process(identity)
    if handle is None:
        return
    with handle:
        fd = handle.fileno()
        if fd is None:  # the portable path: nothing turns readable
            eventually(handle.exited, f"process {identity.pid} is gone")
            return
        ready, _, _ = select.select([fd], [], [], TIMEOUT)
        assert ready, f"process {identity.pid} lives on"


def wait_let_go(job: Job) -> None:
    """Until the job's monitor has done its last; it may then have another one."""
    eventually(lambda: not job.dir.is_held(), f"the monitor of {job.id} let go of it")


def signal_monitor(job: Job, signum: int) -> None:
    """Signal the monitor of a job that has not ended, and no other job that it takes up next."""
    with job.dir.pinned():
        record = job.dir.read_record()
        if record.state is not JobState.ENDED and record.monitor:
            send_verified(record.monitor, signum)


def kill_and_wait(identity: ProcessIdentity | None) -> None:
    """SIGKILL exactly this process, and wait until it has ended."""
    assert identity is not None
    send_verified(identity, signal.SIGKILL)
    wait_gone(identity)


def raising(error: BaseException) -> Callable[..., NoReturn]:
    """A function that raises *error*, to put in another's place."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


def describe(identity: ProcessIdentity) -> str:
    with suppress(OSError):
        words = Path(f"/proc/{identity.pid}/cmdline").read_bytes().split(b"\0")
        return f"{identity.pid} {b' '.join(words)[-80:]!r}"
    return str(identity.pid)


def state_of(pid: int) -> str:
    """One letter, as in proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


class Gate:
    """Where a command and the test meet.

    The command tells it a line of words (`wait`) and waits until it is opened
    (`open`). Both are FIFOs of which the test holds both ends, so that neither
    side ever blocks in open(2); a command whose test died reads end-of-file.
    """

    def __init__(self, path: Path) -> None:
        self.told = path.with_suffix(".told")
        self.opened = path.with_suffix(".opened")
        for fifo in (self.told, self.opened):
            os.mkfifo(fifo)
        self._told = os.open(self.told, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        self._opened = os.open(self.opened, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        self._read = b""

    def wait(self) -> list[str]:
        """The words of the next line that a command tells."""
        deadline = time.monotonic() + TIMEOUT
        while b"\n" not in self._read:
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self._told], [], [], left)
            assert ready, f"no command came to the gate {self.told.stem} in {TIMEOUT:g} s"
            self._read += os.read(self._told, 1 << 16)
        line, _, self._read = self._read.partition(b"\n")
        return line.decode().split()

    def pids(self) -> list[int]:
        """`wait`, for a command that tells the pids of its processes."""
        return [int(word) for word in self.wait()]

    def open(self) -> None:
        """Let pass whoever waits, and whoever comes."""
        os.write(self._opened, b"!" * 4096)

    def close(self) -> None:
        os.close(self._told)
        os.close(self._opened)


@pytest.fixture
def make_gate(tmp_path: Path) -> Iterator[Callable[[], Gate]]:
    gates: list[Gate] = []

    def make() -> Gate:
        gates.append(Gate(tmp_path / f"gate{len(gates)}"))
        return gates[-1]

    yield make
    for gate in gates:
        gate.close()


@pytest.fixture
def gate(make_gate: Callable[[], Gate]) -> Gate:
    return make_gate()


class WatchedStore(JobStore):
    """A store that remembers which processes its jobs began with."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.started: dict[str, list[ProcessIdentity]] = {}

    def start(self, *args: Any, **kwargs: Any) -> Job:
        job = super().start(*args, **kwargs)
        self.started[job.id] = []
        with suppress(JobsupError, OSError):
            self.remember(job.id, StoreDir(self.root).job(job.id).read_record())
        return job

    def remember(self, job_id: str, record: JobRecord) -> None:
        self.started.setdefault(job_id, []).extend(
            identity for identity in (record.command, record.monitor) if identity
        )


@pytest.fixture
def make_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], WatchedStore]]:
    """Stores of the test's own; a process of one that outlives the test fails the test."""
    mark = secrets.token_hex(8)
    monkeypatch.setenv(_TEST_MARKER, mark)
    stores: list[WatchedStore] = []

    def make(root: Path) -> WatchedStore:
        stores.append(WatchedStore(root))
        return stores[-1]

    yield make
    for store in stores:
        _end_all(store)
    leaked = _living(stores, mark)
    names = [describe(identity) for identity in leaked]
    for identity in leaked:
        send_verified(identity, signal.SIGKILL)
    assert not leaked, f"left behind: {', '.join(names)}"


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody replaces a killed monitor before somebody looks."""
    monkeypatch.setenv(LAUNCHER, "0")


@pytest.fixture
def store(tmp_path: Path, make_store: Callable[[Path], WatchedStore]) -> WatchedStore:
    return make_store(tmp_path / "store")


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB.  Ask for it before `make_store`, so that it outlives the jobs."""
    path = tmp_path / "tmpfs"
    path.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "jobsup-test", path],
        capture_output=True,
        text=True,
        check=False,
    )
    if mount.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mount.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def host(store: JobStore, body: str, *arguments: object) -> list[str]:
    """A program that does *body* with `store` at hand, and ends by itself."""
    return [sys.executable, "-c", _HOST + body, str(store.root), *map(str, arguments)]


_HOST = """
import json, os, signal, subprocess, sys
signal.alarm(100)
from jobsup import *
store = JobStore(sys.argv.pop(1))
"""


def run_host(store: JobStore, body: str, *arguments: object, **kwargs: Any) -> str:
    """What a `host` printed; it must succeed."""
    done = subprocess.run(
        host(store, body, *arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **kwargs,
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def without_privilege() -> None:
    """For preexec_fn: root may then no more override permissions.  capabilities(7)"""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH; exec drops them
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; refused if we have none anyway


def put(
    store: JobStore, job_id: str, name: str | None = None, *, ended_at: datetime | None = None
) -> Job:
    """A job that ended long ago, as it lies on disk."""
    job = Job(job_id, store.root)
    job.dir.path.mkdir(parents=True)
    record = JobRecord(
        job_id,
        JobState.ENDED,
        created_at=now(),
        outcome=Outcome.SUCCEEDED,
        exit_code=0,
        ended_at=ended_at or now(),
    )
    job.dir.write_record(record)
    job.dir.write_spec(to_json(JobSpec(["true"], name=name)))
    job.dir.lock.touch()
    job.dir.output.touch()
    return job


def files_in(store: JobStore) -> list[str]:
    """What is left of jobs in the store, hidden or not."""
    found: list[str] = []
    for name in ("jobs", "active"):
        with suppress(FileNotFoundError):
            found += [f"{name}/{entry}" for entry in os.listdir(store.root / name)]
    return sorted(found)


def _end_all(store: WatchedStore) -> None:
    """Cancel what the test left running, as far as its faults allow."""
    directory = StoreDir(store.root)
    for job_id in _ids(store):
        with suppress(JobsupError, OSError, ValueError):
            store.remember(job_id, directory.job(job_id).read_record())
            job = Job(job_id, store.root)
            if job.status().state is not JobState.ENDED:
                job.cancel(grace=0)
                job.wait(timeout=TIMEOUT)


def _ids(store: JobStore) -> list[str]:
    try:
        return StoreDir(store.root).ids()
    except OSError:  # the test put something in the way
        return []


def waits_for_a_job(pid: int) -> bool:
    """Whether it is a launcher's spare, for the first time or again."""
    row = ProcessRow.read(pid)
    return row is not None and row.command == "jobsup-spare"


def _living(stores: list[WatchedStore], mark: str) -> set[ProcessIdentity]:
    """The processes of the test that outlive it.  A monitor may still be on its way out."""
    deadline = time.monotonic() + TIMEOUT
    ids = {job_id for store in stores for job_id in (*store.started, *_ids(store))}
    marks = [f"{_TEST_MARKER}={mark}\0".encode(), *(f"{MARKER}={i}\0".encode() for i in ids)]
    started = [known for store in stores for known in store.started.values()]
    recorded = {identity for known in started for identity in known}
    while True:
        living = {identity for identity in recorded if is_alive(identity)}
        living = {identity for identity in living if not waits_for_a_job(identity.pid)}
        for row in processes():
            environ = b"" if row.is_zombie else environ_of(row.pid)
            if any(mark in environ for mark in marks) and (identity := identify(row.pid)):
                living.add(identity)
        if not living or time.monotonic() > deadline:
            return living
        time.sleep(0.01)


@pytest.fixture
def job_dir(tmp_path: Path) -> JobDir:
    """An empty directory of a job that was never started, in a store of its own."""
    directory = StoreDir(tmp_path / "unwatched")
    directory.create()
    made = directory.job(new_id())
    made.path.mkdir()
    return made


@pytest.fixture
def record(job_dir: JobDir) -> JobRecord:
    """Of a job that runs, in `job_dir`."""
    return JobRecord(
        job_dir.path.name,
        JobState.RUNNING,
        created_at=now(),
        started_at=now(),
        command=ProcessIdentity(1 << 22, "no such process"),
        monitor=ProcessIdentity(1 << 22, "no such process"),
    )


MAY_BE_MISSING = re.compile(
    r"chromium|initdb|postgres|pg_ctl|unshare|setpriv|root|privilege|capability"
    r"|tmpfs|nosuid|Linux 6\.9|hard limit|Landlock|namespace|cgroup"
)
"""What a test may lack in CI too; .ci/run installs the rest, where it is root."""


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test fails the run, unless its reason is on the list."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI") or os.geteuid() != 0 or terminal is None:
        return
    reasons = [str(report.longrepr) for report in terminal.stats.get("skipped", [])]
    if unexpected := [reason for reason in reasons if not MAY_BE_MISSING.search(reason)]:
        terminal.write_line(f"skipped, which fails a CI run: {unexpected}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
