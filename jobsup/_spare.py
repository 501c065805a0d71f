"""A monitor ahead of need: a fork of the launcher that waits for an order, and monitors its job.

When that was short, it takes another one, by the socket of the first: to fork,
and to copy the pages that a job's life writes to, costs more than all the rest
of a short life. It is then as it was when it was forked: nothing below it
lives, which ECHILD proved, nothing of the job is open, and what a command
inherits of it is what it inherited.
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
from jobsup._board import Board
from jobsup._control import ALONG_BYTES, IDLE, RELAUNCH, Order, Report
from jobsup._imposed import imposed
from jobsup._platform import become_subreaper, name_process
from jobsup._rehearsal import rehearse_birth
from jobsup._slices import take_short_slices
from jobsup._spawn import Inheritance
from jobsup._typing import Final, NoReturn

_MESSAGE_BYTES: Final = ALONG_BYTES + 32
_RIGHTS_BYTES: Final = socket.CMSG_SPACE(3 * 4)
# Numbers: what makes one of two enum members is Python, and takes memory.
_INCOMPLETE: Final = int(socket.MSG_CTRUNC | socket.MSG_TRUNC)
_AT_ONCE: Final = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
_REUSE_SECONDS: Final = 10.0
"""After its fork it takes no job after the present one: many lives leave some memory behind."""


class Spare:
    """This very process, which ends with the launcher unless it has a job."""

    def __init__(
        self,
        control: socket.socket,
        notes: socket.socket,
        board: Board,
        place: int,
        inherited: Inheritance,
        imposed: bytes | None,
    ) -> None:
        """The first order comes through *control*; the launcher reads the *notes*.

        Its *place* on the board tells the launcher what this is at. *imposed*
        is what the launcher's surroundings were, and ours at the fork.
        """
        self._control = control
        self._notes = notes
        self._board = board
        self._place = place
        self._inherited = inherited
        self._imposed = imposed
        self._is_subreaper = become_subreaper()
        self._has_tried_slices = False
        self._reusable_until = time.monotonic() + _REUSE_SECONDS

    def serve(self) -> NoReturn:
        """Monitor the jobs whose orders come."""
        name_process("jobsup-spare")
        if not is_ready(self._control.fileno()):  # else somebody waits already
            rehearse_birth(self._inherited)
            self._take_short_slices()
        message, (number, *fds) = self._receive(self._control, None)
        os.close(self._control.detach())
        host = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, number)
        job, wakeup = self._begin_job(host, message, fds)
        self._note()  # not before: the fork takes a core that the report needs
        # Where the order came by a stream, what we said next might be read as one with the report.
        has_line = not message.endswith(b" ")
        while self._may_take_another(job, is_clean=_monitor_main.run(job, wakeup)) and has_line:
            self._let_go(job, host)
            self._take_short_slices()
            message, fds = self._receive(host, self._reusable_until)
            job, wakeup = self._begin_job(host, message, fds)
        os._exit(0)

    # -- one job -------------------------------------------------------------

    def _receive(self, ours: socket.socket, until: float | None) -> tuple[bytes, list[int]]:
        """What the host sends, to any of its spares or to this very one; ours ends then."""
        poll = select.poll()
        poll.register(ours, select.POLLIN)
        poll.register(self._notes, 0)  # POLLHUP: the launcher died
        while True:
            left = None if until is None else max(0.0, until - time.monotonic()) * 1000
            ready = dict(poll.poll(left))
            if self._notes.fileno() in ready:
                os._exit(0)
            if not ready:  # the host cannot send any more; what it has sent is served
                ours.shutdown(socket.SHUT_RD)
            try:
                message, fds = receive(ours)
            except BlockingIOError:  # another one was faster
                continue
            except ConnectionResetError:  # it has not even heard that we were idle
                message = b""
            if not message:
                os._exit(0)  # the host let go of us
            return message, fds

    def _begin_job(
        self, host: socket.socket, message: bytes, fds: list[int]
    ) -> tuple[Supervised, int]:
        order, stdin = self._read_order(host, message, fds)
        assert order.umask is not None
        assert order.mask is not None
        inherited = self._inherited._replace(umask=order.umask, mask=order.mask)
        wakeup = _monitor_main.wake_by_pipe()  # not before: a spare heeds no SIGTERM
        job = _monitor_main.begin(
            order, host.fileno(), stdin, inherited, is_subreaper=self._is_subreaper
        )
        if job is None:
            self._give_up()
        # First of all: the host may be about to kill the monitor of its new job.
        self._board.put(self._place, order.root, order.job_id)
        _monitor_main.say_done(host.fileno())
        os.sched_yield()  # to the host, if it waits for this core
        _monitor_main.leave()
        return job, wakeup

    def _read_order(
        self, host: socket.socket, message: bytes, fds: list[int]
    ) -> tuple[Order, int | None]:
        """The order, and the command's stdin if that is handed over.

        Returns in the host's working directory.
        """
        name_process("jobsup-monitor")
        cwd, *stdin = fds
        thread, _, along = message.partition(b" ")
        order = Order.from_bytes(along) if along else _monitor_main.read_order(host.fileno())
        if order is None:
            self._give_up()
        try:
            _look_into(int(thread))
            os.fchdir(cwd)
        except OSError as error:  # the host may be where it could not enter again
            os.write(host.fileno(), Report(RELAUNCH, "", error.errno).to_bytes())
            self._give_up()
        os.close(cwd)
        return order, stdin[0] if stdin else None

    def _note(self) -> None:
        """Tell the launcher that its spare, if that is us, is none any more."""
        with suppress(OSError):  # it died just now
            self._notes.send(b"%d" % os.getpid())

    def _give_up(self) -> NoReturn:
        self._note()
        os._exit(1)

    # -- the next one --------------------------------------------------------

    def _may_take_another(self, job: Supervised, *, is_clean: bool) -> bool:
        """Asked with the final record written, and the lock held: nobody prunes the job."""
        if not is_clean or time.monotonic() > self._reusable_until:
            return False
        # The command itself may have given its parent another priority, or cgroup.
        if self._imposed is None or imposed() != self._imposed:
            return False
        try:
            return not job.job_dir.is_pinned()
        except OSError:  # who cannot see whether it is
            return False

    def _take_short_slices(self) -> None:
        """Once, when a launcher that has time has found out that we may."""
        if self._has_tried_slices or not self._board.allows_short_slices():
            return
        self._has_tried_slices = True
        # Not over what somebody else has changed: that is to be seen yet.
        if self._imposed is not None and imposed() == self._imposed and take_short_slices():
            self._imposed = imposed()

    def _let_go(self, job: Supervised, host: socket.socket) -> None:
        """Of all that is the job's; last of what wakes whoever waited for its end."""
        signal.set_wakeup_fd(-1)
        name_process("jobsup-spare")
        self._board.clear(self._place)
        kept = (0, 1, 2, self._notes.fileno(), self._board.fd, host.fileno(), job.requests.fd)
        # Not os.closerange(): without close_range(2) it tries every number there is.
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd not in kept:
                with suppress(OSError):  # that of the listing
                    os.close(fd)
        with suppress(OSError):  # it is gone, or needs us no more: that is seen next
            host.send(IDLE, socket.MSG_DONTWAIT)
        os.close(job.requests.fd)


def receive(ours: socket.socket) -> tuple[bytes, list[int]]:
    """A message, and the descriptors that came with it, which no command inherits.  recvmsg(2)

    Raises:
        BlockingIOError: There is none.
    """
    message, ancillary, got, _ = ours.recvmsg(_MESSAGE_BYTES, _RIGHTS_BYTES, _AT_ONCE)
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
