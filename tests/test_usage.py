"""What a job takes: of a running tree by looking, of an ended one by its record."""

from __future__ import annotations

import pytest
from commands import forker, python
from conftest import TIMEOUT, Gate, WatchedStore, held, kill_and_wait

from jobsup import JobEndedError

BURN = """
def burn(seconds):
    while time.process_time() < seconds:
        pass
"""


def test_record_has_what_the_command_took(store: WatchedStore) -> None:
    body = BURN + "burn(0.3); held = bytearray(64 << 20)"
    usage = store.start(python(body)).wait(timeout=TIMEOUT).usage
    assert usage is not None
    assert 0.3 <= usage.cpu_seconds < 1.5
    assert 64 << 20 <= usage.peak_rss_bytes < 512 << 20


def test_record_has_what_the_children_took_once(store: WatchedStore) -> None:
    """Whether their parent waited for them or they outlived it."""
    body = (
        BURN
        + """
os.waitpid(fork(burn, 0.2), 0)
fork(burn, 0.2)
"""
    )
    usage = store.start(python(body), leftovers="wait").wait(timeout=TIMEOUT).usage
    assert usage is not None
    assert 0.4 <= usage.cpu_seconds < 0.8


def test_command_that_does_nothing_takes_little(store: WatchedStore) -> None:
    usage = store.start(["true"]).wait(timeout=TIMEOUT).usage
    assert usage is not None
    assert 0 <= usage.cpu_seconds < 0.2
    assert 0 < usage.peak_rss_bytes < 100 << 20


def test_running_tree_is_counted_whole(store: WatchedStore, gate: Gate) -> None:
    job = store.start(forker(gate, children=3))
    pids = gate.pids()
    usage = job.usage()
    assert usage.processes == len(pids) == 6
    assert usage.rss_bytes > 6 << 20
    assert 0 <= usage.cpu_seconds < 10


@pytest.mark.usefixtures("no_launcher")
def test_adopted_tree_is_counted(store: WatchedStore, gate: Gate) -> None:
    job = store.start(forker(gate, children=3))
    pids = gate.pids()
    kill_and_wait(job.status().monitor)
    assert job.usage().processes == len(pids)


def test_process_that_ended_is_not_counted(store: WatchedStore, gate: Gate) -> None:
    job = store.start(forker(gate, children=3))
    pids = gate.pids()
    kill_and_wait(held(pids[1]))
    assert job.usage().processes == len(pids) - 1


def test_ended_job_has_its_usage_on_record(store: WatchedStore) -> None:
    job = store.start(["true"])
    job.wait(timeout=TIMEOUT)
    with pytest.raises(JobEndedError, match="its record has what it took"):
        job.usage()
