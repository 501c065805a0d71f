"""Inside a process under fire: tells which system calls jobsup makes, and breaks the chosen one.

Loaded into a monitor's bare interpreter too, so it imports what that has
anyway. A call counts if jobsup's own code makes it; what the standard library
does in between is passed on untouched.
"""

from __future__ import annotations

import builtins
import ctypes
import errno
import fcntl
import os
import pathlib
import resource
import selectors
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

MODULES: Final = {
    "os": os,
    "fcntl": fcntl,
    "signal": signal,
    "socket": socket,
    "resource": resource,
    "selectors": selectors,
}
METHODS: Final = {
    "Path": pathlib.Path,
    "selector": selectors.DefaultSelector,
    "sock": socket.socket,
}
"""Classes of which single methods are system calls: ``Path.mkdir``."""

_kill, _open, _write, _close, _getpid = os.kill, os.open, os.write, os.close, os.getpid
_fstat: Final = os.fstat
_APPEND: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
_LONGEST_SLEEP: Final = 0.02
_CALLERS: Final = 4
"""So many callers tell one use of a call from another."""


class Plan:
    """What to do in this process.

    *trace* is a file that takes every point reached, or None. *point* is broken
    once by *action*: ``kill-before``, ``kill-after``, ``short`` or the name of
    an errno. *fired* is a file that exists once that was done, by whichever
    process came first, and holds its pid.
    """

    def __init__(
        self,
        package: str,
        calls: list[str],
        role: str,
        fired: str,
        trace: str | None = None,
        point: str | None = None,
        action: str = "",
    ) -> None:
        self.package = package + "/"
        self.calls = calls
        self.role = role
        self.fired = fired
        self.trace = trace
        self.point = point
        self.action = action
        self.told: set[str] = set()
        self.is_off = False

    def install(self) -> None:
        """Put a wrapper in the place of each call, for the life of this process."""
        for name in self.calls:
            home, _, call = name.rpartition(".")
            if home == "libc":
                continue
            owner: Any = {**MODULES, **METHODS, "": builtins}.get(home) or sys.modules.get(home)
            if owner is not None and hasattr(owner, call):
                setattr(owner, call, self._wrapped(name, getattr(owner, call)))
        if any(name.startswith("libc.") for name in self.calls):
            self._wrap_libc()
        sleep = time.sleep
        # What waits for a broken disk to heal need not wait long here.
        time.sleep = lambda seconds: sleep(min(float(seconds), _LONGEST_SLEEP))

    def _wrap_libc(self) -> None:
        plan, load = self, ctypes.CDLL

        class Libc:
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                self._real = load(*args, **kwargs)

            def __getattr__(self, call: str) -> Any:
                name, real = f"libc.{call}", getattr(self._real, call)
                return plan._wrapped(name, real) if name in plan.calls else real

        ctypes.CDLL = Libc  # type: ignore[assignment, misc]  # for whoever loads it next

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            point = None if self.is_off else self._point(name, sys._getframe(1))
            if point is None:
                return real(*args, **kwargs)
            if self.trace is not None and point not in self.told:
                self.told.add(point)
                self._append(self.trace, point)
            if point != self.point or not self._can(name, args) or not self._is_first():
                return real(*args, **kwargs)
            return self._break(name, real, args, kwargs)

        return call

    def _break(
        self, name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self.action == "kill-before":
            _kill(_getpid(), signal.SIGKILL)
        if self.action == "kill-after":
            result = real(*args, **kwargs)
            _kill(_getpid(), signal.SIGKILL)
            return result
        if self.action == "short":
            fd, data, *rest = args
            return real(fd, data[: max(1, len(data) // 2)], *rest, **kwargs)
        number = getattr(errno, self.action)
        if name.startswith("libc."):
            ctypes.set_errno(number)
            return -1
        path = args[0] if args and isinstance(args[0], (str, pathlib.PurePath)) else None
        raise OSError(number, os.strerror(number), path and str(path))

    def _can(self, name: str, args: tuple[Any, ...]) -> bool:
        """Whether the call, with these arguments, can come to that."""
        if name in ("os.read", "os.write") and not self.action.startswith("kill"):
            return stat.S_ISREG(_fstat(args[0]).st_mode)  # a pipe knows no disk
        if name == "os.open" and self.action in ("ENOSPC", "EROFS"):
            writes = os.O_CREAT if self.action == "ENOSPC" else os.O_CREAT | os.O_ACCMODE
            is_file = not os.path.exists(args[0]) or os.path.isfile(args[0])
            return bool(args[1] & writes) and is_file
        return True

    def _is_first(self) -> bool:
        try:
            fd = _open(self.fired, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        _write(fd, str(_getpid()).encode())
        _close(fd)
        return True

    def _append(self, path: str, line: str) -> None:
        fd = _open(path, _APPEND, 0o600)
        _write(fd, line.encode() + b"\n")
        _close(fd)

    # -- where are we ----------------------------------------------------------

    def _point(self, name: str, frame: FrameType | None) -> str | None:
        """``monitor os.open@_jobdir:97 < _birth.adopt < ...``; None if another made the call."""
        is_callback = False
        while frame is not None and frame.f_code.co_filename.endswith("/contextlib.py"):
            is_callback = True  # what an ExitStack was given to do
            frame = frame.f_back
        if frame is None or (module := self._module(frame)) is None:
            return None
        line = frame.f_code.co_firstlineno if is_callback else frame.f_lineno
        where = f"{self.role} {name}@{module}:{line}" + (":callback" if is_callback else "")
        callers: list[str] = []
        outer = frame.f_back
        while outer is not None and len(callers) < _CALLERS:
            name = outer.f_code.co_name
            # Before Python 3.12 a comprehension has a frame of its own.
            if (module := self._module(outer)) is not None and not name.startswith("<"):
                callers.append(f"{module}.{name}")
            outer = outer.f_back
        return " < ".join([where, *callers])

    def _module(self, frame: FrameType) -> str | None:
        file = frame.f_code.co_filename
        if file == "<string>":
            return "_BOOT"
        if file.startswith(self.package):
            return file[len(self.package) : -len(".py")]
        return None
