"""Processes as Linux shows them: pidfds and /proc."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import select
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import suppress

NAME = "linux"

# struct pidfd_info, first published size, and its ioctl.  linux/pidfd.h
_PIDFD_INFO = struct.Struct("=QQ11Ii")
_PIDFD_GET_INFO = 3 << 30 | _PIDFD_INFO.size << 16 | 0xFF << 8 | 11
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_SIGNAL_PROCESS_GROUP = 1 << 2

_PIDFD_RELEASE = (5, 3)
"""Whoever has pidfds and says to be of before is no Linux.  pidfd_open(2)"""
_TRIALS = 8
"""In other moments of a tick: one may fit where the clocks differ by less than that."""
_READ_BYTES = 1 << 14
_ROW_BYTES = 4096
"""More than a row has: 52 numbers, and a command of at most 64 bytes."""

WALL = 0x40000000
"""__WALL of waitpid(2): children of every clone(2) flavour."""


def tell_of_writes(directory: int) -> bool:
    """Have the kernel send SIGIO, once, when a file of an open directory is next written to.

    False where it does not: CONFIG_DNOTIFY, /proc/sys/fs/dir-notify-enable.
    write(2) and truncate(2) tell, and a memory mapping does not.  fcntl(2), F_NOTIFY
    """
    try:
        fcntl.fcntl(directory, fcntl.F_NOTIFY, fcntl.DN_MODIFY)
    except OSError:
        return False
    return True


def obstacle() -> str | None:
    """Why processes cannot be told apart here; None where they can."""
    # Numbers read from another namespace's /proc, used in ours, name others.
    if os.readlink("/proc/self") != str(os.getpid()):
        return "/proc is that of another pid namespace; mount one for this"
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        return "the kernel does not list a process's children (CONFIG_PROC_CHILDREN)"
    return None


@functools.cache
def _domain() -> str:
    """The boot and the pid namespace within which a pid and a start time mean something."""
    return f"{boot_id()}:{os.stat('/proc/self/ns/pid').st_ino}"


# A process stays in its pid namespace; a child may be born into another.  pid_namespaces(7)
os.register_at_fork(after_in_child=_domain.cache_clear)


@functools.cache
def boot_id() -> str:
    """Another one after each boot."""
    # Bytes: to load a codec by name, Python may need a working directory that exists.
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return file.read().decode().strip()


@functools.cache
def _shift_ticks() -> int:
    """What is added to the start times that this process is shown.  time_namespaces(7)"""
    try:
        with open("/proc/self/timens_offsets", "rb") as file:
            offsets = {name: int(seconds) for name, seconds, _ in map(bytes.split, file)}
    except FileNotFoundError:
        return 0
    return offsets[b"boottime"] * os.sysconf("SC_CLK_TCK")


def moved_since(token: str) -> str | None:
    """Why no process of *token*'s world can be looked up here: reboot, pid-namespace, or None."""
    boot, _, rest = token.partition(":")
    if boot != boot_id():
        return "reboot"
    return None if rest.startswith(_domain().partition(":")[2] + ":") else "pid-namespace"


