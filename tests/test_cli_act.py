"""`jobsup start`, `wait`, `cancel` and what else acts: words in, words and exit code out."""

from __future__ import annotations

import json
import os
import pty
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from subprocess import PIPE

import click
import pytest
from command_line import Cli, damage, ended, read_until, waits
from commands import (
    dies_of,
    exits_with,
    listener,
    polite,
    python,
    signal_names,
    sleeper,
    stubborn,
)
from conftest import TIMEOUT, Gate, WatchedStore, eventually, put
from witnesses import client, compiled

from jobsup import Job, JobState, JobStore
from jobsup._cli_options import duration, size


@pytest.fixture
def cli(store: WatchedStore) -> Iterator[Cli]:
    with closing(Cli(store.root)) as made:
        yield made


def test_start_prints_the_id(cli: Cli, store: WatchedStore) -> None:
    done = cli("start", *exits_with(3))

    [job] = store.list()
    assert (done.code, done.out, done.err) == (0, f"{job.id}\n", "")
    assert job.wait(TIMEOUT).exit_code == 3


def test_store_option_goes_before_the_environment(cli: Cli, store: WatchedStore) -> None:
    done = cli("--store", str(store.root), "start", "true", env={"JOBSUP_HOME": "/dev/null/store"})
    assert store.get(done.out.strip()).wait(TIMEOUT).exit_code == 0


@pytest.mark.parametrize("separator", [[], ["--"]])
def test_options_of_the_command_are_its_own(
    cli: Cli, store: WatchedStore, separator: list[str]
) -> None:
    argv = ["echo", "-n", "--help", "--name=x", "--", "-h"]
    done = cli("start", "--name", "ours", *separator, *argv)

    job = store.get("ours")
    assert job.id == done.out.strip()
    assert list(job.spec().argv) == argv
    job.wait(TIMEOUT)
    assert job.tail() == "--help --name=x -- -h"


def test_every_option_of_start_arrives(cli: Cli, store: WatchedStore, tmp_path: Path) -> None:
    options = """
        --name n --cwd / --env A=1 --env B=x=y --env HOME --clean-env --stdin open
        --stderr separate --timeout 2h --stop INT_5,TERM_1.5,KILL --lifetime persist
        --leftovers wait --output-limit 1M --on-output-limit kill --label k=v --label l=
    """
    words = [word.replace("_", " ") for word in options.split()]
    body = 'os.environ.pop("LC_CTYPE", ""); print(sorted(os.environ.items()), os.getcwd())'
    cli("start", *words, *python(body))  # LC_CTYPE: Python itself may set it

    job = store.get("n")
    spec = job.spec()
    job.wait(TIMEOUT)

    assert (spec.cwd, spec.env_names, spec.clean_env) == ("/", ("A", "B", "HOME"), True)
    assert (spec.stdin.value, spec.separate_stderr, spec.timeout) == ("fifo", True, 7200)
    assert (str(spec.stop), spec.lifetime.value) == ("INT 5, TERM 1.5, KILL", "persist")
    assert (spec.leftovers.value, spec.output_limit) == ("wait", 1 << 20)
    assert (spec.on_output_limit.value, spec.labels) == ("kill", {"k": "v", "l": ""})
    environment = {"A": "1", "B": "x=y", "HOME": os.environ["HOME"], "JOBSUP_JOB_ID": job.id}
    assert job.tail() == f"{sorted(environment.items())} /\n"


def test_output_may_be_unlimited(cli: Cli, store: WatchedStore) -> None:
    cli("start", "--output-limit", "none", "--name", "n", "true")
    assert store.get("n").spec().output_limit is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("5m", 300),
        ("2h", 7200),
        ("7d", 604800),
        ("1.5H", 5400),
        (".5", 0.5),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("65536", 65536),
        ("512K", 512 << 10),
        ("100M", 100 << 20),
        ("1.5g", 3 << 29),
        ("1GiB", 1 << 30),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert size(text) == count


@pytest.mark.parametrize("text", ["", "-1", "1x", "inf", "nan", "1e3", "h", "1 h 2", "0x10"])
def test_neither_duration_nor_size(text: str) -> None:
    for parse in (duration, size):
        with pytest.raises(click.BadParameter, match="is not a"):
            parse(text)


# -- wait ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ("good", 0),
        ("three", 3),
        ("nine", 137),
        ("good nine three", 137),
        ("three good nine", 3),
        ("good good", 0),
    ],
)
def test_wait_exits_as_the_first_that_failed(
    cli: Cli, store: WatchedStore, names: str, code: int
) -> None:
    cast = {"good": exits_with(0), "three": exits_with(3), "nine": dies_of(9)}
    jobs = {name: store.start(argv, name=name) for name, argv in cast.items()}

    done = cli("wait", *names.split())

    words = {"good": "succeeded", "three": "failed", "nine": "killed"}
    told = [f"{jobs[name].id} {words[name]}" for name in dict.fromkeys(names.split())]
    assert (done.code, done.out.splitlines(), done.err) == (code, told, "")


