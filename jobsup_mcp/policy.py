"""What the server lets a client do. Enforced here, whatever the client believes of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

import attrs

from jobsup import JobsupError

TOKEN_VARIABLE: Final = "JOBSUP_MCP_TOKEN"

_BASE_ENV: Final = (
    *("HOME", "LANG", "LANGUAGE", "LC_*", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ"),
    *("USER", "XDG_*_HOME", "XDG_RUNTIME_DIR"),
)
"""What every job gets of the server's environment. The rest may hold secrets,
and a job that prints its environment would show them to the client."""


class NotAllowedError(JobsupError):
    """The server was started with options that forbid this."""


@attrs.frozen
class Policy:
    """The options of the command line; without any, all but the environment is open."""

    allow: tuple[str, ...] = ()
    """Commands that may be run; empty is any."""
    roots: tuple[str, ...] = ()
    """Directories, as realpath(3) gives them, that every cwd must be in; empty is any."""
    max_jobs: int | None = None
    max_runtime: float | None = None
    env: tuple[str, ...] = ()
    """Patterns of variables that jobs get besides the usual ones."""

    def directory(self, cwd: str | None) -> str:
        """The real path of *cwd*, which is what a job must be started in."""
        base = self.roots[0] if self.roots else os.getcwd()
        path = os.path.realpath(os.path.join(base, os.path.expanduser(cwd or "")))
        if self.roots and not any(os.path.commonpath([root, path]) == root for root in self.roots):
            raise NotAllowedError(
                f"cwd {path} is outside of what this server may use: {', '.join(self.roots)}"
            )
        return path

    def command(self, argv: Sequence[str], cwd: str, path: str | None) -> list[str]:
        """*argv*, with the path of the program that was checked in it, if any is.

        The path itself is compared, not what a link of that name leads to: one
        binary may be many commands, and only some of them allowed.
        """
        if not self.allow or not argv:
            return list(argv)
        program = _find(argv[0], cwd, path)
        if program not in {_find(allowed, cwd, path) for allowed in self.allow}:
            allowed = ", ".join(self.allow)
            raise NotAllowedError(f"{argv[0]!r} is not a command this server may run: {allowed}")
        return [program, *argv[1:]]

    def run_limit(self, timeout: float | None) -> float | None:
        """Seconds after which the job is stopped."""
        limits = [limit for limit in (timeout, self.max_runtime) if limit is not None]
        return min(limits, default=None)

    def environment(self, more: Iterable[str] = ()) -> dict[str, str]:
        """The whole environment of a job; *more* are patterns besides the usual ones."""
        patterns = (*_BASE_ENV, *self.env, *more)
        return {name: value for name, value in _visible(os.environ) if _fits(name, patterns)}


def _find(program: str, cwd: str, path: str | None) -> str:
    if "/" in program:
        return os.path.normpath(os.path.join(cwd, os.path.expanduser(program)))
    found = shutil.which(program, path=path)
    return os.path.abspath(found) if found else program


def _visible(environ: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    return ((name, value) for name, value in environ.items() if name != TOKEN_VARIABLE)


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
