"""Fault injection: kill the monitor or the starter at any moment, break the disk, pull it away."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSEGV, SIGSTOP, SIGTERM

import pytest
from commands import daemonizer, dies_of, exits_with, forker, polite, python, sleeper, stubborn
from conftest import (
    TIMEOUT,
    Gate,
    WatchedStore,
    eventually,
    files_in,
    held,
    host,
    kill_and_wait,
    run_host,
    state_of,
    wait_gone,
    wait_let_go,
    without_privilege,
)

from jobsup import (
    Job,
    JobNotFoundError,
    JobRecord,
    JobState,
    JobsupError,
    Outcome,
    ProcessIdentity,
    SpawnError,
    StopCause,
    _sweep,
)
from jobsup._identity import identify, is_alive, send_verified
from jobsup._platform import ProcessRow, environ_of, processes
from jobsup._strays import MARKER
from jobsup._ulid import new_id

pytestmark = pytest.mark.usefixtures("no_launcher")


def monitors_of(store: WatchedStore) -> list[int]:
    """The living monitors of a store's jobs, by what they hold open."""
    found = []
    for row in processes():
        if row.command == "jobsup-monitor" and not row.is_zombie:
            with suppress(OSError):
                targets = [os.readlink(fd) for fd in Path(f"/proc/{row.pid}/fd").iterdir()]
                if any(target.startswith(str(store.root)) for target in targets):
                    found.append(row.pid)
    return found


# -- the monitor is killed ---------------------------------------------------


def test_killed_monitor_is_replaced_and_the_exit_code_survives(
    store: WatchedStore, gate: Gate
) -> None:
    job = store.start(exits_with(7, when_opened=gate))
    kill_and_wait(job.status().monitor)

    assert job.status().state is JobState.RUNNING  # looking adopts it
    gate.open()

    record = job.wait(timeout=TIMEOUT)
    assert (record.exit_code, record.adoptions) == (7, 1)
    assert (record.outcome, record.proved) == (Outcome.FAILED, False)


@pytest.mark.parametrize("number", [SIGKILL, SIGTERM, SIGSEGV])
def test_signal_that_the_command_died_of_survives(
    store: WatchedStore, gate: Gate, number: int
) -> None:
    job = store.start(dies_of(number, when_opened=gate))
    kill_and_wait(job.status().monitor)
    job.status()
    gate.open()
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.signal, record.adoptions) == (Outcome.KILLED, number, 1)


def test_command_goes_on_while_nobody_looks(store: WatchedStore, gate: Gate) -> None:
    body = """
for number in range(3):
    print(number, flush=True)
    tell(sys.argv[1])
wait_for(sys.argv[2])
"""
    job = store.start(python(body, gate.told, gate.opened))
    kill_and_wait(job.status().monitor)
    for _ in range(3):
        gate.wait()
    assert job.dir.read_record().adoptions == 0
    assert not job.dir.is_held()
    gate.open()
    job.wait(timeout=TIMEOUT)
    assert job.tail() == "0\n1\n2\n"


@pytest.mark.parametrize("look", ["list", "wait", "tail", "cancel", "usage", "another process"])
def test_any_look_adopts(store: WatchedStore, gate: Gate, look: str) -> None:
    job = store.start(polite(7, gate))
    gate.wait()
    kill_and_wait(job.status().monitor)
    looks: dict[str, Callable[[], object]] = {
        "list": lambda: store.list(state="running"),
        "wait": lambda: store.wait([job], timeout=0),
        "tail": job.tail,
        "cancel": job.cancel,
        "usage": job.usage,
        "another process": lambda: run_host(store, "store.list()[0].status()"),
    }
    looks[look]()
    assert job.dir.read_record().adoptions == 1
    job.cancel()
    assert job.wait(timeout=TIMEOUT).exit_code == 7


