"""The processes of a job whose monitor died: not our children, so found by looking.

A process is the job's if it carries the job's marker in its environment, is
in the session of the command while the command lives (which pins the number),
or descends from such a process. What cleared its environment, left the session
and lost its parent is not found: an empty look is no proof, and the record
says so.
"""

from __future__ import annotations

import os
import signal
import time

from jobsup._identity import (
    identify,
    is_alive,
    is_still,
    open_process,
    send_to_group_through,
    send_verified,
)
from jobsup._model import JobRecord, Survivor, Usage
from jobsup._platform import ProcessHandle, ProcessRow, environ_of, processes
from jobsup._stopplan import ProcessIdentity
from jobsup._tree import Exit, name_survivors
from jobsup._typing import Final

MARKER: Final = "JOBSUP_JOB_ID"
QUIET_PASSES: Final = 3
"""Looks in a row that must find nothing: one may meet a process in mid-exec,
whose environment reads as empty."""
_SPARING_PASSES: Final = 3
_QUIET_SECONDS: Final = 0.02
_BUSY_SECONDS: Final = 1.0
"""Between two looks: the one while they find nothing or a stop is under way, else the other."""


class StrayTree:
    """An adopted tree: found by marker, session and descent, signalled through handles."""

    proves = False

    def __init__(self, record: JobRecord) -> None:
        self._marker = f"{MARKER}={record.job_id}\0".encode()
        self._command = command = record.command
        self._handle: ProcessHandle | None = open_process(command) if command else None
        # What the dead monitor named may carry no mark that we can read: it is
        # another user's, or wrote its title over its environment.
        self._known = {ProcessIdentity(each.pid, each.token) for each in record.survivors}
        if command:
            self._known.add(command)
        self._quiet = 0
        self._peeked = False
        self._hurried = False
        self._forced = 0
        self._is_pinned = False

    def close(self) -> None:
        """Let go of the command, where this process lives on without the tree."""
        if self._handle:
            self._handle.close()

    def fileno(self) -> int | None:
        return self._handle.fileno() if self._handle else None

    def look_seconds(self) -> float | None:
        if self.command_lives():
            return None if self._command_wakes_us() else _QUIET_SECONDS
        return _QUIET_SECONDS if self._quiet or self._hurried else _BUSY_SECONDS

    def _command_wakes_us(self) -> bool:
        return self.fileno() is not None

    def command_lives(self) -> bool:
        return self._handle is not None and not self._handle.exited()

    def peek(self) -> Exit | None:
        if self._peeked or self.command_lives():
            return None
        status = self._handle.exit_status() if self._handle else None
        self._peeked = True  # not before: that the system refuses a look once loses nothing
        return Exit(None, None) if status is None else Exit.of_status(status)

    def collect(self) -> bool:
        if self.command_lives():
            return False
        self._quiet = 0 if self._scan() else self._quiet + 1
        return self._quiet >= QUIET_PASSES

    def is_empty(self) -> bool:
        """Whether enough looks in a row find nothing; the first that does finds out."""
        for _ in range(QUIET_PASSES):
            if self.command_lives() or self._scan():
                return False
            time.sleep(_QUIET_SECONDS)
        return True

    def send(self, *signums: int) -> None:
        self._hurried = True
        members = self.members()
        # The command's group at once, or a shell may see its child die of the
        # signal and go on before its own comes.
        groups = [self._send_to_group(signum) for signum in signums]
        for identity in members:
            own = ProcessRow.group_of(identity.pid)
            for signum, group in zip(signums, groups, strict=True):
                if own != group:
                    send_verified(identity, signum)

    def _send_to_group(self, signum: int) -> int | None:
        """The command's group, if all of it was signalled."""
        if self._command and self.command_lives():
            return self._command.pid if send_to_group_through(self._command, signum) else None
        return None

    def pause(self) -> None:
        for _ in range(QUIET_PASSES):  # whoever was forked while we looked
            self.send(signal.SIGSTOP)

    def force(self) -> None:
        """One pass: each process is killed as it is found, for a snapshot of a fork storm is stale.

        The first passes spare the command, stopped, and its group: while it
        lives, its session tells which processes are the job's.
        """
        self._hurried = True
        if not self._forced:
            self.members()  # whoever can be told by its parent alone: that one may die first
        self._forced += 1
        spared = 0
        if self._command and self._forced <= _SPARING_PASSES and self.command_lives():
            spared = self._command.pid
            send_verified(self._command, signal.SIGSTOP)
        ours = {known.pid: known for known in self._living_known()}
        for row in processes():
            self._kill(row, self._verify(row, ours), ours, spared)
        for row, identity in self._look():
            self._kill(row, identity, ours, spared)

    def _kill(
        self,
        row: ProcessRow,
        identity: ProcessIdentity | None,
        ours: dict[int, ProcessIdentity],
        spared: int,
    ) -> None:
        """SIGKILL *identity*, just read as *row*, and its group where that is the job's."""
        if identity is None:
            return
        ours[row.pid] = identity
        if spared and row.group == spared:
            return
        # A session led by one of ours has only ours in it, so have its groups.
        if row.session in ours or (self._command and row.session == self._command.pid):
            send_to_group_through(identity, signal.SIGKILL)
        send_verified(identity, signal.SIGKILL)

    def survivors(self) -> tuple[Survivor, ...]:
        return name_survivors(self.members())

    def usage(self) -> Usage | None:
        return None  # wait4(2) tells only a parent

    def members(self) -> list[ProcessIdentity]:
        """The living processes of the job, as far as they can be found."""
        return [identity for _, identity in self._look()]

    def _look(self) -> list[tuple[ProcessRow, ProcessIdentity]]:
        """What one look finds and can verify, parents before children."""
        ours = {known.pid: known for known in self._living_known()}
        found = []
        pending = sorted(self._scan().values(), key=lambda row: row.start_ticks)
        grew = True
        while grew:  # a parent and its child may have begun within one tick, in either order
            unverified = []
            for row in pending:
                identity = self._verify(row, ours)
                if identity is None and self._in_pinned_session(row):
                    identity = _same(row)
                if identity:
                    ours[row.pid] = identity
                    found.append((row, identity))
                else:
                    unverified.append(row)
            grew = len(unverified) < len(pending)
            pending = unverified
        self._known |= set(ours.values())
        return found

    def _verify(self, row: ProcessRow, ours: dict[int, ProcessIdentity]) -> ProcessIdentity | None:
        """Who *row* was read from, if it is the job's for sure: a number alone proves nothing."""
        if row.pid in ours:
            return ours[row.pid]
        if self._is_marked(row):
            return _same(row)
        parent = ours.get(row.parent)
        if parent is None:
            return None
        identity = _same(row)
        # Asked last: that the parent was not reaped means its number was its own.
        return identity if identity and is_still(parent) else None

    def _living_known(self) -> set[ProcessIdentity]:
        self._known = {known for known in self._known if is_alive(known)}
        return self._known

    def _scan(self) -> dict[int, ProcessRow]:
        """One look at all processes: the rows of those that are the job's."""
        rows: dict[int, ProcessRow] = {}
        ours: set[int] = set()
        for row in processes():
            if row.is_zombie or row.pid == os.getpid():
                continue
            rows[row.pid] = row
            # Asked at once: what lives for a millisecond is gone in the next.
            if self._is_marked(row):
                ours.add(row.pid)
        ours |= {identity.pid for identity in self._living_known()}
        self._is_pinned = self._session_is_pinned(rows)
        ours |= {pid for pid, row in rows.items() if self._in_pinned_session(row)}
        grew = True
        while grew:
            below = {pid for pid, row in rows.items() if row.parent in ours}
            grew = not below <= ours
            ours |= below
        return {pid: rows[pid] for pid in ours if pid in rows}

    def _is_marked(self, row: ProcessRow) -> bool:
        return not row.is_zombie and row.pid != os.getpid() and self._marker in environ_of(row.pid)

    def _in_pinned_session(self, row: ProcessRow) -> bool:
        return self._is_pinned and self._command is not None and row.session == self._command.pid

    def _session_is_pinned(self, rows: dict[int, ProcessRow]) -> bool:
        """Whether the command's session was its own: a member of ours outlived the look."""
        if self._command is None:
            return False
        number = self._command.pid
        return self.command_lives() or any(
            known.pid in rows and rows[known.pid].session == number and is_alive(known)
            for known in self._known
        )


