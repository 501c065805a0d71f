"""Who the launchers are, told without jobsup's own books; for tests and for their host programs."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from jobsup._platform import processes


def launchers_of(host: int | None = None) -> list[int]:
    """The launchers of a process, by the pidfd that each holds; None is the caller."""
    line = f"Pid:\t{host or os.getpid()}"
    rows = [row for row in processes() if row.command == "jobsup-launcher" and not row.is_zombie]
    found = {row.pid: row.parent for row in rows if line in _descriptors(row.pid)}
    # One that was forked just now is a launcher by name and descriptors yet.
    return sorted(pid for pid, parent in found.items() if parent not in found)


def spares() -> set[int]:
    """Forks of launchers that wait for a job to come."""
    return {row.pid for row in processes() if row.command == "jobsup-spare" and not row.is_zombie}


def _descriptors(pid: int) -> set[str]:
    """All lines that tell of a process's descriptors.  proc_pid_fdinfo(5)"""
    lines: set[str] = set()
    with suppress(OSError):  # it has ended
        for path in Path(f"/proc/{pid}/fdinfo").iterdir():
            with suppress(FileNotFoundError):  # it has closed this one
                lines.update(path.read_text().splitlines())
    return lines


def open_files(pid: int) -> list[str]:
    """What each descriptor of a process leads to."""
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(os.readlink(fd))
    return sorted(found)


TESTS = Path(__file__).parent
WARM = f"""
sys.path.append({str(TESTS)!r})
import threading
from launchers import launchers_of
# The first thread has the C library handle a signal. Where it was ignored, what
# a child inherits is then another thing, and another launcher is due.
threading.Thread(target=int).start()
store.start(["true"]).wait(timeout=10)
assert len(launchers_of()) == 1, launchers_of()
"""
"""The beginning of a host program: from here on it has a launcher."""
