"""wait(): one, any or all, in threads and event loops, without polling or losing an end."""

from __future__ import annotations

import asyncio
import math
import os
import random
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
from commands import exits_with, sleeper
from conftest import TIMEOUT, Gate, WatchedStore, eventually, kill_and_wait, run_host

from jobsup import (
    Job,
    JobNotFoundError,
    JobRecord,
    JobState,
    JobsupError,
    Outcome,
    WaitTimeoutError,
    _wait,
)
from jobsup._adopt import current_record
from jobsup._jobdir import JobDir


def test_wait_returns_the_final_record(store: WatchedStore, gate: Gate) -> None:
    job = store.start(exits_with(3, gate))
    gate.open()
    record = job.wait(timeout=TIMEOUT)
    assert (record.state, record.exit_code) == (JobState.ENDED, 3)
    assert job.wait() == job.wait(timeout=0) == record


def test_wait_gives_up_and_the_job_runs_on(store: WatchedStore, gate: Gate) -> None:
    job = store.start(sleeper(gate))
    gate.wait()
    with pytest.raises(WaitTimeoutError, match=r"after 0\.05 s; it runs on") as caught:
        job.wait(timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value, JobsupError)
    with pytest.raises(WaitTimeoutError):
        job.wait(timeout=0)
    assert job.status().state is JobState.RUNNING


@pytest.mark.parametrize("timeout", [-1, math.inf, math.nan])
def test_bad_timeout_is_refused(store: WatchedStore, timeout: float) -> None:
    job = store.start(["true"])
    with pytest.raises(ValueError, match="timeout"):
        job.wait(timeout=timeout)
    with pytest.raises(ValueError, match="timeout"):
        store.wait([job], timeout=timeout)
    with pytest.raises(ValueError, match="timeout"):
        asyncio.run(job.wait_async(timeout=timeout))


def test_another_process_waits(store: WatchedStore, gate: Gate) -> None:
    job = store.start(exits_with(3, gate), name="train")
    gate.open()
    assert run_host(store, "print(store.get('train').wait(timeout=30).exit_code)") == "3\n"
    assert job.wait(timeout=0).exit_code == 3


