"""Keep the output within its limit by giving back blocks from its middle."""

from __future__ import annotations

import errno
import os

from jobsup._platform import punch_hole, tell_of_writes
from jobsup._typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

HEAD_BYTES: Final = 1 << 20
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_RACING_SECONDS: Final = 0.02
_SILENT_SECONDS: Final = 5.0
_WATCHED_SECONDS: Final = 60.0
"""While the kernel tells of writes: not of those through a memory mapping, or another name."""


class OutputCap:
    """One output file. It may overshoot by what is written between two ticks."""

    def __init__(self, path: str | Path, limit: int, now: float) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        status = os.fstat(self._fd)
        self._block = max(4096, status.st_blksize)
        self._head = _round_up(min(HEAD_BYTES, limit // 4), self._block)
        self._limit = limit
        self._tick = _RACING_SECONDS
        self._ticked_at = now
        self._is_silent = False
        self._size = status.st_size
        self._trimmed_to = self._find_trimmed()
        self.next_at = now + self._tick
        self.refusal: str | None = None
        """Why no hole can be made here."""

    def close(self) -> None:
        """For a rehearsal; a monitor keeps the file open until it lets go of all."""
        os.close(self._fd)

    @property
    def size(self) -> int:
        return os.fstat(self._fd).st_size

    @property
    def lost_bytes(self) -> int:
        return max(0, min(self._trimmed_to, self.size) - self._head)

    @property
    def is_silent(self) -> bool:
        """Nothing was written for as long as the longest tick."""
        return self._is_silent and self.size == self._size

    def hurry(self, now: float) -> None:
        """Something was written after a silence; it may be the first of very much."""
        self._tick = _RACING_SECONDS
        self._ticked_at = now
        self._is_silent = False
        self.next_at = now + self._tick

    def tick(self, now: float) -> int:
        """Trim if need be, set `next_at`, and return the size."""
        size = self.size
        grown = size - self._size
        if grown < 0:  # the command truncated it, and the blocks are gone
            self._trimmed_to = self._head
        self._is_silent = grown == 0 and self._tick >= _SILENT_SECONDS
        elapsed = max(now - self._ticked_at, 1e-3)
        self._size, self._ticked_at = size, now
        if grown > 0:
            # Half the time in which the room left fills up at this pace.
            room = max(0, self._limit - (size - self.lost_bytes))
            self._tick = min(self._tick * 2, room * elapsed / grown / 2)
        else:
            self._tick *= 2
        self._tick = min(max(self._tick, _RACING_SECONDS), _SILENT_SECONDS)
        self.next_at = now + self._tick
        self.trim()
        return size

    def trim(self) -> None:
        """Give back what is between the head and the newest rest."""
        until = (self.size - self._limit + self._head) // self._block * self._block
        if until <= self._trimmed_to or self.refusal:
            return
        try:
            punch_hole(self._fd, self._trimmed_to, until - self._trimmed_to)
            self._trimmed_to = until
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV):
                self.refusal = f"the output cannot be trimmed on this file system: {error.strerror}"

    def _find_trimmed(self) -> int:
        """Where an earlier monitor of the job stopped trimming.  lseek(2), SEEK_DATA"""
        if self._size <= self._head:
            return self._head
        try:
            return max(self._head, os.lseek(self._fd, self._head, os.SEEK_DATA))
        except OSError as error:
            return (
                self._size // self._block * self._block
                if error.errno == errno.ENXIO
                else self._head
            )


class Caps:
    """The output files of one job, and when to look at them again."""

    def __init__(self, directory: str, files: list[OutputCap]) -> None:
        self.files = files
        self._directory = directory
        self._fd: int | None = None
        self._watched_until = 0.0

    @property
    def next_at(self) -> float:
        return max(self._watched_until, min(cap.next_at for cap in self.files))

    def tick(self, now: float) -> int:
        """Trim what needs it, set `next_at`, and return the size of all."""
        size = sum(cap.tick(now) for cap in self.files)
        self._watched_until = now + _WATCHED_SECONDS if self._is_watched() else 0.0
        return size

    def hurry(self, now: float) -> None:
        """The kernel says that something was written, by the command or by ourselves."""
        if self._watched_until:  # or a flood of signals would put off the next tick for ever
            self._watched_until = 0.0
            for cap in self.files:
                cap.hurry(now)

    def _is_watched(self) -> bool:
        """Whether all is silent, and the next write will tell."""
        if not all(cap.is_silent for cap in self.files):
            return False
        if self._fd is None:
            try:
                self._fd = os.open(self._directory, _DIRECTORY)
            except OSError:  # deleted, or no descriptor is left: ticks will do
                return False
        # Asked for first, looked once more second: what was written in between is seen.
        return tell_of_writes(self._fd) and all(cap.is_silent for cap in self.files)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
