"""Standard input: nothing, bytes, a file, or open for anybody to write."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest
from commands import exits_with, python, sleeper
from conftest import TIMEOUT, Gate, WatchedStore, eventually, host, kill_and_wait, run_host

from jobsup import JobEndedError, JobState, JobsupError, Outcome, WaitTimeoutError


def _output(store: WatchedStore, **options: object) -> bytes:
    """What cat(1) makes of it."""
    job = store.start(["cat"], **options)
    assert job.wait(timeout=TIMEOUT).outcome is Outcome.SUCCEEDED
    return b"".join(chunk.data for chunk in job.follow_chunks())


# -- given at the start ------------------------------------------------------


@pytest.mark.parametrize("nothing", [None, subprocess.DEVNULL, b""])
def test_nothing_is_end_of_file(store: WatchedStore, nothing: int | bytes | None) -> None:
    assert _output(store, stdin=nothing) == b""


@pytest.mark.parametrize("data", [b"one\ntwo", bytes(range(256)), b"x" * 3_000_000])
def test_bytes_are_read_as_given(store: WatchedStore, data: bytes) -> None:
    assert _output(store, stdin=data) == data
    # No file of it is left.
    assert sorted(os.listdir(store.root)) == ["active", "events", "index", "jobs"]


def test_path_is_read(store: WatchedStore, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"from a file")
    assert _output(store, stdin=tmp_path / "input") == b"from a file"


def test_open_file_is_read_from_where_it_is(store: WatchedStore, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"one two")
    with open(tmp_path / "input", "rb", buffering=0) as file:
        file.seek(4)
        assert _output(store, stdin=file) == b"two"
    with open(tmp_path / "input") as text:
        assert _output(store, stdin=text) == b"one two"


def test_open_pipe_is_read(store: WatchedStore) -> None:
    read, write = os.pipe()
    with open(read, "rb") as reader:
        job = store.start(["cat"], stdin=reader)
    with open(write, "wb") as writer:  # the only writer: its end is the command's end
        writer.write(b"through a pipe")
    job.wait(timeout=TIMEOUT)
    assert job.tail() == "through a pipe"


def test_standard_input_of_the_starter_is_read(store: WatchedStore) -> None:
    body = "store.start(['cat'], stdin=sys.stdin).wait(timeout=30)"
    with subprocess.Popen(
        host(store, body), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as starter:
        starter.communicate(b"typed", timeout=60)
    (job,) = store.list()
    assert job.tail() == "typed"


# -- left open ---------------------------------------------------------------


def test_anybody_writes_and_closes(store: WatchedStore) -> None:
    job = store.start(["cat"], stdin=subprocess.PIPE, name="cat")
    job.write("first ")
    run_host(store, "store.get('cat').write(b'second ')")
    job.write("thïrd")
    run_host(store, "store.get('cat').close_stdin()")
    record = job.wait(timeout=TIMEOUT)
    assert record.outcome is Outcome.SUCCEEDED
    assert job.tail() == "first second thïrd"


def test_input_stays_open_when_a_writer_leaves(store: WatchedStore) -> None:
    job = store.start(["cat"], stdin=subprocess.PIPE)
    job.write("one\n")
    eventually(lambda: job.tail() == "one\n", "what was written")
    assert job.status().state is JobState.RUNNING
    job.write("two\n")
    eventually(lambda: job.tail() == "one\ntwo\n", "what was written next")
    job.close_stdin()
    job.wait(timeout=TIMEOUT)


def test_close_is_end_of_file_at_once(store: WatchedStore) -> None:
    job = store.start(["cat"], stdin=subprocess.PIPE)
    job.close_stdin()
    assert job.wait(timeout=TIMEOUT).outcome is Outcome.SUCCEEDED


def test_second_close_does_nothing(store: WatchedStore, gate: Gate) -> None:
    job = store.start(exits_with(0, gate), stdin=subprocess.PIPE)
    job.close_stdin()
    job.close_stdin()
    assert job.status().state is JobState.RUNNING


def test_write_after_close_is_refused(store: WatchedStore, gate: Gate) -> None:
    job = store.start(exits_with(0, gate), stdin=subprocess.PIPE)
    job.close_stdin()
    with pytest.raises(JobEndedError, match="standard input is closed"):
        job.write("late")


@pytest.mark.parametrize("verb", ["write", "close_stdin"])
def test_input_of_an_ended_job_is_refused(store: WatchedStore, verb: str) -> None:
    job = store.start(["true"], stdin=subprocess.PIPE)
    job.wait(timeout=TIMEOUT)
    with pytest.raises(JobEndedError, match="it has ended"):
        job.write("late") if verb == "write" else job.close_stdin()


def test_command_that_closed_its_input(store: WatchedStore, gate: Gate) -> None:
    body = "os.close(0); tell(sys.argv[1]); sleep()"
    job = store.start(python(body, gate.told), stdin=subprocess.PIPE)
    gate.wait()
    with pytest.raises(JobEndedError, match=r"nobody reads|closed"):
        job.write("x")


@pytest.mark.parametrize("verb", ["write", "close_stdin"])
def test_job_without_an_open_input(store: WatchedStore, gate: Gate, verb: str) -> None:
    job = store.start(sleeper(gate))
    with pytest.raises(JobsupError, match=r"stdin=subprocess\.PIPE"):
        job.write("x") if verb == "write" else job.close_stdin()


def test_long_write_waits_for_the_reader(store: WatchedStore, gate: Gate) -> None:
    """More than the pipe holds; the command begins to read late."""
    body = """
