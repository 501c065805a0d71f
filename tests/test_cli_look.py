"""`jobsup list`, `status` and `logs`: words in, words and exit code out."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from subprocess import PIPE

import pytest
from command_line import JOBSUP, Cli, Done, damage, ended, read_until
from commands import (
    dies_of,
    exits_with,
    python,
    says,
    sleeper,
)
from conftest import TIMEOUT, Gate, WatchedStore


@pytest.fixture
def cli(store: WatchedStore) -> Iterator[Cli]:
    with closing(Cli(store.root)) as made:
        yield made


def column(done: Done, number: int) -> list[str]:
    """One column of a table, without its title."""
    return [line.split("  ")[number].strip() for line in done.out.splitlines()[1:]]


def test_list_is_a_table_of_the_newest_first(cli: Cli, store: WatchedStore) -> None:
    failed = ended(store, exits_with(3), name="bad")
    killed = ended(store, dies_of(9))
    runs = store.start(["sleep", "100"], name="nap")

    done = cli("list")

    titles, *rows = (line.split() for line in done.out.splitlines())
    assert titles == ["ID", "NAME", "STATE", "EXIT", "AGE", "TIME", "COMMAND"]
    assert rows[0][:3] == [runs.id[-6:], "nap", "running"]
    assert rows[0][-2:] == ["sleep", "100"]
    assert rows[1][:3] == [killed.id[-6:], "killed", "SIGKILL"]
    assert rows[2][:4] == [failed.id[-6:], "bad", "failed", "3"]
    assert done.err == ""


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", "run bad good"),
        ("--all", "run bad good"),
        ("--active", "run"),
        ("--state ended", "bad good"),
        ("--state running --state paused", "run"),
        ("--outcome failed", "bad"),
        ("--outcome failed --outcome succeeded", "bad good"),
        ("--name good", "good"),
        ("--label color=red", "run good"),
        ("--label color=red --state ended", "good"),
        ("-n 2", "run bad"),
        ("-n 0", ""),
        ("--name none", ""),
    ],
)
def test_list_filters(cli: Cli, store: WatchedStore, words: str, names: str) -> None:
    ended(store, ["true"], name="good", labels={"color": "red"})
    ended(store, ["false"], name="bad", labels={"color": "blue"})
    store.start(sleeper(), name="run", labels={"color": "red"})

    listed = json.loads(cli("list", "--json", *words.split()).out)

    assert [job["name"] for job in listed] == names.split()
    assert len(cli("list", *words.split()).out.splitlines()) == 1 + len(names.split())


def test_list_leaves_out_what_ended_long_ago_and_says_so(cli: Cli, store: WatchedStore) -> None:
    runs = store.start(sleeper())
    jobs = [ended(store, ["true"]) for _ in range(22)]

    done = cli("list")

    shown = [job.id[-6:] for job in reversed(jobs[2:])]
    assert column(done, 0) == [*shown, runs.id[-6:]]
    assert done.line() == "jobsup: 2 older jobs have ended; 'jobsup list --all' shows them"
    assert len(column(cli("list", "--all"), 0)) == 23


def test_a_damaged_job_is_shown_among_the_others(cli: Cli, store: WatchedStore) -> None:
    bad = ended(store, ["true"], name="bad")
    good = ended(store, ["true"], name="good")
    damage(bad)

    done = cli("list")
    both = cli("status", "bad", "good")
    views = json.loads(cli("list", "--json").out)

    assert [row.split()[:3] for row in done.out.splitlines()[1:]] == [
        [good.id[-6:], "good", "succeeded"],
        [bad.id[-6:], "bad", "damaged"],
    ]
    assert "meta.json: is damaged" in done.out
    assert (done.code, done.err) == (0, "")
    assert [view.get("outcome") for view in views] == ["succeeded", None]
    assert "is damaged" in views[1]["error"]
    assert both.code == 1
    assert "is damaged" in both.out
    assert "ended, succeeded" in both.out


def test_what_a_job_is_called_cannot_write_to_the_terminal(cli: Cli, store: WatchedStore) -> None:
    words = [b"x\x1b[31m\n\xff", "\N{SNOWMAN}"]
    job = ended(store, ["true", *words])  # type: ignore[list-item] # bytes are fine

    shown = r"true 'x\x1b[31m\n\xff' '☃'"
    assert cli("list").out.splitlines()[1].endswith(shown)
    assert shown in cli("status", job.id).out
    [view] = json.loads(cli("list", "--json").out)
    assert [os.fsencode(word) for word in view["argv"][1:]] == [words[0], "☃".encode()]
    assert cli("list", env={"PYTHONIOENCODING": "ascii"}).code == 0


def test_table_on_a_terminal_fits_it(cli: Cli, store: WatchedStore) -> None:
    job = ended(store, ["true", "x" * 200, "[bold]"], name="wide")
    ours, theirs = pty.openpty()
    environment = {**cli.environment, "COLUMNS": "80", "TERM": "xterm"}
    child = subprocess.Popen([*JOBSUP, "list"], env=environment, stdout=theirs)
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        text = read_until(terminal, "…".encode())

    assert child.wait(TIMEOUT) == 0
    assert job.id[-6:].encode() in text
    assert b"\x1b[32msucceeded" in text
    assert len(text.splitlines()) == 2


def test_status_tells_people(cli: Cli, store: WatchedStore, gate: Gate) -> None:
    job = store.start(says("four", gate), name="web", timeout=90, labels={"k": "v"})
    gate.wait()

    rows = dict(line.split("  ", 1) for line in cli("status", "web").out.splitlines())
    told = {key.strip(): value.strip() for key, value in rows.items()}

    record = job.status()
    assert record.command
    assert told["job"] == job.id
    assert (told["name"], told["state"], told["labels"]) == ("web", "running", "k=v")
    assert (told["time limit"], told["stop plan"]) == ("1m 30s", "TERM 10, KILL")
    assert (told["pid"], told["processes"]) == (str(record.command.pid), "1")
    assert told["output"] == "4 B"
    assert "exit" not in told


JOB_KEYS = """
    id error name argv cwd env_names clean_env stdin stderr timeout_seconds stop grace_seconds
    lifetime leftovers output_limit_bytes on_output_limit labels state outcome reason exit_code
    signal signal_name stop_cause created_at started_at ended_at duration_seconds pid monitor_pid
    output_bytes output_lost_bytes cpu_seconds peak_rss_bytes proved survivors adoptions note
