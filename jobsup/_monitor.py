"""The monitor: one small process per job. Events in, signals and records out.

Imported by nobody on the host side.
"""

from __future__ import annotations

import math
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from jobsup import _control
from jobsup._birth import Supervised
from jobsup._control import LONGEST_SECONDS, Request
from jobsup._identity import open_process
from jobsup._ladder import Ladder
from jobsup._ledger import Ledger, log
from jobsup._lifecycle import (
    STOPPING,
    CommandDetached,
    CommandExited,
    Event,
    Paused,
    Resumed,
    StopRequested,
    TreeEmptied,
    TreeReleased,
)
from jobsup._model import StopCause, Survivor, now
from jobsup._outputcap import Caps, OutputCap
from jobsup._platform import ProcessHandle, age_of
from jobsup._spec import Leftovers
from jobsup._stopplan import ProcessIdentity, StopPlan, signal_name
from jobsup._tree import Exit
from jobsup._typing import Final

_NAP_SECONDS: Final = (0.0005, 0.02)
"""Between two passes of force: the first, then doubling up to the last."""
_OWNER_SECONDS: Final = 0.5
"""Between two looks at an owner that wakes nobody when it exits."""
_AGAIN_SECONDS: Final = 0.1
"""Until what the system refused, for want of memory or descriptors, is tried again."""
_NAMING_SECONDS: Final = 2.0
"""After this long of force the survivors are named, and tried once a second."""


