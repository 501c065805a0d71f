"""Which processes supervise, and what they take."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import attrs

from benchmarks.bench import SkipError

_PR_SET_CHILD_SUBREAPER: Final = 36


@contextmanager
def subreaper() -> Iterator[None]:
    """All that is started here stays below this process when its parents end.  prctl(2)

    So what supervises is found by descent, whatever it is, and nothing by name.
    """
    libc = ctypes.CDLL(None)
    before = set(_children(os.getpid()))
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise SkipError("needs a system where a process can be a subreaper")
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        for pid in set(_children(os.getpid())) - before:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def descendants() -> set[int]:
    """Of this process, zombies among them."""
    found: set[int] = set()
    fresh = [os.getpid()]
    while fresh:
        fresh = [child for pid in fresh for child in _children(pid)]
        found.update(fresh)
    return found


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        threads = Path(f"/proc/{pid}/task").iterdir()
        return [int(word) for task in threads for word in (task / "children").read_text().split()]
    return []


def supervisors(pids: Iterable[int], command: Sequence[str]) -> set[int]:
    """Those that live and are not the supervised *command* itself."""
    words = b"".join(os.fsencode(word) + b"\0" for word in command)
    return {pid for pid in pids if _command_line(pid) not in (b"", words)}


def per_job(pids: set[int], count: int) -> float:
    """Memory of those who supervise *count* jobs, in MiB for each job."""
    if not pids:
        raise AssertionError("nobody supervises: what was started is not below this process")
    return pss_mib(pids) / count


def _command_line(pid: int) -> bytes:
    """Empty for a zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def pss_mib(pids: Iterable[int]) -> float:
    """Private memory and a share of what is shared.  proc_pid_smaps(5), Pss"""
    return sum(_number(pid, "smaps_rollup", "Pss") for pid in pids) / 1024


@attrs.frozen
class Spent:
    """What processes took so far."""

    cpu_ns: int
    wake_ups: int
    """proc_pid_status(5), voluntary_ctxt_switches"""

    @classmethod
    def by(cls, pids: Iterable[int]) -> Spent:
        known = list(pids)
        cpu = sum(_cpu_ns(pid) for pid in known)
        return cls(cpu, sum(_number(pid, "status", "voluntary_ctxt_switches") for pid in known))


def _cpu_ns(pid: int) -> int:
    """Of the first thread.  The ticks of 10 ms in proc_pid_stat(5) are too coarse."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    except FileNotFoundError:
        raise SkipError("needs /proc/PID/schedstat (CONFIG_SCHED_INFO)") from None


def _number(pid: int, file: str, field: str) -> int:
    text = Path(f"/proc/{pid}/{file}").read_text()
    found = re.search(rf"^{field}:\s*(\d+)", text, re.MULTILINE)
    if found is None:
        raise SkipError(f"needs {field} in /proc/PID/{file}")
    return int(found[1])
