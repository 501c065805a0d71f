"""Trees that are hard to kill: once their job has ended nothing of them is left."""

from __future__ import annotations

import errno
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import KERNEL, PROVES, TIMEOUT, Gate, WatchedStore, eventually, kill_and_wait
from witnesses import client, compiled, kill_all, living, named

from jobsup import Job, JobRecord, JobState, JobStore, Outcome

TREES = {
    # name: how many of something, how many processes tell that they are in place
    "double-fork": (0, 2),
    "setsid": (0, 2),
    "cleared": (0, 2),  # own session, empty environment
    "escaped": (0, 2),  # all three at once
    "stubborn": (0, 2),  # ignores whatever can be ignored
    "blocked": (0, 2),
    "stopped": (0, 2),
    "parent-first": (0, 2),
    "chains": (8, 9),  # re-fork every millisecond, half of them into a new session
    "children": (1000, 1),
    "vfork": (0, 2),
    "leaderless": (0, 2),  # its first thread is gone
    "sessions": (3, 7),
    "silent": (0, 2),  # no SIGCHLD tells of its end
    "hoarder": (3, 5),  # a subreaper that reaps nothing
}
ORPHANED_TREES = {**TREES, "chains": (2, 3)}
"""Nobody may ever reap the zombies of a tree without a monitor: fewer of them."""
UNFINDABLE = {"escaped"}
"""What nobody finds once the monitor is dead: no marker, no session, no parent."""
UNFINDABLE_LATE = {*UNFINDABLE, "cleared"}
"""Likewise, once the command is dead too."""

each_tree = pytest.mark.parametrize("tree", TREES)
EXIT_STATUS_SURVIVES = PROVES and KERNEL >= (6, 15)
"""Whether an adopter learns the exit status: PIDFD_INFO_EXIT."""


class Nasty:
    """The program, under a name of its own, and a bystander of the same name and our session."""

    def __init__(self, path: Path, bystander: subprocess.Popen[bytes]) -> None:
        self.path = path
        self._bystander = bystander

    def argv(self, tree: str, count: int, gate: Gate, until: Gate | None = None) -> list[str]:
        opened = str(until.opened) if until else ""
        return [str(self.path), tree, str(count), str(gate.told), opened]

    def left(self) -> set[int]:
        """All processes of the tree, and the zombies where the monitor is to reap them."""
        left = named(self.path.name) - {self._bystander.pid}
        return left if PROVES else {identity.pid for identity in living(left)}

    def bystander_lives(self) -> bool:
        return self._bystander.poll() is None


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("nasty.c", tmp_path_factory.mktemp("programs"))


@pytest.fixture
def nasty(
    program: Path, tmp_path: Path, store: WatchedStore, make_gate: Callable[[], Gate]
) -> Iterator[Nasty]:
    path = tmp_path / f"n{secrets.token_hex(5)}"
    os.link(program, path)
    gate = make_gate()
    with subprocess.Popen([path, "stay", "0", gate.told, ""]) as bystander:
        gate.wait()
        cast = Nasty(path, bystander)
        yield cast
        survived = cast.bystander_lives()
        for fifo in tmp_path.glob("*.told"):
            fifo.unlink()  # ends the chains
        kill_all(cast.left())
        bystander.kill()
    assert survived, f"the bystander was hit: {bystander.returncode}"


def started(
    store: WatchedStore, nasty: Nasty, gate: Gate, tree: str, size: tuple[int, int], grace: float
) -> Job:
    """A job, once every process of its tree is where it should be."""
    count, telling = size
    job = store.start(nasty.argv(tree, count, gate, until=gate), grace=grace)
    for _ in range(telling):
        gate.wait()
    return job


def orphaned(store: WatchedStore, nasty: Nasty, gate: Gate, tree: str) -> Job:
    """Likewise, and its monitor is killed."""
    job = started(store, nasty, gate, tree, ORPHANED_TREES[tree], grace=0.2)
    kill_and_wait(job.status().monitor)
    return job


@each_tree
@pytest.mark.parametrize("grace", [0, 0.2])
def test_cancel_leaves_nothing(
    store: WatchedStore, gate: Gate, nasty: Nasty, tree: str, grace: float
) -> None:
    job = started(store, nasty, gate, tree, TREES[tree], grace)

    job.cancel()
    record = job.wait(timeout=TIMEOUT)

    assert nasty.left() == set()
    assert nasty.bystander_lives()
    assert (record.outcome, record.proved, record.survivors) == (Outcome.CANCELLED, PROVES, ())


