"""Ask, force, prove: the tree of a command whose monitor is its subreaper.

Every orphan below us becomes our child, so the tree drains through us, and
ECHILD proves that it is empty.  PR_SET_CHILD_SUBREAPER(2const), wait(2)
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from jobsup._identity import (
    Member,
    hold_child,
    send_to_child,
    send_to_group_of,
)
from jobsup._model import Survivor, Usage
from jobsup._platform import WALL, ProcessHandle, ProcessRow, children_of, owner_of
from jobsup._stopplan import ProcessIdentity
from jobsup._typing import Final, Protocol
from jobsup._value import Value

REAP_LIMIT: Final = 512
"""Children reaped per pass, so that a fork storm cannot keep us from killing."""
MAX_SURVIVORS: Final = 20
_PAUSE_PASSES: Final = 20
_LOOK_SECONDS: Final = 0.1
_SPARE_DESCRIPTORS: Final = 64
"""Of those this process may have, kept for all but holding members of a tree."""


class Exit(Value):
    """How a process ended. Neither is known where nobody could learn it."""

    exit_code: int | None
    signal: int | None

    @classmethod
    def of_status(cls, status: int) -> Exit:
        """Of a wait status.  wait(2)"""
        if os.WIFSIGNALED(status):
            return cls(None, os.WTERMSIG(status))
        return cls(os.WEXITSTATUS(status), None)


class Tree(Protocol):
    """What a monitor does with the processes of its job."""

    proves: bool
    """Whether `is_empty` is the kernel's word, or only that nothing was found."""

    def peek(self) -> Exit | None:
        """How the command ended, once, before its zombie is gone; None while it lives."""

    def collect(self) -> bool:
        """Reap what is dead, a bounded number; True when nothing is left."""

    def send(self, *signums: int) -> None:
        """Each of the signals in turn to every process, once: one look serves for all."""

    def pause(self) -> None:
        """SIGSTOP to every process, until none is found that was not sent one."""

    def force(self) -> None:
        """One pass of SIGKILL over what can be reached now."""

    def survivors(self) -> tuple[Survivor, ...]:
        """What is alive, named."""

    def usage(self) -> Usage | None:
        """What the reaped processes took."""

    def fileno(self) -> int | None:
        """What turns readable when the command ends, besides SIGCHLD."""

    def look_seconds(self) -> float | None:
        """When to look again; None where something wakes us."""