def test_wait_returns_when_the_job_ends(cli: Cli, store: WatchedStore, gate: Gate) -> None:
    job = store.start(exits_with(4, when_opened=gate))
    waiter = cli.popen("wait", job.id)
    eventually(lambda: waits(waiter.pid), "it waits for the monitor")
    gate.open()
    assert waiter.wait(TIMEOUT) == 4


def test_wait_for_any(cli: Cli, store: WatchedStore) -> None:
    store.start(sleeper(), name="slow")
    quick = store.start(exits_with(5), name="quick")

    done = cli("wait", "--any", "slow", "quick", "--timeout", "1h")

    assert (done.code, done.out, done.err) == (5, f"{quick.id} failed\n", "")


@pytest.mark.parametrize("mode", ["--any", "--all"])
def test_wait_that_takes_too_long_is_124(cli: Cli, store: WatchedStore, mode: str) -> None:
    job = store.start(sleeper())

    done = cli("wait", mode, "--timeout", "0.05", job.id)

    assert (done.code, done.out) == (124, "")
    assert done.line() == f"jobsup: not ended after 0.05 s: {job.id}"
    assert job.status().state is JobState.RUNNING


def test_wait_for_what_is_unknown_or_unreadable_is_125(cli: Cli, store: WatchedStore) -> None:
    bad = ended(store, ["true"])
    damage(bad)
    assert cli("wait", "nope").code == 125
    assert cli("wait", bad.id).code == 125


# -- cancel, signal, pause, resume, send ---------------------------------------


@pytest.mark.parametrize("command", ["cancel", "pause", "signal KILL", "wait", "status", "resume"])
def test_a_typo_in_the_last_id_leaves_the_first_untouched(
    cli: Cli, store: WatchedStore, command: str
) -> None:
    jobs = [store.start(sleeper()) for _ in range(2)]
    before = [job.status().sequence for job in jobs]

    done = cli(*command.split(), *(job.id for job in jobs), "typo")

    assert done.code == (125 if command == "wait" else 1)
    assert "no job 'typo'" in done.line()
    assert done.out == ""
    assert [job.status().sequence for job in jobs] == before


def test_cancel_waits_and_tells_each_outcome(cli: Cli, store: WatchedStore, gate: Gate) -> None:
    done_before = ended(store, exits_with(3))
    polite_one = store.start(polite(0, gate))
    gate.wait()

    done = cli("cancel", polite_one.id[-6:], done_before.id)

    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [f"{polite_one.id} cancelled", f"{done_before.id} failed"]
    assert polite_one.status().proved


@pytest.mark.parametrize(
    "words", [["--grace", "0"], ["--stop", "KILL"], ["--stop", "USR1 0, KILL"]]
)
def test_cancel_by_another_plan(
    cli: Cli, store: WatchedStore, gate: Gate, words: list[str]
) -> None:
    job = store.start(stubborn(gate, ignored=[10, 15]), grace=3600)
    gate.wait()

    assert cli("cancel", *words, job.id).code == 0
    assert job.status().signal == 9


def test_cancel_that_takes_too_long_is_124_and_goes_on(
    cli: Cli, store: WatchedStore, gate: Gate
) -> None:
    job = store.start(stubborn(gate), grace=3600)
    gate.wait()

    late = cli("cancel", "--timeout", "0.05", job.id)
    unwaited = cli("cancel", "--no-wait", job.id)

    assert (late.code, late.out) == (124, "")
    assert late.line() == f"jobsup: not ended after 0.05 s: {job.id}"
    assert (unwaited.code, unwaited.out, unwaited.err) == (0, "", "")
    assert job.status().state is JobState.STOPPING
    assert cli("cancel", "--grace", "0", job.id).out == f"{job.id} cancelled\n"


AS_NOBODY = """
import json, subprocess, sys
argv = [sys.executable, "-m", "jobsup", "--store", "store", *sys.argv[2:]]
child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
if sys.argv[1]:
    with open(sys.argv[1]) as gate:
        gate.read(1)
    child.send_signal(2)
out, err = child.communicate(timeout=40)
print(json.dumps([child.returncode, out, err]))
"""