@each_tree
def test_what_outlives_its_command_is_swept(
    store: WatchedStore, gate: Gate, nasty: Nasty, tree: str
) -> None:
    job = started(store, nasty, gate, tree, TREES[tree], grace=0.2)

    gate.open()
    record = job.wait(timeout=TIMEOUT)

    assert nasty.left() == set()
    assert nasty.bystander_lives()
    assert (record.outcome, record.exit_code, record.proved) == (Outcome.FAILED, 7, PROVES)


@pytest.mark.usefixtures("no_launcher")
@each_tree
def test_cancel_finds_the_tree_of_a_killed_monitor(
    store: WatchedStore, gate: Gate, nasty: Nasty, tree: str
) -> None:
    job = orphaned(store, nasty, gate, tree)

    job.cancel()
    record = job.wait(timeout=TIMEOUT)

    if tree not in UNFINDABLE:
        assert living(nasty.left()) == set()
    assert nasty.bystander_lives()
    assert (record.state, record.adoptions, record.proved) == (JobState.ENDED, 1, False)
    assert record.outcome is (Outcome.CANCELLED if EXIT_STATUS_SURVIVES else Outcome.LOST)


@pytest.mark.usefixtures("no_launcher")
@each_tree
def test_sweep_by_an_adopter_finds_the_tree(
    store: WatchedStore, gate: Gate, nasty: Nasty, tree: str
) -> None:
    job = orphaned(store, nasty, gate, tree)
    job.status()  # looking adopts it

    gate.open()
    record = job.wait(timeout=TIMEOUT)

    if tree not in UNFINDABLE:
        assert living(nasty.left()) == set()
    assert nasty.bystander_lives()
    assert (record.state, record.adoptions, record.proved) == (JobState.ENDED, 1, False)
    if EXIT_STATUS_SURVIVES:
        assert (record.outcome, record.exit_code) == (Outcome.FAILED, 7)


@pytest.mark.usefixtures("no_launcher")
@each_tree
def test_whoever_comes_after_monitor_and_command_finds_the_tree(
    store: WatchedStore, gate: Gate, nasty: Nasty, tree: str
) -> None:
    job = started(store, nasty, gate, tree, ORPHANED_TREES[tree], grace=0.2)
    first = job.status()
    kill_and_wait(first.monitor)
    kill_and_wait(first.command)

    record = job.wait(timeout=TIMEOUT)

    if tree not in UNFINDABLE_LATE:
        assert living(nasty.left()) == set()
    assert nasty.bystander_lives()
    assert (record.state, record.proved) == (JobState.ENDED, False)
    assert record.outcome in (Outcome.LOST, Outcome.KILLED)  # its zombie may still tell


# -- a job within a job --------------------------------------------------------

NEST = """
import os, signal, sys, jobsup
signal.alarm(100)
told, opened, inner, *argv = sys.argv[1:]
job = jobsup.JobStore(inner).start(argv, grace=0.2)
with open(told, "w") as gate:
    gate.write(job.id + "\\n")
with open(opened) as gate:
    gate.read(1)
"""


def nested(
    store: WatchedStore, nasty: Nasty, make_gate: Callable[[], Gate], **how: object
) -> tuple[Job, Gate, Job]:
    """A job, the gate that ends its command, and the job that it started in a store of its own."""
    gate, inner_gate = make_gate(), make_gate()
    inner = JobStore(store.root.with_name("inner"))
    argv = [sys.executable, "-c", NEST, gate.told, gate.opened, inner.root]
    job = store.start([*map(str, argv), *nasty.argv("sessions", 2, inner_gate)], **how)
    for _ in range(5):
        inner_gate.wait()
    return job, gate, inner.get(gate.wait()[0])


