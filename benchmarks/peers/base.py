"""What benchmarks know of a peer."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar

from benchmarks.bench import TIMEOUT

if TYPE_CHECKING:
    from typing_extensions import Self


class Peer(ABC):
    """A supervisor that is ready to start a command *count* times, of which *at_once* may run.

    What it needs to get ready is done by `open`, and never counts.
    """

    name: ClassVar[str]
    what: ClassVar[str]
    """What counts as a start, in one sentence."""

    def __init__(
        self, directory: Path, argv: list[str], count: int, at_once: int | None = None
    ) -> None:
        self.directory = directory
        self.argv = argv
        self.count = count
        self.at_once = at_once or count

    @classmethod
    @abstractmethod
    def version(cls) -> str | None:
        """None if it is not installed."""

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot be used here."""
        return None if cls.version() else "not installed"

    @abstractmethod
    def open(self) -> None:
        """Get ready."""

    @abstractmethod
    def start(self) -> float:
        """Start the command once more; the seconds that took."""

    @abstractmethod
    def close(self) -> None:
        """End what serves.  Commands that still run are the caller's to end."""

    def __enter__(self) -> Self:
        # A path of a socket has 108 bytes, and *directory* may be long.  unix(7)
        self.sockets = Path(tempfile.mkdtemp(prefix="jobsup-bench-", dir="/tmp"))
        try:
            self.open()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        try:
            self.close()
        finally:
            shutil.rmtree(self.sockets, ignore_errors=True)


def package_version(program: str, package: str) -> str | None:
    """Of a Debian package if there is one; some programs do not tell their version."""
    if shutil.which(program) is None:
        return None
    try:
        query = ["dpkg-query", "-W", "-f", "${Version}", package]
        asked = subprocess.run(query, capture_output=True, text=True, check=True, timeout=TIMEOUT)
    except (OSError, subprocess.CalledProcessError):
        return "of unknown version"
    return asked.stdout


def beside_python(program: str) -> str | None:
    """A program that pip installed where this Python is, or else one on PATH."""
    near = Path(sys.prefix) / "bin" / program
    return str(near) if near.exists() else shutil.which(program)


def until(condition: Callable[[], object], what: str) -> None:
    """For what wakes nobody, outside of what counts."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {TIMEOUT:g} s still not: {what}")
        time.sleep(0.01)


def end(child: subprocess.Popen[bytes] | None) -> None:
    """Ask, then force."""
    if child is None:
        return
    child.terminate()
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(TIMEOUT)
