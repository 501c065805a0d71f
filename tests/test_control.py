"""Words between processes: requests through the FIFO, answers, orders and reports."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import TIMEOUT, eventually, raising
from hypothesis import given
from hypothesis import strategies as st

from jobsup import StopPlan
from jobsup._control import (
    LINE_LIMIT,
    VERBS,
    Answer,
    Order,
    Report,
    Request,
    RequestReader,
    Terms,
    answer,
    ask,
    open_control,
    open_for_write,
    parse_request,
    write_some,
)
from jobsup._jobdir import JobDir

REPLY = "reply.0123456789abcdef"
REQUESTS = [
    Request("stop"),
    Request("stop", StopPlan.parse("INT 5, TERM 10, KILL")),
    Request("signal", signal=10),
    Request("signal", signal=40),
    Request("pause"),
    Request("resume", reply=REPLY),
    Request("close-stdin"),
]


@pytest.mark.parametrize("asked", REQUESTS, ids=str)
def test_request_is_parsed_as_written(asked: Request) -> None:
    line = asked.to_line()
    assert line.endswith(b"\n")
    assert parse_request(line[:-1]) == asked


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_understood(verb: str) -> None:
    assert parse_request(Request(verb, signal=15).to_line()) is not None


GARBAGE = [
    b"",
    b"stop",
    b"[]",
    b"null",
    b"{}",
    b"\xff",
    b"[" * 5000,
    b'{"verb":"dance"}',
    b'{"verb":7}',
    b'{"verb":["stop"]}',
    b'{"verb":"stop","colour":"blue"}',
    b'{"verb":"stop","plan":"TERM 5"}',
    b'{"verb":"stop","plan":{"steps":[{"signal":15,"grace":5}]}}',
    b'{"verb":"stop","plan":{"steps":[{"signal":9,"grace":-5}]}}',
    b'{"verb":"signal"}',
    b'{"verb":"signal","signal":0}',
    b'{"verb":"signal","signal":-1}',
    b'{"verb":"signal","signal":32}',
    b'{"verb":"signal","signal":99}',
    b'{"verb":"signal","signal":"TERM"}',
    b'{"verb":"signal","signal":true}',
    b'{"verb":"signal","signal":15.0}',
    b'{"verb":"signal","signal":[15]}',
    b'{"verb":"signal","signal":{}}',
    b'{"verb":"stop","reply":"../../etc/passwd"}',
    b'{"verb":"stop","reply":"/etc/passwd"}',
    b'{"verb":"stop","reply":"output"}',
    b'{"verb":"stop","reply":"reply.0123456789abcdef/x"}',
    b'{"verb":"stop","reply":"reply.0123456789abcdef\\n"}',
    b'{"verb":"stop","reply":7}',
]


@pytest.mark.parametrize("line", GARBAGE, ids=lambda line: repr(line[:60]))
def test_garbage_is_no_request(line: bytes) -> None:
    assert parse_request(line) is None


@given(line=st.binary(max_size=200))
def test_no_bytes_upset_the_monitor(line: bytes) -> None:
    parse_request(line)


@given(fields=st.dictionaries(st.text(max_size=8), st.text() | st.integers() | st.none()))
def test_no_json_upsets_either_side(fields: dict[str, Any]) -> None:
    parse_request(json.dumps(fields).encode())
    Report.from_bytes(json.dumps(fields).encode())


def test_request_longer_than_one_write_is_refused() -> None:
    plan = StopPlan.parse("TERM 1, " * 500 + "KILL")
    with pytest.raises(ValueError, match="too long"):
        Request("stop", plan).to_line()


# -- the FIFO ----------------------------------------------------------------


@contextmanager
def reading(job_dir: JobDir) -> Iterator[RequestReader]:
    os.mkfifo(job_dir.control)
    reader = RequestReader(*open_control(job_dir))
    try:
        yield reader
    finally:
        _close(reader)


def _close(reader: RequestReader) -> None:
    for fd in (reader.fd, reader._own_writer):
        os.close(fd)


class Listener:
    """Plays the monitor, in a thread: acts on each request with *act*."""

    def __init__(
        self, job_dir: JobDir, reader: RequestReader, act: Callable[[Request], str | None]
    ) -> None:
        self.heard: list[Request] = []
        self.rejected: list[bytes] = []
        self._job_dir = job_dir
        self._reader = reader
        self._act = act
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(0.001):
            for request in self._reader.read(self.rejected.append):
                self.heard.append(request)
                answer(self._job_dir, request, self._act(request))

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()


@contextmanager
def listening(
    job_dir: JobDir, act: Callable[[Request], str | None] = lambda _: None
) -> Iterator[Listener]:
    with reading(job_dir) as reader:
        listener = Listener(job_dir, reader, act)
        try:
            yield listener
        finally:
            listener.stop()


def test_ask_returns_when_it_was_acted_on(job_dir: JobDir) -> None:
    acted: list[str] = []
    with listening(job_dir, lambda request: acted.append(request.verb)):
        assert ask(job_dir, Request("pause"), None) == Answer(heard=True)
        assert acted == ["pause"]
    assert os.listdir(job_dir.path) == ["control"]  # no reply FIFO is left


def test_ask_hands_back_what_is_wrong(job_dir: JobDir) -> None:
    with listening(job_dir, lambda _: "it is being stopped"):
        assert ask(job_dir, Request("pause"), None) == Answer(
            heard=True, error="it is being stopped"
        )


def test_nobody_listens(job_dir: JobDir) -> None:
    os.mkfifo(job_dir.control)
    assert ask(job_dir, Request("stop"), None) is None
    assert os.listdir(job_dir.path) == ["control"]


def test_request_that_a_dying_monitor_took_along_is_not_waited_for(job_dir: JobDir) -> None:
    """Its successor reads the FIFO already, and knows of nothing."""
    dead, end = os.pipe()
    os.close(end)
    with reading(job_dir):
        assert ask(job_dir, Request("stop"), dead) is None
    os.close(dead)


def test_no_directory_is_a_missing_file(job_dir: JobDir) -> None:
    job_dir.path.rmdir()
    with pytest.raises(FileNotFoundError):
        ask(job_dir, Request("stop"), None)


def test_listener_that_does_not_answer(job_dir: JobDir) -> None:
    with reading(job_dir) as reader:
        assert ask(job_dir, Request("stop"), None, wait=0.05) == Answer(heard=False)
        assert [request.verb for request in reader.read(raising(AssertionError()))] == ["stop"]
    assert os.listdir(job_dir.path) == ["control"]


def test_listener_that_dies_before_it_answers(job_dir: JobDir) -> None:
    os.mkfifo(job_dir.control)
    reader = RequestReader(*open_control(job_dir))

    def die_once_asked() -> None:
        eventually(lambda: reader.read(raising(AssertionError())), "a request")
        _close(reader)

    thread = threading.Thread(target=die_once_asked)
    thread.start()
    try:
        assert ask(job_dir, Request("stop"), None) is None
    finally:
        thread.join()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_disk_without_room_for_an_answer_still_takes_the_request(
    job_dir: JobDir, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with listening(job_dir) as listener:
        with monkeypatch.context() as full:
            full.setattr(os, "mkfifo", raising(OSError(number, os.strerror(number))))
            assert ask(job_dir, Request("stop"), None) == Answer(heard=False)
        eventually(lambda: listener.heard, "the request")
        assert listener.heard[0].reply is None


def test_many_clients_at_once(job_dir: JobDir) -> None:
    """A request is one write of at most PIPE_BUF bytes, so none is mixed with another."""
    plan = StopPlan.parse("TERM 1, " * 50 + "KILL")
    results: list[Answer | None] = []

    def client() -> None:
        results.extend(ask(job_dir, Request("stop", plan), None) for _ in range(10))

    with listening(job_dir) as listener:
        clients = [threading.Thread(target=client) for _ in range(8)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        assert results == [Answer(heard=True)] * 80
        assert len(listener.heard) == 80
        assert not listener.rejected


def test_garbage_is_rejected_and_the_rest_is_heard(job_dir: JobDir) -> None:
    rejected: list[bytes] = []
    with reading(job_dir) as reader, open(job_dir.control, "wb", buffering=0) as writer:
        assert reader.read(rejected.append) == []
        pause = Request("pause").to_line()
        writer.write(b"nonsense\n" + pause + pause[:10])
        assert reader.read(rejected.append) == [Request("pause")]
        writer.write(pause[10:])
        assert reader.read(rejected.append) == [Request("pause")]
        assert rejected == [b"nonsense"]

        writer.write(b"x" * (LINE_LIMIT + 1))  # a line that would grow for ever
        assert reader.read(rejected.append) == []
        writer.write(b"\n" + Request("resume").to_line())
        assert Request("resume") in reader.read(rejected.append)


def test_reader_is_not_woken_by_a_client_that_leaves(job_dir: JobDir) -> None:
    with reading(job_dir) as reader:
        with open(job_dir.control, "wb", buffering=0):
            pass
        poll = select.poll()
        poll.register(reader.fd)
        assert poll.poll(0) == []


def test_answer_to_a_client_that_left_goes_nowhere(job_dir: JobDir) -> None:
    answer(job_dir, Request("stop", reply=REPLY), None)
    os.mkfifo(job_dir.path / REPLY)
    answer(job_dir, Request("stop", reply=REPLY), None)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_answer_is_written_into_fifos_only(job_dir: JobDir, tmp_path: Path, kind: str) -> None:
    reply = job_dir.path / REPLY
    precious = tmp_path / "precious" if kind == "link" else reply
    precious.write_text("precious")
    if kind == "link":
        reply.symlink_to(precious)
    answer(job_dir, Request("stop", reply=REPLY), "error")
    assert precious.read_text() == "precious"


def test_file_in_place_of_the_fifo_is_nobody(job_dir: JobDir) -> None:
    job_dir.control.write_text("precious")
    assert open_for_write(job_dir.control) is None
    assert job_dir.control.read_text() == "precious"


# -- writing -----------------------------------------------------------------


def test_write_waits_for_room_and_no_longer_than_it_may() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while write_some(write, b"x" * 4096, deadline=0.0):
            pass
        assert write_some(write, b"x", deadline=0.0) == 0
        os.read(read, 1 << 16)
        assert write_some(write, b"x", deadline=None) == 1
    finally:
        os.close(read)
        os.close(write)


WRITE_TO_NOBODY = """
import os, signal
from jobsup._control import write_some
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
{before}
read, write = os.pipe()
os.close(read)
try:
    write_some(write, b"x", None)
