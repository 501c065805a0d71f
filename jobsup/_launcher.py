"""The launcher: a small process that has a monitor's modules loaded, and forks one per start().

Run by `jobsup._launch` in an interpreter of its own; imported by nobody. It
lives as long as its host and holds nothing that a job needs: whoever kills it
costs the host a retry, and its monitors live on.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Final, NoReturn

from jobsup import _monitor_main
from jobsup._control import Order, Report
from jobsup._platform import name_process
from jobsup._spawn import Inheritance

_MESSAGE_BYTES: Final = 1 << 16
_MAX_FDS: Final = 3


def main() -> NoReturn:
    """Serve the host whose socket is our standard input, whose pidfd is named in our arguments."""
    control = socket.socket(fileno=fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3))
    host = int(sys.argv[2])
    os.set_inheritable(host, False)
    inherited = Inheritance.take()
    wakeup = _monitor_main.take_signals(signal.SIGCHLD)
    name_process("jobsup-launcher")
    control.send(b"ready")
    _monitor_main.let_go_of_host()
    # What exists now is shared with every monitor for as long as no collection touches it.
    gc.collect()
    gc.freeze()
    _Launcher(control, host, wakeup, inherited).serve()


class _Launcher:
    def __init__(
        self, control: socket.socket, host: int, wakeup: int, inherited: Inheritance
    ) -> None:
        self._control = control
        self._host = host
        self._wakeup = wakeup
        self._inherited = inherited
        self._monitors: dict[int, tuple[str, str]] = {}
        """Root and job id of each monitor that lives, by its pid: our own unreaped child."""

    def serve(self) -> NoReturn:
        poll = select.poll()
        for fd in (self._control.fileno(), self._host, self._wakeup):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._wakeup in ready:
                os.read(self._wakeup, 4096)
                self._reap()
            if self._control.fileno() in ready:
                self._take_order()
            elif self._host in ready:
                os._exit(0)

    def _take_order(self) -> None:
        flags = socket.MSG_CMSG_CLOEXEC
        try:
            message, fds, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES, _MAX_FDS, flags)
        except ConnectionResetError:
            message, fds = b"", []
        if not message:
            os._exit(0)  # the host let go of us
        root, job_id = json.loads(message)
        try:
            self._fork(root, job_id, fds)
        except OSError as error:
            report = Report("monitor", root, error.errno, error.strerror or str(error))
            with suppress(OSError):
                os.write(fds[0], report.to_bytes())
        finally:
            for fd in fds:
                os.close(fd)

    def _reap(self) -> None:
        """Collect the monitors that ended; one that was killed is replaced at once."""
        while self._monitors:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            root, job_id = self._monitors.pop(pid)
            if os.WIFSIGNALED(status):
                with suppress(OSError):  # whoever looks at the job next adopts it
                    self._fork(root, job_id, [])

    def _fork(self, root: str, job_id: str, fds: list[int]) -> None:
        """A monitor that finds its order in the first descriptor, or adopts where there is none."""
        pid = os.fork()
        if pid:
            self._monitors[pid] = (root, job_id)
            return
        try:
            os.close(self._control.detach())
            os.close(self._host)
            os.setsid()
            if not fds:
                _monitor_main.run(Order(root, job_id, "adopt"), self._inherited)
            order, cwd, *stdin = fds
            for target in (0, 1, 2):
                os.dup2(order, target)
            os.close(order)
            _monitor_main.run_here(self._inherited, cwd, *stdin)
        finally:
            os._exit(1)
