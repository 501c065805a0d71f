"""Random trees of up to 2000 processes: after a cancel none is left, and nobody else is hit.

JOBSUP_TEST_SCALE multiplies how many. A failure says with which seed and size
JOBSUP_TEST_TREE replays it: ``JOBSUP_TEST_TREE=SEED:SIZE``.
"""

from __future__ import annotations

import os
import random
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TIMEOUT, Gate, WatchedStore, kill_and_wait
from forest import Node, random_tree, text_of, unfindable
from witnesses import compiled, kill_all, living, named

from jobsup import Job, JobState, JobStore, Outcome, _platform
from jobsup._strays import MARKER, StrayTree
from jobsup._ulid import new_id

SCALE = float(os.environ.get("JOBSUP_TEST_SCALE", "1"))
TREES = max(1, int(6 * SCALE))
REPLAY = os.environ.get("JOBSUP_TEST_TREE")
BIG = 1000 if SCALE <= 1 else 2000

pytestmark = pytest.mark.timeout(120 + 240 * SCALE)


def sizes_and_seeds(largest: int, count: int) -> Iterator[tuple[int, int]]:
    """What to try; from the system's dice, as pytest-randomly loads the other ones."""
    if REPLAY:
        seed, _, size = REPLAY.partition(":")
        yield int(seed), int(size)
        return
    dice = random.SystemRandom()
    for _ in range(count):
        yield dice.randrange(1 << 32), dice.choice([largest, dice.randint(2, largest)])


class Forest:
    """The program under a name of its own, and bystanders of that name."""

    def __init__(self, path: Path, gate: Gate) -> None:
        self.path = path
        self.gate = gate
        marked = {**os.environ, MARKER: new_id()}
        # In our session and group, in a session of its own, and of another job.
        self._bystanders = [
            subprocess.Popen([path, "0", gate.told]),
            subprocess.Popen([path, "0c", gate.told], start_new_session=True),
            subprocess.Popen([path, "0i", gate.told], env=marked, start_new_session=True),
        ]
        for _ in self._bystanders:
            gate.wait()

    def plant(
        self, store: JobStore, nodes: list[Node], seed: int = 0, **how: Any
    ) -> tuple[Job, list[int]]:
        """A job, once its tree has grown; and the pids by their numbers in it."""
        pids = [0] * len(nodes)
        job = store.start([str(self.path), text_of(nodes[0]), str(self.gate.told)], **how)
        for _ in range(sum(node.stays for node in nodes)):
            try:
                pid, number = self.gate.pids()
            except AssertionError as error:
                error.args = (f"{error}: {told(seed, nodes)}; {job.status()}; {pids}",)
                raise
            pids[number] = pid
        return job, pids

    def left(self) -> set[int]:
        return named(self.path.name) - {each.pid for each in self._bystanders}

    def check_bystanders(self) -> None:
        assert [each.poll() for each in self._bystanders] == [None] * 3, "a bystander was hit"

    def fell(self) -> None:
        kill_all(self.left())
        for bystander in self._bystanders:
            bystander.kill()
            bystander.wait()


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("forest.c", tmp_path_factory.mktemp("programs"))


@pytest.fixture
def forest(
    program: Path, tmp_path: Path, store: WatchedStore, make_gate: Callable[[], Gate]
) -> Iterator[Forest]:
    path = tmp_path / f"f{secrets.token_hex(5)}"
    os.link(program, path)
    planted = Forest(path, make_gate())
    try:
        yield planted
    finally:
        planted.fell()


def told(seed: int, nodes: list[Node]) -> str:
    return f"JOBSUP_TEST_TREE={seed}:{len(nodes)} is the tree {text_of(nodes[0])}"


def cancelled(forest: Forest, store: WatchedStore, seed: int, size: int) -> None:
    nodes = random_tree(seed, size)
    job, _ = forest.plant(store, nodes, seed)

    job.cancel(grace=random.choice([0, 0.05]))
    record = job.wait(timeout=TIMEOUT * 2)

    assert not forest.left(), told(seed, nodes)
    assert (record.outcome, record.proved) == (Outcome.CANCELLED, True), told(seed, nodes)
    forest.check_bystanders()


def test_cancel_leaves_nothing_of_a_random_tree(forest: Forest, store: WatchedStore) -> None:
    for seed, size in sizes_and_seeds(100, TREES * 3):
        cancelled(forest, store, seed, size)