class ChildTree(StrayTree):
    """The tree of a monitor that is no subreaper: the command is its child, the rest is found."""

    def __init__(self, record: JobRecord) -> None:
        super().__init__(record)
        self._exit: Exit | None = None
        self._usage: Usage | None = None

    def command_lives(self) -> bool:
        if self._exit is None and self._command is not None:
            # Reaped at once: only Linux lets everybody peek first.
            pid, status, usage = os.wait4(self._command.pid, os.WNOHANG)
            if pid:
                cpu_seconds = round(usage.ru_utime + usage.ru_stime, 6)
                self._exit = Exit.of_status(status)
                self._usage = Usage(cpu_seconds, usage.ru_maxrss * 1024)
        return self._exit is None

    def peek(self) -> Exit | None:
        if self._peeked or self.command_lives():
            return None
        self._peeked = True
        return self._exit

    def _command_wakes_us(self) -> bool:
        return True  # SIGCHLD

    def fileno(self) -> None:
        return None

    def usage(self) -> Usage | None:
        return self._usage


def _same(row: ProcessRow) -> ProcessIdentity | None:
    """The identity of the process that *row* was read from, unless it was replaced since."""
    identity = identify(row.pid)
    again = ProcessRow.read(row.pid)
    same = again is not None and (again.start_ticks, again.parent, again.session) == (
        row.start_ticks,
        row.parent,
        row.session,
    )
    return identity if same else None
