"""The benchmarks run, say what they should, and leave nothing; how fast is not asked here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually

CHECKOUT = Path(__file__).parent.parent
sys.path.append(str(CHECKOUT))  # at the end: jobsup stays the one that is installed

from benchmarks.__main__ import ROWS  # noqa: E402
from benchmarks.figures import Figure, Summary, Target  # noqa: E402
from benchmarks.processes import descendants, subreaper, supervisors  # noqa: E402
from benchmarks.table import table  # noqa: E402
from benchmarks.timing import interleave  # noqa: E402

CHEAP = ["import", "start-to-ended", "cancel", "status", "tail", "memory", "list", "prune"]
PEERS = {"task-spooler", "nq", "s6", "conmon"}
"""Those that are no Python packages."""


def run(home: Path, *words: str, **environment: str) -> tuple[list[dict[str, Any]], str]:
    """The JSON lines and the table of a run that left no process and no file."""
    scratch = home / "scratch"
    scratch.mkdir()
    before = descendants()
    with subreaper():
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", "--quick", *words],
            cwd=CHECKOUT,
            env={**os.environ, "TMPDIR": str(scratch), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        # A monitor exits a moment after its record is final.
        eventually(lambda: not supervisors(descendants() - before, []), "all processes ended")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(scratch.iterdir()) == []
    lines = done.stdout.splitlines()
    head = next(number for number, line in enumerate(lines) if not line.startswith("{"))
    return [json.loads(line) for line in lines[:head]], "\n".join(lines[head:])


def test_a_quick_run_measures_each_row_beside_its_baseline(tmp_path: Path) -> None:
    (machine, *figures), text = run(tmp_path, "--only", *CHEAP)

    assert machine["quick"] is True
    assert {"kernel", "python", "cpu", "cpus", "peers"} <= machine.keys()
    assert {figure["key"] for figure in figures} == {
        *("import", "start-to-ended", "cancel", "status-running", "status-ended"),
        *("tail", "memory", "list", "list-active", "prune"),
    }
    for figure in figures:
        assert figure["jobsup"]["median"] > 0
        assert figure["jobsup"]["n"] >= 1
        assert figure["met"] in (True, False, None)
        assert figure["baseline"] is None or figure["baseline"] in figure["others"]
        assert figure["figure"] in text


def test_a_peer_that_is_not_there_is_named_and_not_made_up(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("true", "sleep"):
        found = shutil.which(name)
        assert found
        (programs / name).symlink_to(found)

    (machine, *figures), text = run(tmp_path, "--only", "start", PATH=str(programs))

    assert {machine["peers"][peer] for peer in PEERS} == {"not installed"}
    assert [figure["key"] for figure in figures] == ["start", "start-in-a-row"]
    for figure in figures:
        assert {figure["missing"][peer] for peer in PEERS} == {"not installed"}
        assert figure["others"].keys().isdisjoint(PEERS)
        assert figure["baseline"] == "Popen"
    assert text.count("not installed") >= 2 * len(PEERS)


def test_what_is_missing_for_a_row_leaves_the_row_out(tmp_path: Path) -> None:
    (_, line), text = run(tmp_path, "--only", "first-instruction", PATH=str(tmp_path))

    assert line["key"] == "first-instruction"
    assert "needs cc" in line["skipped"]
    assert "needs cc" in text


def test_every_contender_has_its_turn_in_every_round() -> None:
    turns: list[str] = []

    def act(name: str) -> float:
        turns.append(name)
        return float(len(turns))

    taken = interleave({"ours": lambda: act("ours"), "theirs": lambda: act("theirs")}, 20)

    rounds = [tuple(turns[at : at + 2]) for at in range(0, len(turns), 2)]
    assert len(rounds) == 21
    assert {*rounds} == {("ours", "theirs"), ("theirs", "ours")}
    for name, numbers in taken.items():  # the first round does not count
        assert numbers == [n for n, who in enumerate(turns, 1) if who == name][1:]


@pytest.mark.parametrize(
    ("target", "more_is_better", "met"),
    [
        (None, False, None),
        (Target(at_most=2), False, True),
        (Target(at_most=1.9), False, False),
        (Target(at_least=2), True, True),
        (Target(at_least=2.1), True, False),
        (Target(times_baseline=2), False, True),
        (Target(times_baseline=1.9), False, False),
        (Target(no_worse_than=("slow",)), False, True),
        (Target(no_worse_than=("slow", "quick")), False, False),
        (Target(no_worse_than=("slow",)), True, False),
        (Target(no_worse_than=("quick",)), True, True),
        (Target(no_worse_than=("not there",)), False, None),
        (Target(at_most=2, no_worse_than=("not there",)), False, True),
        (Target(at_most=2, no_worse_than=("quick",)), False, False),
    ],
)
def test_a_target_is_met_if_all_it_asks_for_holds(
    target: Target | None, more_is_better: bool, met: bool | None
) -> None:
    others = {"quick": [0.001], "slow": [0.003]}
    figure = Figure("key", "name", "ms", [0.002], others, {}, target, more_is_better)

    assert figure.met() is met


def test_a_summary_names_the_bad_end() -> None:
    values = [float(number) for number in range(1, 101)]

    assert Summary.of(values) == Summary(50.5, 95, 100)
    assert Summary.of(values, more_is_better=True) == Summary(50.5, 6, 100)
    assert Summary.of([3.0, 7.0]).p95 == 7


def test_the_table_has_the_baseline_below_each_figure() -> None:
    figure = Figure("key", "a look", "us", [4e-6], {"bare": [2e-6]}, {"other": "not installed"})

    lines = [line.split() for line in table([figure], [("more", "needs cc")]).splitlines()]

    assert lines[2:] == [
        ["a", "look", "us", "4", "n=1", "-", "-"],
        ["baseline:", "bare", "2", "n=1", "2.00x"],
        ["peer:", "other", "not", "installed"],
        ["more", "needs", "cc", "-"],
    ]


def test_every_row_of_the_table_of_targets_has_a_benchmark() -> None:
    assert {"start", "first-start", "first-instruction", "rate", "memory", "idle"} <= ROWS.keys()
    assert {"cancel", "cancel-tree", "wait", "status", "list", "tail"} <= ROWS.keys()
    assert {"import", "cli", "prune"} <= ROWS.keys()