def test_adopter_is_replaced_too(store: WatchedStore, gate: Gate) -> None:
    job = store.start(exits_with(7, when_opened=gate))
    for adoptions in (1, 2, 3):
        kill_and_wait(job.status().monitor)
        assert job.status().adoptions == adoptions
    gate.open()
    assert job.wait(timeout=TIMEOUT).exit_code == 7


def test_killed_while_paused(store: WatchedStore, gate: Gate) -> None:
    body = "tell(sys.argv[1], os.getpid()); wait_for(sys.argv[2]); os._exit(7)"
    job = store.start(python(body, gate.told, gate.opened))
    (pid,) = gate.pids()
    job.pause()
    kill_and_wait(job.status().monitor)
    assert job.status().state is JobState.PAUSED
    assert state_of(pid) == "T"
    job.resume()
    gate.open()
    record = job.wait(timeout=TIMEOUT)
    assert (record.exit_code, record.adoptions) == (7, 1)


def test_killed_while_stopping(store: WatchedStore, gate: Gate) -> None:
    """The adopter walks the plan from its beginning, to its end."""
    job = store.start(stubborn(gate), grace=0.3)
    gate.wait()
    job.cancel(grace=100)
    kill_and_wait(job.status().monitor)
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.stop_cause) == (Outcome.CANCELLED, StopCause.CANCEL)
    assert (record.signal, record.adoptions) == (SIGKILL, 1)


def test_killed_while_sweeping(store: WatchedStore, gate: Gate) -> None:
    """The exit status was on record before; the leftovers are swept by the adopter."""
    body = """
def stay():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell(sys.argv[1], os.getpid())
    sleep()
fork(stay)
wait_for(sys.argv[2])
os._exit(7)
"""
    job = store.start(python(body, gate.told, gate.opened), grace=100)
    child = held(gate.pids()[0])
    gate.open()
    eventually(lambda: job.status().exit_code == 7, "the command's exit on record")
    kill_and_wait(job.status().monitor)
    assert job.status().state is JobState.STOPPING
    assert is_alive(child)
    job.cancel(grace=0)
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.exit_code, record.adoptions) == (Outcome.FAILED, 7, 1)
    assert not is_alive(child)


def test_killed_while_sweeping_and_the_rest_died_too(store: WatchedStore, gate: Gate) -> None:
    job = store.start(daemonizer(gate, code=7), stop="WINCH 100, KILL")
    daemon = held(gate.pids()[0])
    eventually(lambda: job.status().exit_code == 7, "the command's exit on record")
    kill_and_wait(job.status().monitor)
    kill_and_wait(daemon)
    record = job.status()
    assert (record.outcome, record.exit_code, record.adoptions) == (Outcome.FAILED, 7, 0)


def test_request_is_sent_again_however_long_the_adoption_took(
    store: WatchedStore, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = store.start(polite(4, gate))
    gate.wait()
    kill_and_wait(job.status().monitor)
    monkeypatch.setattr("jobsup._job._ASK_SECONDS", 0.0)
    job.cancel()
    assert job.wait(timeout=TIMEOUT).outcome is Outcome.CANCELLED


def test_killed_with_a_cancel_on_its_way(store: WatchedStore, gate: Gate) -> None:
    """The client sees its listener die, has the job adopted, and asks again."""
    job = store.start(polite(4, gate))
    gate.wait()
    monitor = job.status().monitor
    with stopped(monitor):
        client = threading.Thread(target=job.cancel)
        client.start()
        eventually(lambda: list(job.dir.path.glob("reply.*")), "the request")
        kill_and_wait(monitor)
        client.join(TIMEOUT)
        assert not client.is_alive()
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.exit_code, record.adoptions) == (Outcome.CANCELLED, 4, 1)


@contextmanager
def stopped(identity: ProcessIdentity | None) -> Iterator[None]:
    """With the process in state T, dead or alive in the end."""
    assert identity is not None
    pid = identity.pid
    send_verified(identity, SIGSTOP)
    eventually(lambda: state_of(pid) == "T", "the process stopped")
    try:
        yield
    finally:
        send_verified(identity, SIGCONT)