def test_cancel_leaves_nothing_of_a_large_tree(forest: Forest, store: WatchedStore) -> None:
    for seed, _ in sizes_and_seeds(BIG, max(1, int(SCALE / 2))):
        cancelled(forest, store, seed, BIG)


def test_what_a_random_tree_leaves_behind_is_swept(forest: Forest, store: WatchedStore) -> None:
    """The command is killed by somebody, not by us."""
    for seed, size in sizes_and_seeds(100, TREES):
        nodes = random_tree(seed, size)
        job, _ = forest.plant(store, nodes, seed, grace=0.05)
        kill_and_wait(job.status().command)

        record = job.wait(timeout=TIMEOUT)

        assert not forest.left(), told(seed, nodes)
        assert (record.outcome, record.proved) == (Outcome.KILLED, True), told(seed, nodes)
        forest.check_bystanders()


def check_only_the_unfindable_are_left(
    forest: Forest, seed: int, nodes: list[Node], pids: list[int], unreadable: str = "c"
) -> None:
    excused = {pids[number] for number in unfindable(nodes, unreadable)}
    missed = {identity.pid for identity in living(forest.left())} - excused
    numbers = sorted(pids.index(pid) for pid in missed)
    assert not missed, f"{numbers} are left; {told(seed, nodes)}"
    kill_all(excused)
    forest.check_bystanders()


def test_adopter_leaves_nothing_that_can_be_found(forest: Forest, store: WatchedStore) -> None:
    for seed, size in sizes_and_seeds(100, TREES):
        nodes = random_tree(seed, size)
        job, pids = forest.plant(store, nodes, seed)
        kill_and_wait(job.status().monitor)

        job.cancel(grace=random.choice([0, 0.05]))
        record = job.wait(timeout=TIMEOUT)

        check_only_the_unfindable_are_left(forest, seed, nodes, pids)
        assert (record.state, record.adoptions, record.proved) == (JobState.ENDED, 1, False)


def test_portable_path_leaves_nothing_that_can_be_found(
    forest: Forest, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The monitor's path, and where it finds psutil; we look as always.
    monkeypatch.setenv(_platform.PORTABLE, "1")
    monkeypatch.setattr("jobsup._launch.NAME", "portable")
    monkeypatch.setenv("JOBSUP_LAUNCHER", "0")
    for seed, size in sizes_and_seeds(60, TREES):
        nodes = random_tree(seed, size)
        job, pids = forest.plant(store, nodes, seed)

        job.cancel(grace=random.choice([0, 0.05]))
        record = job.wait(timeout=TIMEOUT)

        # Of a process without its first thread psutil sees no environment.
        check_only_the_unfindable_are_left(forest, seed, nodes, pids, unreadable="cl")
        assert (record.outcome, record.proved) == (Outcome.CANCELLED, False), told(seed, nodes)


def test_who_can_be_told_by_its_parent_alone_does_not_outlive_it(
    forest: Forest, store: WatchedStore
) -> None:
    """Force without a look before it, as on the portable path and of what came after adoption."""
    root = Node(0)
    parent = Node(1, "s", root)
    root.children = [parent]
    parent.children = [Node(2, "sc", parent)]
    job, _ = forest.plant(store, [root, parent, *parent.children])
    record = job.status()
    kill_and_wait(record.monitor)

    tree = StrayTree(record)
    while not tree.is_empty():
        tree.force()

    assert not living(forest.left())
    forest.check_bystanders()


def test_long_line_of_sessions_is_killed_as_fast_as_it_dies(
    forest: Forest, store: WatchedStore
) -> None:
    """Each process leads a session: no signal to a group takes two of them."""
    line = [Node(0)]
    for number in range(1, 400):
        line.append(Node(number, "s", line[-1]))
        line[-2].children = [line[-1]]
    job, _ = forest.plant(store, line)

    job.cancel(grace=0)

    assert job.wait(timeout=TIMEOUT).proved
    assert not forest.left()
    forest.check_bystanders()


def test_tree_grown_within_one_tick_is_found_whole(forest: Forest, store: WatchedStore) -> None:
    """Start times order parents before children no finer than a tick."""
    nodes = random_tree(2254923815, 60)
    for _ in range(5):
        job, pids = forest.plant(store, nodes)
        record = job.status()
        kill_and_wait(record.monitor)
        found = {identity.pid for identity in StrayTree(record).members()}
        excused = unfindable(nodes)
        wanted = {pids[node.number] for node in nodes if node.stays and node.number not in excused}
        assert wanted <= found, told(0, nodes)
        kill_all(forest.left())
        job.wait(timeout=TIMEOUT)
