"""Numbers of processes are given away again: who got one of ours is never hit."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pid_reuse import LAST_PID, SCENARIOS

PROGRAM = Path(__file__).with_name("pid_reuse.py")
# A shell is the first process, to reap what is orphaned.
NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c")
TELLS_TWINS_APART = tuple(map(int, platform.release().split(".")[:2])) >= (6, 9)
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
