"""What differs between systems, chosen once at import; nobody else asks `sys.platform`."""

from __future__ import annotations

import errno
import os
import sys

from jobsup._typing import TYPE_CHECKING, Final

if sys.platform == "win32":
    raise ImportError("jobsup needs a POSIX system: Linux, or with weaker promises macOS")

PORTABLE: Final = "JOBSUP_PORTABLE"
"""Set in the environment, it forces the portable path on Linux: for tests of that path."""


def _has_pidfd() -> bool:
    """Since Linux 5.3, and unless a container's seccomp filter forbids it.  pidfd_open(2)"""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        return getattr(error, "errno", errno.ENOSYS) not in (errno.ENOSYS, errno.EPERM)
    return True


if TYPE_CHECKING or (sys.platform == "linux" and not os.environ.get(PORTABLE) and _has_pidfd()):
    from jobsup._libc import (
        become_subreaper,
        inherited_settings,
        name_process,
        punch_hole,
        reserve,
        sync_data,
    )
    from jobsup._linux import (
        NAME,
        WALL,
        ProcessHandle,
        ProcessRow,
        age_of,
        boot_id,
        children_of,
        environ_of,
        moved_since,
        obstacle,
        own_token,
        owner_of,
        processes,
        tell_of_writes,
        try_start_time,
        uptime,
    )
else:
    from jobsup._portable import (
        NAME,
        WALL,
        ProcessHandle,
        ProcessRow,
        age_of,
        become_subreaper,
        boot_id,
        children_of,
        environ_of,
        inherited_settings,
        moved_since,
        name_process,
        obstacle,
        own_token,
        owner_of,
        processes,
        punch_hole,
        reserve,
        sync_data,
        tell_of_writes,
        try_start_time,
        uptime,
    )

__all__ = [
    "NAME",
    "PORTABLE",
    "WALL",
    "ProcessHandle",
    "ProcessRow",
    "age_of",
    "become_subreaper",
    "boot_id",
    "children_of",
    "environ_of",
    "inherited_settings",
    "moved_since",
    "name_process",
    "obstacle",
    "own_token",
    "owner_of",
    "processes",
    "punch_hole",
    "reserve",
    "sync_data",
    "tell_of_writes",
    "try_start_time",
    "uptime",
]