"""


@pytest.mark.parametrize(
    "words",
    [
        "start --json true",
        "list --json",
        "status --json done",
        "status --json run",
        "wait --json done",
        "cancel --json done run",
        "cancel --json --no-wait run",
        "signal --json CONT run",
        "pause --json run",
        "resume --json run",
    ],
)
def test_json_of_jobs(cli: Cli, store: WatchedStore, words: str) -> None:
    ended(store, ["true"], name="done")
    store.start(sleeper(), name="run")

    document = json.loads(cli(*words.split()).out)

    jobs = [document] if words.startswith("start") else document
    assert jobs
    for job in jobs:
        live = ["processes", "rss_bytes"] if words == "status --json run" else []
        assert list(job) == [*JOB_KEYS.split(), *live]
        assert datetime.fromisoformat(job["created_at"]).utcoffset() is not None


# -- logs ----------------------------------------------------------------------


LINES = b"one\ntwo\xff\nthree"


@pytest.mark.parametrize(
    ("words", "data"),
    [
        ([], LINES),
        (["-f"], LINES),
        (["-n", "2"], b"two\xff\nthree"),
        (["-n", "1"], b"three"),
        (["-n", "9"], LINES),
        (["-n", "0"], b""),
        (["-n", "1", "-f"], b"three"),
    ],
)
def test_logs_are_the_bytes_written(
    cli: Cli, store: WatchedStore, words: list[str], data: bytes
) -> None:
    job = ended(store, says(LINES))
    done = cli("logs", *words, job.id)
    assert (done.raw, done.err, done.code) == (data, "", 0)


def test_logs_of_a_running_job_end_unless_followed(
    cli: Cli, store: WatchedStore, gate: Gate
) -> None:
    body = """
os.write(1, b"one\\ntwo\\n")
tell(sys.argv[1])
wait_for(sys.argv[2])
os.write(1, b"three\\n")
"""
    job = store.start(python(body, gate.told, gate.opened))
    gate.wait()
    follower = cli.popen("logs", "-f", "-n", "1", job.id, stdout=PIPE)
    assert read_until(follower.stdout, b"two\n") == b"two\n"

    assert cli("logs", job.id).out == "one\ntwo\n"
    gate.open()

    assert read_until(follower.stdout, None) == b"three\n"
    assert follower.wait(TIMEOUT) == 0


def test_logs_of_a_separate_stderr(cli: Cli, store: WatchedStore) -> None:
    argv = python('os.write(1, b"out\\n"); os.write(2, b"err\\n")')
    apart = ended(store, argv, stderr="separate")
    merged = ended(store, argv)

    assert cli("logs", apart.id).out == "out\n"
    assert cli("logs", "--stderr", apart.id).out == "err\n"
    refused = cli("logs", "--stderr", merged.id)
    assert refused.code == 2
    assert "start it with --stderr separate" in refused.line()


def test_json_of_logs(cli: Cli, store: WatchedStore) -> None:
    job = ended(store, says("äb\n"))
    [line] = cli("logs", "--json", job.id).out.splitlines()
    assert json.loads(line) == {
        "stream": "output",
        "text": "äb\n",
        "next_offset_bytes": 4,
        "lost_bytes": 0,
        "was_reset": False,
    }
