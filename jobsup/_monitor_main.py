"""The monitor's process: take the order, carry it out, report, supervise.

Run by `jobsup._launch` in an interpreter of its own, or in a fork of the launcher.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from jobsup._birth import RefusedError, Supervised, adopt, bear
from jobsup._control import Order, Report
from jobsup._ledger import log
from jobsup._monitor import Monitor
from jobsup._platform import become_subreaper, name_process, obstacle
from jobsup._spawn import Inheritance


def read_order(host: int) -> Order | None:
    """What the host sends until it shuts its sending side down; None if it thought better of it."""
    parts = []
    while part := os.read(host, 1 << 16):
        parts.append(part)
    return Order.from_bytes(b"".join(parts)) if parts else None


def _tell(host: int, report: Report) -> None:
    with suppress(OSError):  # the host may be gone; the job does not need it
        os.write(host, report.to_bytes())


def let_go_of_host() -> None:
    """Our stdio was the host's socket; from here on it is nothing."""
    with suppress(OSError):  # the job does not need it either
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)


def take_signals(*numbers: int) -> int:
    """Have the signals wake a loop; the descriptor says which came."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in numbers:  # also undoes SIG_IGN, which would lose exit statuses
        signal.signal(number, lambda *_: None)
    return reader


def _traceback(error: BaseException) -> str:
    import traceback  # noqa: PLC0415 - 10 ms that only a bug needs

    return "".join(traceback.format_exception(error))


def main() -> NoReturn:
    """One job, in an interpreter of its own.  The caller has forked and left us to init."""
    verb, keep = sys.argv[2:4]
    inherited = Inheritance.take()
    name_process("jobsup-monitor")
    host = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    for fd in filter(None, keep.split(",")):
        os.set_inheritable(int(fd), False)
    order = read_order(host)
    if order is None:
        os._exit(1)
    let_go_of_host()
    is_subreaper = become_subreaper()
    if verb == "adopt":
        leave()
        take_over(order, host)
    supervise(order, host, order.stdin_fd, inherited, is_subreaper=is_subreaper)


def leave() -> None:
    """Pin nobody's mount."""
    with suppress(OSError):
        os.chdir("/")


def _nothing(_: bool) -> None:
    pass


def supervise(
    order: Order,
    host: int,
    stdin: int | None,
    inherited: Inheritance,
    *,
    is_subreaper: bool,
    then: Callable[[bool], None] = _nothing,
) -> NoReturn:
    """From the order to the final record; *then* is told whether there is a job, after the host."""
    wakeup = take_signals(signal.SIGTERM, signal.SIGCHLD)
    try:
        job = bear(order, host, stdin, inherited, is_subreaper=is_subreaper)
    except RefusedError as refused:
        _tell(host, refused.report)
        then(False)
        os._exit(1)
    _tell(host, Report())
    os.close(host)
    then(True)
    leave()
    _run(job, wakeup)


def take_over(order: Order, host: int) -> NoReturn:
    """From a job without a monitor to the final record."""
    wakeup = take_signals(signal.SIGTERM, signal.SIGCHLD)
    become_subreaper()
    try:
        if reason := obstacle():
            raise RefusedError(Report("monitor", order.root, None, reason))
        job = adopt(order)
    except RefusedError as refused:
        _tell(host, refused.report)
        os._exit(1)
    except Exception as error:
        _tell(host, Report("monitor", order.root, None, f"{type(error).__name__}: {error}"))
        os._exit(1)
    _tell(host, Report())
    os.close(host)
    _run(job, wakeup)


def _run(job: Supervised, wakeup: int) -> NoReturn:
    try:
        Monitor(job, wakeup).run()
    except BaseException as error:
        log(job.job_dir, _traceback(error))
        os._exit(1)
    with suppress(OSError):  # prune sweeps it
        job.job_dir.store.unmark_active(job.job_dir.id)
    os._exit(0)
