"""Reading what a job wrote: by cursor, from the end, or as it comes.  No lock, no monitor."""

from __future__ import annotations

import codecs
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from jobsup._value import Value

_BLOCK: Final = 64 * 1024
TAIL_BYTES: Final = 1 << 20


class OutputChunk(Value):
    """Some bytes of a job's output.

    Attributes:
        data: The bytes; empty when there are none yet, or at the end.
        cursor: Where to read on: a byte offset.
        lost_bytes: How many bytes before *data* were dropped to keep the
            output's limit. They are skipped, never returned as NULs.
        was_reset: The file was shorter than the cursor, because the command
            truncated it: reading began again at 0.
        eof: The job has ended and nothing comes after *data*.
    """

    data: bytes
    cursor: int
    lost_bytes: int = 0
    was_reset: bool = False
    eof: bool = False


def read_chunk(path: Path, cursor: int, limit: int, has_ended: Callable[[], bool]) -> OutputChunk:
    """Up to *limit* bytes from *cursor* on.  lseek(2), SEEK_DATA and SEEK_HOLE"""
    if cursor < 0 or limit < 1:
        raise ValueError(f"a cursor is >= 0 and a limit >= 1, not {cursor} and {limit}")
    ended = has_ended()  # asked first: what was written before the end is then all there
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        size = os.fstat(fd).st_size
        was_reset = cursor > size
        if was_reset:
            cursor = 0
        begin = _next_data(fd, cursor, size)
        data = os.pread(fd, min(limit, size - begin), begin) if begin < size else b""
        # The monitor may have trimmed what we were reading: what is a hole
        # now may have been read as NULs. Read again from behind it.
        while data and _next_hole(fd, begin, size) < begin + len(data):
            hole = _next_hole(fd, begin, size)
            if hole > begin:
                data = data[: hole - begin]
                break
            begin = _next_data(fd, begin, size)
            data = os.pread(fd, min(limit, size - begin), begin)
        end = begin + len(data)
        return OutputChunk(data, end, begin - cursor, was_reset, ended and end >= size)
    finally:
        os.close(fd)


def _next_data(fd: int, offset: int, size: int) -> int:
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a hole up to the end, or the end itself
            return size
        if error.errno == errno.EINVAL:  # a file system that knows no holes
            return offset
        raise


def _next_hole(fd: int, offset: int, size: int) -> int:
    try:
        return os.lseek(fd, offset, os.SEEK_HOLE)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.EINVAL):
            return size
        raise


def tail_chunk(
    path: Path, lines: int, has_ended: Callable[[], bool], max_bytes: int = TAIL_BYTES
) -> OutputChunk:
    """The last *lines* lines, of at most the last *max_bytes* bytes, read backwards in blocks."""
    if lines < 0:
        raise ValueError(f"lines must be >= 0, not {lines}")
    ended = has_ended()
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        size = os.fstat(fd).st_size
        floor = max(0, size - max_bytes)
        begin, data = size, b""
        # One newline more than lines: the one that ends the line before them.
        while begin > floor and data.count(b"\n", 0, -1) < lines:
            start = _data_before(fd, max(floor, begin - _BLOCK), begin, size)
            data = os.pread(fd, begin - start, start) + data
            begin = start
            if start > floor and _next_hole(fd, start - 1, size) < start:
                break  # what was before it is lost
        end = begin + len(data)
    finally:
        os.close(fd)
    cut = len(data)
    for _ in range(lines):
        cut = data.rfind(b"\n", 0, max(0, cut - 1)) + 1
    return OutputChunk(data[cut:], end, eof=ended and end >= size)


def _data_before(fd: int, start: int, end: int, size: int) -> int:
    """Where the data that reaches up to *end* begins, at or after *start*."""
    begin = min(end, _next_data(fd, start, size))
    while (hole := _next_hole(fd, begin, size)) < end:
        begin = min(end, _next_data(fd, hole, size))
    return begin


def decode(chunks: Iterator[OutputChunk]) -> Iterator[str]:
    """Text of the chunks: a character cut in two is put together, a lost stretch is named."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for chunk in chunks:
        if chunk.was_reset or chunk.lost_bytes:
            cut = decoder.decode(b"", final=True)
            decoder.reset()
            gap = "output was truncated" if chunk.was_reset else f"{chunk.lost_bytes} bytes lost"
            yield f"{cut}\n[jobsup: {gap}]\n"
        if text := decoder.decode(chunk.data):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest
