"""The public names: what they are, what they say, and what importing them costs."""

from __future__ import annotations

import enum
import inspect
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import TIMEOUT

import jobsup
from jobsup import (
    JobEndedError,
    JobExistsError,
    JobNotFoundError,
    JobsupError,
    RecordError,
    SpawnError,
    WaitTimeoutError,
)

CLASSES = [getattr(jobsup, name) for name in jobsup.__all__ if name[0].isupper()]
FUNCTIONS = [name for name in jobsup.__all__ if not name[0].isupper()]
ROOT = Path("/store")


def test_all_names_exist_and_are_sorted() -> None:
    assert list(jobsup.__all__) == sorted(jobsup.__all__, key=lambda name: (name.islower(), name))
    for name in jobsup.__all__:
        assert hasattr(jobsup, name)


def test_public_classes_are_fewer_than_twenty() -> None:
    assert len(CLASSES) < 20


def test_star_import_hides_nothing_unasked() -> None:
    names: dict[str, Any] = {}
    exec("from jobsup import *", names)
    assert set(jobsup.__all__) == set(names) - {"__builtins__"}


def test_functions_of_the_module_are_those_of_the_default_store() -> None:
    store = jobsup._jobs.default_store
    for name in FUNCTIONS:
        assert getattr(jobsup, name) == getattr(store, name)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_public_name_says_what_it_is(cls: type) -> None:
    assert inspect.getdoc(cls)
    assert jobsup.__doc__
    if issubclass(cls, (enum.Enum, Exception)):
        return
    for name, member in vars(cls).items():
        if name.startswith("_") or not (
            inspect.isfunction(member) or isinstance(member, (classmethod, property))
        ):
            continue
        assert inspect.getdoc(getattr(cls, name)), f"{cls.__name__}.{name}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_their_docstrings(name: str) -> None:
    assert inspect.getdoc(getattr(jobsup, name))


# -- errors ------------------------------------------------------------------

ERRORS = [
    (JobNotFoundError("x", ROOT), "no job 'x' in /store; 'jobsup list' shows the jobs there"),
    (
        JobNotFoundError("x", ROOT, ("xa", "xb")),
        "'x' fits 2 jobs in /store: xa, xb; give more of the id",
    ),
    (JobExistsError("x", ROOT), "job 'x' already exists in /store; start it under another id"),
    (
        SpawnError("exec", "prog", "No such file"),
        "cannot run 'prog': No such file; no job was created",
    ),
    (
        SpawnError("cwd", "/x", "No such file"),
        "cannot enter the working directory '/x': No such file; no job was created",
    ),
    (
        SpawnError("stdin", "/x", "No such file"),
        "cannot open '/x' as standard input: No such file; no job was created",
    ),
    (
        SpawnError("store", "/store", "No space left"),
        "cannot create a job in /store: No space left; no job was created",
    ),
    (
        SpawnError("monitor", "/store", "it died"),
        "the monitor of the job in /store failed: it died; no job was created",
    ),
    (WaitTimeoutError("x", 2.5), "job x had not ended after 2.5 s; it runs on"),
    (JobEndedError("x"), "job x cannot take this: it has ended"),
    (JobEndedError("x", "its input is closed"), "job x cannot take this: its input is closed"),
    (RecordError(ROOT / "meta.json", "is damaged"), "/store/meta.json: is damaged"),
    (JobsupError("something"), "something"),
]


@pytest.mark.parametrize(("error", "text"), ERRORS, ids=lambda value: str(value)[:30])
def test_error_says_what_where_and_what_next(error: JobsupError, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize("error", [error for error, _ in ERRORS], ids=lambda error: str(error)[:30])
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_error_pickles(error: JobsupError, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_every_error_is_tested_above() -> None:
    errors = {cls for cls in CLASSES if issubclass(cls, Exception)}
    assert errors == {type(error) for error, _ in ERRORS}


@pytest.mark.parametrize(
    ("error", "also"), [(JobNotFoundError, LookupError), (WaitTimeoutError, TimeoutError)]
)
def test_error_is_also_what_the_standard_library_calls_it(error: type, also: type) -> None:
    assert issubclass(error, also)
    assert issubclass(error, JobsupError)
    assert not issubclass(error, KeyError)  # its str() quotes the message


def test_values_pickle() -> None:
    plan = jobsup.StopPlan.parse("INT 5, KILL")
    values: list[object] = [
        plan,
        jobsup.JobSpec(["true"], stop=plan),
        jobsup.Job("x" * 26, ROOT),
        jobsup.JobState.RUNNING,
        jobsup.Outcome.LOST,
    ]
    for value in values:
        assert pickle.loads(pickle.dumps(value)) == value


# -- importing ---------------------------------------------------------------


def _python(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", body], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


def test_import_is_light() -> None:
    """What only some calls need is imported by them."""
    done = _python("import sys, jobsup; print(*sys.modules)")
    loaded = set(done.stdout.split())
    assert "jobsup._jobs" in loaded
    assert not loaded & {"psutil", "filelock", "asyncio", "click", "rich", "jobsup._monitor"}


def test_import_starts_nothing_and_writes_nothing(tmp_path: Path) -> None:
    body = f"""
import os, threading
os.environ["JOBSUP_HOME"] = {str(tmp_path / "store")!r}
import jobsup
jobsup.list()
assert threading.active_count() == 1
"""
    assert _python(body).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_windows_gets_one_clear_error() -> None:
    done = _python("import sys; sys.platform = 'win32'; import jobsup")
    assert done.stderr.rstrip().splitlines()[-1].startswith("ImportError: jobsup needs a POSIX")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"JOBSUP_HOME": "/a", "XDG_STATE_HOME": "/b"}, "/a"),
        ({"XDG_STATE_HOME": "/b"}, "/b/jobsup"),
        ({"XDG_STATE_HOME": "relative"}, "/h/.local/state/jobsup"),
        ({"XDG_STATE_HOME": ""}, "/h/.local/state/jobsup"),
        ({}, "/h/.local/state/jobsup"),
    ],
)
def test_default_store_is_where_the_environment_says(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JOBSUP_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/h")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert jobsup.JobStore().root == Path(expected)


def test_package_is_typed() -> None:
    assert (Path(jobsup.__file__).parent / "py.typed").exists()
    assert jobsup.__version__
