"""Two things at once, again and again: whoever is first, the record tells the truth, once.

JOBSUP_TEST_SCALE multiplies how often; the numbers below are for every day.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Timer

import attrs
import pytest
from commands import exits_with
from conftest import TIMEOUT, Gate, WatchedStore, signal_monitor, wait_let_go
from witnesses import compiled

from jobsup import Job, JobRecord, JobState, JobStore, Outcome
from jobsup._events import JobEvent
from jobsup._jobdir import JobDir
from jobsup._model import to_json
from jobsup._value import evolve

SCALE = float(os.environ.get("JOBSUP_TEST_SCALE", "1"))
RACES = int(48 * SCALE)
READS = int(40_000 * SCALE)
RUNNERS = 4
PATIENCE = 30.0

pytestmark = pytest.mark.timeout(120 + 240 * SCALE)


@pytest.fixture(scope="session")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("truth.c", tmp_path_factory.mktemp("programs"), "-static")


# -- stop against natural exit -------------------------------------------------


def stop_by_cancel(job: Job) -> None:
    job.cancel()


def stop_by_signal(job: Job) -> None:
    signal_monitor(job, signal.SIGTERM)


def kill_monitor(job: Job) -> None:
    signal_monitor(job, signal.SIGKILL)


Stop = Callable[[Job], None]


@attrs.frozen
class Result:
    record: JobRecord
    natural: int
    """The exit code of a command that is let alone."""
    told: int | None
    """The exit code that the command itself wrote down; None if a signal ended it."""


def exits_by_itself(result: Result) -> bool:
    return result.told == result.natural


def is_not_stopped(result: Result) -> bool:
    return result.record.stop_cause is None


def needs_no_adopter(result: Result) -> bool:
    return result.record.adoptions == 0


def is_seen_by_its_monitor(result: Result) -> bool:
    return bool(result.record.proved)


CLOSE_CALLS: dict[Stop, tuple[Callable[[Result], bool], Callable[[Result], bool]]] = {
    stop_by_cancel: (exits_by_itself, is_not_stopped),
    stop_by_signal: (exits_by_itself, is_not_stopped),
    kill_monitor: (needs_no_adopter, is_seen_by_its_monitor),
}
"""What tells that the command came first, in each of two ways that come close to a draw."""


class Races:
    """Runs races, each nearer to a draw than the one before."""

    def __init__(self, store: JobStore, truth: Path, folder: Path) -> None:
        self._store = store
        self._truth = truth
        self._folder = folder
        self._numbers = count()

    def run(self, total: int, stop: Stop, *, polite: bool) -> list[Result]:
        def some(runner: int) -> list[Result]:
            command_first = CLOSE_CALLS[stop][runner % 2]
            return list(self._some(total // RUNNERS, stop, polite, command_first))

        with ThreadPoolExecutor(RUNNERS) as pool:
            return [result for part in pool.map(some, range(RUNNERS)) for result in part]

    def _some(
        self,
        total: int,
        stop: Stop,
        polite: bool,
        command_first: Callable[[Result], bool],
    ) -> Iterator[Result]:
        late, step = 0.0, 2000.0  # microseconds by which the command is late
        for _ in range(total):
            result = self._one(stop, polite, int(late + random.uniform(-step, step)))
            # Who lost gets a start the next time, a smaller and smaller one.
            late += step if command_first(result) else -step
            step = max(step * 0.9, 100.0)
            yield result

    def _one(self, stop: Stop, polite: bool, late: int) -> Result:
        number = next(self._numbers)
        natural = number % 3
        told, fifo = self._folder / f"{number}.told", self._folder / f"{number}.fifo"
        os.mkfifo(fifo)
        gate = os.open(fifo, os.O_RDWR | os.O_CLOEXEC)
        try:
            words = (self._truth, told, natural, max(0, late), int(polite), fifo)
            job = self._store.start([str(word) for word in words], grace=PATIENCE)
            os.write(gate, b"!")
            time.sleep(max(0, -late) / 1e6)
            stop(job)
            record = job.wait(timeout=PATIENCE)
        finally:
            os.close(gate)
        return Result(record, natural, int(told.read_text()) if told.exists() else None)


@pytest.fixture
def races(store: WatchedStore, truth: Path, tmp_path: Path) -> Races:
    folder = tmp_path / "races"
    folder.mkdir()
    return Races(store, truth, folder)


def all_events(store: JobStore) -> dict[str, list[JobEvent]]:
    found: dict[str, list[JobEvent]] = {}
    cursor = 0
    while (page := store.events(cursor)).events:
        cursor = page.cursor
        for event in page.events:
            found.setdefault(event.job_id, []).append(event)
    return found


def check_feed(store: JobStore, results: list[Result]) -> None:
    """One end was published of each job, the one of its record."""
    for result in results:
        job = store.get(result.record.job_id)
        # Its monitor tells the feed before it lets go, or whoever looks then does.
        wait_let_go(job)
        job.status()
    feed = all_events(store)
    for result in results:
        record, events = result.record, feed[result.record.job_id]
        sequences = [event.sequence for event in events]
        assert sequences == sorted(set(sequences)), events
        assert [event.state for event in events].count(JobState.ENDED) == 1, events
        last = events[-1]
        assert (last.state, last.sequence) == (JobState.ENDED, record.sequence)
        assert (last.outcome, last.exit_code, last.signal) == (
            record.outcome,
            record.exit_code,
            record.signal,
        )


@pytest.mark.parametrize("polite", [False, True], ids=["dies", "exits"])
@pytest.mark.parametrize("stop", [stop_by_cancel, stop_by_signal])
def test_stop_against_natural_exit(
    store: WatchedStore, races: Races, stop: Stop, polite: bool
) -> None:
    results = races.run(RACES, stop, polite=polite)

    for result in results:
        record, told = result.record, result.told
        assert (record.state, record.proved) == (JobState.ENDED, True), record
        if told is None:
            # A polite command too: the signal may come before it is ready for it.
            assert (record.exit_code, record.signal) == (None, signal.SIGTERM), result
        else:
            assert (record.exit_code, record.signal) == (told, None), result
        by_itself = told == result.natural
        if record.stop_cause is None:
            assert by_itself, result
            assert record.outcome is (Outcome.FAILED if told else Outcome.SUCCEEDED), result
        else:
            assert record.outcome is Outcome.CANCELLED, result
    check_feed(store, results)
    ends = Counter((r.told == r.natural, r.record.stop_cause is not None) for r in results)
    print("ended by itself, cancelled:", dict(ends))
    assert ends[False, True], "the stop never came first"
    assert ends[True, False], "the command never came first"


def test_killed_monitor_against_natural_exit(store: WatchedStore, races: Races) -> None:
    results = races.run(RACES, kill_monitor, polite=False)

    for result in results:
        record = result.record
        assert record.state is JobState.ENDED
        if record.outcome is Outcome.LOST:
            assert (record.exit_code, record.signal, record.reason) == (None, None, "monitor-died")
        else:
            assert (record.exit_code, record.signal) == (result.told, None), result
            assert record.outcome is (Outcome.FAILED if result.told else Outcome.SUCCEEDED), result
    check_feed(store, results)
    print(Counter((r.record.outcome, r.record.adoptions, r.record.proved) for r in results))


def test_cancel_against_a_killed_monitor(store: WatchedStore) -> None:
    """Whenever it is killed, the cancel is heard: by it, or by its successor."""

    def race(number: int) -> JobRecord:
        job = store.start(["sleep", "100"], grace=PATIENCE)
        # Sooner than, while, and after the monitor takes the request.
        killer = Timer(number % 20 / 2000, signal_monitor, (job, signal.SIGKILL))
        killer.start()
        try:
            job.cancel()
            return job.wait(timeout=PATIENCE)
        finally:
            killer.join()

    with ThreadPoolExecutor(RUNNERS) as pool:
        records = list(pool.map(race, range(RACES)))

    outcomes = Counter(record.outcome for record in records)
    print(outcomes, Counter(record.adoptions for record in records))
    assert outcomes.keys() <= {Outcome.CANCELLED, Outcome.LOST}
    check_feed(store, [Result(record, 0, None) for record in records])


# -- readers against the writer ------------------------------------------------

WRITER = """
import os, signal, sys
from pathlib import Path
from jobsup._jobdir import JobDir
from jobsup._value import evolve

