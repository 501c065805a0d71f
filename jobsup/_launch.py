"""Bring a monitor to life: a fresh interpreter that forks itself away from the host."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from jobsup._control import Order, Report
from jobsup._platform import NAME
from jobsup._strays import MARKER
from jobsup.errors import SpawnError

# The package is put in place by hand: its __init__ is the host side, which
# would load psutil, filelock and more into every monitor.
_BOOT: Final = """
import os, sys
if os.fork():
    os._exit(0)
sys.path += sys.argv[1:]
package = type(sys)("jobsup")
package.__path__ = [sys.argv[1] + "/jobsup"]
sys.modules["jobsup"] = package
from jobsup._monitor_main import main
main()
"""


def launch(order: Order) -> None:
    """Have a new monitor carry out *order*; return once it has.

    Raises:
        SpawnError: It could not; nothing was left behind.
    """
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:
        reason = error.strerror or str(error)
        raise SpawnError("monitor", order.root, reason) from error
    with ours:
        with theirs:
            monitor = _run_interpreter(order, theirs)
        try:
            # Without the flag a monitor that died would kill a host that
            # has SIGPIPE at its default.  send(2)
            ours.sendall(order.to_bytes(), getattr(socket, "MSG_NOSIGNAL", 0))
            ours.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # what it said before it died is still there to be read
        monitor.wait()  # ends at once: it only forks
        answer = b""
        try:
            while part := ours.recv(1 << 16):
                answer += part
        except ConnectionResetError:
            pass
    report = Report.from_bytes(answer)
    if report is None:
        said = answer.decode("utf-8", "replace").strip() or "it died without a word"
        raise SpawnError("monitor", order.root, said.splitlines()[-1]) from RuntimeError(said)
    if report.stage is not None:
        cause = OSError(report.errno, report.reason, report.subject) if report.errno else None
        raise SpawnError(report.stage, report.subject, report.reason) from cause


def _run_interpreter(order: Order, theirs: socket.socket) -> subprocess.Popen[bytes]:
    # -I and -S: nothing of the user's environment or site changes what a
    # monitor is, and it starts in a third of the time.
    argv = [sys.executable, "-I", "-S", "-c", _BOOT, *_import_paths()]
    environment = None
    if order.verb == "adopt":
        # An adopter that the job itself called is no process of the job.
        environment = {key: value for key, value in os.environ.items() if key != MARKER}
    try:
        return subprocess.Popen(
            argv,
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=theirs.fileno(),
            env=environment,
            pass_fds=[] if order.stdin_fd is None else [order.stdin_fd],
            start_new_session=True,
        )
    except OSError as error:
        reason = error.strerror or str(error)
        raise SpawnError("monitor", order.root, reason) from error


def _import_paths() -> list[str]:
    """Where the monitor finds jobsup and what it imports, whatever this process did to find it."""
    packages = [Path(__file__).parent]
    if NAME == "portable":
        import psutil  # noqa: PLC0415 - only the portable monitor needs it

        packages.append(Path(psutil.__file__).parent)
    return list(dict.fromkeys(str(package.parent) for package in packages))
