"""What one process may do to another's surroundings, and a look at whether somebody did."""

from __future__ import annotations

import functools
import os

from jobsup._platform import inherited_settings
from jobsup._typing import Final

_FILES: Final = (
    *("limits", "oom_score_adj", "cgroup", "cpu_resctrl_groups"),
    "/proc/self/coredump_filter",
)
"""Files that tell, in the directory of a process or of a thread, which has not got the last one."""
_BLOCK: Final = 1 << 16


def imposed() -> bytes | None:
    """What another process may have changed for this one, of a single thread; None if unknown.

    Sources: setpriority(2), ioprio_set(2), sched_setattr(2), sched_setaffinity(2),
    prlimit(2), keyctl(2) for a child's KEYCTL_SESSION_TO_PARENT, PR_SCHED_CORE(2const),
    cgroups(7), the kernel's resctrl, and the files of proc(5) that others may write to.
    """
    try:
        process = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        told = settings_in(process)
        if told is None:
            return None
        return b"\n".join([b"%a" % sorted(os.sched_getaffinity(0)), *told])
    except OSError:
        return None
    finally:
        os.close(process)


def settings_in(directory: int) -> list[bytes] | None:
    """All of it but the cores, of the caller, whose directory in /proc this is."""
    settings = inherited_settings()
    return (
        None if settings is None else [settings, *(read_if(name, directory) for name in _files())]
    )


@functools.cache
def _files() -> list[str]:
    """Those that this kernel has."""
    return [name for name in _FILES if os.path.exists(os.path.join("/proc/self", name))]


def read(path: str, directory: int | None = None) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(fd, _BLOCK)
    finally:
        os.close(fd)


def read_if(path: str, directory: int | None = None) -> bytes:
    """Likewise; the error where it cannot be read."""
    try:
        return read(path, directory)
    except OSError as error:
        return str(error.errno).encode()
