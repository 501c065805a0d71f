"""Bring a monitor to life: a fork of this process's launcher, or an interpreter of its own."""

from __future__ import annotations

import atexit
import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from jobsup._control import RELAUNCH, Order, Report
from jobsup._hostend import (
    HostEnd,
    close_in_child,
    converse,
    drop_kept,
    handing_over,
    is_told_by_the_system,
    socket_pair,
)
from jobsup._jobdir import StoreDir
from jobsup._layout import lay_out
from jobsup._platform import NAME, PORTABLE
from jobsup._strays import MARKER
from jobsup._surroundings import Surroundings, surroundings
from jobsup.errors import SpawnError

LAUNCHER: Final = "JOBSUP_LAUNCHER"
"""Set to 0 in the environment, it gives each monitor an interpreter of its own."""
_MAX_LAUNCHERS: Final = 4
"""Of one process, whose threads may have different surroundings."""
_MOST_FAILURES: Final = 3
"""To begin one: it may have been killed as it began."""

# The package is put in place by hand: its __init__ is the host side, which
# would load psutil, filelock and more into every monitor. What our modules need
# of Python's comes first, so that ours lie together: a page of memory that one
# of them writes to is a page of every job's.
_BOOT: Final = """
import os, sys
if os.fork():
    os._exit(0)
entry, _, _, *paths = sys.argv[1:]
sys.path += paths
import contextlib, ctypes, datetime, fcntl, gc, json, math, resource, select, socket
package = type(sys)("jobsup")
package.__path__ = [paths[0] + "/jobsup"]
sys.modules["jobsup"] = package
__import__(entry)
sys.modules[entry].main()
"""


def launch(order: Order) -> None:
    """Have a new monitor carry out *order*; return once it has.

    Raises:
        SpawnError: It could not; nothing was left behind, except by a monitor
            that was killed (stage ``"monitor"``).
    """
    answer = None
    # An adopter is rare, and must be no process of a job that itself called us.
    if order.verb == "start" and os.environ.get(LAUNCHER) != "0":
        answer = _launchers.launch(order)
    if answer is None:
        answer = _launch_interpreter(order)
    report = Report.from_bytes(answer)
    if report is None:
        said = answer.decode("utf-8", "replace").strip() or "it died without a word"
        raise SpawnError("monitor", order.root, said.splitlines()[-1]) from RuntimeError(said)
    if report.stage is not None:
        cause = OSError(report.errno, report.reason, report.subject) if report.errno else None
        stage = "monitor" if report.stage == RELAUNCH else report.stage
        raise SpawnError(stage, report.subject, report.reason) from cause


def _laid_out(order: Order) -> Order:
    """The order, with its directory; or one that has the monitor make that.

    Done last, as the order goes out, so that hardly a moment is left in which
    this process could be killed and leave the directory to prune.
    """
    if order.verb != "start":
        return order
    try:
        lay_out(order)
    except FileExistsError:  # another monitor was killed before it began
        return order
    except OSError as error:
        if error.errno == errno.EFBIG:  # our own limit, which a monitor lifts for itself
            return order._replace(lays_out=True)
        raise SpawnError("store", order.root, error.strerror or str(error)) from error
    return order


def _is_laid_out(order: Order) -> bool:
    with suppress(OSError):
        return StoreDir(order.root).unborn(order.job_id).exists()
    return False


def _has_begun(order: Order) -> bool:
    """Whether a monitor has, or may have: nobody else is to carry it out then."""
    store = StoreDir(order.root)
    with suppress(OSError):  # looked at second: it is renamed from the first
        return store.unborn(order.job_id).has_begun() or store.job(order.job_id).exists()
    return True


def _launch_interpreter(order: Order) -> bytes:
    try:
        ours, theirs = socket_pair()
        with ours:
            with handing_over(theirs):
                keep = [] if order.stdin_fd is None else [order.stdin_fd]
                _run_interpreter("jobsup._monitor_main", theirs, keep, order.verb)
            return converse(ours, _laid_out(order).to_bytes())
    except OSError as error:
        if not is_told_by_the_system(error):
            raise
        reason = error.strerror or str(error)
        raise SpawnError("monitor", order.root, reason) from error