def test_adopted_tree_is_stopped_whole(store: WatchedStore, gate: Gate) -> None:
    job = store.start(forker(gate, children=3), grace=0.5)
    tree = [held(pid) for pid in gate.pids()]
    assert len(tree) == 6
    kill_and_wait(job.status().monitor)
    job.cancel()
    record = job.wait(timeout=TIMEOUT)
    assert not [identity for identity in tree if is_alive(identity)]
    assert (record.outcome, record.adoptions, record.proved) == (Outcome.CANCELLED, 1, False)


def test_daemon_of_an_adopted_job_is_waited_for(
    store: WatchedStore, gate: Gate, make_gate: Callable[[], Gate]
) -> None:
    until = make_gate()
    job = store.start(daemonizer(gate, code=7, until=until), leftovers="wait")
    daemon = held(gate.pids()[0])
    eventually(lambda: job.status().exit_code == 7, "the command's exit on record")
    kill_and_wait(job.status().monitor)
    assert job.status().state is JobState.RUNNING
    assert is_alive(daemon)
    until.open()
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.exit_code, record.adoptions) == (Outcome.FAILED, 7, 1)


def test_adopter_trims_the_output_on(store: WatchedStore, gate: Gate) -> None:
    body = """
for _ in range(2):
    wait_for(sys.argv[2])
    for _ in range(40):
        os.write(1, b"x" * 100_000)
    tell(sys.argv[1])
sleep()
"""
    job = store.start(python(body, gate.told, gate.opened), output_limit=1 << 20)
    gate.open()
    gate.wait()
    kill_and_wait(job.status().monitor)
    job.status()
    gate.wait()
    eventually(
        lambda: job.dir.output.stat().st_blocks * 512 <= (1 << 20) + 3 * 4096,
        "the output trimmed to its limit",
    )
    job.cancel(grace=0)
    record = job.wait(timeout=TIMEOUT)
    assert record.output_bytes == 8_000_000
    lost = sum(chunk.lost_bytes for chunk in job.follow_chunks())
    assert record.output_lost_bytes == lost > 6_000_000


def test_feed_has_no_gap_and_no_double(store: WatchedStore, gate: Gate) -> None:
    job = store.start(exits_with(7, when_opened=gate))
    kill_and_wait(job.status().monitor)
    job.status()
    gate.open()
    record = job.wait(timeout=TIMEOUT)

    def told() -> list[int]:
        return [event.sequence for event in store.events().events]

    eventually(lambda: record.sequence in told(), "the end in the feed")
    assert told() == sorted(set(told()))


def test_monitors_are_killed_again_and_again(store: WatchedStore, gate: Gate) -> None:
    """At any moment, also while they adopt; the truth survives them all."""
    job = store.start(exits_with(7, when_opened=gate))
    kills = 0
    end = time.monotonic() + 3
    while time.monotonic() < end:
        with suppress(JobsupError):
            job.status()
        time.sleep(random.uniform(0, 0.05))
        for pid in monitors_of(store):
            if identity := identify(pid):
                send_verified(identity, SIGKILL)
                kills += 1
    gate.open()
    record = job.wait(timeout=TIMEOUT)
    assert record.exit_code in (7, None)
    if record.exit_code is None:  # it ended while nobody held it: told, not invented
        assert record.outcome is Outcome.LOST
    assert record.adoptions <= kills


TWENTY = """
import time
job = store.get(sys.argv[1])
for _ in range(20):
    if os.fork() == 0:
        with open(sys.argv[2], "rb", buffering=0) as gate:
            gate.read(1)
        record = job.status()
        while record.adoptions == 0:  # it is being adopted by another just now
            record = job.status()
        os.write(1, b"%d %d\\n" % (record.monitor.pid, record.adoptions))
        os._exit(0)
os.write(1, b"ready\\n")
for _ in range(20):
    assert os.wait()[1] == 0
"""


