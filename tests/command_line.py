"""The command line as a person has it: a process of its own, its words and its exit code."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from conftest import TIMEOUT, WatchedStore

from jobsup import Job

JOBSUP = (sys.executable, "-m", "jobsup")


class Done:
    """What came of a command."""

    def __init__(self, code: int, raw: bytes, raw_err: bytes) -> None:
        self.code = code
        self.raw = raw
        self.out = raw.decode("utf-8", "replace")
        self.err = raw_err.decode()
        assert "Traceback" not in self.err, self.err

    def __repr__(self) -> str:
        return f"<exit {self.code}: {self.raw[:500]!r}, {self.err!r}>"

    def line(self) -> str:
        """The one line on stderr."""
        [line] = self.err.splitlines()
        return line


class Cli:
    """Runs ``jobsup`` on the test's store."""

    def __init__(self, root: Path) -> None:
        self.environment = {**os.environ, "JOBSUP_HOME": str(root)}
        self.environment.pop("PYTHONUNBUFFERED", None)  # people have a buffer that may fail late
        self._children: list[subprocess.Popen[bytes]] = []

    def __call__(
        self, *words: str | bytes | Path, input: bytes = b"", env: Mapping[str, str] | None = None
    ) -> Done:
        done = subprocess.run(
            [*JOBSUP, *words],
            input=input,
            capture_output=True,
            env={**self.environment, **(env or {})},
            timeout=60,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def popen(
        self, *words: str | Path, before: Sequence[str] = (), **how: Any
    ) -> subprocess.Popen[bytes]:
        """Likewise, in the background; ended with the test at the latest."""
        child = subprocess.Popen([*before, *JOBSUP, *words], env=self.environment, bufsize=0, **how)
        self._children.append(child)
        return child

    def close(self) -> None:
        for child in self._children:
            child.kill()
            child.wait(TIMEOUT)
            for stream in (child.stdin, child.stdout, child.stderr):
                if stream:
                    stream.close()


def read_until(stream: IO[bytes] | None, wanted: bytes | None) -> bytes:
    """What a child writes, until *wanted* is in it; None is until the end."""
    assert stream
    deadline = time.monotonic() + TIMEOUT
    data = b""
    while wanted is None or wanted not in data:
        ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{wanted!r} did not come, only {data!r}"
        piece = os.read(stream.fileno(), 1 << 16)
        if not piece:
            assert wanted is None, f"{wanted!r} did not come, only {data!r}"
            break
        data += piece
    return data


def ended(store: WatchedStore, argv: list[str], **how: Any) -> Job:
    """A job that is over."""
    job = store.start(argv, **how)
    job.wait(TIMEOUT)
    return job


def damage(job: Job) -> None:
    (job.root / "jobs" / job.id / "meta.json").write_text("{")


def waits(pid: int) -> bool:
    """Whether it has a job's control FIFO open: that is how it does."""
    links = Path(f"/proc/{pid}/fd").iterdir()
    return any(os.readlink(link).endswith("/control") for link in links if link.is_symlink())
