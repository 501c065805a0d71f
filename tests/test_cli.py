"""The command line: usage, failures, events, prune, completion. Files beside it have the rest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from signal import SIGINT
from subprocess import PIPE

import pytest
from command_line import Cli, ended, read_until, waits
from commands import (
    python,
    says,
    sleeper,
)
from conftest import TIMEOUT, Gate, WatchedStore, eventually

import jobsup
from jobsup import JobState


@pytest.fixture
def cli(store: WatchedStore) -> Iterator[Cli]:
    with closing(Cli(store.root)) as made:
        yield made


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version").out == f"jobsup {jobsup.__version__}\n"
    for asked in (cli(), cli("--help"), cli("-h")):
        assert asked.code == 0, asked
        assert "Exit codes: 0 done" in asked.out


def test_click_is_asked_for_where_it_is_missing(cli: Cli) -> None:
    script = "import sys; sys.modules['click'] = None; from jobsup.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "list"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert "pip install 'jobsup[cli]'" in line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["start"], "Missing argument 'COMMAND [ARG]...'"),
        (["start", "--no-such", "true"], "--no-such"),
        (["start", "--timeout", "-1", "true"], "'-1' is not a duration"),
        (["start", "--stop", "TERM 5", "true"], "a stop plan ends with KILL"),
        (["start", "--stop", "KILL", "--grace", "1", "true"], "not both"),
        (["start", "--env", "NO_SUCH_VARIABLE", "true"], "'NO_SUCH_VARIABLE' is not set"),
        (["start", "--label", "color", "true"], "'color' is not of the form key=value"),
        (["start", "--output-limit", "1", "true"], "output_limit must be"),
        (["start", "--name", "a b", "true"], "a job's name is"),
        (["start", "--lifetime", "owner", "true"], "use 'jobsup run --lifetime owner'"),
        (["start", ""], "argv is empty"),
        (["list", "--state", "gone"], "'gone' is not one of"),
        (["list", "--active", "--state", "ended"], "--active is a --state"),
        (["no-such-command"], "No such command 'no-such-command'"),
        (["status"], "Missing argument 'JOB...'"),
        (["send", "--", "x"], "give a text to send"),
        (["prune", "--max-size", "big"], "'big' is not a size"),
        (["prune", "--keep", "-1"], "'--keep'"),
        (["events", "--since", "999999"], "beyond the end"),
        (["--store", "", "list"], "an empty name is no directory"),
    ],
)
def test_wrong_usage_is_2(cli: Cli, store: WatchedStore, words: list[str], told: str) -> None:
    ended(store, ["true"], name="x")

    done = cli(*words)

    assert (done.code, done.out) == (2, "")
    assert told in done.line()
    assert len(store.list()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["status", "nope"],
        ["logs", "nope"],
        ["logs", "../../etc"],
        ["cancel", "nope"],
        ["signal", "HUP", "nope"],
        ["pause", "nope"],
        ["resume", "nope"],
        ["send", "nope", "text"],
        ["start", "/no/such/program"],
        ["--store", "/dev/null/store", "start", "true"],
    ],
)
def test_a_failure_is_1_and_one_line(cli: Cli, words: list[str]) -> None:
    done = cli(*words)

    assert (done.code, done.out) == (1, "")
    assert done.line().startswith("jobsup: ")


@pytest.mark.parametrize("command", ["list", "logs big", "status big", "events", "prune --dry-run"])
def test_nobody_reads_and_nobody_is_told(cli: Cli, store: WatchedStore, command: str) -> None:
    ended(store, python('os.write(1, b"line\\n" * 99_999)'), name="big")
    read, write = os.pipe()
    os.close(read)

    child = cli.popen(*command.split(), stdout=write, stderr=PIPE)
    os.close(write)

    assert child.wait(TIMEOUT) == 141
    assert read_until(child.stderr, None) == b""


@pytest.mark.parametrize("command", ["list", "logs big"])
def test_a_full_disk_is_told(cli: Cli, store: WatchedStore, command: str) -> None:
    ended(store, says("text\n"), name="big")
    with open("/dev/full", "wb") as full:
        child = cli.popen(*command.split(), stdout=full, stderr=PIPE)

    assert child.wait(TIMEOUT) == 1
    assert read_until(child.stderr, None) == b"jobsup: No space left on device\n"


def test_interrupted_wait_leaves_the_job_alone(cli: Cli, store: WatchedStore, gate: Gate) -> None:
    job = store.start(says("hello\n", gate))
    gate.wait()
    follower = cli.popen("logs", "-f", job.id, stdout=PIPE, stderr=PIPE)
    read_until(follower.stdout, b"hello\n")
    waiter = cli.popen("wait", job.id, stderr=PIPE)
    eventually(lambda: waits(waiter.pid), "it waits for the monitor")

    for child in (follower, waiter):
        child.send_signal(SIGINT)
        assert child.wait(TIMEOUT) == 130
        assert read_until(child.stderr, None) == b""
    assert job.status().state is JobState.RUNNING


# -- events and prune ----------------------------------------------------------


def test_events_go_on_from_a_cursor(cli: Cli, store: WatchedStore) -> None:
    job = ended(store, ["true"])
    first = json.loads(cli("events", "--json").out)
    job = ended(store, ["false"])
    second = json.loads(cli("events", "--json", "--since", str(first["next_cursor_bytes"])).out)
    people = cli("events", "--since", str(first["next_cursor_bytes"]))

    assert {event["id"] for event in second["events"]} == {job.id}
    assert (second["events"][-1]["state"], second["events"][-1]["exit_code"]) == ("ended", 1)
    assert people.out.splitlines()[-1].endswith(f"{job.id} ended failed")
    assert people.line() == f"jobsup: next: --since {second['next_cursor_bytes']}"


def test_prune(cli: Cli, store: WatchedStore) -> None:
    runs = store.start(sleeper())
    old, new = ended(store, ["true"]), ended(store, ["true"])

    nothing = cli("prune")
    dry = cli("prune", "--keep", "1", "--dry-run")
    assert nothing.out == "deleted 0 jobs, 0 B\n"
    assert "no rule was given" in nothing.line()
    assert dry.out.splitlines()[0] == old.id
    assert dry.out.splitlines()[1].startswith("would delete 1 job, ")
    assert len(store.list()) == 3
    cli("prune", "--older-than", "7d")
    assert len(store.list()) == 3

    pruned = json.loads(cli("prune", "--json", "--keep", "1").out)
    assert (pruned["ids"], pruned["swept_ids"], pruned["dry_run"]) == ([old.id], [], False)
    assert pruned["freed_bytes"] > 0
    assert cli("prune", "--max-size", "0").out.startswith("deleted 1 job, ")
    assert [job.id for job in store.list()] == [runs.id]
    assert new.id not in os.listdir(store.root / "jobs")


# -- completion ----------------------------------------------------------------


def completed(cli: Cli, *words: str) -> list[str]:
    """What bash would offer for the last of *words*."""
    line = {"COMP_WORDS": " ".join(["jobsup", *words]), "COMP_CWORD": str(len(words))}
    done = cli(env={"_JOBSUP_COMPLETE": "bash_complete", **line})
    return [item.partition(",")[2] for item in done.out.split()]


def test_completion_offers_names_and_ids(cli: Cli, store: WatchedStore) -> None:
    done = ended(store, ["true"], name="worker-of-mine")
    runs = store.start(sleeper(), name="worker-of-yours")
    damaged = ended(store, ["true"])
    (damaged.root / "jobs" / damaged.id / "spec.json").write_text("{")

    # Longer than an id's short form, which may begin with any letter.
    mine, yours = "worker-of-mine", "worker-of-yours"
    assert completed(cli, "logs", "worker-") == [yours, mine]
    assert completed(cli, "cancel", "worker-") == [yours]
    assert completed(cli, "signal", "HUP", yours, "worker-") == [yours]
    assert completed(cli, "status", done.id[-6:-2]) == [done.id[-6:]]
    assert completed(cli, "status", runs.id[:20]) == [runs.id]
    assert completed(cli, "signal", "us") == ["USR1", "USR2"]
    assert completed(cli, "list", "--outcome", "t") == ["timed-out"]
    assert completed(cli, "canc") == ["cancel"]
    assert completed(cli, "--store", "/dev/null/none", "logs", "worker-") == []


def test_completion_works_in_bash(cli: Cli, store: WatchedStore, tmp_path: Path) -> None:
    ended(store, ["true"], name="website")
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    program = tmp_path / "jobsup"
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m jobsup \"$@\"\n")
    program.chmod(0o755)
    script = """
eval "$(jobsup completion bash)"
COMP_WORDS=(jobsup logs web) COMP_CWORD=2
_jobsup_completion jobsup
printf '%s\\n' "${COMPREPLY[@]}"
"""
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        [bash, "-c", script],
        env={**cli.environment, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("website\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(cli: Cli, shell: str) -> None:
    assert "_JOBSUP_COMPLETE=" in cli("completion", shell).out