wait_for(sys.argv[1])
count = 0
while data := os.read(0, 1 << 16):
    count += len(data)
print(count)
"""
    job = store.start(python(body, gate.opened), stdin=subprocess.PIPE)
    data = b"x" * 1_000_000
    writer = threading.Thread(target=job.write, args=(data,))
    writer.start()
    gate.open()
    writer.join(TIMEOUT)
    job.close_stdin()
    job.wait(timeout=TIMEOUT)
    assert job.tail() == "1000000\n"


def test_write_gives_up_when_nobody_reads(store: WatchedStore, gate: Gate) -> None:
    job = store.start(sleeper(gate), stdin=subprocess.PIPE)
    with pytest.raises(WaitTimeoutError):
        job.write(b"x" * 1_000_000, timeout=0.1)


def test_write_ends_when_the_reader_does(store: WatchedStore, gate: Gate) -> None:
    job = store.start(sleeper(gate), stdin=subprocess.PIPE)
    gate.wait()
    errors: list[JobEndedError] = []

    def write() -> None:
        try:
            job.write(b"x" * 1_000_000)
        except JobEndedError as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    job.cancel(grace=0)
    writer.join(TIMEOUT)
    assert len(errors) == 1


def test_lines_of_many_writers_do_not_mix(store: WatchedStore) -> None:
    """Up to PIPE_BUF bytes go as one."""
    job = store.start(["cat"], stdin=subprocess.PIPE)

    def write(letter: str) -> None:
        for _ in range(100):
            job.write(letter * 999 + "\n")

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    job.close_stdin()
    job.wait(timeout=TIMEOUT)
    lines = b"".join(chunk.data for chunk in job.follow_chunks()).decode().splitlines()
    assert sorted(lines) == sorted(letter * 999 for letter in "abcd" for _ in range(100))


def test_empty_write_writes_nothing(store: WatchedStore) -> None:
    job = store.start(["cat"], stdin=subprocess.PIPE)
    job.write(b"")
    job.close_stdin()
    job.wait(timeout=TIMEOUT)
    assert job.tail() == ""


@pytest.mark.usefixtures("no_launcher")
def test_adopter_keeps_the_input_open(store: WatchedStore) -> None:
    """For a command that reads on; what it had read to the end stays read."""
    body = """
text = b""
while b"end" not in text:
    text += os.read(0, 100)  # empty between the monitors: nobody held the other end
    time.sleep(0.01)
os.write(1, text)
"""
    job = store.start(python(body), stdin=subprocess.PIPE)
    job.write("one ")
    kill_and_wait(job.status().monitor)
    assert job.status().adoptions == 1
    job.write("two ")
    job.write("end")
    assert job.wait(timeout=TIMEOUT).exit_code == 0
    assert job.tail() == "one two end"
    assert job.status().state is JobState.ENDED