signal.alarm(int(sys.argv[2]))
job_dir = JobDir(Path(sys.argv[1]))
record = job_dir.read_record()
number = 0
os.set_blocking(0, False)
while True:
    number += 1
    note = str(number) * (number % 700)
    job_dir.write_record(evolve(record, sequence=number, note=note, output_bytes=number * 7))
    try:
        if not os.read(0, 1):
            break
    except BlockingIOError:
        pass
"""


def test_no_reader_sees_a_torn_record(job_dir: JobDir, record: JobRecord) -> None:
    job_dir.write_record(evolve(record, note=""))
    argv = [sys.executable, "-c", WRITER, str(job_dir.path), str(100 * max(1, round(SCALE)))]
    newest, changes = 0, 0
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as writer:
        for _ in range(READS):
            seen = job_dir.read_record()
            assert seen.note == str(seen.sequence) * (seen.sequence % 700)
            assert seen.output_bytes == seen.sequence * 7
            assert seen.sequence >= newest, "an older record came back"
            changes += seen.sequence > newest
            newest = seen.sequence
        assert writer.poll() is None
    print(f"{READS} reads saw {changes} of {newest} records")
    assert changes > READS / 500
    assert set(os.listdir(job_dir.path)) == {"meta.json"}


# -- many who wait -------------------------------------------------------------

WAITERS = """
import os, sys
from jobsup import JobStore
from jobsup._model import to_json

