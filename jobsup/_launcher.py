"""The launcher: a small process that has a monitor's modules loaded, and forks them ahead of need.

Run by `jobsup._launch` in an interpreter of its own; imported by nobody. It
lives as long as its host and holds nothing that a job needs: whoever kills it
costs the host a retry, and its monitors live on.

A fork of it, the spare, is ready, and waits at the host's socket. It has been
through the motions of a birth, so that the pages which this writes to are its
own already: to copy them takes as long as all the rest. When it has reported to
the host it says so here, and the launcher forks the next. A monitor whose job
was short takes more of them from the host, without a word to the launcher.
"""

from __future__ import annotations

import fcntl
import gc
import itertools
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from jobsup import _birth, _board, _monitor_main, _slices, _spare
from jobsup._board import Board
from jobsup._control import Order
from jobsup._imposed import imposed
from jobsup._platform import name_process, try_start_time, uptime
from jobsup._rehearsal import rehearse_birth, rehearse_life
from jobsup._slices import can_take_short_slices
from jobsup._spare import Spare, is_ready
from jobsup._spawn import Inheritance
from jobsup._typing import Final, NoReturn

_END_SECONDS: Final = 0.25
_NOTE_BYTES: Final = 32


def main() -> NoReturn:
    """Serve the host whose socket is our standard input, whose pidfd is named in our arguments."""
    control = socket.socket(fileno=fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3))
    host = int(sys.argv[3])
    os.set_inheritable(host, False)
    inherited = Inheritance.take()
    _monitor_main.take_signals()
    wakeup = _monitor_main.wake_by_pipe()
    name_process("jobsup-launcher")
    board = Board()
    control.send(b"ready")
    _monitor_main.let_go_of_host()
    _monitor_main.leave()
    for _ in range(3):
        rehearse_birth(inherited)
    _Launcher(control, host, wakeup, inherited, board).serve()


class _Launcher:
    def __init__(
        self,
        control: socket.socket,
        host: int,
        wakeup: int,
        inherited: Inheritance,
        board: Board,
    ) -> None:
        self._control = control
        self._host = host
        self._wakeup = wakeup
        self._inherited = inherited
        self._notes, self._spare_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._imposed = imposed()
        self._board = board
        self._places: dict[int, int] = {}
        """On the board, from 1, of each child that lives, by its pid: our own and unreaped."""
        self._free_places: list[int] = []
        self._spare = 0
        """The pid of who waits at the host's socket."""
        self._has_served = False
        self._preparation = self._prepare()
        self._is_prepared = False

    def _prepare(self) -> Iterator[None]:
        """Have later forks be as quick, and share as much, as they can: in few steps, for
        who is forked between two of them keeps the memory that the second writes to.
        """
        from jobsup import _sharing  # noqa: PLC0415 - 1 ms that the first start need not wait for

        if can_take_short_slices():
            self._board.allow_short_slices()
        yield
        gc.collect()
        modules = (_board, _slices, _spare, _birth, _monitor_main, sys.modules[__name__])
        more = itertools.chain(*map(_sharing.functions_of, modules))
        _sharing.pack_code(self._rehearse, more)
        yield
        for _ in range(3):
            self._rehearse()
        gc.collect()
        _sharing.immortalize()
        _sharing.fill_pools()
        gc.freeze()

    def _prepare_further(self) -> None:
        try:
            self._is_prepared = bool(next(self._preparation, True))
        except Exception:  # it cannot be done here, and forks share less
            self._is_prepared = True

    def _rehearse(self) -> None:
        rehearse_birth(self._inherited)
        rehearse_life(self._inherited)

    def serve(self) -> NoReturn:
        poll = select.poll()
        poll.register(self._control, 0)  # the spare reads it; POLLHUP comes unasked
        for fd in (self._host, self._wakeup, self._notes.fileno()):
            poll.register(fd, select.POLLIN)
        self._fork_spare()
        while True:
            # Not before there was a job: many a host wants but one, and wants it soon.
            has_time = self._has_served and not self._is_prepared
            ready = {fd for fd, _ in poll.poll(0 if has_time else None)}
            if not ready:
                self._prepare_further()
            # One thing at a time, and notes first: who told may have ended since.
            if self._notes.fileno() in ready:
                self._take_note()
            elif self._wakeup in ready:
                if signal.SIGTERM in os.read(self._wakeup, 4096):
                    self._end()
                self._reap()
            elif self._host in ready or self._control.fileno() in ready:
                self._end()

    def _end(self) -> NoReturn:
        """After those that have no job: who waits for us waits for all."""
        self._notes.close()
        deadline = time.monotonic() + _END_SECONDS
        with suppress(OSError):
            for pid, place in self._places.items():
                if not self._board.look(place):
                    poll = select.poll()
                    poll.register(os.pidfd_open(pid), select.POLLIN)
                    poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        os._exit(0)

    def _take_note(self) -> None:
        """The spare has reported to the host: who notes it is none any more."""
        if int(self._notes.recv(_NOTE_BYTES)) == self._spare:
            self._has_served = True
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
            while is_ready(self._notes.fileno()):  # what it told before it ended
                self._take_note()
            place = self._places.pop(pid)
            self._free_places.append(place)
            job = self._board.look(place)
            if job and os.WIFSIGNALED(status):
                with suppress(OSError):  # whoever looks at the job next adopts it
                    self._fork_adopter(*job)
            if pid == self._spare:  # it noted nothing
                if not status:
                    self._end()  # the host let go of it, and of us
                if not job:
                    os._exit(1)  # somebody is after it: the host begins anew
                self._fork_spare()

    def _fork_adopter(self, root: str, job_id: str) -> None:
        def be_adopter(_: int) -> None:
            self._control.close()
            self._spare_end.close()
            self._board.close()
            name_process("jobsup-monitor")
            _monitor_main.take_over(Order(root, job_id, "adopt"))

        self._board.put(self._places[self._fork(be_adopter)], root, job_id)

    def _fork_spare(self) -> None:
        def be_spare(place: int) -> None:
            ends = (self._control, self._spare_end, self._board, place)
            Spare(*ends, self._inherited, self._imposed).serve()

        try:
            self._spare = self._fork(be_spare)
        except OSError:
            os._exit(1)  # the host starts an interpreter instead, or says why it cannot

    def _fork(self, be: Callable[[int], None]) -> int:
        """The pid of a child that will *be* something, with a place on the board."""
        place = self._free_places[-1] if self._free_places else len(self._places) + 1
        self._board.clear(place)
        before = uptime()
        pid = os.fork()
        if not pid:
            try:
                self._leave()
                be(place)
            finally:
                os._exit(1)
        self._places[pid] = place
        del self._free_places[-1:]
        try_start_time(pid, before)
        return pid

    def _leave(self) -> None:
        """In a fork: let go of what is the launcher's own."""
        os.close(signal.set_wakeup_fd(-1))
        os.close(self._wakeup)
        os.close(self._host)
        os.close(self._notes.fileno())  # not its close(): which is Python, and takes memory
        os.setsid()
