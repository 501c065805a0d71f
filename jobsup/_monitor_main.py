"""The monitor's process: take the order, carry it out, report, supervise.

Run by `jobsup._launch` in an interpreter of its own, or in a fork of the launcher.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import NoReturn

from jobsup._birth import RefusedError, adopt, give_birth
from jobsup._control import RELAUNCH, Order, Report
from jobsup._ledger import log
from jobsup._monitor import Monitor
from jobsup._platform import become_subreaper, name_process, obstacle
from jobsup._spawn import Inheritance
from jobsup._value import evolve


def _read_order() -> Order:
    """The order, from the socket that is our standard input."""
    parts = []
    while part := os.read(0, 1 << 20):
        parts.append(part)
    return Order.from_bytes(b"".join(parts))


def _tell(report: Report) -> None:
    with suppress(OSError):  # the host may be gone; the job does not need it
        os.write(0, report.to_bytes())


def let_go_of_host() -> None:
    """Our stdio was the host's socket; from here on it is nothing."""
    with suppress(OSError):  # the job does not need it either
        os.chdir("/")  # pin nobody's mount
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
    order = _read_order()
    run(order, Inheritance.take())


def run_here(inherited: Inheritance, cwd: int, stdin: int | None = None) -> NoReturn:
    """One job, in a fork of the launcher: what the host hands over comes as descriptors."""
    order = _read_order()
    try:
        os.fchdir(cwd)
    except OSError as error:  # it may be in a directory that it could not enter again
        _tell(Report(RELAUNCH, order.root, error.errno, error.strerror or ""))
        os._exit(1)
    os.close(cwd)
    if order.umask is not None and order.mask is not None:
        inherited = evolve(inherited, umask=order.umask, mask=tuple(order.mask))
    run(evolve(order, stdin_fd=stdin), inherited)


def run(order: Order, inherited: Inheritance) -> NoReturn:
    """From order to final record."""
    wakeup = take_signals(signal.SIGTERM, signal.SIGCHLD)
    name_process("jobsup-monitor")
    try:
        if reason := obstacle():
            raise RefusedError(Report("monitor", order.root, None, reason))
        is_subreaper = become_subreaper()
        births = order.verb == "start"
        job = give_birth(order, inherited, is_subreaper) if births else adopt(order)
    except RefusedError as refused:
        _tell(refused.report)
        os._exit(1)
    except Exception as error:
        _tell(Report("monitor", order.root, None, f"{type(error).__name__}: {error}"))
        os._exit(1)
    try:
        monitor = Monitor(job, wakeup)
        _tell(Report())
        let_go_of_host()
        monitor.run()
        with suppress(OSError):  # whoever looks next does it then
            job.job_dir.store.unmark_active(order.job_id)
    except BaseException as error:
        log(job.job_dir, _traceback(error))
        os._exit(1)
    os._exit(0)