class OwnTree:
    """The tree below this process: the command is our child, the rest our descendants."""

    proves = True

    def __init__(self, command: int) -> None:
        self._command = command
        self._peeked = False
        self._reaped = False
        self._has_more = False
        self._cpu_seconds = 0.0
        self._peak_rss_bytes = 0

    def fileno(self) -> None:
        return None  # SIGCHLD tells

    def look_seconds(self) -> float | None:
        # SIGCHLD came once for many, and will not come again for those left over.
        return 0.0 if self._has_more else None

    def peek(self) -> Exit | None:
        if self._peeked:
            return None
        # WNOWAIT leaves the zombie: whoever kills us between here and the
        # record's rename leaves the exit status where an adopter finds it.
        seen = os.waitid(os.P_PID, self._command, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if seen is None:
            return None
        self._peeked = True
        if seen.si_code == os.CLD_EXITED:
            return Exit(seen.si_status, None)
        return Exit(None, seen.si_status)

    def collect(self) -> bool:
        return self._reap(spare_command=not self._peeked)

    def _reap(self, *, spare_command: bool) -> bool:
        self._has_more = False
        for _ in range(REAP_LIMIT):
            try:
                which = self._another_dead() if spare_command else -1
                if which is None:
                    return False
                pid, _, usage = os.wait4(which, os.WNOHANG | WALL)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            self._reaped |= pid == self._command
            # Each process is counted once: by whoever waited for it, and what
            # a parent counted comes up with the parent.  getrusage(2)
            self._cpu_seconds += usage.ru_utime + usage.ru_stime
            self._peak_rss_bytes = max(self._peak_rss_bytes, usage.ru_maxrss * 1024)
        self._has_more = True
        return False

    def _another_dead(self) -> int | None:
        """The next zombie, unless it is the command's, which is to be published first.

        Reap this very one: the command may die any moment, and would come before it.
        """
        seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | WALL)
        return None if seen is None or seen.si_pid == self._command else seen.si_pid

    def usage(self) -> Usage | None:
        return Usage(round(self._cpu_seconds, 6), self._peak_rss_bytes)

    def send(self, *signums: int) -> None:
        # Look first, signal second: who dies of the first signal takes the
        # way to its children along.
        with self._found() as found:
            group = None
            for signum in signums:
                group = None if self._reaped else send_to_group_of(self._command, signum)
            for member in found.values():
                # Asked after the group was signalled, not as we looked: who
                # leaves it in between is not missed. Of a dead one's number
                # it may tell another's group, but we signal through a handle.
                if ProcessRow.group_of(member.pid) != group:
                    for signum in signums:
                        member.send(signum)

    def pause(self) -> None:
        stopped: set[Member] = set()
        with self._found() as found:
            for _ in range(_PAUSE_PASSES):
                fresh = set(found.values()) - stopped
                if not fresh:
                    return
                for member in fresh:
                    member.send(signal.SIGSTOP)
                stopped |= fresh
                # A process forked while we looked was not stopped: look again.
                self._walk(found, whole=True)

    def force(self) -> None:
        groups: set[int | None] = set()
        for child in children_of(os.getpid()):
            if os.getpgid(child) not in groups:
                groups.add(send_to_group_of(child, signal.SIGKILL))
            send_to_child(child, signal.SIGKILL)

    def survivors(self) -> tuple[Survivor, ...]:
        with self._found() as found:
            identities = (member.identity() for member in found.values())
            return name_survivors(each for each in identities if each)

    @contextmanager
    def _found(self) -> Iterator[dict[int, Member]]:
        """Every process verified to be below us by its number, top down, until they are let go.

        What loses its parent while we look moves up to us, so we look at our
        own children again, until they are all known. A tree that grows faster
        than we look is left at what was found: force does not need this.
        """
        found: dict[int, Member] = {}
        deadline = time.monotonic() + _LOOK_SECONDS
        try:
            while time.monotonic() < deadline:
                # Or a fork storm drowns us in zombies.
                self._reap(spare_command=not self._reaped)
                if not self._walk(found):
                    break
            yield found
        finally:
            _close(found.values())

    def _walk(self, found: dict[int, Member], *, whole: bool = False) -> bool:
        """Add whom it does not hold yet; whether there was anybody.

        The children of those it holds are looked at only in a *whole* walk.
        """
        grew = False
        most = os.sysconf("SC_OPEN_MAX") - _SPARE_DESCRIPTORS
        pending: list[Member | None] = [None]
        while pending:
            parent = pending.pop()
            number = parent.pid if parent else os.getpid()
            fresh: list[Member] = []
            try:
                for pid in children_of(number):
                    known = found.get(pid)
                    if known and known.is_still():
                        pending += [known] if whole else []
                    elif member := hold_child(pid, number):
                        fresh.append(member)
                        if len(found) + len(fresh) > most:
                            member.let_go()
                # One answer for all its children: it has not been reaped, so
                # all this while its number, which their rows name, was its own.
                is_own = parent is None or parent.is_still()
            except BaseException:
                _close(fresh)
                raise
            if not is_own:
                _close(fresh)
                continue
            for member in fresh:
                if before := found.pop(member.pid, None):
                    before.close()
                found[member.pid] = member
            grew |= bool(fresh)
            pending += fresh
        return grew


def _close(members: Iterable[Member]) -> None:
    for member in members:
        member.close()


def name_survivors(processes: Iterable[ProcessIdentity]) -> tuple[Survivor, ...]:
    """Who they are and why they live; at most `MAX_SURVIVORS`, zombies apart."""
    named: list[Survivor] = []
    for identity in processes:
        pid = identity.pid
        row = ProcessRow.read(pid)
        if row is None or row.is_zombie:
            continue
        refusal = _refusal(pid)
        named.append(Survivor(pid, row.command, owner_of(pid), row.state, refusal, identity.token))
        if len(named) == MAX_SURVIVORS:
            break
    return tuple(named)


def _refusal(pid: int) -> int | None:
    """The errno with which the kernel refuses us a signal to this process.  kill(2), signal 0"""
    try:
        with ProcessHandle(pid) as handle:
            handle.send(0)
    except OSError as error:
        return error.errno
    return None
