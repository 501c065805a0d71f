"""What was measured where: without it a figure means nothing."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from pathlib import Path

from benchmarks.peers import PEERS
from jobsup import __version__


def machine(directory: Path) -> dict[str, object]:
    """The machine, its load, and the versions of all that takes part."""
    return {
        "jobsup": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "system": platform.platform(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "file system": _file_system(directory),
        "load": round(os.getloadavg()[0], 2),
        "launcher": os.environ.get("JOBSUP_LAUNCHER", "default"),
        "peers": {peer.name: peer.version() or "not installed" for peer in PEERS},
    }


def _cpu() -> str:
    with suppress(OSError):
        found = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.machine()


def _file_system(directory: Path) -> str:
    """Of the stores: the longest mount point above them.  proc_pid_mounts(5)"""
    found = ("", "unknown")
    with suppress(OSError):
        path = os.path.realpath(directory)
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, point, kind = line.split()[:3]
            below = path == point or path.startswith(point.rstrip("/") + "/")
            if below and len(point) >= len(found[0]):
                found = (point, kind)
    return found[1]
