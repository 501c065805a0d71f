"""The path without subreaper, pidfd and holes, forced on Linux: what holds, and what is weaker.

macOS itself, and kqueue with it, is not tested.
"""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest
from conftest import Gate, WatchedStore, eventually, run_host

from jobsup import JobStore, Outcome, _libc, _linux, _platform, _portable

_SETSID_CHILD = """
import os, signal, sys, time
signal.alarm(100)
if os.fork() == 0:
    os.setsid()
    signal.alarm(100)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(sys.argv[1], "wb", buffering=0) as gate:
        gate.write(f"{os.getpid()}\\n".encode())
while True:
    time.sleep(1)
"""


@pytest.fixture(autouse=True)
def _forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_platform.PORTABLE, "1")


def _is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_it_is_the_portable_path(store: WatchedStore) -> None:
    assert run_host(store, "from jobsup import _platform; print(_platform.NAME)") == "portable\n"


def test_both_paths_have_the_same_functions() -> None:
    for name in set(_platform.__all__) - {"PORTABLE", "NAME", "WALL"}:
        linux = getattr(_linux if hasattr(_linux, name) else _libc, name)
        portable = getattr(_portable, name)
        assert inspect.isclass(linux) == inspect.isclass(portable)
        if inspect.isfunction(linux):
            parameters = inspect.signature(linux).parameters
            assert parameters == inspect.signature(portable).parameters, name
    for name, member in inspect.getmembers(_portable.ProcessHandle, inspect.isfunction):
        assert inspect.signature(member).parameters.keys() == (
            inspect.signature(getattr(_linux.ProcessHandle, name)).parameters.keys()
        ), name


def test_exit_status_and_output(store: WatchedStore) -> None:
    body = """
job = store.start(["sh", "-c", "echo hello; exit 7"])
record = job.wait(timeout=30)
print(record.outcome.value, record.exit_code, record.proved, job.tail(), end="")
"""
    # Looking found nothing: no kernel's word, and the record does not claim it.
    assert run_host(store, body) == "failed 7 False hello\n"


def test_cancel_finds_a_session_of_its_own(store: WatchedStore, gate: Gate) -> None:
    body = """
job = store.start([sys.executable, "-c", *sys.argv[1:]])
print(job.id)
"""
    job_id = run_host(store, body, _SETSID_CHILD, gate.told).strip()
    (child,) = gate.pids()

    cancel = """
job = store.get(sys.argv[1])
job.cancel(grace=0.2)
record = job.wait(timeout=30)
print(record.outcome.value, int(record.signal))
"""
    assert run_host(store, cancel, job_id) == "cancelled 15\n"
    eventually(lambda: _is_gone(child), "the child is gone")


def test_job_timeout_and_owner_hold(store: WatchedStore) -> None:
    body = """
timed = store.start(["sleep", "100"], timeout=0.1)
owned = store.start(["sleep", "100"], lifetime="owner")
print(timed.wait(timeout=30).outcome.value, owned.id)
"""
    outcome, job_id = run_host(store, body).split()
    assert outcome == "timed-out"

    wait = """
record = store.get(sys.argv[1]).wait(timeout=30)
print(record.outcome.value, record.reason)
"""
    assert run_host(store, wait, job_id) == "cancelled owner-died\n"


def test_adopted_job_is_supervised_but_its_status_is_lost(store: WatchedStore) -> None:
    body = """
job = store.start(["sh", "-c", "sleep 0.5; exit 7"])
os.kill(job.status().monitor.pid, signal.SIGKILL)
record = job.wait(timeout=30)
print(record.outcome.value, record.exit_code, record.reason)
"""
    assert run_host(store, body) == "lost None monitor-died\n"


def test_trimming_is_refused_and_the_record_says_so(store: WatchedStore) -> None:
    body = """
script = "import os; os.write(1, bytes(65536) * 4)"
job = store.start([sys.executable, "-c", script], output_limit=65536)
record = job.wait(timeout=30)
print(record.output_bytes, record.output_lost_bytes, record.note)
"""
    size, lost, note = run_host(store, body).split(maxsplit=2)
    assert (size, lost) == (str(4 << 16), "0")
    assert "cannot be trimmed" in note


def test_a_record_of_one_path_is_read_by_the_other(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = 'job = store.start(["true"]); job.wait(timeout=30); print(job.id)'
    job_id = run_host(store, body).strip()
    monkeypatch.delenv(_platform.PORTABLE)
    assert JobStore(store.root).get(job_id).status().outcome is Outcome.SUCCEEDED
    assert os.environ.get(_platform.PORTABLE) is None