def _run_interpreter(
    entry: str, theirs: socket.socket, keep: Sequence[int] = (), verb: str = "start"
) -> None:
    """Start *entry* with the socket as its standard streams; it forks itself away from us."""
    # What the command gets comes with the order. A monitor needs only what loads
    # the interpreter and names the files' encoding, and the mark of the job, if
    # any, that it is a part of. An adopter that the job itself called is not.
    kept = ("LANG", "LC_", "LD_", "DYLD_", PORTABLE, *([MARKER] if verb == "start" else ()))
    environment = {key: os.environ[key] for key in os.environ if key.startswith(kept)}
    # -I and -S: nothing of the user's environment or site changes what a
    # monitor is, and it starts in a third of the time.
    argv = [sys.executable, "-I", "-S", "-c", _BOOT, entry, verb, ",".join(map(str, keep))]
    forks = subprocess.Popen(
        argv + _import_paths(),
        stdin=theirs.fileno(),
        stdout=theirs.fileno(),
        stderr=theirs.fileno(),
        env=environment,
        pass_fds=keep,
        start_new_session=True,
    )
    forks.wait()  # ends at once


def _import_paths() -> list[str]:
    """Where the monitor finds jobsup and what it imports, whatever this process did to find it."""
    packages = [Path(__file__).parent]
    if NAME == "portable":
        import psutil  # noqa: PLC0415 - only the portable monitor needs it

        packages.append(Path(psutil.__file__).parent)
    return list(dict.fromkeys(str(package.parent) for package in packages))


# -- the launcher ------------------------------------------------------------


class _Launchers:
    """This process's launchers, by the surroundings in which they were started."""

    def __init__(self) -> None:
        # A signal handler may start a job while its own thread starts one.
        self._lock = threading.RLock()
        self._is_searching = False
        self._known: dict[bytes, HostEnd | None] = {}
        """None: one that fits cannot be had."""
        self._failures = 0
        """In a row, to begin one."""

    def launch(self, order: Order) -> bytes | None:
        """What the monitor said; None if it has not begun, and an interpreter must do it."""
        here = surroundings()
        if here is None and drop_kept():  # there may have been no descriptor left
            here = surroundings()
        launcher = self._fitting(here) if here else None
        if here is None or launcher is None:
            return None
        try:
            answer = launcher.launch(order, here, _laid_out)
        except OSError as error:  # it is gone, or something cannot be handed over
            if not is_told_by_the_system(error):
                raise
            return b"" if _has_begun(order) else None
        report = Report.from_bytes(answer)
        if report is None:
            # Nobody holds the order any more, whoever of the two was killed; a
            # launcher may look alive yet.
            return None if _is_laid_out(order) and not _has_begun(order) else answer
        return None if report.stage == RELAUNCH else answer

    def _fitting(self, here: Surroundings) -> HostEnd | None:
        with self._lock:
            if self._is_searching:  # below us: an interpreter does it this time
                return None
            self._is_searching = True
            try:
                return self._find_or_begin(here)
            finally:
                self._is_searching = False

    def _find_or_begin(self, here: Surroundings) -> HostEnd | None:
        key = here.fingerprint
        if key in self._known:
            found = self._known[key]
            if found is None or found.is_usable():
                self._known[key] = self._known.pop(key)  # the last used is the last to go
                return found
            self._known.pop(key)
            found.close()
        while len(self._known) >= _MAX_LAUNCHERS:
            oldest = self._known.pop(next(iter(self._known)))
            if oldest:
                oldest.close()
        made = self._begin(here)
        self._failures = 0 if made else self._failures + 1
        if made or self._failures >= _MOST_FAILURES:
            self._known[key] = made
        return made

    def _begin(self, here: Surroundings) -> HostEnd | None:
        try:
            made = HostEnd(_run_interpreter, here.thread)
        except OSError:
            return None
        # Another thread may have changed what all share while it was started.
        now = surroundings()
        if now is not None and now.fingerprint == here.fingerprint and made.is_usable():
            return made
        made.close()
        return None

    def close(self) -> None:
        """As this process ends."""
        for launcher in filter(None, self._known.values()):
            launcher.close(linger=True)
        self._known.clear()


_launchers = _Launchers()


def _forget_in_child() -> None:
    """A fork of the host has launchers of its own; the lock may have been held by a lost thread."""
    global _launchers  # noqa: PLW0603 - one per process is what it is for
    close_in_child()
    _launchers = _Launchers()


os.register_at_fork(after_in_child=_forget_in_child)


@atexit.register
def _end_launchers() -> None:
    _launchers.close()