@pytest.fixture
def unkillable(tmp_path: Path) -> Path:
    """A set-uid root program, under a name of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a set-uid program")
    program = compiled("survivor.c", tmp_path).rename(tmp_path / f"s{secrets.token_hex(5)}")
    program.chmod(0o4755)
    (tmp_path / "home").mkdir()
    return program


def expect_named(told: str, code: int, program: Path, pid: int) -> None:
    got, out, err = json.loads(told)
    assert (got, out) == (code, "")
    assert f"jobsup: cannot kill pid {pid} ({program.name}), uid 0, state S: EPERM\n" in err
    assert err.endswith("is still stopping\n")


def test_cancel_names_what_cannot_be_killed(tmp_path: Path, gate: Gate, unkillable: Path) -> None:
    home = tmp_path / "home"
    argv = ["--name", "it", "--grace", "0", unkillable, gate.told, gate.opened]
    client(AS_NOBODY, "", "start", *argv, home=home)
    [pid] = gate.pids()

    told = client(AS_NOBODY, "", "cancel", "it", home=home)
    gate.open()  # it ends by itself

    expect_named(told, 1, unkillable, pid)
    assert JobStore(home / "store").get("it").wait(TIMEOUT).state is JobState.ENDED


def test_run_names_what_cannot_be_killed(
    tmp_path: Path, make_gate: Callable[[], Gate], unkillable: Path
) -> None:
    home = tmp_path / "home"
    gate, interrupt = make_gate(), make_gate()
    argv = ["--name", "it", "--grace", "0", unkillable, gate.told, gate.opened]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(client, AS_NOBODY, interrupt.opened, "run", *argv, home=home)
        [pid] = gate.pids()
        interrupt.open()
        told = running.result()
    gate.open()  # it ends by itself

    expect_named(told, 125, unkillable, pid)
    assert JobStore(home / "store").get("it").wait(TIMEOUT).state is JobState.ENDED


def wrote_more(job: Job, before: int) -> bool:
    return job.status().output_bytes > before


def test_signal_reaches_the_command(cli: Cli, store: WatchedStore, gate: Gate) -> None:
    job = store.start(listener(gate, [10, 12]))
    gate.wait()

    for word in ("USR1", "sigusr2", "10"):
        before = job.status().output_bytes
        done = cli("signal", word, job.id)
        assert (done.code, done.out, done.err) == (0, "", "")
        eventually(partial(wrote_more, job, before), "it was heard")

    assert [signal.name for signal in signal_names(job.tail())] == ["SIGUSR1", "SIGUSR2", "SIGUSR1"]
    assert cli("signal", "NOPE", job.id).code == 2


def test_pause_and_resume(cli: Cli, store: WatchedStore) -> None:
    job = store.start(sleeper())

    assert cli("pause", job.id).code == 0
    assert job.status().state is JobState.PAUSED
    assert cli("resume", job.id).code == 0
    assert job.status().state is JobState.RUNNING


def test_one_that_has_ended_does_not_spare_the_others(cli: Cli, store: WatchedStore) -> None:
    over = ended(store, ["true"])
    job = store.start(sleeper())

    done = cli("pause", over.id, job.id)

    assert done.code == 1
    assert over.id in done.line()
    assert job.status().state is JobState.PAUSED


def test_send_writes_lines_bytes_and_the_end(cli: Cli, store: WatchedStore) -> None:
    cli("start", "--name", "cat", "--stdin", "open", "cat")

    assert cli("send", "cat", "a line").code == 0
    assert cli("send", "cat", "-N", "no newline,").code == 0
    assert cli("send", "cat", "-", input=b"\xff\n").code == 0
    last = cli("send", "--json", "cat", "--", "-N")
    assert json.loads(last.out)["sent_bytes"] == 3
    assert cli("send", "--close", "cat").code == 0

    assert cli("wait", "cat").code == 0
    assert cli("logs", "cat").raw == b"a line\nno newline,\xff\n-N\n"
    assert "it has ended" in cli("send", "cat", "more").line()


def test_send_needs_an_open_stdin(cli: Cli, store: WatchedStore) -> None:
    job = store.start(sleeper())
    done = cli("send", job.id, "text")
    assert done.code == 1
    assert "no open standard input" in done.line()


def test_terminal_is_shown_how_far_a_prune_is(cli: Cli, store: WatchedStore) -> None:
    put(store, "01m8263e42xq9v480e3fqrptp5")
    ours, theirs = pty.openpty()
    child = cli.popen("prune", "--keep", "0", stdout=PIPE, stderr=theirs)
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        text = read_until(terminal, b"\x1b[K")
        assert child.wait(TIMEOUT) == 0
        assert text == b"\rpruning 1 of 1 jobs, 100 %\r\x1b[K"
        assert cli.popen("prune", "--json", stdout=PIPE, stderr=theirs).wait(TIMEOUT) == 0
        os.set_blocking(ours, False)
        assert terminal.read() is None
    os.close(theirs)
    assert cli("prune", "--keep", "0").err == ""