def test_twenty_look_at_once_and_one_adopts(store: WatchedStore, gate: Gate) -> None:
    job = store.start(exits_with(7, when_opened=gate))
    kill_and_wait(job.status().monitor)
    start_gate = gate.opened.with_suffix(".start")
    os.mkfifo(start_gate)
    crowd = subprocess.Popen(
        host(store, TWENTY, job.id, start_gate), stdout=subprocess.PIPE, text=True
    )
    with crowd:
        assert crowd.stdout is not None
        assert crowd.stdout.readline() == "ready\n"
        fd = os.open(start_gate, os.O_RDWR)
        os.write(fd, b"!" * 20)
        told = {crowd.stdout.readline() for _ in range(20)}
        os.close(fd)
        assert crowd.wait(60) == 0
    record = job.status()
    assert record.monitor is not None
    assert told == {f"{record.monitor.pid} 1\n"}
    assert monitors_of(store) == [record.monitor.pid]
    gate.open()
    record = job.wait(timeout=TIMEOUT)
    assert (record.exit_code, record.adoptions) == (7, 1)


# -- nobody can know ---------------------------------------------------------


@pytest.mark.parametrize("code", [0, 7])
def test_status_that_nobody_collected_is_lost_and_not_zero(
    store: WatchedStore, gate: Gate, code: int
) -> None:
    """The command ended after its monitor had died, and was reaped, before anybody looked."""
    job = store.start(exits_with(code, when_opened=gate))
    first = job.status()
    assert first.command is not None
    kill_and_wait(first.monitor)
    gate.open()
    wait_gone(first.command)
    pid = first.command.pid
    with suppress(AssertionError):  # an init that reaps late leaves a zombie that can tell
        eventually(lambda: ProcessRow.read(pid) is None, "the zombie reaped", timeout=2)
    was_reaped = ProcessRow.read(pid) is None
    record = job.status()
    assert (record.state, record.adoptions, record.proved) == (JobState.ENDED, 0, False)
    if was_reaped:
        assert (record.outcome, record.reason) == (Outcome.LOST, "monitor-died")
        assert (record.exit_code, record.signal) == (None, None)
    else:
        assert record.exit_code == code
    assert job.status() == job.wait(timeout=0) == record


def _forge(job: Job, token: Callable[[str], str]) -> None:
    """Make the record one of another boot or namespace."""
    fields = json.loads(job.dir.meta.read_bytes())
    for role in ("command", "monitor"):
        fields[role]["token"] = token(fields[role]["token"])
    job.dir.meta.write_text(json.dumps(fields) + "\n")


def _other_boot(token: str) -> str:
    return "00000000-0000-4000-8000-000000000000" + token[token.index(":") :]


def _other_namespace(token: str) -> str:
    boot, _, rest = token.partition(":")
    return f"{boot}:7:{rest.partition(':')[2]}"


@pytest.mark.parametrize(
    ("forge", "reason"), [(_other_boot, "reboot"), (_other_namespace, "pid-namespace")]
)
@pytest.mark.parametrize("state", ["running", "paused", "stopping"])
def test_job_of_another_world_is_lost_with_the_reason(
    store: WatchedStore, gate: Gate, forge: Callable[[str], str], reason: str, state: str
) -> None:
    """And nobody is signalled: those who have its numbers now are others."""
    job = store.start(stubborn(gate), grace=100)
    bystander = held(gate.pids()[0])
    if state == "paused":
        job.pause()
    elif state == "stopping":
        job.cancel()
    kill_and_wait(job.status().monitor)
    _forge(job, forge)
    try:
        record = job.status()
        assert (record.state, record.outcome) == (JobState.ENDED, Outcome.LOST)
        assert (record.reason, record.exit_code, record.adoptions) == (reason, None, 0)
        assert job.status() == record
        assert not monitors_of(store)
        job.cancel(grace=0)
        assert store.list(state="running") == []
        assert store.prune(keep=0).job_ids == (job.id,)
        assert is_alive(bystander)
    finally:
        kill_and_wait(bystander)


