"""A monitor ahead of need: a fork of the launcher that waits for an order, and monitors its job.

When that was short, it takes another one: to fork, and to copy the pages that a
job's life writes to, costs more than all the rest of a short life. It is then
as it was when it was forked: nothing below it lives, which ECHILD proved, no
descriptor is open, and what a command inherits of it is what it inherited.
"""

from __future__ import annotations

import array
import errno
import os
import select
import signal
import socket
import time
from contextlib import suppress

from jobsup import _monitor_main
from jobsup._birth import Supervised
from jobsup._control import ALONG_BYTES, RELAUNCH, Order, Report
from jobsup._imposed import imposed
from jobsup._platform import become_subreaper, name_process
from jobsup._rehearsal import rehearse_birth
from jobsup._spawn import Inheritance
from jobsup._typing import Final, NoReturn

_MESSAGE_BYTES: Final = ALONG_BYTES + 32
_RIGHTS_BYTES: Final = socket.CMSG_SPACE(3 * 4)
# Numbers: what makes one of two enum members is Python, and takes memory.
_INCOMPLETE: Final = int(socket.MSG_CTRUNC)
_CLOSE_ON_EXEC: Final = int(socket.MSG_CMSG_CLOEXEC)
_AT_ONCE: Final = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
_REUSE_SECONDS: Final = 10.0
"""After its fork it takes no job after the present one: many lives leave some memory behind."""

TAKEN: Final = "taken"
"""With root and id of a job: should its monitor be killed, it is to be adopted."""
REPORTED: Final = "reported"
"""The host knows, and has a core to spare: the next fork may be made."""
IDLE: Final = "idle"
"""With a socket: its job has ended, and it would take another."""


class Spare:
    """This very process, which ends with the launcher unless it has a job."""

    def __init__(
        self,
        control: socket.socket,
        notes: socket.socket,
        inherited: Inheritance,
        imposed: bytes | None,
    ) -> None:
        """Orders come through *control*; the launcher reads the *notes*.

        *imposed* is what the launcher's surroundings were, and ours at the fork.
        """
        self._control = control
        self._notes = notes
        self._inherited = inherited
        self._imposed = imposed
        self._is_subreaper = become_subreaper()
        self._reusable_until = time.monotonic() + _REUSE_SECONDS

    def serve(self) -> NoReturn:
        """Monitor the jobs whose orders come."""
        name_process("jobsup-spare")
        if not is_ready(self._control.fileno()):  # else somebody waits already
            rehearse_birth(self._inherited)
        while True:
            job, wakeup = self._begin_job()
            is_clean = _monitor_main.run(job, wakeup)
            if not is_clean or not self._may_take_another(job):
                os._exit(0)
            self._let_go(job)
            self._control = self._ask_for_control()
            name_process("jobsup-spare")

    # -- one job -------------------------------------------------------------

    def _begin_job(self) -> tuple[Supervised, int]:
        order, host, stdin = self._await_order()
        assert order.umask is not None
        assert order.mask is not None
        inherited = self._inherited._replace(umask=order.umask, mask=order.mask)
        wakeup = _monitor_main.wake_by_pipe()  # not before: a spare heeds no SIGTERM
        job = _monitor_main.begin(order, host, stdin, inherited, is_subreaper=self._is_subreaper)
        if job is None:
            self._give_up()
        # First of all: the host may be about to kill the monitor of its new job.
        self._tell(TAKEN, order.root, order.job_id)
        _monitor_main.say_done(host)
        self._tell(REPORTED)  # not before: the fork takes a core that the report needs
        _monitor_main.leave()
        return job, wakeup

    def _await_order(self) -> tuple[Order, int, int | None]:
        """The order, the host's socket, and the command's stdin if that is handed over.

        Returns in the host's working directory.
        """
        message, fds = self._receive()
        os.close(self._control.detach())
        name_process("jobsup-monitor")
        host, cwd, *stdin = fds
        thread, _, along = message.partition(b" ")
        order = Order.from_bytes(along) if along else _monitor_main.read_order(host)
        if order is None:
            self._give_up()
        try:
            _look_into(int(thread))
            os.fchdir(cwd)
        except OSError as error:  # the host may be where it could not enter again
            os.write(host, Report(RELAUNCH, "", error.errno).to_bytes())
            self._give_up()
        os.close(cwd)
        return order, host, stdin[0] if stdin else None

    def _receive(self) -> tuple[bytes, list[int]]:
        """What the host sends to one of its spares."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._notes, 0)  # POLLHUP: the launcher died
        while True:
            if self._notes.fileno() in dict(poll.poll()):
                os._exit(0)
            try:
                message, fds = receive(self._control, _AT_ONCE)
            except BlockingIOError:  # another one was faster
                continue
            if not message:
                os._exit(0)  # the host let go of us
            return message, fds

    def _tell(self, *words: str) -> None:
        with suppress(OSError):  # the launcher died just now
            self._notes.send(_note(*words))

    def _give_up(self) -> NoReturn:
        self._tell(REPORTED)
        os._exit(1)

    # -- the next one --------------------------------------------------------

    def _may_take_another(self, job: Supervised) -> bool:
        """Asked with the final record written, and the lock held: nobody prunes the job."""
        if time.monotonic() > self._reusable_until:
            return False
        # The command itself may have given its parent another priority, or cgroup.
        if self._imposed is None or imposed() != self._imposed:
            return False
        try:
            return not job.job_dir.is_pinned()
        except OSError:  # who cannot see whether it is
            return False

    def _let_go(self, job: Supervised) -> None:
        """Of all that is the job's; last of what wakes whoever waited for its end."""
        signal.set_wakeup_fd(-1)
        kept = (0, 1, 2, self._notes.fileno(), job.requests.fd)
        # Not os.closerange(): without close_range(2) it tries every number there is.
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd not in kept:
                with suppress(OSError):  # that of the listing
                    os.close(fd)
        os.close(job.requests.fd)

    def _ask_for_control(self) -> socket.socket:
        """The host's socket, which no monitor holds: it would hide the launcher's death."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours:
                with theirs:
                    socket.send_fds(self._notes, [_note(IDLE)], [theirs.fileno()])
                _, fds = receive(ours)
        except OSError:  # the launcher died
            os._exit(0)
        if not fds:  # or needs us no more
            os._exit(0)
        return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=fds[0])


def _note(*words: str) -> bytes:
    return os.fsencode("\0".join((str(os.getpid()), *words)))


def receive(ours: socket.socket, flags: int = _CLOSE_ON_EXEC) -> tuple[bytes, list[int]]:
    """A message, and the descriptors that came with it, which no command inherits.  recvmsg(2)"""
    message, ancillary, got, _ = ours.recvmsg(_MESSAGE_BYTES, _RIGHTS_BYTES, flags)
    if got & _INCOMPLETE:  # a command would read from nowhere what it was to read from a file
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return message, [fd for _, _, data in ancillary for fd in array.array("i", data)]


def is_ready(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _look_into(thread: int) -> None:
    """Raise OSError if we are in a Landlock domain that the thread is not in.

    It has looked into us: neither is then in a domain of its own.  landlock(7)
    """
    if thread:
        os.readlink(f"/proc/{thread}/cwd")
