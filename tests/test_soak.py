"""`benchmarks.soak`, as small as it goes: it runs, and its exit code tells of a failure."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import WatchedStore

SMALL = (
    *("--seed", "7", "--histories", "1", "--steps", "5", "--at-once", "2"),
    *("--processes", "2", "--rounds", "1", "--in-a-row", "20", "--trees", "2", "--tree", "5"),
)
PARTS = ("at_once", "hammer", "in_a_row", "trees", "histories")
BROKEN = """
from benchmarks import soak

def break_promise(ground, bounds, seed):
    raise AssertionError("a promise is broken")

soak.PARTS = {"broken": (break_promise, False), "whole": (lambda *_: {"tried": 1}, False)}
soak.main()
"""


@pytest.fixture(autouse=True)
def _watched(tmp_path: Path, make_store: Callable[[Path], WatchedStore]) -> None:
    make_store(tmp_path / "none")  # marks all processes, and sees that none is left


def soak(*argv: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code, and what was printed."""
    done = subprocess.run(
        [sys.executable, *argv, *SMALL],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        timeout=100,
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_each_part_is_tried() -> None:
    code, [bounds, *lines] = soak("-m", "benchmarks.soak")
    assert code == 0, lines
    assert bounds["seed"] == 7
    assert [line["part"] for line in lines] == [*PARTS]
    assert all(line["jobs"] for line in lines)


def test_failure_names_its_seed_and_fails_the_run() -> None:
    code, [_, broken, whole] = soak("-c", BROKEN)
    assert code == 1
    assert (broken["failure"], broken["seed"]) == ("a promise is broken", 7)
    assert whole["tried"] == 1