def test_status_on_record_survives_a_reboot(store: WatchedStore, gate: Gate) -> None:
    job = store.start(daemonizer(gate, code=7), stop="WINCH 100, KILL")
    daemon = held(gate.pids()[0])
    eventually(lambda: job.status().exit_code == 7, "the command's exit on record")
    kill_and_wait(job.status().monitor)
    kill_and_wait(daemon)
    _forge(job, _other_boot)
    record = job.status()
    assert (record.outcome, record.exit_code) == (Outcome.FAILED, 7)


def test_live_monitor_of_another_namespace_is_believed(store: WatchedStore, gate: Gate) -> None:
    """The lock is held: whoever it is, it supervises the job."""
    job = store.start(exits_with(7, when_opened=gate))
    before = job.dir.meta.read_bytes()
    _forge(job, _other_namespace)
    assert job.status().state is JobState.RUNNING
    assert store.wait([job], timeout=0.2).pending == [job.id]
    job.dir.meta.write_bytes(before)
    gate.open()
    assert job.wait(timeout=TIMEOUT).exit_code == 7


def test_reused_pid_is_not_the_command(store: WatchedStore, gate: Gate) -> None:
    """The record's pid belongs to a process that started later."""
    job = store.start(sleeper(gate))
    gate.wait()
    record = job.status()
    assert record.command is not None
    kill_and_wait(record.monitor)
    kill_and_wait(record.command)
    with subprocess.Popen(["sleep", "100"]) as bystander:
        fields = json.loads(job.dir.meta.read_bytes())
        fields["command"]["pid"] = fields["monitor"]["pid"] = bystander.pid
        job.dir.meta.write_text(json.dumps(fields) + "\n")
        settled = job.status()
        assert (settled.state, settled.outcome) == (JobState.ENDED, Outcome.LOST)
        job.cancel(grace=0)
        assert bystander.poll() is None
        bystander.kill()


# -- the starter is killed ---------------------------------------------------

ON_SIGNAL = """
print("ready", flush=True)
sys.stdin.read(1)
store.start(sys.argv[1:])
print("started", flush=True)
sys.stdin.read()
"""


