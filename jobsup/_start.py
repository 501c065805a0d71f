"""What start() is given, made into what a monitor can be ordered to do."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from typing import IO, Any

from jobsup._jobdir import StoreDir
from jobsup._spec import Stdin, exactly, passable
from jobsup.errors import SpawnError

StdinLike = None | int | bytes | os.PathLike[str] | IO[bytes] | IO[str]


def whole_environment(env: Mapping[str, str] | None, clean_env: bool) -> dict[str, str]:
    """The command's whole environment."""
    environment = {} if clean_env else dict(os.environ)
    for name, value in (env or {}).items():
        passable(f"the environment variable {name}", value)
        environment[exactly(name)] = exactly(value)
    return environment


def working_directory(cwd: str | os.PathLike[str] | None) -> str | None:
    """The command's, absolute unless our own was deleted; our own where none is given."""
    wanted = None if cwd is None else os.fsdecode(cwd)
    try:
        return os.path.abspath(wanted or os.getcwd())
    except FileNotFoundError:
        return wanted


def stdin_kind(stdin: StdinLike) -> Stdin:
    if stdin is None or stdin == subprocess.DEVNULL:
        return Stdin.NULL
    if stdin == subprocess.PIPE:
        return Stdin.FIFO
    if isinstance(stdin, bytes):
        return Stdin.DATA
    if isinstance(stdin, os.PathLike) or hasattr(stdin, "fileno"):
        return Stdin.FILE
    raise TypeError(
        "stdin must be None, bytes, a pathlib.Path, an open file or subprocess.PIPE, "
        f"not {stdin!r}; encode text, or wrap a file's name in Path"
    )


def open_stdin(stdin: Any, kind: Stdin, store: StoreDir, on_exit: ExitStack) -> int | None:
    """A descriptor for the command's standard input, where the monitor does not make it."""
    if kind is Stdin.DATA:
        import tempfile  # noqa: PLC0415 - 4 ms that only this needs

        # Without a name: nothing to delete, whoever crashes. Not a pipe: no
        # process must stay to fill it.
        # Without a buffer, which close() would try to write once more.
        file = tempfile.TemporaryFile(dir=store.root, buffering=0)  # noqa: SIM115 - closed on exit
        on_exit.callback(file.close)
        rest = memoryview(stdin)
        while rest:
            rest = rest[file.write(rest) :]
        file.seek(0)
        return file.fileno()
    if kind is not Stdin.FILE:
        return None
    if not isinstance(stdin, os.PathLike):
        # Away from 0 to 2, which are the monitor's own.
        fd = fcntl.fcntl(stdin.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
        on_exit.callback(os.close, fd)
        return fd
    try:
        fd = os.open(stdin, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SpawnError("stdin", os.fsdecode(stdin), error.strerror or str(error)) from error
    on_exit.callback(os.close, fd)
    return fd