root, job_id, told, number = sys.argv[1:]
job = JobStore(root).get(job_id)
children = []
for _ in range(int(number)):
    pid = os.fork()
    if pid == 0:
        with open(told, "w") as gate:
            gate.write("ready\\n")
        os.write(1, to_json(job.wait(timeout=60)))
        os._exit(0)
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
"""


def test_twenty_processes_wait_for_one_job(
    store: WatchedStore, make_gate: Callable[[], Gate]
) -> None:
    gate, waiting = make_gate(), make_gate()
    job = store.start(exits_with(7, when_opened=gate))
    argv = [sys.executable, "-c", WAITERS, str(store.root), job.id, str(waiting.told), "20"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as waiters:
        for _ in range(20):
            waiting.wait()
        gate.open()
        output, _ = waiters.communicate(timeout=PATIENCE)

    assert Counter(output.splitlines(keepends=True)) == {to_json(job.status()): 20}
    assert job.status().exit_code == 7


def test_wait_any_loses_no_job(store: WatchedStore, truth: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    gate = os.open(fifo, os.O_RDWR | os.O_CLOEXEC)

    def start(number: int) -> Job:
        told = tmp_path / f"{number}.told"
        return store.start([str(word) for word in (truth, told, number, 0, 0, fifo)])

    try:
        with ThreadPoolExecutor(RUNNERS) as pool:
            jobs = list(pool.map(start, range(50)))
        codes = {job.id: number for number, job in enumerate(jobs)}
        seen: list[str] = []
        pending = list(codes)
        released = 0
        while pending:
            if released == len(seen):  # else there are ends left that we did not see yet
                burst = min(random.randint(1, 5), len(pending))
                os.write(gate, b"!" * burst)  # whoever reads a byte ends
                released += burst
            waited = store.wait(pending, mode="any", timeout=TIMEOUT)
            assert waited.ended, f"nobody of {len(pending)} ended"
            assert {
                record.job_id: record.exit_code for record in waited.ended
            }.items() <= codes.items()
            seen += [record.job_id for record in waited.ended]
            assert sorted(waited.pending) == sorted(set(pending) - set(seen))
            pending = waited.pending
    finally:
        os.close(gate)

    assert sorted(seen) == sorted(codes)
