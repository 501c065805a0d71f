"""circus: one process for all watchers, asked over its own client."""

from __future__ import annotations

import importlib.metadata
import subprocess
from importlib import import_module
from typing import Any

from benchmarks.bench import TIMEOUT
from benchmarks.peers.base import Peer, beside_python, end, until
from benchmarks.timing import timed


class Circus(Peer):
    """``circusd``, a new watcher per start."""

    name = "circus"
    what = "`add` with start and waiting has been answered by a circusd that was there before"

    @classmethod
    def version(cls) -> str | None:
        try:
            version = importlib.metadata.version("circus")
        except importlib.metadata.PackageNotFoundError:
            return None
        return version if beside_python("circusd") else None

    def open(self) -> None:
        self._daemon: subprocess.Popen[bytes] | None = None
        self._started = 0
        self._client: Any = None
        endpoint = f"ipc://{self.sockets}/ask"
        config = self.directory / "circus.ini"
        config.write_text(
            f"[circus]\nendpoint = {endpoint}\npubsub_endpoint = ipc://{self.sockets}/feed\n"
        )
        program = beside_python("circusd")
        assert program is not None
        self._daemon = subprocess.Popen(
            [program, "--log-level", "CRITICAL", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._client = import_module("circus.client").CircusClient(
            endpoint=endpoint, timeout=TIMEOUT
        )
        until((self.sockets / "ask").exists, "circusd listens")
        self._ask("numwatchers")

    def _ask(self, command: str, **properties: object) -> None:
        answer = self._client.send_message(command, **properties)
        if answer["status"] != "ok":
            raise RuntimeError(f"circusd said {answer!r}")

    def start(self) -> float:
        name = f"job-{self._started}"
        if self._started >= self.at_once:  # or its books grow from round to round
            self._ask("rm", name=f"job-{self._started - self.at_once}", waiting=True)
        self._started += 1
        add = {"name": name, "cmd": self.argv[0], "args": self.argv[1:]}
        # Without respawn a command that has ended is done with, as a job is.
        options = {"respawn": False, "warmup_delay": 0}
        return timed(lambda: self._ask("add", **add, options=options, start=True, waiting=True))()

    def close(self) -> None:
        if self._client is not None:
            self._client.stop()
        end(self._daemon)
