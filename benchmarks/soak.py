"""Try the promises for long: ``python -m benchmarks.soak [--seed N] [--seconds S] [--only PART]``.

Prints a JSON line for each part, or piece of one, with the seed it was drawn
from; the same seed tries the same again. The exit code is 1 if anything failed.
Needs the source tree with its tests, and what ``pip install jobsup[test]`` brings.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from clients import ClientPool
from conftest import Gate
from forest import random_tree
from load import at_once, hammer, in_a_row
from stateful import Stage, run_histories
from test_containment import Forest, told
from witnesses import compiled

from jobsup import JobStore, __version__

Figures = dict[str, Any]


@attrs.frozen
class Bounds:
    """How much of what."""

    seed: int
    histories: int
    steps: int
    at_once: int
    processes: int
    rounds: int
    in_a_row: int
    trees: int
    tree: int


@attrs.frozen
class Ground:
    """Where a part does its work, and until when, by time.monotonic()."""

    folder: Path
    deadline: float

    def store(self) -> JobStore:
        """An empty one."""
        return JobStore(tempfile.mkdtemp(dir=self.folder))

    @property
    def is_open(self) -> bool:
        return time.monotonic() < self.deadline


Part = Callable[[Ground, Bounds, int], Figures]
"""One piece of work from a seed of its own; raises AssertionError on what must not be."""


def try_histories(ground: Ground, bounds: Bounds, seed: int) -> Figures:
    """The state machine: clients on one store, killed as it comes, against a model."""
    folder = Path(tempfile.mkdtemp(dir=ground.folder))
    with ClientPool() as pool:
        stage = Stage(pool, compiled("truth.c", folder, "-static"), folder)
        run_histories(stage, seed, min(bounds.histories, _PIECE), bounds.steps)
    return {
        "histories": stage.histories,
        "jobs": stage.jobs,
        "calls": stage.calls,
        "kills": stage.kills,
    }


def try_at_once(ground: Ground, bounds: Bounds, _: int) -> Figures:
    """Many jobs that run at the same time."""
    return at_once(ground.store(), bounds.at_once, life=_LIFE_SECONDS)


def try_hammer(ground: Ground, bounds: Bounds, seed: int) -> Figures:
    """Many processes at work in one store."""
    with ClientPool() as pool:
        return hammer(pool, ground.store(), bounds.processes, bounds.rounds, seed)


def try_in_a_row(ground: Ground, bounds: Bounds, _: int) -> Figures:
    """Many jobs one after the other."""
    return in_a_row(ground.store(), bounds.in_a_row, deadline=ground.deadline)


def try_trees(ground: Ground, bounds: Bounds, seed: int) -> Figures:
    """Random trees of processes: after a cancel none is left, and bystanders live."""
    dice = random.Random(seed)
    folder = Path(tempfile.mkdtemp(dir=ground.folder))
    store, gate = ground.store(), Gate(folder / "gate")
    program = compiled("forest.c", folder)
    forest = Forest(program.rename(folder / f"f{secrets.token_hex(5)}"), gate)
    count, processes = min(bounds.trees, _PIECE), 0
    try:
        for _ in range(count):
            tree, size = dice.randrange(1 << 32), dice.randint(2, bounds.tree)
            nodes = random_tree(tree, size)
            job, _ = forest.plant(store, nodes, tree, grace=dice.choice([0, 0.1]))
            job.cancel()
            record = job.wait(_PATIENCE)
            assert record.proved, (told(tree, nodes), record)
            assert not forest.left(), told(tree, nodes)
            forest.check_bystanders()
            processes += len(nodes)
    finally:
        forest.fell()
        gate.close()
    return {"jobs": count, "processes": processes}


_PIECE: Final = 25
"""Histories or trees that one seed stands for."""
_PATIENCE: Final = 60.0
_LIFE_SECONDS: Final = 1200
PARTS: Final[Mapping[str, tuple[Part, bool]]] = {
    # name: the work, and whether it is done again, with the next seed, until the time is up
    "at_once": (try_at_once, False),
    "hammer": (try_hammer, False),
    "in_a_row": (try_in_a_row, False),
    "trees": (try_trees, True),
    "histories": (try_histories, True),
}


def run(ground: Ground, bounds: Bounds, name: str) -> Iterator[Figures]:
    """The figures of each piece of a part; of one that failed, what went wrong."""
    work, is_repeated = PARTS[name]
    pieces = -(-getattr(bounds, name) // _PIECE) if is_repeated else 1
    for piece in range(pieces):
        if piece and not ground.is_open:
            return
        seed, begun = bounds.seed + piece, time.monotonic()
        line: Figures = {"part": name, "seed": seed}
        try:
            line.update(work(ground, bounds, seed))
        except Exception as error:
            line["failure"] = str(error) or traceback.format_exc()
        yield {**line, "seconds": round(time.monotonic() - begun, 1)}


def main() -> None:
    given = _parser().parse_args()
    numbers = {field.name: getattr(given, field.name) for field in attrs.fields(Bounds)}
    bounds = Bounds(**numbers)
    print(json.dumps({"jobsup": __version__, **numbers}), flush=True)
    deadline = time.monotonic() + given.seconds
    failed = False
    with tempfile.TemporaryDirectory(prefix="jobsup-soak-") as folder:
        for name in given.only or PARTS:
            for line in run(Ground(Path(folder), deadline), bounds, name):
                print(json.dumps(line), flush=True)
                failed = failed or "failure" in line
    sys.exit(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    whole: Any = {"type": int, "metavar": "N"}
    parser.add_argument("--seed", default=secrets.randbits(32), **whole)
    parser.add_argument("--seconds", type=float, default=600.0, help="begin nothing after them")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; may be repeated")
    parser.add_argument("--histories", default=500, **whole)
    parser.add_argument("--steps", default=40, help="of each history", **whole)
    parser.add_argument("--trees", default=200, **whole)
    parser.add_argument("--tree", default=200, help="processes of the largest", **whole)
    parser.add_argument("--at-once", default=1000, help="jobs", **whole)
    parser.add_argument("--processes", default=64, help="on one store", **whole)
    parser.add_argument("--rounds", default=10, help="jobs of each of the processes", **whole)
    parser.add_argument("--in-a-row", default=10_000, help="jobs", **whole)
    return parser


if __name__ == "__main__":
    main()