def test_starter_killed_at_any_moment_of_start(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Afterwards a whole job exists, or nothing that prune does not sweep."""
    monkeypatch.setattr(_sweep, "_BIRTH_SECONDS", -1.0)
    rounds = 12
    started = 0
    span = 0.0
    for number in range(rounds):
        before = set(files_in(store))
        starter = subprocess.Popen(
            host(store, ON_SIGNAL, "sleep", "100"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with starter:
            assert starter.stdin is not None
            assert starter.stdout is not None
            assert starter.stdout.readline() == b"ready\n"
            begin = time.monotonic()
            starter.stdin.write(b"!")
            starter.stdin.flush()
            if number == 0:  # how long it takes on this machine, now
                assert starter.stdout.readline() == b"started\n"
                span = time.monotonic() - begin
            else:
                time.sleep(span * number / rounds)
            starter.kill()
        eventually(
            lambda: store.prune() and not any(name.endswith(".new") for name in files_in(store)),
            "a job that was being born born, or swept",
        )
        new = set(files_in(store)) - before
        if not new:
            continue
        started += 1
        (job_id,) = {name.rpartition("/")[2] for name in new}
        assert new == {f"active/{job_id}", f"jobs/{job_id}"}
        job = store.get(job_id)
        record = job.status()
        assert (record.state, record.adoptions) == (JobState.RUNNING, 0)
        assert record.command is not None
        cmdline = Path(f"/proc/{record.command.pid}/cmdline").read_bytes()
        assert cmdline == b"sleep\x00100\x00"
        job.cancel(grace=0)
        job.wait(timeout=TIMEOUT)
        eventually(lambda: not os.listdir(store.root / "active"), "the marker gone")
    assert started > 0
    assert store.prune().swept == ()


def test_monitor_killed_at_any_moment_of_start(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """start() tells, and has swept what the monitor left; or there is a whole job."""
    outer = new_id()
    monkeypatch.setenv(MARKER, outer)  # as if this were a job, of which the monitors are then part
    mark = f"{MARKER}={outer}\0".encode()
    outcomes = set()
    for number in range(16):
        done = threading.Event()
        killer = threading.Thread(target=_kill_a_monitor, args=(mark, 0.004 * number, done))
        killer.start()
        try:
            job = store.start(["sleep", "100"])
        except SpawnError as error:
            outcomes.add(error.stage)
            left = files_in(store)
            assert left == []
        else:
            outcomes.add("started")
            record = job.status()
            assert record.command is not None
            assert record.state is JobState.RUNNING
            assert is_alive(record.command)
            job.cancel(grace=0)
            job.wait(timeout=TIMEOUT)
            done.set()
            killer.join()
            store.prune(keep=0)
            eventually(lambda: files_in(store) == [], "the job pruned")
        finally:
            done.set()
            killer.join()
    assert {"monitor"} <= outcomes <= {"monitor", "started"}


def _kill_a_monitor(mark: bytes, delay: float, done: threading.Event) -> None:
    """The first that comes, *delay* seconds after it was seen."""
    while not done.is_set():
        for row in processes():
            if row.pid == os.getpid() or mark not in environ_of(row.pid):
                continue
            if not row.command.startswith(("python", "jobsup-monitor")):
                continue
            identity = identify(row.pid)
            if identity is None or row.parent == os.getpid():
                continue  # the interpreter that only forks
            time.sleep(delay)
            send_verified(identity, SIGKILL)
            return
        time.sleep(0.001)


# -- the disk ----------------------------------------------------------------


@contextmanager
def full(path: Path) -> Iterator[None]:
    """With not a block left."""
    filler = path / "filler"
    with open(filler, "wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        yield
    filler.unlink()


@pytest.fixture
def small(tmpfs: Path, make_store: Callable[[Path], WatchedStore]) -> WatchedStore:
    """A store on a disk of one MiB."""
    return make_store(tmpfs / "store")


def test_final_record_survives_a_full_disk(tmpfs: Path, small: WatchedStore, gate: Gate) -> None:
    job = small.start(exits_with(7, when_opened=gate))
    with full(tmpfs):
        gate.open()
        record = job.wait(timeout=TIMEOUT)
        assert (record.state, record.outcome, record.exit_code) == (
            JobState.ENDED,
            Outcome.FAILED,
            7,
        )
    assert job.status() == record


def test_cancel_works_on_a_full_disk(tmpfs: Path, small: WatchedStore, gate: Gate) -> None:
    job = small.start(stubborn(gate), grace=0.2)
    gate.wait()
    with full(tmpfs):
        job.cancel()
        record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.stop_cause, record.signal) == (
        Outcome.CANCELLED,
        StopCause.CANCEL,
        SIGKILL,
    )


def test_command_that_fills_the_disk_has_its_status(small: WatchedStore) -> None:
    body = """
try:
    while True:
        os.write(1, b"x" * 65536)
except OSError as error:
    os._exit(error.errno)
"""
    record = small.start(python(body)).wait(timeout=TIMEOUT)
    assert (record.outcome, record.exit_code) == (Outcome.FAILED, 28)


def test_orphan_on_a_full_disk_is_told_and_adopted_later(
    tmpfs: Path, small: WatchedStore, gate: Gate
) -> None:
    job = small.start(exits_with(7, when_opened=gate))
    with full(tmpfs):
        kill_and_wait(job.status().monitor)
        assert job.status().state in (JobState.ORPHANED, JobState.RUNNING)
    assert job.status().state is JobState.RUNNING
    gate.open()
    record = job.wait(timeout=TIMEOUT)
    assert (record.exit_code, record.adoptions) == (7, 1)


LOOK = """
record = store.list()[0].status()
print(record.state.value, record.outcome and record.outcome.value, record.adoptions)
"""


@contextmanager
def closed(job: Job) -> Iterator[None]:
    """With a store that nobody may write."""
    paths = [*job.dir.path.iterdir(), job.dir.path, job.root / "active", job.root / "jobs"]
    paths += [job.root / "events", job.root]
    modes = {path: path.stat().st_mode for path in paths}
    for path in paths:
        path.chmod(modes[path] & 0o555)
    try:
        yield
    finally:
        for path in reversed(paths):
            path.chmod(modes[path])


def test_orphan_in_a_store_that_cannot_be_written(store: WatchedStore, gate: Gate) -> None:
    """Nobody can adopt it, but who looks is told the truth."""
    job = store.start(sleeper(gate))
    gate.wait()
    record = job.status()
    kill_and_wait(record.monitor)
    with closed(job):
        told = run_host(store, LOOK, preexec_fn=without_privilege)
        assert told == "orphaned None 0\n"
        kill_and_wait(record.command)
        told = run_host(store, LOOK, preexec_fn=without_privilege)
        # As long as it is a zombie, its status can still be read.
        assert told in ("ended killed 0\n", "ended lost 0\n")
    assert job.status().outcome in (Outcome.KILLED, Outcome.LOST)


# -- the directory is pulled away --------------------------------------------


def test_deleted_directory_under_a_live_monitor(store: WatchedStore, gate: Gate) -> None:
    """The job is not found any more; its monitor supervises to the end, and then ends."""
    job = store.start(exits_with(7, when_opened=gate))
    other = store.start(exits_with(0, when_opened=gate))
    record = job.status()
    assert record.monitor is not None
    shutil.rmtree(job.dir.path)
    for look in (job.status, job.tail, job.cancel, job.wait):
        with pytest.raises(JobNotFoundError):
            look()
    assert store.list() == [other]
    assert is_alive(record.monitor)
    gate.open()
    assert other.wait(timeout=TIMEOUT).outcome is Outcome.SUCCEEDED
    wait_let_go(other)


def test_deleted_job_can_still_be_stopped_through_its_monitor(
    store: WatchedStore, gate: Gate
) -> None:
    job = store.start(forker(gate))
    tree = [held(pid) for pid in gate.pids()]
    monitor = job.status().monitor
    assert monitor is not None
    shutil.rmtree(job.dir.path)
    send_verified(monitor, SIGTERM)
    wait_gone(monitor)
    assert not [identity for identity in tree if is_alive(identity)]


def test_waiter_of_a_deleted_job_is_told(store: WatchedStore, gate: Gate) -> None:
    job = store.start(exits_with(7, when_opened=gate))
    errors: list[Exception] = []

    def wait() -> None:
        try:
            job.wait(timeout=TIMEOUT)
        except Exception as error:  # to be looked at below
            errors.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0.05)  # before or after it blocks: told in both cases
    shutil.rmtree(job.dir.path)
    gate.open()
    waiter.join(TIMEOUT)
    assert [type(error) for error in errors] == [JobNotFoundError]


@pytest.mark.parametrize("name", ["control", "meta.json", "spec.json", "meta.spare", "output"])
def test_file_that_was_deleted_does_not_upset_the_monitor(
    store: WatchedStore, gate: Gate, name: str
) -> None:
    job = store.start(exits_with(7, when_opened=gate))
    (job.dir.path / name).unlink()
    gate.open()
    record = eventually_ended(job)
    assert (record.exit_code, record.adoptions) == (7, 0)


def eventually_ended(job: Job) -> JobRecord:
    """A record that was deleted comes back with the monitor's next word."""

    def look() -> JobRecord | None:
        with suppress(JobsupError):
            record = job.status()
            return record if record.state is JobState.ENDED else None
        return None

    record = eventually(look, "the final record")
    assert isinstance(record, JobRecord)
    return record


def test_whole_store_that_was_deleted(store: WatchedStore, gate: Gate) -> None:
    job = store.start(exits_with(7, when_opened=gate))
    monitor = job.status().monitor
    assert monitor is not None
    shutil.rmtree(store.root)
    assert store.list() == []
    gate.open()
    wait_gone(monitor)
    assert not store.root.exists()