class ProcessHandle:
    """A process held by a pidfd: whatever becomes of its number, this stays the same process."""

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError if there is no process *pid*."""
        self.pid = pid
        try:
            self._fd = os.pidfd_open(pid)
        except OSError as error:
            # EINVAL: a thread's id, not a process's; ENOENT says so since Linux 6.15.
            if error.errno in (errno.EINVAL, errno.ENOENT):
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
            raise

    def token(self) -> str | None:
        """The start token, None if the process was reaped in the meantime."""
        row = ProcessRow.read(self.pid)
        # Read after the pidfd was opened: if our process was reaped before the
        # read, the row may be a successor's, but then so is the exit here.
        if row is None or self.reaped():
            return None
        return _token(row.start_ticks, self._fd)

    def reaped(self) -> bool:
        """Whether the number is free again; while it is not, it is this process's own."""
        try:
            signal.pidfd_send_signal(self._fd, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def fileno(self) -> int | None:
        """A descriptor that turns readable when the process exits.  pidfd_open(2)"""
        return self._fd

    def exited(self) -> bool:
        """Whether it is over, as a zombie too; a leader whose threads live on is not."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))

    def send(self, signum: int) -> None:
        """Raises ProcessLookupError or PermissionError as kill(2) does."""
        signal.pidfd_send_signal(self._fd, signum)

    def send_to_group(self, signum: int) -> None:
        """Signal the process's group.  pidfd_send_signal(2), PIDFD_SIGNAL_PROCESS_GROUP

        Raises:
            OSError: EINVAL before Linux 6.9.
        """
        signal.pidfd_send_signal(self._fd, signum, None, _PIDFD_SIGNAL_PROCESS_GROUP)

    def exit_status(self) -> int | None:
        """The wait status of an exited process, its parent or not; None if nobody can tell.

        PIDFD_GET_INFO keeps it after the process was reaped, since Linux 6.15.
        While it is a zombie, field 52 of proc_pid_stat(5) has it.
        """
        row = ProcessRow.read(self.pid)
        if row is not None and row.state == "Z" and not self.reaped():
            return row.exit_status if _may_inspect(self.pid) else None
        info = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, *[0] * 13))
        try:
            fcntl.ioctl(self._fd, _PIDFD_GET_INFO, info)
        except OSError:  # ENOTTY before 6.13, ESRCH up to 6.14
            return None
        mask, *_, status = _PIDFD_INFO.unpack(info)
        return status if mask & _PIDFD_INFO_EXIT else None

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> ProcessHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def uptime() -> int:
    """Nanoseconds since boot, as start times are counted.  CLOCK_BOOTTIME"""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class _Births:
    """Whether a start time that lies between two looks at the clock need not be read.

    To read it waits while a process is in the midst of execve(2), often for as
    long as all the rest of a start. A tick is 10 ms: when both looks are in one
    it is known. Who emulates Linux may count otherwise, so it is tried out.
    """

    def __init__(self) -> None:
        self._trials = 0
        self._is_refuted = False

    @property
    def are_known(self) -> bool:
        return self._trials >= _TRIALS and not self._is_refuted

    def tick_of(self, since: int) -> int | None:
        """The tick of a birth between *since* and now, if it is one tick."""
        rate = os.sysconf("SC_CLK_TCK")
        first, last = (at * rate // 1_000_000_000 for at in (since, uptime()))
        return first if first == last else None

    def compare(self, told: int | None, read: int) -> None:
        """Learn from a start time that was read."""
        if told is None:
            return
        if not self._trials:
            self._is_refuted = _release() < _PIDFD_RELEASE
        self._trials += 1
        self._is_refuted |= told != read


def _release() -> tuple[int, ...]:
    with suppress(OSError), open("/proc/sys/kernel/osrelease", "rb") as file:
        numbers = file.read().partition(b"-")[0].split(b".")[:2]
        return tuple(int(number) if number.isdigit() else 0 for number in numbers)
    return (0, 0)


_births = _Births()


def own_token(pid: int, since: int | None = None) -> str:
    """The start token of this process or of its unreaped child, whose number is theirs for sure.

    *since* is the `uptime` before the process came to be, if that was just now.
    """
    tick = None if since is None else _births.tick_of(since)
    fd = os.pidfd_open(pid)
    try:
        if tick is None or not _births.are_known:
            row = ProcessRow.read(pid)
            assert row is not None, f"process {pid} was reaped by somebody else"
            _births.compare(tick, row.start_ticks)
            tick = row.start_ticks
        return _token(tick, fd)
    finally:
        os.close(fd)


def try_start_time(pid: int, since: int) -> None:
    """Have later ones known, or never again, by that of our child, which was born after *since*."""
    tick = _births.tick_of(since)
    with suppress(OSError):
        row = ProcessRow.read(pid)
        if row is not None:
            _births.compare(tick, row.start_ticks)


def _token(tick: int, pidfd: int) -> str:
    return f"{_domain()}:{tick - _shift_ticks()}:{os.fstat(pidfd).st_ino}"


def _may_inspect(pid: int) -> bool:
    """Whether the kernel shows us field 52; to others it shows 0.  ptrace(2), access mode"""
    if os.geteuid() == 0:
        return True
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
        uids, gids = fields["Uid"].split()[:3], fields["Gid"].split()[:3]
    except (OSError, KeyError):
        return False
    return set(uids) == {str(os.getuid())} and set(gids) == {str(os.getgid())}


class ProcessRow:
    """What proc_pid_stat(5) says of one process; what is asked for is parsed."""

    __slots__ = ("_fields", "_head", "pid")

    def __init__(self, pid: int, line: bytes) -> None:
        # The command may hold any character, so look for the last bracket.
        self._head, _, tail = line.rpartition(b")")
        self._fields = tail.split()
        self.pid = pid

    @classmethod
    def read(cls, pid: int) -> ProcessRow | None:
        # Not open(): its buffers take longer than the kernel.
        try:
            fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            return None
        try:
            line = os.read(fd, _ROW_BYTES)
        except ProcessLookupError:
            return None
        finally:
            os.close(fd)
        return cls(pid, line)

    @classmethod
    def group_of(cls, pid: int) -> int | None:
        try:
            return os.getpgid(pid)
        except OSError:
            return None

    @property
    def command(self) -> str:
        return self._head.partition(b"(")[2].decode("utf-8", "replace")

    @property
    def state(self) -> str:
        return self._fields[0].decode()

    @property
    def parent(self) -> int:
        return int(self._fields[1])

    @property
    def group(self) -> int:
        return int(self._fields[2])

    @property
    def session(self) -> int:
        return int(self._fields[3])

    @property
    def start_ticks(self) -> int:
        return int(self._fields[19])

    @property
    def exit_status(self) -> int:
        return int(self._fields[49])

    @property
    def is_zombie(self) -> bool:
        """Whether all of it is over: a leader may have ended before its other threads."""
        return self._fields[0] in b"ZX" and int(self._fields[17]) <= 1


def processes() -> Iterator[ProcessRow]:
    """Every process in sight, kernel threads apart; the youngest first, which may not live long."""
    for pid in sorted((int(name) for name in os.listdir("/proc") if name.isdigit()), reverse=True):
        if (row := ProcessRow.read(pid)) and 2 not in (pid, row.parent):
            yield row


def children_of(pid: int) -> list[int]:
    """The direct children, zombies among them.  proc_pid_task_tid_children(5)

    Complete for this process' own children as long as nobody else reaps or
    forks in it, which holds in a single-threaded monitor.
    """
    words = (
        word
        for thread in _threads_of(pid)
        for word in _read(f"/proc/{pid}/task/{thread}/children").split()
    )
    # 0 is a child that our pid namespace cannot name.
    return [child for child in map(int, words) if child]


def environ_of(pid: int) -> bytes:
    """The environment it was exec'd with; empty if we may not look or it is in mid-exec."""
    # A leader that ended before its other threads has none, but they do.
    return _read(f"/proc/{pid}/environ") or next(
        filter(None, (_read(f"/proc/{pid}/task/{tid}/environ") for tid in _threads_of(pid))), b""
    )


def _threads_of(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return []


def _read(path: str) -> bytes:
    """What a file of a process says; nothing if it is gone, or none of ours."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    parts = []
    try:
        while part := os.read(fd, _READ_BYTES):
            parts.append(part)
    except OSError:
        return b""
    finally:
        os.close(fd)
    return b"".join(parts)


def owner_of(pid: int) -> int:
    """The effective user id of a process, -1 if it is gone."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1


def age_of(pid: int) -> float:
    """Seconds since the process started, whatever was done to the clock meanwhile."""
    row = ProcessRow.read(pid)
    if row is None:
        return 0.0
    # Field 22 counts from boot and through suspend, as this clock does.  time_namespaces(7) aside.
    return time.clock_gettime(time.CLOCK_BOOTTIME) - row.start_ticks / os.sysconf("SC_CLK_TCK")