class Monitor:
    """Supervises one job until its record is final."""

    def __init__(self, job: Supervised, wakeup: int) -> None:
        self._job = job
        self._job_dir = job.job_dir
        self._caps: list[OutputCap] = []
        self._cap_timer: Caps | None = None
        self._ledger = Ledger(job.job_dir, lambda: job.record, self._caps)
        self._tree = job.tree
        self._stdin_writer = job.stdin_writer
        self._exited = job.is_adopted and job.record.command_exited
        self._ladder: Ladder | None = None
        self._nap = _NAP_SECONDS[0]
        self._forcing_since: float | None = None
        self._deadlines: dict[Callable[[float], object], float] = {}
        self._poll = select.poll()
        self._acts: dict[int, Callable[[float], object]] = {}
        self._listen(wakeup, partial(self._on_signals, wakeup))
        self._listen(job.requests.fd, self._on_requests)
        command = job.tree.fileno()
        if command is not None:
            self._listen(command, lambda _: self._ignore(command))

    # -- set-up --------------------------------------------------------------

    def _listen(self, fd: int, act: Callable[[float], object]) -> None:
        self._poll.register(fd, select.POLLIN)
        self._acts[fd] = act

    def _ignore(self, fd: int) -> None:
        self._poll.unregister(fd)

    def _open_caps(self, now: float) -> None:
        terms = self._job.terms
        if terms.output_limit is None:
            return
        files = ["output", "stderr"][: 1 + terms.separate_stderr]
        share = terms.output_limit // len(files)
        with suppress(FileNotFoundError):  # deleted before an adopter came: nothing to limit
            self.keep_within([OutputCap(self._job_dir.at(file), share, now) for file in files])

    def keep_within(self, caps: list[OutputCap]) -> None:
        """Have these outputs looked at from time to time."""
        self._caps += caps
        self._cap_timer = Caps(self._job_dir.text, self._caps)
        self._deadlines[self._on_cap] = self._cap_timer.next_at

    def _arm(self, _: float) -> None:
        terms = self._job.terms
        started = time.monotonic()
        if self._job.is_adopted and (command := self._ledger.record.command):
            started -= age_of(command.pid)
        if terms.timeout is not None:
            self._deadlines[self._on_timeout] = started + terms.timeout
        if terms.owner is not None:
            owner = open_process(ProcessIdentity(*terms.owner))
            if owner is None or owner.exited():
                self._stop(StopCause.OWNER_DIED)
            elif (fd := owner.fileno()) is not None:
                self._listen(fd, partial(self._on_owner_exit, fd))
            else:
                self._look_at_owner(owner, time.monotonic())
        if not self._job.is_adopted:
            return
        if self._ledger.record.state is STOPPING and self._ladder is None:
            self._begin_ladder(self._job.stop_plan())

    # -- the loop ------------------------------------------------------------

    def run(self) -> bool:
        """Until the job has ended; whether the kernel says that nothing of it is left."""
        self._attempt(self._open_caps)
        self._attempt(self._arm)
        self._attempt(self._look)
        while not self._ledger.has_ended:
            now = time.monotonic()
            wait = min(self._deadlines.values(), default=None)
            left = None if wait is None else min(max(0.0, wait - now), LONGEST_SECONDS)
            ready = self._poll.poll(None if left is None else math.ceil(left * 1000))
            # Deaths first: a command that ended before a stop reached it
            # keeps its own outcome.
            self._attempt(self._look)
            for fd, _ in ready:
                if not self._ledger.has_ended:
                    self._attempt(self._acts[fd])
            self._keep_time()
        return bool(self._ledger.record.proved)

    def _keep_time(self) -> None:
        now = time.monotonic()
        for act, at in list(self._deadlines.items()):
            if at <= now and not self._ledger.has_ended:
                self._deadlines.pop(act, None)
                self._attempt(act)

    def _attempt(self, act: Callable[[float], object]) -> None:
        """Do it; where the system refuses a call, soon again.

        A look takes descriptors and memory, and a monitor that died for want
        of them would take with it what only it knows.
        """
        try:
            act(time.monotonic())
        except OSError as error:
            if self._ledger.has_ended:  # it is the final record that was refused
                raise
            log(self._job_dir, f"will try again: {error}")
            self._deadlines[act] = time.monotonic() + _AGAIN_SECONDS

    def _look(self, _: float = 0.0) -> None:
        """See who died, and draw the consequences."""
        if self._ledger.has_ended:
            return
        exit = None if self._exited else self._tree.peek()
        if exit:
            self._exited = True
            self._ledger.note(self._end_of_command(exit))  # before it is reaped
        if self._tree.collect():
            self._end()
            return
        self._ledger.publish()
        if self._exited:
            self._sweep()
        if (pause := self._tree.look_seconds()) is not None:
            self._deadlines[self._look] = time.monotonic() + pause

    def _end_of_command(self, exit: Exit) -> Event:
        stopped = self._ledger.record.stop_cause is not None
        if stopped or self._job.terms.leftovers != Leftovers.WAIT.value:
            return CommandExited(exit.exit_code, exit.signal)
        living: tuple[Survivor, ...] = ()
        with suppress(OSError):  # the sweep names them then; the status is told but once
            living = self._tree.survivors()
        return CommandDetached(exit.exit_code, exit.signal, living)

    def _sweep(self) -> None:
        """The command is over, others live on."""
        leftovers = self._job.terms.leftovers
        if self._ladder or self._ledger.record.stop_cause:
            return
        if leftovers == Leftovers.WAIT.value:
            self._ledger.name(self._tree.survivors())
        elif leftovers == Leftovers.LEAVE.value:
            left = self._tree.survivors()
            self._ledger.apply(TreeReleased(now(), left, self._tree.usage()))
        else:
            self._begin_ladder(self._job.stop_plan())

    def _end(self) -> None:
        self._ledger.apply(TreeEmptied(now(), self._tree.proves, self._tree.usage()))

    # -- what happens --------------------------------------------------------

    def _on_signals(self, wakeup: int, _: float) -> None:
        came = os.read(wakeup, 4096)
        if signal.SIGIO in came and self._cap_timer:
            self._cap_timer.hurry(time.monotonic())
            self._deadlines[self._on_cap] = self._cap_timer.next_at
        if signal.SIGTERM in came:
            self._stop(StopCause.CANCEL)
        elif self._forcing_since is not None:
            self._tree.force()  # who died handed its children up to us: a deep tree goes so

    def _on_requests(self, _: float) -> None:
        for request in self._job.requests.read(self._reject):
            if self._ledger.has_ended:
                return  # the client sees our end of the FIFO close
            try:
                error = self._act_on(request)
            except OSError as refused:
                error = refused.strerror or str(refused)
            log(self._job_dir, f"request {request.verb}: {error or 'done'}")
            _control.answer(self._job_dir, request, error)

    def _reject(self, line: bytes) -> None:
        log(self._job_dir, f"rejected a request that makes no sense: {line[:80]!r}")

    def _act_on(self, request: Request) -> str | None:
        """Do it; what is wrong with it otherwise."""
        if request.verb == "stop":
            self._stop(StopCause.CANCEL, request.plan)
        elif request.verb == "close-stdin":
            self._close_stdin()
        elif request.verb == "pause" or request.signal == signal.SIGSTOP:
            if self._ledger.record.state is STOPPING:
                return "the job is being stopped"
            self._tree.pause()
            self._ledger.apply(Paused())
        elif request.verb == "resume" or request.signal == signal.SIGCONT:
            self._tree.send(signal.SIGCONT)
            if self._ledger.record.state is not STOPPING:
                self._ledger.apply(Resumed())
        elif request.signal is not None:
            self._tree.send(request.signal)
        return None

    def _close_stdin(self) -> None:
        if self._stdin_writer is not None:
            os.close(self._stdin_writer)
            self._stdin_writer = None
            with suppress(OSError):  # so that a later writer learns that it is closed
                os.unlink(self._job_dir.at("stdin"))

    def _on_owner_exit(self, fd: int, _: float) -> None:
        self._ignore(fd)
        self._stop(StopCause.OWNER_DIED)

    def _look_at_owner(self, owner: ProcessHandle, now: float) -> None:
        """Where nothing turns readable when the owner exits."""
        if owner.exited():
            self._stop(StopCause.OWNER_DIED)
        else:
            self._deadlines[partial(self._look_at_owner, owner)] = now + _OWNER_SECONDS

    def _on_timeout(self, _: float) -> None:
        self._stop(StopCause.TIMEOUT)

    def _on_cap(self, now: float) -> None:
        assert self._cap_timer is not None
        size = self._cap_timer.tick(now)
        limit = self._job.terms.output_limit
        if self._job.terms.kills_on_limit and limit is not None and size > limit:
            self._stop(StopCause.OUTPUT_LIMIT)
        self._deadlines[self._on_cap] = self._cap_timer.next_at

    # -- stopping ------------------------------------------------------------

    def _stop(self, cause: StopCause, plan: StopPlan | None = None) -> None:
        """Begin the stop plan, or shorten the one under way."""
        self._attempt(partial(self._try_to_stop, cause, plan))

    def _try_to_stop(self, cause: StopCause, plan: StopPlan | None, _: float) -> None:
        self._look()
        if self._ledger.has_ended:
            return
        if not self._ledger.record.stop_cause and self._ledger.record.state is not STOPPING:
            self._ledger.apply(StopRequested(cause))
        if self._ladder is None:
            self._begin_ladder(plan or self._job.stop_plan())
        elif plan is not None:
            self._ladder.shorten(plan, time.monotonic())
            self._attempt(self._climb)

    def _begin_ladder(self, plan: StopPlan) -> None:
        self._ladder = Ladder(plan, time.monotonic())
        self._attempt(self._climb)

    def _climb(self, now: float) -> None:
        """Take the steps of the plan that are due."""
        assert self._ladder is not None
        if self._ladder.is_forcing:
            return
        while step := self._ladder.take(now):
            log(self._job_dir, f"sending {signal_name(step.signal)}, then {step.grace:g} s")
            if self._ladder.is_forcing:
                self._deadlines.pop(self._climb, None)
                self._forcing_since = now
                self._attempt(self._force)
                return
            self._attempt(partial(self._ask, step.signal))
        self._deadlines[self._climb] = self._ladder.next_at

    def _ask(self, signum: int, _: float) -> None:
        # A stopped process acts on no signal but SIGKILL.  signal(7)
        self._tree.send(signum, signal.SIGCONT)

    def _force(self, now: float) -> None:
        assert self._forcing_since is not None
        self._tree.force()
        self._look()
        if self._ledger.has_ended:
            return
        self._nap = min(self._nap * 2, _NAP_SECONDS[1])
        if now - self._forcing_since > _NAMING_SECONDS:
            self._nap = 1.0
            self._ledger.name(self._tree.survivors())
        self._deadlines[self._force] = now + self._nap
