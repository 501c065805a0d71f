"""Killed, or refused by the system, at every call that matters; then a fresh process looks.

The points are read off running scenarios, the calls off the source: a new call
fails the test until a scenario reaches it. Every day breaks each place in the
source once, somewhere, and JOBSUP_TEST_SCALE multiplies that; 20 is all there
is. JOBSUP_TEST_SEED replays a choice, JOBSUP_TEST_FAULT a single failure.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest
from faults import CALLS, PACKAGE, UNREACHED, Site, call_of, sites, sites_of, unknown_calls
from scenarios import SCENARIOS

SCALE = float(os.environ.get("JOBSUP_TEST_SCALE", "1"))
SEED = int(os.environ.get("JOBSUP_TEST_SEED") or random.randrange(1 << 32))
ONLY = os.environ.get("JOBSUP_TEST_FAULT")
WORKERS = 3

pytestmark = pytest.mark.timeout(300 + 240 * SCALE)


@attrs.frozen
class Fault:
    """One point of one scenario, and what becomes of it."""

    scenario: str
    point: str
    action: str

    def __str__(self) -> str:
        return f"{self.scenario} / {self.point} / {self.action}"

    @classmethod
    def parse(cls, text: str) -> Fault:
        return cls(*text.split(" / "))


class Crew:
    """Processes that play cases, each one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = iter(range(1 << 30))
        self._local = threading.local()
        self._players: list[subprocess.Popen[str]] = []

    def _player(self) -> subprocess.Popen[str]:
        mine: subprocess.Popen[str] | None = getattr(self._local, "player", None)
        if mine is None:
            mine = self._local.player = subprocess.Popen(
                [sys.executable, Path(__file__).parent / "aftermath.py"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "JOBSUP_LAUNCHER": "0"},
            )
            self._players.append(mine)
        return mine

    def play(self, scenario: str, **more: Any) -> dict[str, Any]:
        case = {
            "package": str(PACKAGE),
            "calls": list(CALLS),
            "scenario": scenario,
            "folder": str(self._folder / f"case{next(self._numbers)}"),
            **more,
        }
        player = self._player()
        assert player.stdin
        assert player.stdout
        player.stdin.write(json.dumps(case) + "\n")
        player.stdin.flush()
        line = player.stdout.readline()
        return json.loads(line) if line else {"wrong": ["its player died"], "fired": True}

    def break_at(self, fault: Fault) -> dict[str, Any]:
        return self.play(fault.scenario, point=fault.point, action=fault.action)

    def end(self) -> None:
        for player in self._players:
            player.communicate(timeout=60)


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    made = Crew(tmp_path_factory.mktemp("faults"))
    yield made
    made.end()


Trace = dict[str, list[str]]


@pytest.fixture(scope="module")
def trace(crew: Crew, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """The points that each scenario reaches when nothing goes wrong."""
    folder = tmp_path_factory.mktemp("traces")

    def points_of(scenario: str) -> list[str]:
        file = folder / scenario
        result = crew.play(scenario, trace=str(file))
        assert not result["wrong"], f"{scenario}: {result['wrong']}"
        return sorted(set(file.read_text().splitlines()))

    with ThreadPoolExecutor(WORKERS) as pool:
        return dict(zip(SCENARIOS, pool.map(points_of, SCENARIOS), strict=True))


def all_faults(trace: Trace) -> list[Fault]:
    """Every action at every point, in the first scenario that reaches it."""
    first: dict[str, str] = {}
    for scenario, points in trace.items():
        for point in points:
            first.setdefault(point, scenario)
    return [
        Fault(scenario, point, action)
        for point, scenario in first.items()
        for action in CALLS[call_of(point)]
    ]


def sample(faults: Iterable[Fault], known: Sequence[Site]) -> list[Fault]:
    """So many for each place in the source, as `SEED` has it."""
    by_site: dict[str, list[Fault]] = {}
    for fault in sorted(faults, key=str):
        by_site.setdefault(str(sites_of(fault.point, list(known))[0]), []).append(fault)
    chance = random.Random(SEED)
    chosen = []
    for some in by_site.values():
        count = int(SCALE) + (chance.random() < SCALE % 1)
        chosen += chance.sample(some, min(count, len(some))) if SCALE < 20 else some
    chance.shuffle(chosen)
    return chosen


def breakable() -> list[Site]:
    return [site for site in sites() if site.call in CALLS]


def test_every_call_in_the_source_is_known() -> None:
    assert not unknown_calls(), "say in faults.py what these can come to"


def test_every_call_is_reached_by_a_scenario(trace: Trace) -> None:
    known = breakable()
    reached = {
        str(site)
        for points in trace.values()
        for point in points
        for site in sites_of(point, known)
    }
    assert {str(site) for site in known} - reached <= {*UNREACHED}
    assert {*UNREACHED} <= {str(site) for site in known}, "no longer in the source"


def test_truth_survives_each_fault(crew: Crew, trace: Trace) -> None:
    """Truthful state or nothing, no stray process, lock or directory; and the store is usable."""
    faults = [Fault.parse(ONLY)] if ONLY else sample(all_faults(trace), breakable())
    with ThreadPoolExecutor(WORKERS) as pool:
        results = list(pool.map(crew.break_at, faults))
    fired = sum(result["fired"] for result in results)
    print(f"{len(faults)} faults, {fired} of them fired, JOBSUP_TEST_SEED={SEED}")
    wrong = [
        f"JOBSUP_TEST_FAULT='{fault}' JOBSUP_TEST_SEED={SEED}\n" + "\n".join(result["wrong"])
        for fault, result in zip(faults, results, strict=True)
        if result["wrong"]
    ]
    assert not wrong, f"{len(wrong)} of {len(faults)} faults:\n" + "\n\n".join(wrong)
    assert fired > len(faults) / 2


LOOKS = "monitor os.open@_linux < _linux.token < _identity.open_process < _identity.send_verified"
FOUND = [
    # What a look was refused ended the monitor, and with it the proof.
    ("adopted", f"{LOOKS} < _strays.send", "EMFILE"),
    ("cancelled", "monitor os.open@_linux < _identity.hold_child < _tree._walk", "ENOMEM"),
    ("adopted", "monitor os.listdir@_linux < _strays._scan", "ENOMEM"),
    ("capped", "monitor os.open@_outputcap < _monitor._open_caps", "EMFILE"),
    ("requests", "monitor os.open@_monitor_main", "EMFILE"),
    # start() raised an OSError that it does not promise.
    ("owned", "host os.open@_linux < _linux.token < _identity.identify", "EMFILE"),
    # It was told why the undo failed, and not why the start did.
    ("not_found", "monitor os.unlink@_jobdir < _jobdir.unmark_active < _layout.take_down", "EIO"),
    # The exit status was lost though it could have been read a moment later.
    ("adopted_and_let_alone", "monitor os.open@_linux < _linux.exit_status", "EMFILE"),
]
"""Faults that once left something else than the truth."""


@pytest.mark.parametrize(("scenario", "point", "action"), FOUND)
def test_fault_that_was_found(
    crew: Crew, trace: Trace, scenario: str, point: str, action: str
) -> None:
    fitting = [each for each in trace[scenario] if re.sub(r":\d+", "", each).startswith(point)]
    assert fitting
    # The first may be of a monitor that the scenario has killed before it came there.
    for each in fitting:
        result = crew.break_at(Fault(scenario, each, action))
        assert not result["wrong"], "\n".join(result["wrong"])
        if result["fired"]:
            return
    pytest.fail(f"none of {fitting} was reached")
