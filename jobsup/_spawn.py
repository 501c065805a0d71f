"""Execute the command exactly as a plain subprocess.Popen in the caller would have."""

from __future__ import annotations

import errno
import os
import resource
import signal

from jobsup._typing import Final, NamedTuple, NoReturn

_RAISED_LIMITS: Final = (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_CPU)
_MONITOR_IGNORES: Final = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP)
"""The first two by Python's doing, the others by ours: a monitor has no terminal."""
HANDLED: Final = (signal.SIGTERM, signal.SIGCHLD, signal.SIGIO)
UMASK: Final = 0o077


class Inheritance(NamedTuple):
    """What the caller handed down and the monitor changes for itself."""

    ignored: tuple[int, ...]
    defaults: tuple[int, ...]
    """The signals that we ignore and the caller did not."""
    mask: tuple[int, ...]
    umask: int
    limits: tuple[tuple[int, tuple[int, int]], ...]
    """Those that we raised."""

    @classmethod
    def take(cls) -> Inheritance:
        """Note it, and give this process what a monitor needs instead."""
        # Python itself ignores two of them; subprocess resets them too.
        ignored = tuple(
            int(number)
            for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}
            if signal.getsignal(number) is signal.SIG_IGN
        )
        mask = tuple(map(int, signal.pthread_sigmask(signal.SIG_SETMASK, [])))
        limits = tuple(
            (kind, (soft, hard))
            for kind in _RAISED_LIMITS
            for soft, hard in (resource.getrlimit(kind),)
            if soft != hard
        )
        defaults = tuple(int(number) for number in _MONITOR_IGNORES if number not in ignored)
        inherited = cls(ignored, defaults, mask, os.umask(UMASK), limits)
        inherited.put_off()
        for number in _MONITOR_IGNORES:
            signal.signal(number, signal.SIG_IGN)
        return inherited

    def put_on(self) -> None:
        """Be as the caller was, for a moment in which nothing of ours is done."""
        os.umask(self.umask)
        for kind, limits in self.limits:
            resource.setrlimit(kind, limits)

    def put_off(self) -> None:
        """Be a monitor again."""
        os.umask(UMASK)
        for kind, (soft, hard) in self.limits:
            try:
                resource.setrlimit(kind, (hard, hard))
            except (OSError, ValueError):  # macOS caps it below the hard limit
                resource.setrlimit(kind, (soft, hard))


class SpawnFailedError(Exception):
    """There is no such command: at *stage* ("cwd" or "exec"), with *errno*."""

    def __init__(self, stage: str, number: int) -> None:
        super().__init__(stage, number)
        self.stage = stage
        self.number = number


class Command(NamedTuple):
    """All that its process needs; its working directory is ours."""

    argv: tuple[str, ...]
    environment: dict[str, str]
    stdio: tuple[int, int, int]


def enter(directory: str) -> None:
    """Raises SpawnFailedError if it cannot be the command's working directory."""
    try:
        os.chdir(directory)
    except (OSError, ValueError) as error:
        raise SpawnFailedError("cwd", getattr(error, "errno", None) or errno.EINVAL) from None


def spawn(command: Command, inherited: Inheritance) -> int:
    """The pid of our child, which has executed the command in a session of its own.

    No descriptor reaches it but its stdio: all others are close-on-exec.

    Raises:
        SpawnFailedError: It was not executed, and there is no child.
    """
    candidates = _candidates(command)
    told = errno.ENOENT
    inherited.put_on()
    try:
        for path in candidates:
            try:
                os.stat(path)  # an attempt costs more than a look
                return _execute(path, command, inherited)
            except (OSError, ValueError) as error:
                number = getattr(error, "errno", None) or errno.EINVAL
            if number not in (errno.ENOENT, errno.ENOTDIR) or len(candidates) == 1:
                told = number
                # As execvp(3): a forbidden candidate does not hide a later one.
                if told != errno.EACCES:
                    break
    finally:
        inherited.put_off()
    raise SpawnFailedError("exec", told)


def _candidates(command: Command) -> list[str]:
    """The program, or its place in each directory of the command's PATH.  execvp(3)"""
    program = command.argv[0]
    if "/" in program:
        return [program]
    path = command.environment.get("PATH", os.defpath)
    return [os.path.join(directory, program) for directory in path.split(os.pathsep)]


def _execute(path: str, command: Command, inherited: Inheritance) -> int:
    """By posix_spawn(3), which copies no memory that the exec throws away.

    It has the command ignore a signal more, of glibc's own two (32 and 33).
    """
    if not _can_be_spawned(command, inherited):
        return _fork(path, command, inherited)
    return os.posix_spawn(
        path,
        command.argv,
        command.environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, to) for to, fd in enumerate(command.stdio)],
        setsid=True,
        setsigmask=inherited.mask,
        setsigdef=inherited.defaults,
    )


def _can_be_spawned(command: Command, inherited: Inheritance) -> bool:
    # It cannot ignore what we handle, and takes no descriptor beyond the limit.
    for kind, (soft, _) in inherited.limits:
        if kind == resource.RLIMIT_NOFILE and max(command.stdio) >= soft:
            return False
    return not any(number in inherited.ignored for number in HANDLED)


def _fork(path: str, command: Command, inherited: Inheritance) -> int:
    """The same by fork(2) and execve(2)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _become(path, command, inherited, writer)
    os.close(writer)
    told = os.read(reader, 16)
    os.close(reader)
    if told:
        os.waitpid(child, 0)
        raise OSError(int(told), os.strerror(int(told)))
    return child


def _become(path: str, command: Command, inherited: Inheritance, writer: int) -> NoReturn:
    try:
        os.setsid()
        for to, fd in enumerate(command.stdio):
            os.dup2(fd, to)
        for number in inherited.defaults:
            signal.signal(number, signal.SIG_DFL)
        for number in HANDLED:
            if number in inherited.ignored:
                signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, inherited.mask)
        os.execve(path, command.argv, command.environment)
    except (OSError, ValueError) as error:
        os.write(writer, b"%d" % (getattr(error, "errno", None) or errno.EINVAL))
    finally:
        os._exit(127)
