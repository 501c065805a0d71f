"""The queues of commands: task-spooler and nq.  Each start is a run of their client."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping

from benchmarks.bench import TIMEOUT
from benchmarks.peers.base import Peer, package_version
from benchmarks.timing import timed


def _client(words: list[str], environment: Mapping[str, str]) -> None:
    subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **environment},
        timeout=TIMEOUT,
        check=True,
    )


class TaskSpooler(Peer):
    """``tsp``: a server per user, which a client hands commands to."""

    name = "task-spooler"
    what = "`tsp COMMAND`, run by subprocess, has returned: the server has it, and a slot is free"

    @classmethod
    def version(cls) -> str | None:
        return package_version("tsp", "task-spooler")

    def open(self) -> None:
        self._environment = {
            "TS_SOCKET": str(self.sockets / "socket"),
            "TS_SLOTS": str(self.at_once),
            "TS_MAXFINISHED": str(self.count + 1),
            "TS_MAXCONN": str(self.count + 100),
            "TMPDIR": str(self.directory),  # of the commands' output
        }
        _client(["tsp"], self._environment)  # brings the server to life

    def start(self) -> float:
        return timed(self.submit)()

    def submit(self) -> None:
        _client(["tsp", *self.argv], self._environment)

    def wait_all(self, last: int) -> None:
        """Until all jobs have ended, which the *last* ones are the last to do."""
        environment = {**os.environ, **self._environment}
        for number in range(max(0, self.count - last), self.count):
            subprocess.run(["tsp", "-w", str(number)], env=environment, timeout=TIMEOUT, check=True)
        listing = subprocess.run(
            ["tsp"], env=environment, timeout=TIMEOUT, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        finished = len(re.findall(r"^\d+ +finished ", listing, re.MULTILINE))
        if finished != self.count:
            raise AssertionError(f"task-spooler ended {finished} of {self.count} jobs")

    def close(self) -> None:
        _client(["tsp", "-K"], self._environment)


class Nq(Peer):
    """``nq``: a process per job, which locks the file that the output goes to."""

    name = "nq"
    what = "`nq COMMAND`, run by subprocess, has returned; each job has a queue of its own"

    @classmethod
    def version(cls) -> str | None:
        return package_version("nq", "nq")

    def open(self) -> None:
        self._queues = [self.directory / str(number) for number in range(self.count)]
        for queue in self._queues:
            queue.mkdir()

    def start(self) -> float:
        environment = {"NQDIR": str(self._queues.pop())}
        return timed(lambda: _client(["nq", *self.argv], environment))()

    def close(self) -> None:
        """Nothing serves."""
