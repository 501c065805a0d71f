"""Execute the command exactly as a plain subprocess.Popen in the caller would have."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, NoReturn

from jobsup._value import Value

_RAISED_LIMITS: Final = (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_CPU)
_MONITOR_IGNORES: Final = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP)
"""The first two by Python's doing, the others by ours: a monitor has no terminal."""


class Inheritance(Value):
    """What the caller handed down and the monitor changes for itself."""

    ignored: tuple[int, ...]
    mask: tuple[int, ...]
    umask: int
    limits: tuple[tuple[int, tuple[int, int]], ...]

    @classmethod
    def take(cls) -> Inheritance:
        """Note it, and give this process what a monitor needs instead."""
        inherited = cls(
            # Python itself ignores these two; subprocess resets them too.
            ignored=tuple(
                number
                for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}
                if signal.getsignal(number) is signal.SIG_IGN
            ),
            mask=tuple(signal.pthread_sigmask(signal.SIG_SETMASK, [])),
            umask=os.umask(0o077),
            limits=tuple((kind, resource.getrlimit(kind)) for kind in _RAISED_LIMITS),
        )
        for kind, (_, hard) in inherited.limits:
            with suppress(OSError, ValueError):  # macOS caps it below the hard limit
                resource.setrlimit(kind, (hard, hard))
        for number in _MONITOR_IGNORES:
            signal.signal(number, signal.SIG_IGN)
        return inherited

    def give_back(self) -> None:
        """Between fork and exec: make this process what the caller's child would be."""
        for default in _MONITOR_IGNORES:
            signal.signal(default, signal.SIG_DFL)
        for ignored in self.ignored:
            signal.signal(ignored, signal.SIG_IGN)
        for kind, limits in self.limits:
            resource.setrlimit(kind, limits)
        os.umask(self.umask)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)


class SpawnFailedError(Exception):
    """This process could not become the command: at *stage* ("cwd" or "exec"), with *errno*."""

    def __init__(self, stage: str, number: int) -> None:
        super().__init__(stage, number)
        self.stage = stage
        self.number = number


class Command(Value):
    """All that the child needs."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    cwd: str | None
    stdio: tuple[int, int, int]


def become(command: Command, inherited: Inheritance, *kept: int) -> NoReturn:
    """Make this process the command; *kept* are descriptors that close by the exec itself.

    Raises:
        SpawnFailedError: It cannot be. Only the descriptors *kept* are open then, and the stdio.
    """
    stage = "exec"
    try:
        # Descriptors 0 to 2 are nobody's that is needed yet, so none of ours is
        # overwritten here. All else closes, the lock first of all: while this
        # copy lives, a dead monitor would look alive.
        for target, fd in enumerate(command.stdio):
            os.dup2(fd, target)
        _close_all_but(0, 1, 2, *kept)
        stage = "cwd"
        if command.cwd is not None:
            os.chdir(command.cwd)
        stage = "exec"
        inherited.give_back()
        number = _exec(command)
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None) or errno.EINVAL
    raise SpawnFailedError(stage, number)


def _close_all_but(*kept: int) -> None:
    for fd in map(int, os.listdir("/dev/fd")):
        if fd not in kept:
            with suppress(OSError):  # the listing's own, closed by now
                os.close(fd)


def _exec(command: Command) -> int:
    """Try the program, or each directory of PATH; the errno that tells most.  execve(2)"""
    program = command.argv[0]
    if os.path.dirname(program):
        candidates = [program]
    else:
        path = os.get_exec_path(dict(command.environment))
        candidates = [os.path.join(directory, program) for directory in path]
    told = errno.ENOENT
    for candidate in candidates:
        try:
            os.execve(candidate, list(command.argv), command.environment)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR) or len(candidates) == 1:
                told = error.errno or told
                # As execvp(3): a forbidden candidate does not hide a later one.
                if told != errno.EACCES:
                    break
    return told
