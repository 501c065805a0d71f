"""The launcher: a small process that has a monitor's modules loaded, and forks them ahead of need.

Run by `jobsup._launch` in an interpreter of its own; imported by nobody. It
lives as long as its host and holds nothing that a job needs: whoever kills it
costs the host a retry, and its monitors live on.

One fork, the spare, is ready, and waits at the host's socket. It has been
through the motions of a birth, so that the pages which this writes to are its
own already: to copy them takes as long as all the rest. When it has reported to
the host it says so here, and the launcher forks the next.
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Final, NoReturn

from jobsup import _monitor_main
from jobsup._birth import Supervised
from jobsup._control import RELAUNCH, Order, Report
from jobsup._jobdir import StoreDir
from jobsup._model import fill, now
from jobsup._platform import become_subreaper, name_process, obstacle, own_token
from jobsup._spawn import Command, Inheritance, SpawnFailedError, spawn

_MESSAGE_BYTES: Final = 1 << 16
_END_SECONDS: Final = 0.25
_RIGHTS_BYTES: Final = socket.CMSG_SPACE(3 * 4)


def main() -> NoReturn:
    """Serve the host whose socket is our standard input, whose pidfd is named in our arguments."""
    control = socket.socket(fileno=fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3))
    host = int(sys.argv[3])
    os.set_inheritable(host, False)
    inherited = Inheritance.take()
    _monitor_main.take_signals()
    wakeup = _monitor_main.wake_by_pipe()
    name_process("jobsup-launcher")
    control.send(b"ready")
    _monitor_main.let_go_of_host()
    _monitor_main.leave()
    for _ in range(3):
        _rehearse(inherited)
    # What exists now is shared with every monitor for as long as no collection touches it.
    gc.collect()
    gc.freeze()
    _Launcher(control, host, wakeup, inherited).serve()


def _rehearse(inherited: Inheritance) -> None:
    """What a birth does, without doing anything.

    In the launcher for what Python does but once, and each fork then need not
    do again; in the fork for the pages that it writes to each time.
    """
    nowhere = "/dev/null"
    order = Order(nowhere, "0" * 26, "start", (nowhere + "/x",), {"PATH": "/"}, record=b"null")
    order = Order.from_bytes(order.to_bytes())
    obstacle()
    unborn = StoreDir(order.root).unborn(order.job_id)
    with suppress(OSError):
        unborn.acquire()
    with suppress(SpawnFailedError):
        spawn(Command(order.argv, {**(order.environment or {}), "A": "b"}, (0, 1, 2)), inherited)
    fill(order.record, at=own_token(os.getpid()).encode(), monitor=now().isoformat().encode())
    Supervised(unborn, order.terms, order.record, is_adopted=False)


def _look_into(thread: int) -> None:
    """Raise OSError if we are in a Landlock domain that the thread is not in.

    It has looked into us: neither is then in a domain of its own.  landlock(7)
    """
    if thread:
        os.readlink(f"/proc/{thread}/cwd")


class _Launcher:
    def __init__(
        self, control: socket.socket, host: int, wakeup: int, inherited: Inheritance
    ) -> None:
        self._control = control
        self._host = host
        self._wakeup = wakeup
        self._inherited = inherited
        self._notes, self._spare_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._spare = 0
        self._monitors: dict[int, tuple[str, str]] = {}
        """Root and job id of each monitor that lives, by its pid: our own unreaped child."""

    def serve(self) -> NoReturn:
        poll = select.poll()
        poll.register(self._control, 0)  # the spare reads it; POLLHUP comes unasked
        for fd in (self._host, self._wakeup, self._notes.fileno()):
            poll.register(fd, select.POLLIN)
        self._fork_spare()
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._notes.fileno() in ready:  # first: who told may have ended since
                self._take_notes()
            if self._wakeup in ready:
                if signal.SIGTERM in os.read(self._wakeup, 4096):
                    self._end()
                self._reap()
            if self._host in ready or self._control.fileno() in ready:
                self._end()

    def _end(self) -> NoReturn:
        """After the spare, unless it has a job by now: a host that waits for us waits for both."""
        self._notes.close()
        with suppress(OSError):
            poll = select.poll()
            poll.register(os.pidfd_open(self._spare), select.POLLIN)
            poll.poll(_END_SECONDS * 1000)
        os._exit(0)

    def _take_notes(self) -> None:
        while True:
            try:
                note = self._notes.recv(_MESSAGE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            pid, *job = os.fsdecode(note).split("\0")
            if job:
                self._monitors[int(pid)] = (job[0], job[1])
            elif int(pid) == self._spare:
                self._fork_spare()

    def _reap(self) -> None:
        """Collect the monitors that ended; one that was killed is replaced at once."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            job = self._monitors.pop(pid, None)
            if job and os.WIFSIGNALED(status):
                with suppress(OSError):  # whoever looks at the job next adopts it
                    self._fork_adopter(*job)
            if pid == self._spare:
                if job is None:
                    os._exit(1)  # it ends with us, or somebody is after it: the host begins anew
                self._fork_spare()

    def _fork_adopter(self, root: str, job_id: str) -> None:
        pid = os.fork()
        if pid:
            self._monitors[pid] = (root, job_id)
            return
        try:
            self._leave()
            self._control.close()
            self._spare_end.close()
            name_process("jobsup-monitor")
            nobody = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            _monitor_main.take_over(Order(root, job_id, "adopt"), nobody)
        finally:
            os._exit(1)

    def _fork_spare(self) -> None:
        try:
            self._spare = os.fork()
        except OSError:
            os._exit(1)  # the host starts an interpreter instead, or says why it cannot
        if self._spare:
            return
        try:
            self._leave()
            name_process("jobsup-spare")
            self._be_spare()
        finally:
            os._exit(1)

    def _leave(self) -> None:
        """In a fork: let go of what is the launcher's own."""
        os.close(signal.set_wakeup_fd(-1))
        os.close(self._wakeup)
        os.close(self._host)
        os.close(self._notes.fileno())  # not its close(): which is Python, and takes memory
        os.setsid()

    def _be_spare(self) -> NoReturn:
        """Monitor the job of the order that comes."""
        is_subreaper = become_subreaper()
        order, host, stdin = self._await_order()
        assert order.umask is not None
        assert order.mask is not None
        inherited = self._inherited._replace(umask=order.umask, mask=order.mask)
        wakeup = _monitor_main.wake_by_pipe()  # not before: a spare heeds no SIGTERM
        job = _monitor_main.begin(order, host, stdin, inherited, is_subreaper=is_subreaper)
        if job is None:
            self._tell()
            os._exit(1)
        # First of all: the host may be about to kill the monitor of its new job.
        self._tell(order.root, order.job_id)
        _monitor_main.say_done(host)
        self._tell()  # not before: the fork takes a core that the report needs
        os.close(self._spare_end.fileno())
        _monitor_main.leave()
        _monitor_main.run(job, wakeup)

    def _await_order(self) -> tuple[Order, int, int | None]:
        """The order, the host's socket, and the command's stdin if that is handed over.

        Returns in the host's working directory.
        """
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        if not poll.poll(0):  # else somebody waits already
            _rehearse(self._inherited)
        poll.register(self._spare_end, 0)  # POLLHUP: the launcher died
        if self._spare_end.fileno() in dict(poll.poll()):
            os._exit(0)
        # MSG_CMSG_CLOEXEC: no command inherits them.  recvmsg(2)
        message, ancillary, _, _ = self._control.recvmsg(
            _MESSAGE_BYTES, _RIGHTS_BYTES, socket.MSG_CMSG_CLOEXEC
        )
        if not message:
            os._exit(0)  # the host let go of us
        os.close(self._control.fileno())
        name_process("jobsup-monitor")
        host, cwd, *stdin = memoryview(ancillary[0][2]).cast("i")
        try:
            _look_into(int(message))
            os.fchdir(cwd)
        except OSError as error:  # the host may be where it could not enter again
            _monitor_main.read_order(host)
            os.write(host, Report(RELAUNCH, "", error.errno).to_bytes())
            self._tell()
            os._exit(1)
        os.close(cwd)
        order = _monitor_main.read_order(host)
        if order is None:
            self._tell()
            os._exit(1)
        return order, host, stdin[0] if stdin else None

    def _tell(self, *job: str) -> None:
        """Have the *job* adopted should we be killed; without one, the next spare forked."""
        with suppress(OSError):  # it died just now
            self._spare_end.send(os.fsencode("\0".join((str(os.getpid()), *job))))
