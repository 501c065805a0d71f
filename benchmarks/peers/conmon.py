"""conmon: the monitor of podman's and CRI-O's containers, here without a container."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from benchmarks.bench import TIMEOUT
from benchmarks.peers.base import Peer, package_version
from benchmarks.programs import compiled


class Conmon(Peer):
    """A monitor per command.  Its OCI runtime is `runtime.c`, which only executes the command."""

    name = "conmon"
    what = "conmon has reported the command's pid; its runtime makes no container, only execs"

    @classmethod
    def version(cls) -> str | None:
        return package_version("conmon", "conmon")

    @classmethod
    def missing(cls) -> str | None:
        if why := super().missing():
            return why
        return None if shutil.which("cc") else "left out: its runtime here needs cc"

    def open(self) -> None:
        self._runtime = compiled("runtime.c", self.directory)
        self._bundles = [self._bundle(number) for number in range(self.count)]

    def _bundle(self, number: int) -> Path:
        bundle = self.directory / f"bundle-{number}"
        bundle.mkdir()
        (bundle / "argv").write_text("".join(f"{word}\n" for word in self.argv))
        return bundle

    def start(self) -> float:
        bundle = self._bundles.pop()
        words = self._words(bundle)
        read, write = os.pipe()
        with open(read, "rb") as report:
            begun = time.perf_counter()
            child = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "_OCI_SYNCPIPE": str(write)},
                pass_fds=[write],
            )
            os.close(write)
            line = report.readline()
            seconds = time.perf_counter() - begun
        child.wait(TIMEOUT)  # it forks itself away
        if not line or json.loads(line)["data"] <= 0:
            raise RuntimeError(f"conmon reported {line!r}")
        return seconds

    def _words(self, bundle: Path) -> list[str]:
        options = {
            "--api-version": "1",
            "--cid": bundle.name,
            "--cuuid": bundle.name,
            "--name": bundle.name,
            "--runtime": self._runtime,
            "--bundle": bundle,
            "--container-pidfile": bundle / "pid",
            "--log-path": f"k8s-file:{bundle}/log",
            "--exit-dir": bundle,
        }
        words = [str(word) for option in options.items() for word in option]
        return ["conmon", *words, "--full-attach", "--no-new-keyring"]

    def close(self) -> None:
        """Nothing serves."""
