"""The programs that jobs run here.  Each ends by itself."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.bench import TIMEOUT, Bench, SkipError

TRUE: Final = ["true"]
SLEEPER: Final = ["sleep", "300"]
_SOURCES: Final = Path(__file__).parent / "data"


def compiled(source: str, into: Path) -> Path:
    """The program made of one of the C sources, static where that can be done."""
    program = into / Path(source).stem
    if program.exists():
        return program
    cc = shutil.which("cc")
    if cc is None:
        raise SkipError("needs cc (Debian: gcc and libc6-dev)")
    words = [cc, "-O2", "-o", str(program), str(_SOURCES / source)]
    if subprocess.run([*words, "-static"], capture_output=True, check=False).returncode:
        subprocess.run(words, check=True)
    return program


class Fifo:
    """Where a program says something in a fixed number of bytes."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = str(path)
        self._fd = fd

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += os.read(self._fd, size - len(data))
        return data

    def read_seconds(self) -> float:
        """A `stamp`, on the clock of time.monotonic()."""
        nanoseconds: int = struct.unpack("=q", self.read(8))[0]
        return nanoseconds / 1e9


@contextmanager
def fifo(bench: Bench, name: str) -> Iterator[Fifo]:
    path = bench.directory / f"{name}.fifo"
    os.mkfifo(path)
    # Open both ways, so that neither this nor the program's open(2) waits.  fifo(7)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield Fifo(path, fd)
    finally:
        os.close(fd)
        path.unlink()


class Children:
    """Bare children of `subprocess.Popen`: the baseline of much."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, argv: list[str], holding: int | None = None) -> subprocess.Popen[bytes]:
        """As a job has it: nothing to read, a session of its own.  *holding* stays open in it."""
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[] if holding is None else [holding],
        )
        self._started.append(child)
        return child

    def end(self) -> None:
        for child in self._started:
            child.kill()
            child.wait(TIMEOUT)
        self._started.clear()


@contextmanager
def children() -> Iterator[Children]:
    """Ended at the latest here."""
    made = Children()
    try:
        yield made
    finally:
        made.end()
