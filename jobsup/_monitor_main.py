"""The monitor's process: take the order, carry it out, report, supervise.

Run by `jobsup._launch` in an interpreter of its own; imported by nobody.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import NoReturn

from jobsup._birth import RefusedError, adopt, give_birth
from jobsup._control import Order, Report
from jobsup._ledger import log
from jobsup._monitor import Monitor
from jobsup._platform import become_subreaper, name_process, obstacle
from jobsup._spawn import Inheritance


def _read_order() -> Order:
    """The order, from the socket that is our standard input."""
    parts = []
    while part := os.read(0, 1 << 20):
        parts.append(part)
    return Order.from_bytes(b"".join(parts))


def _tell(report: Report) -> None:
    with suppress(OSError):  # the host may be gone; the job does not need it
        os.write(0, report.to_bytes())


def _let_go_of_host() -> None:
    """Our stdio was the host's socket; from here on it is nothing."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    os.chdir("/")  # pin nobody's mount


def _take_signals() -> int:
    """Have SIGTERM and SIGCHLD wake the loop; the descriptor says which came."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(
            number, lambda *_: None
        )  # also undoes SIG_IGN, which would lose exit statuses
    return reader


def _traceback(error: BaseException) -> str:
    import traceback  # noqa: PLC0415 - 10 ms that only a bug needs

    return "".join(traceback.format_exception(error))


def main() -> NoReturn:
    """One job, from order to final record. The caller has forked and left us to init."""
    order = _read_order()
    inherited = Inheritance.take()
    wakeup = _take_signals()
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
        _let_go_of_host()
        monitor.run()
        job.job_dir.store.unmark_active(order.job_id)
    except BaseException as error:
        log(job.job_dir, _traceback(error))
        os._exit(1)
    os._exit(0)
