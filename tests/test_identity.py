"""Numbers of processes are given away again: who got one of ours is never hit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import KERNEL, PROVES, held
from pid_reuse import LAST_PID, SCENARIOS

from jobsup import _linux

PROGRAM = Path(__file__).with_name("pid_reuse.py")
# A shell is the first process, to reap what is orphaned.
NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c")
TELLS_TWINS_APART = KERNEL >= (6, 9)
"""Whether a process has an inode number that no other process of this boot has."""


@pytest.fixture(scope="session")
def namespace() -> tuple[str, ...]:
    """How to run a shell line in a pid namespace where the next pid can be chosen."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare (Debian: util-linux)")
    test = [*NAMESPACE, f"echo 100 > {LAST_PID}"]
    if subprocess.run(test, stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("needs the privilege to make a pid namespace and to write ns_last_pid")
    return NAMESPACE


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_who_has_a_number_of_ours_is_not_hit(
    namespace: tuple[str, ...], tmp_path: Path, scenario: str
) -> None:
    if "tick" in scenario and not TELLS_TWINS_APART:
        pytest.skip("needs Linux 6.9")
    words = [sys.executable, str(PROGRAM), scenario, str(tmp_path)]

    done = subprocess.run(
        [*namespace, '"$@"; exit $?', "sh", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not PROVES, reason="the portable path reads all start times")
@pytest.mark.parametrize("off_seconds", [0, 3600])
def test_start_time_is_told_from_the_clock_only_where_that_counts_it(
    monkeypatch: pytest.MonkeyPatch, off_seconds: int
) -> None:
    true_uptime = _linux.uptime
    monkeypatch.setattr(_linux, "uptime", lambda: true_uptime() + off_seconds * 10**9)
    monkeypatch.setattr(_linux, "_births", _linux._Births())
    births = _linux._births
    for _ in range(500):  # on a slow machine many are over the end of a tick, and tell nothing
        before = _linux.uptime()
        with subprocess.Popen(["sleep", "100"]) as child:
            try:
                token = _linux.own_token(child.pid, before)
                assert token == held(child.pid).token
            finally:
                child.kill()
        if births.are_known or births._is_refuted:
            break

    assert births.are_known == (off_seconds == 0)
    assert births._is_refuted == (off_seconds != 0)


@pytest.mark.skipif(not PROVES, reason="the portable path reads all start times")
def test_one_start_time_that_was_not_as_told_is_enough_to_read_them_all() -> None:
    births = _linux._Births()
    for tick in (None, *range(7)):
        births.compare(tick, tick or 0)
    assert not births.are_known
    births.compare(7, 7)
    assert births.are_known
    births.compare(8, 9)
    assert not births.are_known
    births.compare(9, 9)
    assert not births.are_known