def test_many_threads_wait_for_one(store: WatchedStore, gate: Gate) -> None:
    job = store.start(exits_with(3, gate))
    codes: list[int | None] = []
    threads = [
        threading.Thread(target=lambda: codes.append(job.wait(timeout=TIMEOUT).exit_code))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join()
    assert codes == [3] * 8


def test_wait_does_not_poll(store: WatchedStore) -> None:
    """A poll every 100 ms would wake ten times and more."""
    body = """
def switches():
    with open("/proc/self/status") as file:
        return int(next(l for l in file if l.startswith("voluntary")).split()[1])
job = store.start(["sleep", "1"])
before = switches()
job.wait(timeout=30)
print(switches() - before)
"""
    assert int(run_host(store, body)) < 10


@pytest.mark.usefixtures("no_launcher")
def test_monitor_killed_during_the_wait(store: WatchedStore, gate: Gate) -> None:
    """Who waits wakes, adopts the job, and waits on."""
    job = store.start(exits_with(7, gate))
    monitor = job.status().monitor
    codes: list[int | None] = []
    waiter = threading.Thread(target=lambda: codes.append(job.wait(timeout=TIMEOUT).exit_code))
    waiter.start()
    kill_and_wait(monitor)
    eventually(lambda: job.dir.read_record().adoptions == 1, "an adopter")
    gate.open()
    waiter.join()
    assert codes == [7]


def test_wait_ends_though_somebody_else_reads_the_requests(
    store: WatchedStore, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_wait, "_LONGEST_SECONDS", 0.2)
    job = store.start(exits_with(7, gate))
    eavesdropper = os.open(job.dir.control, os.O_RDONLY | os.O_NONBLOCK)
    try:
        waiter = threading.Thread(target=partial(job.wait, timeout=TIMEOUT))
        waiter.start()
        gate.open()
        waiter.join(TIMEOUT)
        assert not waiter.is_alive()
    finally:
        os.close(eavesdropper)
    assert job.status().exit_code == 7


@pytest.mark.parametrize("planted", ["a link", "a directory", "a file", "nothing"])
def test_wait_needs_no_control(store: WatchedStore, gate: Gate, planted: str) -> None:
    job = store.start(exits_with(7, gate))
    job.dir.control.unlink()
    if planted == "a link":
        job.dir.control.symlink_to("/dev/null")
    elif planted == "a directory":
        job.dir.control.mkdir()
    elif planted == "a file":
        job.dir.control.touch()
    gate.open()
    assert job.wait(timeout=TIMEOUT).exit_code == 7
    assert asyncio.run(job.wait_async(timeout=TIMEOUT)).exit_code == 7
    if planted == "a directory":
        job.dir.control.rmdir()  # prune deletes none


# -- several -----------------------------------------------------------------


def test_all_waits_for_the_last(store: WatchedStore, make_gate: Callable[[], Gate]) -> None:
    gates = [make_gate() for _ in range(3)]
    jobs = [store.start(exits_with(code, gate)) for code, gate in enumerate(gates)]
    gates[1].open()
    jobs[1].wait(timeout=TIMEOUT)
    ended, pending = store.wait(jobs, timeout=0.05)
    assert [record.job_id for record in ended] == [jobs[1].id]
    assert pending == [jobs[0].id, jobs[2].id]
    for gate in gates:
        gate.open()
    ended, pending = store.wait(jobs, timeout=TIMEOUT)
    assert [record.exit_code for record in ended] == [0, 1, 2]
    assert pending == []


def test_any_returns_with_the_first(store: WatchedStore, make_gate: Callable[[], Gate]) -> None:
    gates = [make_gate() for _ in range(3)]
    jobs = [store.start(exits_with(code, gate)) for code, gate in enumerate(gates)]
    gates[2].open()
    ended, pending = store.wait(jobs, mode="any", timeout=TIMEOUT)
    assert [record.exit_code for record in ended] == [2]
    assert pending == [jobs[0].id, jobs[1].id]
    assert store.wait(jobs, mode="any").ended == ended  # at once


def test_any_of_several_takes_names_and_parts(store: WatchedStore) -> None:
    job = store.start(["true"], name="train")
    ended, _ = store.wait(["train", job.id[-8:], job], timeout=TIMEOUT)
    assert {record.job_id for record in ended} == {job.id}


def test_waiting_for_nothing_is_over_at_once(store: WatchedStore) -> None:
    assert store.wait([]) == ([], [])
    assert store.wait([], mode="any") == ([], [])


def test_unknown_job_is_told_before_the_wait(store: WatchedStore, gate: Gate) -> None:
    job = store.start(sleeper(gate))
    for unknown in ("zzzzzz", Job("0" * 26, store.root)):
        with pytest.raises(JobNotFoundError):
            store.wait([job, unknown])
        with pytest.raises(JobNotFoundError):
            asyncio.run(store.wait_async([job, unknown]))


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_job_pruned_during_the_wait_is_told_in_our_words(
    store: WatchedStore, gate: Gate, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    running, ended = store.start(sleeper(gate)), store.start(["true"])
    ended.wait(timeout=TIMEOUT)

    def pruned_as_we_look(job_dir: JobDir) -> JobRecord:
        store.prune(keep=0)
        return current_record(job_dir)

    def wait() -> None:
        if is_async:
            asyncio.run(store.wait_async([running, ended], timeout=TIMEOUT))
        else:
            store.wait([running, ended], timeout=TIMEOUT)

    monkeypatch.setattr(_wait, "current_record", pruned_as_we_look)
    with pytest.raises(JobNotFoundError, match=ended.id):
        wait()
    assert running.status().state is JobState.RUNNING


def test_unknown_mode_is_refused(store: WatchedStore) -> None:
    with pytest.raises(ValueError, match="'any' or 'all', not 'some'"):
        store.wait([], mode="some")  # type: ignore[arg-type]


def test_no_end_is_lost_among_many(store: WatchedStore, gate: Gate) -> None:
    jobs = {store.start(exits_with(code % 5, gate)).id: code % 5 for code in range(20)}
    gate.open()
    left, seen = list(jobs), {}
    while left:
        ended, left = store.wait(left, mode="any", timeout=60)
        assert ended
        seen.update({record.job_id: record.exit_code for record in ended})
    assert seen == jobs


# -- in an event loop --------------------------------------------------------


def test_async_wait_returns_the_final_record(store: WatchedStore, gate: Gate) -> None:
    async def main() -> None:
        job = store.start(exits_with(3, gate))
        task = asyncio.create_task(job.wait_async(timeout=TIMEOUT))
        await asyncio.sleep(0)
        gate.open()
        assert (await task).exit_code == 3
        assert (await job.wait_async()).exit_code == 3

    asyncio.run(main())


def test_async_wait_gives_up_and_the_job_runs_on(store: WatchedStore, gate: Gate) -> None:
    job = store.start(sleeper(gate))
    with pytest.raises(WaitTimeoutError):
        asyncio.run(job.wait_async(timeout=0.05))
    with pytest.raises(WaitTimeoutError):
        asyncio.run(job.wait_async(timeout=0))
    assert job.status().state is JobState.RUNNING


def test_async_wait_leaves_the_loop_to_others(store: WatchedStore, gate: Gate) -> None:
    """And needs no thread."""

    async def main() -> None:
        job = store.start(exits_with(0, gate))
        task = asyncio.create_task(job.wait_async(timeout=TIMEOUT))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert threading.active_count() == before
        assert not task.done()
        gate.open()
        await task

    before = threading.active_count()
    asyncio.run(main())


def test_async_waits_that_are_cancelled_keep_nothing(store: WatchedStore, gate: Gate) -> None:
    async def main() -> None:
        jobs = [store.start(exits_with(0, gate)) for _ in range(5)]
        open_before = os.listdir("/proc/self/fd")
        waits: list[Coroutine[Any, Any, object]] = [job.wait_async() for job in jobs * 3]
        waits += [store.wait_async(jobs, mode="any") for _ in range(3)]
        rounds = [asyncio.create_task(wait) for wait in waits]
        await asyncio.sleep(0.05)
        random.shuffle(rounds)
        for task in rounds:
            task.cancel()
        results = await asyncio.gather(*rounds, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert os.listdir("/proc/self/fd") == open_before

        assert {job.status().state for job in jobs} == {JobState.RUNNING}
        gate.open()
        waited = await store.wait_async(jobs, timeout=TIMEOUT)
        assert len(waited.ended) == 5

    asyncio.run(main())


def test_async_cancellation_by_a_time_limit_of_the_loop(store: WatchedStore, gate: Gate) -> None:
    async def main() -> None:
        job = store.start(sleeper(gate))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(job.wait_async(), 0.05)

    asyncio.run(main())


def test_async_waits_for_many_lose_no_end(store: WatchedStore, gate: Gate) -> None:
    async def main() -> None:
        jobs = [store.start(exits_with(code, gate)) for code in range(12)]
        tasks = [asyncio.create_task(job.wait_async(timeout=60)) for job in jobs * 2]
        await asyncio.sleep(0.01)
        gate.open()
        records = await asyncio.gather(*tasks)
        assert [record.exit_code for record in records] == [*range(12)] * 2

    asyncio.run(main())


def test_async_any_and_all(store: WatchedStore, make_gate: Callable[[], Gate]) -> None:
    async def main() -> None:
        gates = [make_gate() for _ in range(2)]
        jobs = [store.start(exits_with(code, gate)) for code, gate in enumerate(gates)]
        task = asyncio.create_task(store.wait_async(jobs, mode="any", timeout=TIMEOUT))
        await asyncio.sleep(0.01)
        gates[1].open()
        ended, pending = await task
        assert [record.exit_code for record in ended] == [1]
        assert pending == [jobs[0].id]
        ended, pending = await store.wait_async(jobs, timeout=0.01)
        assert pending == [jobs[0].id]
        gates[0].open()
        ended, pending = await store.wait_async(jobs, timeout=TIMEOUT)
        assert [record.exit_code for record in ended] == [0, 1]

    asyncio.run(main())


@pytest.mark.usefixtures("no_launcher")
def test_async_wait_survives_the_monitor(store: WatchedStore, gate: Gate) -> None:
    async def main() -> None:
        job = store.start(exits_with(7, gate))
        monitor = job.status().monitor
        task = asyncio.create_task(job.wait_async(timeout=TIMEOUT))
        await asyncio.sleep(0)
        kill_and_wait(monitor)
        while job.dir.read_record().adoptions == 0:
            await asyncio.sleep(0.005)
        gate.open()
        record = await task
        assert (record.exit_code, record.outcome) == (7, Outcome.FAILED)

    asyncio.run(asyncio.wait_for(main(), TIMEOUT))


def test_wait_with_more_descriptors_than_select_takes(store: WatchedStore, gate: Gate) -> None:
    """select(2) ends at descriptor 1023."""
    import resource  # noqa: PLC0415 - needed here alone

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip("the hard limit of open files is below 2048")
    job = store.start(exits_with(3, gate))
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        threading.Timer(0.05, gate.open).start()
        assert job.wait(timeout=TIMEOUT).exit_code == 3
    finally:
        for fd in fds:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_time_limit_holds_over_many_wakes(store: WatchedStore, gate: Gate) -> None:
    """Each end wakes the wait for all; the time that is left is not begun anew."""
    short = [store.start(["sleep", str(number / 10)]) for number in range(4)]
    job = store.start(sleeper(gate))
    begin = time.monotonic()
    ended, pending = store.wait([*short, job], timeout=0.7)
    assert time.monotonic() - begin >= 0.7
    assert (len(ended), pending) == (4, [job.id])
