"""s6: a small supervisor process per service."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from benchmarks.bench import TIMEOUT
from benchmarks.peers.base import Peer, end, package_version, until
from benchmarks.timing import timed


class S6(Peer):
    """A service directory per start: s6-supervise runs a service at most once a second."""

    name = "s6"
    what = "`s6-svc -o -wu`, run by subprocess, has returned: up; s6-supervise was there before"

    @classmethod
    def version(cls) -> str | None:
        return package_version("s6-supervise", "s6")

    def open(self) -> None:
        self._supervisors: list[subprocess.Popen[bytes]] = []
        self._services = [self._service(number) for number in range(self.count)]
        for service in self._services:
            self._supervisors.append(subprocess.Popen(["s6-supervise", service]))
        statuses = [service / "supervise" / "status" for service in self._services]
        until(lambda: all(status.exists() for status in statuses), "s6-supervise is there")

    def _service(self, number: int) -> Path:
        service = self.directory / f"service-{number}"
        service.mkdir()
        (service / "down").touch()  # until it is started
        program = shutil.which(self.argv[0])
        words = " ".join([program or self.argv[0], *self.argv[1:]])
        run = service / "run"
        run.write_text(f"#!/bin/sh\nexec {words}\n")
        run.chmod(0o700)
        return service

    def start(self) -> float:
        words = ["s6-svc", "-o", "-wu", "-T", str(int(TIMEOUT * 1000)), str(self._services.pop())]
        return timed(lambda: subprocess.run(words, timeout=TIMEOUT, check=True))()

    def close(self) -> None:
        for supervisor in self._supervisors:
            supervisor.terminate()  # it takes its service down, and exits
        for supervisor in self._supervisors:
            end(supervisor)
