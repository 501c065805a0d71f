"""Reading what a job wrote, while it writes and after, and keeping it within its limit."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import chatterbox, python, says
from conftest import PROVES, TIMEOUT, Gate, WatchedStore, eventually, raising
from hypothesis import given
from hypothesis import strategies as st

from jobsup import Job, Outcome, StopCause
from jobsup._output import TAIL_BYTES, OutputChunk, decode, read_chunk, tail_chunk
from jobsup._outputcap import HEAD_BYTES, OutputCap
from jobsup._platform import punch_hole

BLOCK = 4096
MIB = 1 << 20


def yes() -> bool:
    return True


def no() -> bool:
    return False


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def holed(file: Path) -> Path:
    """Ten blocks of digits, of which 2, 3 and 7 are gone."""
    file.write_bytes(b"".join(str(number).encode() * BLOCK for number in range(10)))
    with open(file, "r+b") as opened:
        punch_hole(opened.fileno(), 2 * BLOCK, 2 * BLOCK)
        punch_hole(opened.fileno(), 7 * BLOCK, BLOCK)
    return file


def chunks_of(path: Path, limit: int, cursor: int = 0) -> list[OutputChunk]:
    """All there is to read, by cursor."""
    found = []
    while True:
        found.append(read_chunk(path, cursor, limit, yes))
        cursor = found[-1].cursor
        if found[-1].eof:
            return found


def tail(path: Path, lines: int, max_bytes: int = TAIL_BYTES) -> bytes:
    return tail_chunk(path, lines, yes, max_bytes).data


# -- by cursor ---------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 7, 100, 1 << 16])
def test_cursor_leads_through_all_of_it(file: Path, limit: int) -> None:
    file.write_bytes(bytes(range(256)) * 2)
    chunks = chunks_of(file, limit)
    assert b"".join(chunk.data for chunk in chunks) == bytes(range(256)) * 2
    assert [chunk.eof for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_end_of_what_is_there_is_not_the_end_of_the_job(file: Path) -> None:
    file.write_bytes(b"one")
    assert read_chunk(file, 0, 10, no) == OutputChunk(b"one", 3)
    assert read_chunk(file, 3, 10, no) == OutputChunk(b"", 3)
    assert read_chunk(file, 3, 10, yes) == OutputChunk(b"", 3, eof=True)


def test_what_is_written_between_the_two_looks_is_not_missed(file: Path) -> None:
    """Whether the job ended is asked first: what it wrote before it did is then all there."""
    file.write_bytes(b"one")

    def has_ended() -> bool:
        file.write_bytes(b"one, two")
        return True

    assert read_chunk(file, 0, 10, has_ended) == OutputChunk(b"one, two", 8, eof=True)


@pytest.mark.parametrize(("cursor", "limit"), [(-1, 10), (0, 0), (0, -1)])
def test_bad_cursor_and_limit_are_refused(file: Path, cursor: int, limit: int) -> None:
    file.touch()
    with pytest.raises(ValueError, match=f"not {cursor} and {limit}"):
        read_chunk(file, cursor, limit, yes)


def test_nuls_that_the_command_wrote_are_output(file: Path) -> None:
    file.write_bytes(b"\0" * 10)
    assert read_chunk(file, 0, 100, yes) == OutputChunk(b"\0" * 10, 10, eof=True)


@pytest.mark.parametrize("limit", [1000, BLOCK, 3 * BLOCK, 1 << 20])
def test_hole_is_bytes_lost_and_never_nuls(holed: Path, limit: int) -> None:
    chunks = chunks_of(holed, limit)
    read = b"".join(chunk.data for chunk in chunks)
    assert read == b"".join(str(number).encode() * BLOCK for number in (0, 1, 4, 5, 6, 8, 9))
    assert [chunk.lost_bytes for chunk in chunks if chunk.lost_bytes] == [2 * BLOCK, BLOCK]
    for chunk in chunks:  # the cursor stays the offset in the file
        begin = chunk.cursor - len(chunk.data)
        assert chunk.data[:1] == str(begin // BLOCK).encode()


def test_cursor_within_a_hole_loses_the_rest_of_it(holed: Path) -> None:
    chunk = read_chunk(holed, 3 * BLOCK - 10, 5, yes)
    assert chunk == OutputChunk(b"44444", 4 * BLOCK + 5, lost_bytes=BLOCK + 10)


def test_hole_up_to_the_end(file: Path) -> None:
    file.write_bytes(b"x" * BLOCK * 2)
    with open(file, "r+b") as opened:
        punch_hole(opened.fileno(), BLOCK, BLOCK)
    assert [(chunk.lost_bytes, chunk.eof) for chunk in chunks_of(file, 1 << 20)] == [
        (0, False),
        (BLOCK, True),
    ]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("first", "blocks"), [(0, 2), (2, 1), (0, 4), (1, 3)])
def test_hole_made_while_we_read_is_no_nuls(
    file: Path, monkeypatch: pytest.MonkeyPatch, when: str, first: int, blocks: int
) -> None:
    """The monitor trims between our look for holes and our read, or right after it."""
    whole = b"".join(str(number).encode() * BLOCK for number in range(4))
    file.write_bytes(whole)
    pread = os.pread
    writer = os.open(file, os.O_RDWR)
    holes = [(first * BLOCK, blocks * BLOCK)]

    def trimmed(fd: int, count: int, offset: int) -> bytes:
        data = pread(fd, count, offset) if when == "after" else b""
        while holes:
            punch_hole(writer, *holes.pop())
        return data or pread(fd, count, offset)

    with monkeypatch.context() as racing:
        racing.setattr(os, "pread", trimmed)
        chunks = chunks_of(file, 1 << 20)
    os.close(writer)
    for chunk in chunks:
        begin = chunk.cursor - len(chunk.data)
        assert chunk.data == whole[begin : chunk.cursor]
    assert sum(chunk.lost_bytes + len(chunk.data) for chunk in chunks) == len(whole)
    assert sum(chunk.lost_bytes for chunk in chunks) == blocks * BLOCK


def test_shorter_file_is_a_reset(file: Path) -> None:
    file.write_bytes(b"new")
    chunk = read_chunk(file, 10, 100, yes)
    assert chunk == OutputChunk(b"new", 3, was_reset=True, eof=True)


def test_link_is_not_followed(file: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    file.symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        read_chunk(file, 0, 10, yes)
    with pytest.raises(OSError, match="symbolic links"):
        tail(file, 1)


# -- from the end ------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "lines", "expected"),
    [
        (b"", 5, b""),
        (b"one\ntwo\nthree\n", 2, b"two\nthree\n"),
        (b"one\ntwo\nthree", 2, b"two\nthree"),
        (b"one\ntwo\n", 2, b"one\ntwo\n"),
        (b"one\ntwo\n", 9, b"one\ntwo\n"),
        (b"one\n\n\n", 2, b"\n\n"),
        (b"\n", 1, b"\n"),
        (b"one\ntwo\n", 0, b""),
        (b"one", 0, b""),
    ],
)
def test_tail_is_the_last_lines(file: Path, text: bytes, lines: int, expected: bytes) -> None:
    file.write_bytes(text)
    assert tail(file, lines) == expected


def test_tail_says_where_to_read_on(file: Path) -> None:
    file.write_bytes(b"one\ntwo\n")
    assert tail_chunk(file, 1, no) == OutputChunk(b"two\n", 8)
    assert tail_chunk(file, 1, yes).eof
    assert tail_chunk(file, 0, no) == OutputChunk(b"", 8)


def test_negative_tail_is_refused(file: Path) -> None:
    file.touch()
    with pytest.raises(ValueError, match="not -1"):
        tail(file, -1)


@given(
    data=st.binary(max_size=300).map(lambda data: data.replace(b"7", b"\n")),
    lines=st.integers(0, 9),
)
def test_tail_is_what_splitting_the_whole_gives(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, lines: int
) -> None:
    path = tmp_path_factory.mktemp("tail") / "output"
    path.write_bytes(data)
    whole = data.split(b"\n")
    last = [line + b"\n" for line in whole[:-1]] + ([whole[-1]] if whole[-1] else [])
    assert tail(path, lines) == b"".join(last[len(last) - min(lines, len(last)) :])


def test_tail_goes_back_over_many_blocks(file: Path) -> None:
    text = b"".join(b"%d\n" % number for number in range(100_000))
    file.write_bytes(text)
    assert tail(file, 50_000) == text[text.index(b"\n50000\n") + 1 :]


def test_huge_single_line_is_cut_at_the_limit(file: Path) -> None:
    file.write_bytes(b"a" + b"x" * (3 * MIB))
    assert tail(file, 5) == b"x" * TAIL_BYTES


def test_tail_has_no_nuls_of_a_hole(holed: Path) -> None:
    assert tail(holed, 1) == b"8" * BLOCK + b"9" * BLOCK


def test_tail_of_a_hole_is_empty(file: Path) -> None:
    file.write_bytes(b"x" * BLOCK)
    with open(file, "r+b") as opened:
        punch_hole(opened.fileno(), 0, BLOCK)
    assert tail(file, 1) == b""


# -- as text -----------------------------------------------------------------


def text_of(pieces: list[bytes]) -> str:
    return "".join(decode(OutputChunk(piece, 0) for piece in pieces))


@given(text=st.text(), size=st.integers(1, 5))
def test_character_cut_in_two_is_put_together(text: str, size: int) -> None:
    data = text.encode()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert text_of(pieces) == text


@given(data=st.binary(), size=st.integers(1, 5))
def test_invalid_bytes_are_replaced(data: bytes, size: int) -> None:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert text_of(pieces) == data.decode("utf-8", "replace")


def test_gap_is_named_and_does_not_join_characters() -> None:
    chunks = [
        OutputChunk("né".encode()[:2], 2),
        OutputChunk("né".encode()[2:], 9, lost_bytes=7),
        OutputChunk(b"again", 5, was_reset=True),
    ]
    assert "".join(decode(iter(chunks))) == (
        "n\ufffd\n[jobsup: 7 bytes lost]\n\ufffd\n[jobsup: output was truncated]\nagain"
    )


# -- of jobs -----------------------------------------------------------------


def test_output_of_a_running_and_of_an_ended_job(store: WatchedStore, gate: Gate) -> None:
    job = store.start(says("one\ntwo\n", gate))
    gate.wait()
    assert job.tail(1) == "two\n"
    assert job.read() == OutputChunk(b"one\ntwo\n", 8)
    assert job.status().output_bytes == 8
    gate.open()
    record = job.wait(timeout=TIMEOUT)
    assert record.output_bytes == 8
    assert job.tail() == "one\ntwo\n"
    assert job.read(8) == OutputChunk(b"", 8, eof=True)


def test_both_streams_in_order(store: WatchedStore) -> None:
    job = store.start(["sh", "-c", "echo one; echo two >&2; echo three"])
    job.wait(timeout=TIMEOUT)
    assert job.tail() == "one\ntwo\nthree\n"
    with pytest.raises(ValueError, match="separate"):
        job.tail(stream="stderr")


def test_separate_stderr(store: WatchedStore) -> None:
    job = store.start(["sh", "-c", "echo out; echo error >&2"], stderr="separate")
    record = job.wait(timeout=TIMEOUT)
    assert (job.tail(), job.tail(stream="stderr")) == ("out\n", "error\n")
    assert job.read(stream="stderr").data == b"error\n"
    assert "".join(job.follow(stream="stderr")) == "error\n"
    assert record.output_bytes == 10


def test_unknown_stream_is_refused(store: WatchedStore) -> None:
    job = store.start(["true"])
    with pytest.raises(ValueError, match="'output' or 'stderr', not 'meta'"):
        job.read(stream="meta")  # type: ignore[arg-type]


def test_bytes_are_what_was_written(store: WatchedStore) -> None:
    data = bytes(range(256)) * 3
    job = store.start(says(data))
    job.wait(timeout=TIMEOUT)
    assert b"".join(chunk.data for chunk in job.follow_chunks()) == data
    assert job.tail(1) == data[data.rindex(b"\n") + 1 :].decode("utf-8", "replace")


def test_character_cut_by_a_read_is_whole_in_follow(store: WatchedStore) -> None:
    text = "é" * 100_000  # no read of 65536 bytes from an odd offset ends between two
    job = store.start(python("os.write(1, b'x'); os.write(1, 'é'.encode() * 100_000)"))
    job.wait(timeout=TIMEOUT)
    assert "".join(job.follow()) == "x" + text


def test_follow_sees_what_comes_and_ends_with_the_job(store: WatchedStore, gate: Gate) -> None:
    job = store.start(
        python(
            "os.write(1, b'one '); tell(sys.argv[1]); wait_for(sys.argv[2]); os.write(1, b'two')",
            gate.told,
            gate.opened,
        )
    )
    gate.wait()
    pieces = job.follow()
    assert next(pieces) == "one "
    gate.open()
    assert "".join(pieces) == "two"
    assert job.wait(timeout=0).outcome is Outcome.SUCCEEDED


def test_follow_from_a_cursor(store: WatchedStore) -> None:
    job = store.start(says("one two"))
    job.wait(timeout=TIMEOUT)
    assert list(job.follow(4)) == ["two"]
    assert list(job.follow(7)) == []


def test_two_follow_the_same_job(store: WatchedStore, gate: Gate) -> None:
    job = store.start(chatterbox(5000, gate=gate))
    gate.wait()
    seen: list[str] = []
    threads = [
        threading.Thread(target=lambda: seen.append("".join(Job(job.id, job.root).follow())))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join(TIMEOUT)
    assert [len(text) for text in seen] == [500_000] * 2


def test_truncation_by_the_command_is_a_reset(store: WatchedStore, gate: Gate) -> None:
    body = """
