"""The tests of the public verbs once more, on the portable path: all but what is listed must pass.

The list, by weakness, is `portable_leg.WEAKER`; what is listed must fail.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from portable_leg import WEAKER

from jobsup import _platform

TESTS = Path(__file__).parent
FILES = {
    # file: what of it is left out, as it tells nothing new here and takes long
    "test_cancel.py": "",
    "test_crashes.py": "moment or again_and_again",
    "test_pause.py": "",
    "test_prune.py": "stale_record",  # it forges the start of a process within the same tick
    "test_start.py": "threads or found_as_popen or moment or inherits or refused or argument",
    "test_status.py": "",
    "test_stdin.py": "",
    "test_timeout.py": "",
    "test_trees.py": "0- or adopter or killed_monitor or comes_after or chains or forgotten",
    "test_usage.py": "",
    "test_wait.py": "many",
}

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize("file", FILES)
def test_verbs_hold_on_the_portable_path(file: str) -> None:
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "portable_leg"]
    if FILES[file]:
        argv += ["-k", f"not ({FILES[file]})"]
    environment = {**os.environ, _platform.PORTABLE: "1", "PYTHONPATH": str(TESTS)}
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST"):
        environment.pop(name, None)

    done = subprocess.run(
        [*argv, str(TESTS / file)],
        env=environment,
        cwd=TESTS.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=380,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-20_000:]


@pytest.mark.parametrize("test", [test for tests in WEAKER.values() for test in tests])
def test_what_is_weaker_is_a_test_that_is_run(test: str) -> None:
    file, _, name = test.partition("::")
    assert file in FILES
    assert f"def {name.partition('[')[0]}(" in (TESTS / file).read_text()
