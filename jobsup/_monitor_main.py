"""The monitor's process: take the order, carry it out, report, supervise.

Run by `jobsup._launch` in an interpreter of its own, or in a fork of the launcher.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from contextlib import suppress

from jobsup._birth import RefusedError, Supervised, adopt, bear
from jobsup._control import DONE, Order, Report
from jobsup._ledger import log
from jobsup._monitor import Monitor
from jobsup._platform import become_subreaper, name_process, obstacle
from jobsup._spawn import HANDLED, Inheritance
from jobsup._typing import NoReturn


def read_order(host: int) -> Order | None:
    """What the host sends until it shuts its sending side down; None if that is not all."""
    parts = []
    while part := os.read(host, 1 << 16):
        parts.append(part)
    with suppress(EOFError, ValueError, TypeError):
        return Order.from_bytes(b"".join(parts))
    return None


def _tell(host: int | None, report: Report) -> None:
    if host is not None:
        with suppress(OSError):  # it may be gone; the job does not need it
            os.write(host, report.to_bytes())


def let_go_of_host() -> None:
    """Our stdio was the host's socket; from here on it is nothing."""
    with suppress(OSError):  # the job does not need it either
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)


def take_signals() -> None:
    """Have those that a monitor handles wake its loop; in all its forks, too."""
    for number in HANDLED:  # also undoes SIG_IGN, which would lose exit statuses
        signal.signal(number, lambda *_: None)


def wake_by_pipe() -> int:
    """The descriptor that says which signals came to this very process."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def _traceback(error: BaseException) -> str:
    import traceback  # noqa: PLC0415 - 10 ms that only a bug needs

    return "".join(traceback.format_exception(error))


def main() -> NoReturn:
    """One job, in an interpreter of its own.  The caller has forked and left us to init."""
    verb, keep = sys.argv[2:4]
    inherited = Inheritance.take()
    take_signals()
    name_process("jobsup-monitor")
    host = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    for fd in filter(None, keep.split(",")):
        os.set_inheritable(int(fd), False)
    order = read_order(host)
    if order is None:
        os._exit(1)
    let_go_of_host()
    if verb == "adopt":
        leave()
        take_over(order, host)
    is_subreaper = become_subreaper()
    wakeup = wake_by_pipe()
    job = begin(order, host, order.stdin_fd, inherited, is_subreaper=is_subreaper)
    if job is None:
        os._exit(1)
    say_done(host)
    os.close(host)
    leave()
    run(job, wakeup)
    os._exit(0)


def leave() -> None:
    """Pin nobody's mount."""
    with suppress(OSError):
        os.chdir("/")


def begin(
    order: Order, host: int, stdin: int | None, inherited: Inheritance, *, is_subreaper: bool
) -> Supervised | None:
    """Carry out a ``start`` order; None if it was refused, which the host has been told."""
    try:
        return bear(order, host, stdin, inherited, is_subreaper=is_subreaper)
    except RefusedError as refused:
        _tell(host, refused.report)
        return None


def say_done(host: int) -> None:
    """Tell the host that the order was carried out."""
    with suppress(OSError):  # it may be gone; the job does not need it
        os.write(host, DONE)


def take_over(order: Order, host: int | None = None) -> NoReturn:
    """From a job without a monitor to the final record; a *host* is told what becomes of it."""
    wakeup = wake_by_pipe()
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
    if host is not None:
        say_done(host)
        os.close(host)
    run(job, wakeup)
    os._exit(0)


def run(job: Supervised, wakeup: int) -> bool:
    """Supervise the job to its final record; whether the kernel says that nothing of it is left."""
    try:
        is_clean = Monitor(job, wakeup).run()
    except BaseException as error:
        log(job.job_dir, _traceback(error))
        os._exit(1)
    with suppress(OSError):  # prune sweeps it
        job.job_dir.store.unmark_active(job.job_dir.id)
    return is_clean
