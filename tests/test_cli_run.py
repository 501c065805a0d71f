"""`jobsup run`: the job's output is ours, its exit code is ours, and Ctrl-C stops it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from signal import SIGINT, SIGKILL, SIGTERM
from subprocess import PIPE

import pytest
from command_line import Cli, read_until
from commands import chatterbox, dies_of, exits_with, polite, python, says, sleeper, stubborn
from conftest import TIMEOUT, Gate, WatchedStore

from jobsup import Job, JobRecord, JobState, Outcome
from jobsup._cli_views import passed_on
from jobsup._value import evolve

GOODBYE = """
def leave(*_):
    os.write(1, b"bye\\n")
    os._exit(7)
signal.signal(signal.SIGTERM, leave)
os.write(1, b"hello\\n")
tell(sys.argv[1], os.getpid())
sleep()
"""


@pytest.fixture
def cli(store: WatchedStore) -> Iterator[Cli]:
    with closing(Cli(store.root)) as made:
        yield made


def only_job(store: WatchedStore) -> Job:
    [job] = store.list()
    return job


@pytest.mark.parametrize("code", [0, 1, 2, 77, 125, 255])
def test_exit_code_is_the_commands_own(cli: Cli, code: int) -> None:
    assert cli("run", *exits_with(code)).code == code


@pytest.mark.parametrize("signum", [SIGTERM, SIGKILL, signal.SIGRTMIN + 1])
def test_signal_is_128_and_its_number(cli: Cli, signum: int) -> None:
    done = cli("run", *dies_of(signum))

    assert done.code == 128 + signum
    assert "killed by SIG" in done.err


def test_exit_code_is_zero_for_success_only(record: JobRecord) -> None:
    ended = evolve(record, state=JobState.ENDED, exit_code=0)
    codes = {
        outcome: passed_on(evolve(ended, outcome=outcome))
        for outcome in Outcome
        if outcome is not Outcome.LOST
    }
    assert [outcome for outcome, code in codes.items() if code == 0] == [Outcome.SUCCEEDED]
    assert passed_on(evolve(ended, outcome=Outcome.LOST, exit_code=None)) == 125
    assert passed_on(evolve(ended, outcome=Outcome.TIMED_OUT, exit_code=3)) == 3


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["no-such-program"], 127, "cannot run 'no-such-program': No such file"),
        (["/no/such/program"], 127, "cannot run '/no/such/program': No such file"),
        (["/etc/passwd"], 126, "cannot run '/etc/passwd': Permission denied"),
        (["--cwd", "/no/such", "true"], 125, "cannot enter the working directory '/no/such'"),
        (["--stdin", "/no/such", "true"], 125, "cannot open '/no/such' as standard input"),
        (["--timeout", "soon", "true"], 2, "'soon' is not a duration"),
    ],
)
def test_what_cannot_run(
    cli: Cli, store: WatchedStore, words: list[str], code: int, told: str
) -> None:
    done = cli("run", *words)

    assert (done.code, done.out) == (code, "")
    assert told in done.line()
    assert store.list() == []


def test_a_store_that_cannot_be_is_125(cli: Cli) -> None:
    assert cli("--store", "/dev/null/store", "run", "true").code == 125


def test_output_is_passed_on_byte_for_byte(cli: Cli) -> None:
    data = bytes(range(256)) * 1000
    assert cli("run", "--stdin", "-", "cat", input=data).raw == data


def test_streams_are_kept_apart_on_request(cli: Cli) -> None:
    body = 'os.write(1, b"out\\n"); os.write(2, b"err\\n")'

    merged = cli("run", *python(body))
    apart = cli("run", "--stderr", "separate", *python(body))

    assert (merged.out, merged.err) == ("out\nerr\n", "")
    assert (apart.out, apart.err) == ("out\n", "err\n")


def test_output_is_shown_as_it_comes(cli: Cli, gate: Gate) -> None:
    run = cli.popen("run", *says("hello\n", gate), stdout=PIPE)

    assert read_until(run.stdout, b"hello\n")  # the command has not ended yet
    gate.open()

    assert run.wait(TIMEOUT) == 0


def test_command_arguments_survive_that_are_no_utf8(cli: Cli) -> None:
    done = cli("run", *python("os.write(1, os.fsencode(sys.argv[1]))"), b"\xff\xfe")
    assert done.raw == b"\xff\xfe"


@pytest.mark.parametrize("stop", [SIGINT, SIGTERM])
def test_interrupt_stops_by_the_plan_and_shows_the_rest(
    cli: Cli, store: WatchedStore, gate: Gate, stop: int
) -> None:
    run = cli.popen("run", *python(GOODBYE, gate.told), stdout=PIPE, stderr=PIPE)
    gate.wait()
    run.send_signal(stop)

    out, err = run.communicate(timeout=TIMEOUT)

    assert (run.returncode, out) == (7, b"hello\nbye\n")
    assert b"(TERM 10, KILL); once more kills it" in err
    assert only_job(store).status().outcome is Outcome.CANCELLED


def test_second_interrupt_kills(cli: Cli, store: WatchedStore, gate: Gate) -> None:
    run = cli.popen("run", "--grace", "1h", *stubborn(gate), stderr=PIPE)
    gate.wait()
    run.send_signal(SIGINT)
    read_until(run.stderr, b"stopping job")
    run.send_signal(SIGINT)

    assert run.wait(TIMEOUT) == 128 + SIGKILL
    assert only_job(store).status().outcome is Outcome.CANCELLED


def test_third_interrupt_leaves_a_blocked_stdout(cli: Cli, gate: Gate) -> None:
    run = cli.popen("run", *chatterbox(10_000, gate=gate), stdout=PIPE, stderr=PIPE)
    gate.wait()  # a megabyte is written, which our pipe does not hold
    for told in (b"stopping job", b"killing job"):
        run.send_signal(SIGINT)
        read_until(run.stderr, told)
    run.send_signal(SIGINT)

    assert run.wait(TIMEOUT) == 128 + SIGINT
    assert b"Traceback" not in read_until(run.stderr, None)


def test_interrupt_that_was_ignored_stays_ignored(
    cli: Cli, store: WatchedStore, gate: Gate, make_gate: Callable[[], Gate]
) -> None:
    shell = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    run = cli.popen("run", *says("", gate), before=shell)
    gate.wait()
    run.send_signal(SIGINT)
    gate.open()

    assert run.wait(TIMEOUT) == 0
    assert only_job(store).status().outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("lifetime", ["owner", "persist"])
def test_lifetime_when_run_is_killed(
    cli: Cli, store: WatchedStore, gate: Gate, lifetime: str
) -> None:
    run = cli.popen("run", "--lifetime", lifetime, *sleeper(gate))
    gate.wait()
    run.kill()
    run.wait(TIMEOUT)

    job = only_job(store)
    if lifetime == "owner":
        record = job.wait(TIMEOUT)
        assert (record.outcome, record.reason) == (Outcome.CANCELLED, "owner-died")
    else:
        assert job.status().state is JobState.RUNNING


def test_a_job_that_nobody_reads_is_stopped(cli: Cli, store: WatchedStore) -> None:
    run = cli.popen(
        "run", *python('while True: os.write(1, b"y\\n" * 9999)'), stdout=PIPE, stderr=PIPE
    )
    assert run.stdout
    assert read_until(run.stdout, b"y\n")
    run.stdout.close()

    assert run.wait(TIMEOUT) == 128 + signal.SIGPIPE
    assert read_until(run.stderr, None) == b""
    assert only_job(store).status().outcome is Outcome.CANCELLED


def test_a_job_that_did_not_end_by_itself_is_told_of(cli: Cli) -> None:
    late = cli("run", "--timeout", "0.05", *sleeper())
    quiet = cli("run", *exits_with(3))

    assert late.code == 128 + SIGTERM
    assert late.line().endswith("timed-out by SIGTERM")
    assert quiet.err == ""


def test_zero_of_a_stopped_command_is_no_success(cli: Cli, gate: Gate) -> None:
    run = cli.popen("run", *polite(0, gate))
    gate.wait()
    run.send_signal(SIGTERM)

    assert run.wait(TIMEOUT) == 1


def test_dropped_output_is_told_of(cli: Cli, gate: Gate, store: WatchedStore) -> None:
    job = store.start(chatterbox(20_000), output_limit=64 * 1024)
    job.wait(TIMEOUT)

    done = cli("logs", job.id)

    lost = job.status().output_lost_bytes
    assert lost > 0
    assert done.line() == f"jobsup: {lost} bytes of output were dropped here to keep its limit"
    assert len(done.raw) == 2_000_000 - lost


@pytest.mark.parametrize("how", ["file", "ours", "none"])
def test_stdin(cli: Cli, store: WatchedStore, how: str) -> None:
    file = store.root.with_name("input")
    file.write_bytes(b"words\xff")
    option = {"file": ["--stdin", str(file)], "ours": ["--stdin", "-"], "none": []}[how]

    done = cli("run", *option, "cat", input=b"words\xff")

    assert done.raw == (b"" if how == "none" else b"words\xff")


def test_json_is_a_line_an_event(cli: Cli) -> None:
    body = 'os.write(1, b"o\\xff"); os.write(2, b"e"); os._exit(4)'
    done = cli("run", "--json", "--stderr", "separate", *python(body))

    first, *pieces, last = (json.loads(line) for line in done.out.splitlines())

    assert done.code == 4
    assert (first["event"], first["argv"][0]) == ("started", sys.executable)
    assert {piece["stream"]: piece["text"] for piece in pieces} == {
        "output": "o\N{REPLACEMENT CHARACTER}",
        "stderr": "e",
    }
    assert {piece.get("base64") for piece in pieces} == {"b/8=", None}
    assert (last["event"], last["outcome"], last["exit_code"]) == ("ended", "failed", 4)


def test_closed_streams_do_no_harm(cli: Cli, store: WatchedStore) -> None:
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    run = cli.popen("run", *exits_with(5), before=shell)

    assert run.wait(TIMEOUT) == 5
    assert only_job(store).status().exit_code == 5
    assert os.listdir(store.root / "jobs") == [only_job(store).id]