os.write(1, b"a long line of output")
tell(sys.argv[1])
wait_for(sys.argv[2])
os.ftruncate(1, 0)
os.write(1, b"short")
tell(sys.argv[1])
"""
    job = store.start(python(body, gate.told, gate.opened))
    gate.wait()
    cursor = job.read().cursor
    assert cursor == 21
    gate.open()
    gate.wait()
    chunk = job.read(cursor)
    assert (chunk.data, chunk.cursor, chunk.was_reset) == (b"short", 5, True)


def test_tail_of_a_huge_line(store: WatchedStore) -> None:
    job = store.start(python("os.write(1, b'x' * (3 << 20)); os.write(1, b'end')"))
    job.wait(timeout=TIMEOUT)
    assert job.tail(1) == ("x" * MIB + "end")[-MIB:]
    assert job.tail(0) == ""


# -- the limit ---------------------------------------------------------------

LIMIT = 1 * MIB
LINES, WIDTH = 200_000, 100  # 20 MB


def pattern(lines: int = LINES, width: int = WIDTH) -> bytes:
    """What a `chatterbox` writes."""
    return b"".join((b"%d " % n).ljust(width - 1, b".") + b"\n" for n in range(lines))


@pytest.fixture
def chatter(store: WatchedStore) -> Job:
    """An ended job whose output outgrew its limit twenty times."""
    job = store.start(chatterbox(LINES, WIDTH), output_limit=LIMIT)
    job.wait(timeout=60)
    return job


def test_trimmed_output_keeps_head_newest_rest_and_cursors(chatter: Job) -> None:
    whole = pattern()
    record = chatter.status()
    assert record.outcome is Outcome.SUCCEEDED
    assert record.output_bytes == len(whole)
    assert record.note is None

    chunks = list(chatter.follow_chunks())
    for chunk in chunks:
        assert chunk.data == whole[chunk.cursor - len(chunk.data) : chunk.cursor]
    lost = [chunk for chunk in chunks if chunk.lost_bytes]
    assert len(lost) == 1
    assert lost[0].lost_bytes == record.output_lost_bytes
    kept = sum(len(chunk.data) for chunk in chunks)
    assert kept + record.output_lost_bytes == len(whole)

    head = lost[0].cursor - len(lost[0].data) - lost[0].lost_bytes
    assert head >= LIMIT // 4
    assert chunks[-1].cursor == len(whole)
    slack = 3 * BLOCK
    assert LIMIT - slack <= kept <= LIMIT + slack
    assert chatter.dir.output.stat().st_blocks * 512 <= LIMIT + slack
    assert chatter.tail(2) == whole[-2 * WIDTH :].decode()
    assert f"[jobsup: {record.output_lost_bytes} bytes lost]" in "".join(chatter.follow())


def test_disk_use_is_bounded_while_it_is_written(store: WatchedStore, gate: Gate) -> None:
    job = store.start(chatterbox(LINES, WIDTH, gate), output_limit=LIMIT)
    gate.wait()
    eventually(
        lambda: job.dir.output.stat().st_blocks * 512 <= LIMIT + 3 * BLOCK,
        "the output of a silent job trimmed to its limit",
    )
    assert job.status().output_bytes == LINES * WIDTH


def test_two_streams_share_the_limit(store: WatchedStore) -> None:
    body = "os.write(1, b'x' * (2 << 20)); os.write(2, b'y' * (2 << 20))"
    job = store.start(python(body), stderr="separate", output_limit=LIMIT)
    record = job.wait(timeout=TIMEOUT)
    used = sum(file.stat().st_blocks * 512 for file in (job.dir.output, job.dir.stderr))
    assert used <= LIMIT + 6 * BLOCK
    assert record.output_bytes == 4 * MIB
    assert job.tail(1)[-1:] == "x"
    assert job.tail(1, stream="stderr")[-1:] == "y"


def test_no_limit_keeps_all(store: WatchedStore) -> None:
    job = store.start(chatterbox(20_000), output_limit=None)
    record = job.wait(timeout=TIMEOUT)
    assert (record.output_bytes, record.output_lost_bytes) == (2_000_000, 0)
    assert b"".join(chunk.data for chunk in job.follow_chunks()) == pattern(20_000)


def test_limit_can_end_the_job_instead(store: WatchedStore, gate: Gate) -> None:
    job = store.start(
        chatterbox(LINES, WIDTH, gate), output_limit=LIMIT, on_output_limit="kill", grace=0
    )
    record = job.wait(timeout=TIMEOUT)
    assert record.outcome is Outcome.KILLED
    assert (record.stop_cause, record.reason) == (StopCause.OUTPUT_LIMIT, "output-limit")


def test_job_within_its_limit_is_not_ended(store: WatchedStore) -> None:
    job = store.start(chatterbox(1000), output_limit=LIMIT, on_output_limit="kill")
    assert job.wait(timeout=TIMEOUT).outcome is Outcome.SUCCEEDED


# -- the cap by itself -------------------------------------------------------


@pytest.fixture
def make_cap(file: Path) -> Iterator[Callable[[int], OutputCap]]:
    caps: list[OutputCap] = []

    def make(limit: int) -> OutputCap:
        caps.append(OutputCap(file, limit, now=0.0))
        return caps[-1]

    yield make
    for cap in caps:
        os.close(cap._fd)


def grow(file: Path, size: int) -> None:
    with open(file, "ab") as opened:
        opened.write(b"x" * size)


def test_cap_keeps_the_first_mebibyte_where_it_may(
    file: Path, make_cap: Callable[[int], OutputCap]
) -> None:
    file.touch()
    cap = make_cap(8 * MIB)
    grow(file, 9 * MIB)
    assert cap.tick(1.0) == 9 * MIB
    assert cap.lost_bytes == MIB
    chunks = chunks_of(file, 1 << 30)
    assert chunks[0].cursor == HEAD_BYTES == MIB
    assert chunks[1].lost_bytes == MIB


def test_cap_ticks_faster_while_the_file_races(
    file: Path, make_cap: Callable[[int], OutputCap]
) -> None:
    file.touch()
    cap = make_cap(8 * MIB)
    now, pauses = 0.0, []
    for _ in range(12):
        now = cap.next_at
        cap.tick(now)
        pauses.append(round(cap.next_at - now, 6))
    assert pauses == sorted(pauses)
    assert pauses[-1] == 5.0  # silent: seconds
    grow(file, 7 * MIB)
    cap.tick(now + 0.1)
    assert cap.next_at - (now + 0.1) < 0.05  # racing: before the room left is full


def test_file_system_without_holes_is_told_and_nothing_is_lost(
    file: Path, make_cap: Callable[[int], OutputCap], monkeypatch: pytest.MonkeyPatch
) -> None:
    file.touch()
    cap = make_cap(MIB)
    refused = OSError(errno.EOPNOTSUPP, "Operation not supported")
    monkeypatch.setattr("jobsup._outputcap.punch_hole", raising(refused))
    grow(file, 2 * MIB)
    assert cap.tick(1.0) == 2 * MIB
    assert cap.lost_bytes == 0
    assert "cannot be trimmed" in (cap.refusal or "")
    cap.tick(2.0)
    assert len(chunks_of(file, 1 << 30)[0].data) == 2 * MIB


def test_trim_that_failed_once_is_tried_again(
    file: Path, make_cap: Callable[[int], OutputCap], monkeypatch: pytest.MonkeyPatch
) -> None:
    file.touch()
    cap = make_cap(MIB)
    grow(file, 2 * MIB)
    with monkeypatch.context() as full:
        refused = OSError(errno.ENOSPC, "No space left on device")
        full.setattr("jobsup._outputcap.punch_hole", raising(refused))
        cap.tick(1.0)
    assert (cap.lost_bytes, cap.refusal) == (0, None)
    cap.tick(2.0)
    assert cap.lost_bytes == MIB


def test_truncated_file_is_trimmed_anew(file: Path, make_cap: Callable[[int], OutputCap]) -> None:
    file.touch()
    cap = make_cap(MIB)
    grow(file, 3 * MIB)
    cap.tick(1.0)
    assert cap.lost_bytes == 2 * MIB
    os.truncate(file, 0)
    cap.tick(2.0)
    assert cap.lost_bytes == 0
    grow(file, 2 * MIB)
    cap.tick(3.0)
    assert cap.lost_bytes == MIB
    assert file.stat().st_blocks * 512 <= MIB + BLOCK


@pytest.mark.parametrize("size", [0, MIB // 2, 3 * MIB])
def test_adopter_goes_on_where_the_dead_monitor_stopped(
    file: Path, make_cap: Callable[[int], OutputCap], size: int
) -> None:
    file.touch()
    first = make_cap(MIB)
    grow(file, size)
    first.tick(1.0)
    second = make_cap(MIB)
    assert second.lost_bytes == first.lost_bytes
    grow(file, MIB)
    second.tick(1.0)
    assert second.lost_bytes == max(0, size)
    assert file.stat().st_blocks * 512 <= MIB + BLOCK


DNOTIFY = Path("/proc/sys/fs/dir-notify-enable")
told_of_writes = pytest.mark.skipif(
    not (PROVES and DNOTIFY.exists() and DNOTIFY.read_text().strip() == "1"),
    reason="needs a kernel that tells of writes in a directory, and the path that asks it",
)


def _watches(job: Job) -> bool:
    """Whether its monitor has the directory open, to be told of writes there."""
    monitor = job.status().monitor
    assert monitor is not None
    links = Path(f"/proc/{monitor.pid}/fd").iterdir()
    return any(os.readlink(link) == str(job.dir.path) for link in links)


RACER = """
wait_for(sys.argv[1])
for _ in range(64):
    os.write(1, bytes(1 << 20))