except BrokenPipeError:
    print(signal.SIGPIPE in signal.pthread_sigmask(signal.SIG_BLOCK, []),
          signal.SIGPIPE in signal.sigpending())
"""
BLOCK_AND_SEND = """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
os.kill(os.getpid(), signal.SIGPIPE)
"""


@pytest.mark.parametrize(
    ("before", "after"), [("", "False False"), (BLOCK_AND_SEND, "True True")], ids=["open", "mine"]
)
def test_host_with_sigpipe_at_its_default_survives_a_dead_reader(before: str, after: str) -> None:
    """And finds its mask, and a SIGPIPE of its own that waits, as they were."""
    done = subprocess.run(
        [sys.executable, "-c", WRITE_TO_NOBODY.format(before=before)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, after), done.stderr


# -- orders and reports ------------------------------------------------------


def test_order_is_read_as_written() -> None:
    environment = {"CAF\udce9": "\udcff\n"}
    order = Order("/store", "x", "start", ("ls",), environment, 7, terms=Terms(timeout=3.0))
    assert Order.from_bytes(order.to_bytes()) == order


def test_report_is_read_as_written() -> None:
    report = Report("exec", "caf\udce9", errno.ENOENT, "No such file")
    assert Report.from_bytes(report.to_bytes()) == report
    assert Report.from_bytes(b"some noise\n" + Report().to_bytes()) == Report()


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"Traceback\nZeroDivisionError\n", b"[]", b"7", b'{"stage":', b'{"a":1}']
)
def test_noise_is_no_report(data: bytes) -> None:
    assert Report.from_bytes(data) is None


def test_real_time_signal_can_be_asked_for() -> None:
    assert parse_request(Request("signal", signal=int(signal.SIGRTMIN)).to_line()) is not None