@pytest.mark.parametrize("grace", [0, 5])
def test_cancel_takes_a_nested_job_along(
    store: WatchedStore, nasty: Nasty, make_gate: Callable[[], Gate], grace: float
) -> None:
    job, _, inner = nested(store, nasty, make_gate, grace=grace)

    job.cancel()
    record = job.wait(timeout=TIMEOUT)

    assert nasty.left() == set()
    assert nasty.bystander_lives()
    assert (record.outcome, record.proved) == (Outcome.CANCELLED, PROVES)
    truth = inner.status()
    assert truth.state is JobState.ENDED
    # Its monitor and its command are asked together, or die together unasked.
    ends = {Outcome.CANCELLED, Outcome.KILLED} if grace else {Outcome.KILLED, Outcome.LOST}
    assert truth.outcome in ends


def test_a_nested_job_may_be_left(
    store: WatchedStore, nasty: Nasty, make_gate: Callable[[], Gate]
) -> None:
    job, gate, inner = nested(store, nasty, make_gate, leftovers="leave")

    gate.open()
    record = job.wait(timeout=TIMEOUT)

    assert record.outcome is Outcome.SUCCEEDED
    assert len(record.survivors) == 1 + len(nasty.left())  # the inner monitor too
    assert inner.status().state is JobState.RUNNING
    inner.cancel()
    assert inner.wait(timeout=TIMEOUT).proved is PROVES
    assert nasty.left() == set()


# -- a process that the kernel protects from us --------------------------------

START = """
import sys, jobsup
print(jobsup.JobStore("store").start(sys.argv[1:], grace=0).id)
"""
CANCEL = """
import sys, jobsup
jobsup.JobStore("store").get(sys.argv[1]).cancel()
"""
STATUS = """
import sys, jobsup
print(jobsup.JobStore("store").get(sys.argv[1]).status().state.value)
"""


@pytest.fixture
def survivor(tmp_path: Path) -> Path:
    """A set-uid root program, under a name of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a set-uid program")
    if os.statvfs(tmp_path).f_flag & os.ST_NOSUID:
        pytest.skip("needs a file system without nosuid")
    program = compiled("survivor.c", tmp_path)
    program = program.rename(tmp_path / f"s{secrets.token_hex(5)}")
    program.chmod(0o4755)
    return program


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The directory of an unprivileged user."""
    path = tmp_path / "home"
    path.mkdir()
    return path


def named_survivors(job: Job) -> JobRecord | None:
    record = job.status()
    return record if record.survivors else None


@pytest.mark.parametrize("place", ["command", "child"])
def test_what_cannot_be_killed_is_named_and_waited_for(
    gate: Gate, survivor: Path, home: Path, place: str
) -> None:
    argv = [str(survivor), str(gate.told), str(gate.opened)]
    if place == "child":
        argv = ["sh", "-c", '"$@" & wait', "sh", *argv]
    job = JobStore(home / "store").get(client(START, *argv, home=home).strip())
    [pid] = gate.pids()

    client(CANCEL, job.id, home=home)
    record = eventually(lambda: named_survivors(job), "the survivor is named")

    [named_one] = record.survivors
    assert (named_one.pid, named_one.command) == (pid, survivor.name)
    assert (named_one.uid, named_one.state, named_one.errno) == (0, "S", errno.EPERM)
    assert (record.state, record.outcome) == (JobState.STOPPING, None)
    assert named(survivor.name) == {pid}

    gate.open()  # it ends by itself
    record = job.wait(timeout=TIMEOUT)

    left = named(survivor.name)
    assert (left if PROVES else living(left)) == set()
    assert (record.state, record.outcome, record.survivors) == (
        JobState.ENDED,
        Outcome.CANCELLED,
        (),
    )


@pytest.mark.usefixtures("no_launcher")
@pytest.mark.parametrize("place", ["command", "child"])
def test_what_cannot_be_killed_is_not_forgotten_with_the_monitor(
    gate: Gate, survivor: Path, home: Path, place: str
) -> None:
    argv = [str(survivor), str(gate.told), str(gate.opened)]
    if place == "child":
        argv = ["sh", "-c", '"$@" & wait', "sh", *argv]
    job = JobStore(home / "store").get(client(START, *argv, home=home).strip())
    gate.wait()
    client(CANCEL, job.id, home=home)
    record = eventually(lambda: named_survivors(job), "the survivor is named")

    kill_and_wait(record.monitor)
    assert client(STATUS, job.id, home=home).strip() == "stopping"
    gate.open()
    record = job.wait(timeout=TIMEOUT)

    assert living(named(survivor.name)) == set()
    assert (record.state, record.proved) == (JobState.ENDED, False)