sleep()
"""


@told_of_writes
def test_output_that_races_after_a_long_silence_is_trimmed(store: WatchedStore, gate: Gate) -> None:
    """The next tick is a minute away, but the first write wakes the monitor."""
    job = store.start(python(RACER, gate.opened), output_limit=LIMIT, grace=0)
    eventually(lambda: _watches(job), "the monitor waits to be told of writes", timeout=30)

    gate.open()

    eventually(lambda: job.dir.output.stat().st_size == 64 * MIB, "all is written")
    slack = 3 * BLOCK
    eventually(
        lambda: job.dir.output.stat().st_blocks * 512 <= LIMIT + slack,
        "the output is trimmed",
    )
    job.cancel()
    job.wait(timeout=TIMEOUT)


KEEPS_WRITING = """
import os, signal, sys
from jobsup._outputcap import Caps, OutputCap

came = []
signal.signal(signal.SIGIO, lambda *_: came.append(1))
directory = sys.argv[1]
path = os.path.join(directory, "output")
writer = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
caps = Caps(directory, [OutputCap(path, 1 << 20, 0.0)])
now = 0.0
while caps.next_at - now < 30:
    now = caps.next_at
    caps.tick(now)
print(len(came), round(caps.next_at - now, 6))
os.rename(directory, directory + ".published")
os.write(writer, b"x")
os.write(writer, b"x")
print(len(came))
caps.hurry(now)
print(round(caps.next_at - now, 6))
caps.hurry(now + 0.01)  # of a flood
print(round(caps.next_at - now, 6))
caps.tick(caps.next_at)
os.write(writer, b"x")
print(len(came))
"""


@told_of_writes
def test_silence_ends_with_one_signal_and_a_racing_tick(tmp_path: Path) -> None:
    directory = tmp_path / "job"
    directory.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", KEEPS_WRITING, directory],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout.split(), done.stderr) == (["0", "60.0", "1", "0.02", "0.02", "1"], "")
